"""Time stamp check: values that are not finite and time stamps off schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.support.demonstrations import Rows, rewrite, write
from tests.support.inspection import inspect_all, lines, only


def test_a_value_that_is_not_finite_is_found_with_its_ticks(tmp_path: Path, sound: Sequence[Rows]):
    root = write(tmp_path / "data", sound)

    def spoil(columns: dict[str, np.ndarray]) -> None:
        columns["observation.state"][17, 1] = np.nan
        columns["observation.state"][20, 1] = np.nan
        columns["action"][5, 3] = np.inf

    rewrite(root, 3, spoil)
    action, state = sorted(inspect_all(root), key=lambda f: f.part == "elbow")
    assert (state.kind, state.severity, state.episode, state.ticks, state.part, state.fix) == (
        "not-finite", "error", 3, (17, 21), "elbow", "drop",
    )  # fmt: skip
    assert "state is nan at 2 of" in state.what
    assert (action.kind, action.ticks, action.part) == ("not-finite", (5, 6), "gripper")
    assert "inf" in action.what


@pytest.mark.parametrize(
    ("change", "tick", "message"),
    [
        (lambda t: t[50:].__iadd__(0.002), 50, "expected 2.500000 s"),
        (lambda t: t.__setitem__(30, t[29]), 30, "not after the tick before it"),
        (lambda t: t.__imul__(1.0001), 21, "ticks are off"),
        (lambda t: t.__iadd__(1.0), 0, "expected 0.000000 s"),
    ],
)
def test_time_stamps_off_their_schedule_are_found_at_their_first_tick(
    change: Callable[[np.ndarray], object], tick: int, message: str, tmp_path: Path,
    sound: Sequence[Rows],
):  # fmt: skip
    root = write(tmp_path / "data", sound)
    rewrite(root, 8, lambda columns: change(columns["timestamp"]))
    found = only(inspect_all(root))
    assert (found.kind, found.severity, found.episode) == ("time-stamps", "error", 8)
    assert found.ticks == (tick, tick + 1)
    assert message in found.what


def test_time_stamps_within_the_tolerance_are_not_a_finding(tmp_path: Path, sound: Sequence[Rows]):
    root = write(tmp_path / "data", sound)
    rewrite(root, 8, lambda columns: columns["timestamp"][50:].__iadd__(0.00008))
    assert lines(inspect_all(root)) == []
