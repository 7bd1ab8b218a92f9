"""Dataset inspection: sound datasets, damaged files, and threads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from imitact.datasets.open import open_dataset
from imitact.quality.dataset_check import inspect_frames, inspect_numbers, open_damaged
from imitact.quality.findings import errors
from tests.support.demonstrations import Rows, demonstrate, edit_info, rewrite, write
from tests.support.fake_dataset import FakeDataset
from tests.support.inspection import inspect_all, lines, numbers, only
from tests.support.paths import FIXTURES

LEROBOT = FIXTURES / "lerobot"


def test_a_sound_dataset_has_no_findings(tmp_path: Path, sound: Sequence[Rows]):
    for number, seeds in enumerate((range(12), range(100, 120), range(200, 203))):
        episodes = [demonstrate(seed) for seed in seeds]
        assert lines(numbers(tmp_path / str(number), episodes)) == []


@pytest.mark.parametrize("name", ["h264", "av1"])
def test_datasets_of_lerobot_have_no_errors(name: str):
    assert lines(errors(inspect_all(LEROBOT / name, frames=True))) == []


def test_a_dataset_of_ones_own_can_be_inspected():
    assert lines(errors(inspect_numbers(FakeDataset((60, 70, 80))))) == []


@pytest.mark.parametrize("lost", ["last", "middle"])
def test_an_episode_with_missing_ticks_is_found_and_the_others_are_checked(
    lost: str, tmp_path: Path, sound: Sequence[Rows]
):
    root = write(tmp_path / "data", sound)

    def cut(columns: dict[str, np.ndarray]) -> None:
        for name, values in columns.items():
            columns[name] = np.delete(values, -1 if lost == "last" else 30, axis=0)

    rewrite(root, 2, cut)
    rewrite(root, 5, lambda columns: columns["action"].__setitem__((9, 0), np.nan))
    first, second = inspect_all(root)
    assert (first.kind, first.severity, first.episode, first.fix) == (
        "damaged-file", "error", 2, "drop",
    )  # fmt: skip
    assert (second.kind, second.episode) == ("not-finite", 5)


def test_wrongly_numbered_ticks_are_found(tmp_path: Path, sound: Sequence[Rows]):
    root = write(tmp_path / "data", sound)
    rewrite(root, 4, lambda columns: columns["frame_index"].__setitem__(7, 8))
    found = only(inspect_all(root))
    assert (found.kind, found.episode) == ("damaged-file", 4)
    assert "numbered from 0" in found.what
    rewrite(root, 4, lambda columns: columns["frame_index"].__setitem__(7, 7))
    assert lines(inspect_all(root)) == []
    rewrite(root, 6, lambda columns: columns["episode_index"].__setitem__(7, 9))
    assert only(inspect_all(root)).episode == 6


@pytest.mark.parametrize("name", ["meta/episodes", "data"])
def test_each_missing_file_is_a_finding(name: str, tmp_path: Path, sound: Sequence[Rows]):
    root = write(tmp_path / "data", sound)
    for index in (2, 7):
        (root / name / f"chunk-000/file-{index:03d}.parquet").unlink()
    found = inspect_all(root)
    assert [(f.kind, f.episode, f.fix) for f in found] == [
        ("damaged-file", 2, "drop"), ("damaged-file", 7, "drop"),
    ]  # fmt: skip


def test_contradicting_counts_are_found_and_the_episodes_are_checked(
    tmp_path: Path, sound: Sequence[Rows]
):
    root = write(tmp_path / "data", sound)
    edit_info(root, total_frames=17)
    rewrite(root, 5, lambda columns: columns["action"].__setitem__((9, 0), np.nan))
    first, second = inspect_all(root)
    assert (first.kind, first.episode, first.severity) == ("damaged-file", None, "error")
    assert (second.kind, second.episode) == ("not-finite", 5)
    (root / "meta/info.json").write_text("{")
    dataset, found = open_damaged(root)
    assert dataset is None
    assert only(found).kind == "damaged-file"


def test_the_number_of_threads_changes_no_finding(tmp_path: Path):
    root = write(
        tmp_path / "data", [demonstrate(seed) for seed in range(2)], cameras=["top", "side"],
        film=lambda index, frames: [*[frames[0]] * 6, *frames[:-6]] if index == 1 else frames,
    )  # fmt: skip
    dataset = open_dataset(root)
    one, three = (inspect_frames(dataset, workers=workers) for workers in (1, 3))
    assert one == three
    assert {(f.episode, f.part) for f in one} == {(1, "top"), (1, "side")}
