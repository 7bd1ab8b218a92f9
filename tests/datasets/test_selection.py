"""Selections: chosen episodes and every n-th tick keep their content, in every layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from imitact.core.errors import BadInput, DamagedFile
from imitact.core.types import Dataset, Episode
from imitact.datasets.open import open_dataset
from imitact.datasets.read_config import ReadConfig
from imitact.datasets.selection import Thinned
from imitact.datasets.subset import Subset, parse_episodes, split_validation
from tests.support.fake_dataset import FakeDataset, properties, whole_dataset
from tests.support.paths import FIXTURES

LEROBOT = FIXTURES / "lerobot"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", (0,)),
        ("0:3", (0, 1, 2)),
        ("0:2,5", (0, 1, 5)),
        ("5,0:2", (5, 0, 1)),
        ("::2", (0, 2, 4)),
        ("-1", (5,)),
        ("-2:", (4, 5)),
        (":", (0, 1, 2, 3, 4, 5)),
        ("4:100", (4, 5)),
        (" 1 , 3 ", (1, 3)),
    ],
)
def test_episodes_are_chosen_as_python_indexes_a_list(text: str, expected: tuple[int, ...]) -> None:
    assert parse_episodes(text, 6, "--read.episodes") == expected


@pytest.mark.parametrize(
    "text", ["", "x", "1.5", "6", "-7", "0,0", "0:2,1", "3:3", "0:4:0", "::-1", "1,,2", ":-", "1-3"]
)
def test_a_choice_of_episodes_that_cannot_be_is_refused_by_the_name_of_its_option(
    text: str,
) -> None:
    with pytest.raises(BadInput, match=r"--read\.episodes"):
        parse_episodes(text, 6, "--read.episodes")


def layouts() -> list[Path]:
    return [LEROBOT / "h264", LEROBOT / "v21"]


@pytest.mark.parametrize("path", layouts(), ids=lambda path: path.name)
def test_read_options_choose_episodes_and_ticks_of_every_layout(path: Path) -> None:
    whole = open_dataset(path)
    read = ReadConfig(episodes="2,0", every=2)
    chosen = open_dataset(path, read)
    assert chosen.read_options == {"episodes": "2,0", "every": 2}
    assert chosen.spec.rate_hz == whole.spec.rate_hz / 2
    assert chosen.lengths == tuple(-(-whole.lengths[e] // 2) for e in (2, 0))
    for ours, theirs in (
        (chosen.episode(0), whole.episode(2)),
        (chosen.episode(1), whole.episode(0)),
    ):
        assert np.array_equal(ours.state, theirs.state[::2])
        assert np.array_equal(ours.action, theirs.action[::2])
        for camera in whole.spec.cameras:
            frames, expected = [*ours.frames(camera.name)], [*theirs.frames(camera.name)][::2]
            assert np.array_equal(frames, expected)
            assert np.array_equal([*ours.frames(camera.name, 1, 3)], expected[1:3])
            assert [*ours.frames(camera.name, 1, 1)] == []


def test_selections_that_differ_have_fingerprints_that_differ() -> None:
    path = LEROBOT / "h264"
    reads = [ReadConfig(), ReadConfig(episodes="0"), ReadConfig(every=2), ReadConfig(every=3)]
    assert len({open_dataset(path, read).fingerprint for read in reads}) == len(reads)


def test_a_thinned_dataset_has_every_property_of_its_dataset_and_episodes() -> None:
    dataset, episode = whole_dataset(5)
    thinned = Thinned(dataset, 2)
    computed = {"spec", "lengths", "fingerprint", "state", "action", "times_s", "own_videos"}
    for name in properties(Dataset) - computed:
        assert getattr(thinned, name) == getattr(dataset, name), name
    for name in properties(Episode) - computed:
        assert getattr(thinned.episode(0), name) == getattr(episode, name), name


def test_the_first_tick_of_a_stage_is_the_first_kept_tick_at_or_after_it() -> None:
    recorded = FakeDataset(lengths=(7,))
    first_ticks = {"lift": 4, "grasp": 3, "hand over": None}
    vars(recorded).update(facts={"settings": {}, "episodes": [{"first_ticks": first_ticks}]})
    facts = Thinned(recorded, 2).facts
    assert facts["episodes"] == [{"first_ticks": {"lift": 2, "grasp": 2, "hand over": None}}]


def test_damage_of_episodes_that_are_not_chosen_refuses_nothing(tmp_path: Path) -> None:
    import shutil

    shutil.copytree(LEROBOT / "v21", tmp_path / "d")
    damaged = sorted((tmp_path / "d" / "data").rglob("*.parquet"))[1]
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(DamagedFile):
        open_dataset(tmp_path / "d").episode(1).state  # noqa: B018
    chosen = open_dataset(tmp_path / "d", ReadConfig(episodes="0,2"))
    assert [len(chosen.episode(i).state) for i in range(2)] == list(chosen.lengths)
    found: list[list[int]] = []
    open_dataset(
        tmp_path / "d", ReadConfig(episodes="1,2"), lambda error, each: found.append([*each])
    )
    assert found in ([], [[0]])  # where opening reads the file, under the number in the selection


def test_validation_episodes_are_the_last_or_drawn_by_the_seed_or_those_listed() -> None:
    dataset = FakeDataset(lengths=(5,) * 10)
    assert split_validation(dataset, 2)[1].indices == (8, 9)
    drawn = {split_validation(dataset, 3, "random", seed)[1].indices for seed in range(5)}
    assert len(drawn) > 1
    assert split_validation(dataset, 3, "random", 1)[1].indices in drawn
    training, validation = split_validation(dataset, 0, "7,0:2")
    assert (training.indices, validation.indices) == ((2, 3, 4, 5, 6, 8, 9), (0, 1, 7))
    for choice in ("last", "random", "1,2,3"):
        training, validation = split_validation(dataset, 3, choice)
        assert sorted(training.indices + validation.indices) == list(range(10))
    assert split_validation(dataset, 2, "7,0:2")[1].indices == (0, 1, 7)
    with pytest.raises(BadInput, match=r"--train\.val-episodes 0"):
        split_validation(dataset, 10)


def test_a_subset_of_a_subset_keeps_the_weights_of_its_episodes() -> None:
    dataset = FakeDataset()
    vars(dataset).update(weights=(3, 1, 2))
    assert Subset(Subset(dataset, [2, 0]), [1]).weights == (3,)
