"""Joined datasets: all episodes of several datasets of one robot, none lost, none mixed up."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from imitact.core.errors import BadInput, SpecMismatch
from imitact.core.types import ExtraColumn, Spec
from imitact.datasets.joined import Joined, open_datasets
from imitact.datasets.read_config import ReadConfig
from tests.support.fake_dataset import FakeDataset
from tests.support.paths import FIXTURES

H264 = FIXTURES / "lerobot" / "h264"


@dataclass(frozen=True)
class OtherSpec(FakeDataset):
    """A FakeDataset with some of its Spec changed."""

    changes: tuple[tuple[str, object], ...] = ()

    @property
    def spec(self) -> Spec:
        return replace(super().spec, **dict(self.changes))


def test_a_joined_dataset_has_the_episodes_of_all_in_order() -> None:
    first, second = FakeDataset(lengths=(7, 4)), FakeDataset(lengths=(9,), fingerprint="other")
    joined = Joined([first, second], ["a", "b"])
    assert joined.lengths == (7, 4, 9)
    assert joined.weights == (1, 1, 1)
    for index, episode in enumerate((first.episode(0), first.episode(1), second.episode(0))):
        ours = joined.episode(index)
        assert ours.index == index
        assert np.array_equal(ours.state, episode.state)
        assert np.array_equal([*ours.frames("top")], [*episode.frames("top")])
    for wrong in (-1, 3):
        with pytest.raises(BadInput, match="3 in all"):
            joined.episode(wrong)


def test_joined_datasets_that_differ_have_fingerprints_that_differ() -> None:
    a, b = FakeDataset(), FakeDataset(fingerprint="other")
    joined = [Joined(each, ["", ""]) for each in ((a, b), (b, a), (a, a))]
    joined.append(Joined((a, b), ["", ""], (2, 1)))
    assert len({each.fingerprint for each in joined}) == 4


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rate_hz": 25.0}, r"rate is 25 Hz, expected 50 Hz"),
        ({"state_names": ("a", "b", "c")}, "state names are a, b, c"),
        ({"action_units": ("rad", "m", "1")}, "action units are rad, m, 1"),
        ({"cameras": ()}, "cameras are none"),
    ],
)
def test_datasets_of_different_robots_are_refused_by_what_differs(
    changes: dict[str, object], named: str
) -> None:
    other = OtherSpec(changes=tuple(changes.items()))
    with pytest.raises(SpecMismatch, match=rf"dataset tuesday does not fit monday.*{named}"):
        Joined([FakeDataset(), other], ["monday", "tuesday"])


def test_units_that_one_dataset_does_not_know_come_from_the_other() -> None:
    unknown = OtherSpec(
        changes=(("state_units", ("unknown",) * 3), ("action_units", ("unknown",) * 3))
    )
    known = FakeDataset().spec
    for order in ([unknown, FakeDataset()], [FakeDataset(), unknown]):
        assert Joined(order, ["a", "b"]).spec == known


def test_columns_that_not_all_datasets_have_are_left_out_by_name() -> None:
    a, b = FakeDataset(), FakeDataset()
    effort, reward = ExtraColumn("<f4", 3), ExtraColumn("<f4", None)
    vars(a).update(extra_columns={"effort": effort, "reward": reward}, notices=("depth",))
    vars(b).update(extra_columns={"effort": replace(effort, width=2), "reward": reward})
    joined = Joined([a, b], ["a", "b"])
    assert joined.extra_columns == {"reward": reward}
    assert joined.left_out == {"effort": "it is not in all of the datasets"}
    assert joined.notices == ("a: depth",)


def test_one_path_is_the_dataset_itself_and_reading_options_hold_for_each() -> None:
    assert open_datasets([H264]).fingerprint == open_datasets([H264], ReadConfig()).fingerprint
    other = FIXTURES / "lerobot" / "h264" / ".." / "h264"
    with pytest.raises(BadInput, match="given twice"):
        open_datasets([H264, other])
    for weights in ((1,), (1, 2), (0,)):
        with pytest.raises(BadInput, match="--weights"):
            open_datasets([H264], weights=weights)
    with pytest.raises(BadInput, match="no dataset"):
        open_datasets([])
