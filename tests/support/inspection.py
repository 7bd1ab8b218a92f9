"""Inspection of small datasets, for the tests of the quality checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from imitact.core.types import Spec
from imitact.quality.dataset_check import (
    inspect_frames,
    inspect_numbers,
    open_damaged,
    unusable_episodes,
)
from imitact.quality.findings import Finding, by_severity
from tests.support.demonstrations import NAMES, RATE_HZ, Rows, write

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


def inspect_rows(
    episodes: Sequence[Rows],
    *,
    state_names: Sequence[str] = NAMES,
    action_names: Sequence[str] = NAMES,
    units: Sequence[str] = ("rad",) * 3 + ("1",),
    rate_hz: float = RATE_HZ,
) -> list[Finding]:
    """The findings of episodes that are not stored."""
    own = [tuple(np.asarray(rows, np.float32) for rows in episode) for episode in episodes]

    def episode(index: int) -> Any:
        state, action = own[index]
        return SimpleNamespace(index=index, state=state, action=action, times_s=None)

    state_units, action_units = (
        tuple((*units, *["unknown"] * 9)[: len(names)]) for names in (state_names, action_names)
    )
    spec = Spec(tuple(state_names), tuple(action_names), state_units, action_units, (), rate_hz)
    lengths = tuple(len(state) for state, _ in own)
    dataset: Any = SimpleNamespace(extra_columns={}, spec=spec, lengths=lengths, episode=episode)
    return inspect_numbers(dataset)
