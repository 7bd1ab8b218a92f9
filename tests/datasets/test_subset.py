"""Subsets: chosen episodes keep their content, and a split loses none."""

from __future__ import annotations

import numpy as np
import pytest

from imitact.core.errors import BadInput
from imitact.core.types import Dataset, Episode
from imitact.datasets.lerobot.reader import LeRobotDataset
from imitact.datasets.open import open_dataset
from imitact.datasets.subset import Subset, split_validation
from tests.support.fake_dataset import FakeDataset, properties, whole_dataset
from tests.support.paths import FIXTURES

LEROBOT = FIXTURES / "lerobot"


def test_a_subset_is_the_chosen_episodes_renumbered() -> None:
    dataset = open_dataset(LEROBOT / "h264")
    subset = Subset(dataset, [2, 0])
    assert subset.lengths == (6, 5)
    assert subset.episode(0).index == 0
    assert np.array_equal(subset.episode(0).state, dataset.episode(2).state)
    assert np.array_equal(
        list(subset.episode(1).frames("top")), list(dataset.episode(0).frames("top"))
    )
    assert len({subset.fingerprint, Subset(dataset, [0, 2]).fingerprint, dataset.fingerprint}) == 3
    for wrong in ([3], [-1], [0, 0]):
        with pytest.raises(BadInput):
            Subset(dataset, wrong)


def test_a_split_keeps_the_last_episodes_for_validation_and_loses_none() -> None:
    dataset = Subset(open_dataset(LEROBOT / "h264"), [0, 1, 2])
    for count in range(3):
        train, held = split_validation(dataset, count)
        assert (*train.indices, *held.indices) == (0, 1, 2)
        assert len(held.indices) == count
    for wrong in (3, -1):
        with pytest.raises(BadInput, match="held out"):
            split_validation(dataset, wrong)


def test_a_subset_has_every_property_of_its_dataset_and_episodes() -> None:
    for name, kind in (("h264", Dataset), ("h264", Episode), ("v30", Dataset), ("v30", Episode)):
        dataset = LeRobotDataset(LEROBOT / name)
        subset = Subset(dataset, [2, 0])
        ours, theirs = (
            (subset, dataset) if kind is Dataset else (subset.episode(0), dataset.episode(2))
        )
        for each in properties(kind) - {"lengths", "weights", "fingerprint", "index"}:
            assert np.array_equal(getattr(ours, each), getattr(theirs, each)), each
    columns = list(dataset.extra_columns)
    assert columns == ["next.reward", "next.done"]
    for name in columns:
        ours, theirs = subset.episode(1), dataset.episode(0)
        assert np.array_equal(ours.extra_values([name])[name], theirs.extra_values([name])[name])


def test_a_subset_has_no_default_where_its_dataset_or_episode_has_a_value() -> None:
    dataset, episode = whole_dataset(2)
    subset = Subset(dataset, [0])
    for name in properties(Dataset) - {"lengths", "weights", "fingerprint"}:
        assert getattr(subset, name) is getattr(dataset, name), name
    for name in properties(Episode) - {"index"}:
        assert getattr(subset.episode(0), name) is getattr(episode, name), name


def test_a_subset_lists_the_recorded_facts_of_its_own_episodes() -> None:
    class Recorded(FakeDataset):
        facts = {"settings": {"task": "t"}, "episodes": [{"seed": 5}, {"seed": 6}, {"seed": 7}]}  # noqa: RUF012

    assert Subset(Recorded(), [2, 0]).facts == {
        "settings": {"task": "t"}, "episodes": [{"seed": 7}, {"seed": 5}],
    }  # fmt: skip


def test_a_dataset_that_stores_only_the_necessary_has_defaults_for_the_rest() -> None:
    dataset = FakeDataset()
    assert (dataset.layout, dataset.path, dataset.notices) == ("custom", None, ())
    assert dataset.left_out == dataset.extra_columns == dataset.facts == {}
    episode = dataset.episode(1)
    assert (episode.task, episode.tasks, episode.times_s) == ("", (), None)
    assert (episode.origin, episode.own_videos) == ({"name": "1"}, {})
    assert episode.extra_values([]) == {}
    with pytest.raises(BadInput, match=r"no columns effort"):
        episode.extra_values(["effort"])


def test_a_dataset_of_ones_own_may_set_properties_as_attributes() -> None:
    class Plain(Episode):
        def __init__(self) -> None:
            self.index, self.task = 3, "pick up the cup"
            self.state = self.action = np.zeros((2, 1), np.float32)

    episode = Plain()
    assert (episode.index, episode.task, episode.tasks) == (3, "pick up the cup", (episode.task,))
    assert episode.origin == {"name": "3"}
