"""Outlier check: duplicates and outliers beside near misses that are not findings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.support.demonstrations import Rows, demonstrate, follow
from tests.support.inspection import COUNT, lines, numbers, only


def test_a_duplicate_episode_is_found(tmp_path: Path, sound: Sequence[Rows]):
    found = only(numbers(tmp_path, [*sound[:9], sound[2], *sound[9:]]))
    assert (found.kind, found.severity, found.episode, found.fix) == (
        "duplicate", "warning", 9, "drop",
    )  # fmt: skip
    assert "episode 2" in found.what


def test_equal_actions_with_other_states_are_not_a_duplicate(tmp_path: Path, sound: Sequence[Rows]):
    again = (follow(sound[2][1], seed=77), sound[2][1])
    assert lines(numbers(tmp_path, [*sound, again])) == []


def test_outliers_in_length_and_start_are_found(tmp_path: Path, sound: Sequence[Rows]):
    found = numbers(tmp_path / "long", [*sound, demonstrate(50, moves=15)])
    assert {(f.kind, f.episode) for f in found} == {
        ("outlier-length", COUNT), ("outlier-motion", COUNT),
    }  # fmt: skip
    assert lines(numbers(tmp_path / "longer", [*sound, demonstrate(50, moves=6)])) == []

    def begin(by: float) -> list[Rows]:
        state, action = (rows.copy() for rows in sound[4])
        fade = by * np.clip(1 - np.arange(len(state)) / 40, 0, 1)
        state[:, 1] += fade
        action[:, 1] += fade
        return [*sound[:4], (state, action), *sound[5:]]

    found = only(numbers(tmp_path / "start", begin(0.6)))
    assert (found.kind, found.severity, found.episode, found.part) == (
        "outlier-start", "note", 4, "elbow",
    )  # fmt: skip
    assert lines(numbers(tmp_path / "near", begin(0.2))) == []
