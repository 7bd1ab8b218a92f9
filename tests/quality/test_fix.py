"""Dataset fix: a copy in LeRobot's layout of a dataset of any layout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from imitact.core.errors import BadInput
from imitact.core.types import Dataset
from imitact.core.validate import check_dataset
from imitact.datasets.open import open_dataset
from imitact.datasets.read_config import ReadConfig
from imitact.quality.dataset_check import inspect_numbers, open_damaged, unusable_episodes
from imitact.quality.findings import Finding
from imitact.quality.fix import FixPlan, KeptTicks, plan_fix, write_fixed
from imitact.recording.manifest import is_recording, read_report
from tests.support import foreign_files as foreign
from tests.support.fake_dataset import FakeDataset
from tests.support.paths import FIXTURES

ROBOMIMIC = ReadConfig(state=("robot0_eef_pos", "robot0_gripper_qpos"))
REPLAY = ReadConfig(state=("state",), rate_hz=10)


def plan_of(dataset: Dataset, *kept: tuple[int, int, int]) -> FixPlan:
    """A plan that keeps these ticks, given as (episode, start, stop)."""
    ticks = tuple(KeptTicks(*each) for each in kept)
    dropped = {*range(len(dataset.lengths))} - {each.index for each in ticks}
    return FixPlan(ticks, dict.fromkeys(sorted(dropped), ("duplicate",)), dataset.lengths)


def frames_of(dataset: Dataset, index: int, camera: str, start: int = 0, stop: Any = None) -> Any:
    return np.stack(list(dataset.episode(index).frames(camera, start, stop)))


def check_same_ticks(copy: Dataset, dataset: Dataset, plan: FixPlan) -> None:
    """Numbers, extra columns and frames of the copy are equal to the kept ticks of the dataset."""
    check_dataset(copy)
    assert copy.spec == dataset.spec
    assert dict(copy.extra_columns) == dict(dataset.extra_columns)
    names = [*dataset.extra_columns]
    for new, ticks in enumerate(plan.kept):
        one, other = copy.episode(new), dataset.episode(ticks.index)
        kept = slice(ticks.start, ticks.stop)
        np.testing.assert_array_equal(one.state, other.state[kept])
        np.testing.assert_array_equal(one.action, other.action[kept])
        values = one.extra_values(names)
        for name, rows in other.extra_values(names).items():
            assert values[name].dtype == rows.dtype
            np.testing.assert_array_equal(values[name], rows[kept])
        for camera in dataset.spec.cameras:
            np.testing.assert_array_equal(
                frames_of(copy, new, camera.name),
                frames_of(dataset, ticks.index, camera.name, ticks.start, ticks.stop),
            )


@pytest.mark.parametrize("jpeg", [False, True])
def test_an_aloha_dataset_is_copied_with_its_extra_columns(jpeg: bool, tmp_path: Path):
    root = foreign.aloha(
        tmp_path / "aloha", jpeg=jpeg, effort=True, dtype="f8", base=True, sim=False
    )
    before = {p.name: p.read_bytes() for p in root.iterdir()}
    dataset = open_dataset(root, ReadConfig(colour="bgr") if jpeg else None)
    plan = plan_of(dataset, (0, 2, 8), (2, 0, 7))
    assert write_fixed(dataset, plan, tmp_path / "copy") == []
    assert {p.name: p.read_bytes() for p in root.iterdir()} == before
    copy = open_dataset(tmp_path / "copy")
    assert copy.lengths == (6, 7)
    check_same_ticks(copy, dataset, plan)
    assert "observation.effort" in copy.extra_columns
    assert copy.episode(1).origin == {"file": "episode_2.hdf5", "sim": False}


def test_a_robomimic_dataset_is_copied_without_the_arrays_that_are_not_read(tmp_path: Path):
    dataset = open_dataset(foreign.robomimic(tmp_path / "demo.hdf5"), ROBOMIMIC)
    plan = plan_of(dataset, (0, 0, 9), (1, 1, 4))
    lines = write_fixed(dataset, plan, tmp_path / "copy")
    assert lines == [
        "not copied: dones: not selected",
        "not copied: rewards: not selected",
        "not copied: next_obs: not the observations of the tick",
    ]
    copy = open_dataset(tmp_path / "copy")
    check_same_ticks(copy, dataset, plan)
    assert [copy.episode(i).origin for i in range(2)] == [{"name": "demo_0"}, {"name": "demo_1"}]


def test_a_replay_buffer_is_copied(tmp_path: Path):
    dataset = open_dataset(foreign.replay_buffer(tmp_path / "a.zarr"), REPLAY)
    plan = plan_of(dataset, (1, 0, 5), (2, 2, 7))
    write_fixed(dataset, plan, tmp_path / "copy")
    check_same_ticks(open_dataset(tmp_path / "copy"), dataset, plan)


def test_a_dataset_of_ones_own_is_copied(tmp_path: Path):
    dataset = FakeDataset((7, 4, 9))
    plan = plan_of(dataset, (0, 1, 7), (1, 0, 4))
    write_fixed(dataset, plan, tmp_path / "copy")
    check_same_ticks(open_dataset(tmp_path / "copy"), dataset, plan)


@pytest.mark.parametrize("version", ["v21", "v30"])
def test_a_lerobot_dataset_is_copied_with_its_extra_columns(version: str, tmp_path: Path):
    dataset = open_dataset(FIXTURES / "lerobot" / version)
    assert "next.reward" in dataset.extra_columns
    plan = plan_of(dataset, (0, 1, dataset.lengths[0]))
    assert write_fixed(dataset, plan, tmp_path / "copy") == []
    copy = open_dataset(tmp_path / "copy")
    assert dict(copy.extra_columns) == dict(dataset.extra_columns)
    names = [*dataset.extra_columns]
    values, expected = (d.episode(0).extra_values(names) for d in (copy, dataset))
    for name in names:
        np.testing.assert_array_equal(values[name], expected[name][1:])


def test_a_damaged_aloha_file_is_left_out_of_the_copy(tmp_path: Path):
    root = foreign.aloha(tmp_path / "aloha", lengths=(20, 20, 20))
    with h5py.File(root / "episode_1.hdf5", "a") as file:
        del file["action"]
    dataset, found = open_damaged(root)
    assert dataset is not None
    found += inspect_numbers(dataset, damaged=unusable_episodes(found))
    plan = plan_fix(dataset.lengths, [f for f in found if f.kind == "damaged-file"])
    assert plan.dropped == {1: ("damaged-file",)}
    write_fixed(dataset, plan, tmp_path / "copy")
    assert open_dataset(tmp_path / "copy").lengths == (20, 20)


def test_a_copy_of_another_layout_is_not_a_recording(tmp_path: Path):
    dataset = open_dataset(foreign.aloha(tmp_path / "aloha"))
    write_fixed(dataset, plan_of(dataset, (0, 0, 9)), tmp_path / "copy")
    assert not is_recording(tmp_path / "copy")
    with pytest.raises(BadInput, match="was converted from aloha-hdf5, not recorded"):
        read_report(tmp_path / "copy")
    manifest = json.loads((tmp_path / "copy" / "meta/imitact.json").read_text())
    assert manifest["mended"][0] == "left out: episode 1 (duplicate)"


def test_a_copy_inside_the_dataset_is_refused(tmp_path: Path):
    dataset = open_dataset(foreign.aloha(tmp_path / "aloha"))
    with pytest.raises(BadInput, match="never altered"):
        write_fixed(dataset, plan_of(dataset, (0, 0, 9)), tmp_path / "aloha" / "copy")


def trim(episode: int, first: int, stop: int) -> Finding:
    return Finding("idle", "warning", "", "", episode, (first, stop), fix="trim")


def drop(episode: int, kind: str) -> Finding:
    return Finding(kind, "error", "", "", episode, fix="drop")


@pytest.mark.parametrize(
    ("findings", "kept", "dropped"),
    [
        ([], [(0, 0, 10), (1, 0, 20)], {}),
        ([trim(1, 0, 3), trim(1, 0, 5), trim(1, 15, 20)], [(0, 0, 10), (1, 5, 15)], {}),
        ([drop(0, "a"), drop(0, "b"), drop(0, "a")], [(1, 0, 20)], {0: ("a", "b")}),
        ([drop(1, "a"), trim(1, 0, 5)], [(0, 0, 10)], {1: ("a",)}),
    ],
)
def test_a_plan_applies_the_fixes_of_the_findings(
    findings: Sequence[Finding], kept: list[tuple[int, int, int]], dropped: dict[int, Any]
):
    plan = plan_fix((10, 20), findings)
    assert [(t.index, t.start, t.stop) for t in plan.kept] == kept
    assert plan.dropped == dropped
    assert plan.has_changes == bool(findings)
