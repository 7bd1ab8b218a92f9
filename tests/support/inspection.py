"""Inspection of small datasets, for the tests of the quality checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from imitact.quality.dataset_check import (
    inspect_frames,
    inspect_numbers,
    open_damaged,
    unusable_episodes,
)
from imitact.quality.findings import Finding, by_severity
from tests.support.demonstrations import Rows, write

COUNT = 12
"""Episodes of the sound dataset."""


def inspect_all(root: Path, frames: bool = False) -> list[Finding]:
    dataset, found = open_damaged(root)
    assert dataset is not None
    found += inspect_numbers(dataset, damaged=unusable_episodes(found))
    if frames:
        found += inspect_frames(dataset, damaged=unusable_episodes(found), workers=1)
    return by_severity(found)


def numbers(tmp_path: Path, episodes: Sequence[Rows], **named: object) -> list[Finding]:
    return inspect_all(write(tmp_path / "data", episodes, **named))  # type: ignore[arg-type]


def changed(episodes: Sequence[Rows], index: int, change: Callable[..., object]) -> list[Rows]:
    """With state and action of one episode copied and changed in place by `change`."""
    given = list(episodes)
    state, action = (rows.copy() for rows in given[index])
    change(state, action)
    given[index] = (state, action)
    return given


def only(found: Sequence[Finding]) -> Finding:
    assert len(found) == 1, [f.line for f in found]
    return found[0]


def lines(found: Sequence[Finding]) -> list[str]:
    return [f.line for f in found]


def moving(action: np.ndarray, ticks: int) -> int:
    """Start of the stretch of that many ticks in which actions move most."""
    speed = np.abs(np.diff(action[:, :3], axis=0)).sum(axis=1)
    return int(np.argmax(np.convolve(speed, np.ones(ticks), "valid")))
