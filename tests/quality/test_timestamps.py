"""Time stamp check: values that are not finite and time stamps off schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from imitact.datasets.open import open_dataset
from imitact.datasets.read_config import ReadConfig
from imitact.quality.dataset_check import inspect_numbers
from imitact.quality.findings import Finding
from imitact.quality.fix import plan_fix, write_fixed
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


def stamped(root: Path, change: Callable[[np.ndarray], object]) -> Finding:
    rewrite(root, 8, lambda columns: change(columns["timestamp"]))
    found = only(inspect_all(root))
    assert (found.kind, found.episode) == ("time-stamps", 8)
    return found


@pytest.mark.parametrize(
    ("change", "tick", "message"),
    [
        (lambda t: t.__setitem__(30, t[29]), 30, "not after the tick before it"),
        (lambda t: t.__imul__(1.0105), 48, "ticks are off"),
        (lambda t: t.__iadd__(1.0), 0, "expected 0.000000 s"),
    ],
)
def test_time_stamps_more_than_half_a_tick_off_are_an_error_at_their_first_tick(
    change: Callable[[np.ndarray], object], tick: int, message: str, tmp_path: Path,
    sound: Sequence[Rows],
):  # fmt: skip
    found = stamped(write(tmp_path / "data", sound), change)
    assert (found.severity, found.fix) == ("error", "drop")
    assert found.ticks == (tick, tick + 1)
    assert message in found.what
    assert "--read.tolerance-s" in found.remedy
    assert "record it again" not in found.remedy


@pytest.mark.parametrize(
    ("change", "tick"),
    [(lambda t: t[50:].__iadd__(0.002), 50), (lambda t: t.__imul__(1.0001), 21)],
)
def test_time_stamps_up_to_half_a_tick_off_are_a_warning_that_a_fix_rewrites(
    change: Callable[[np.ndarray], object], tick: int, tmp_path: Path, sound: Sequence[Rows]
):
    root = write(tmp_path / "data", sound)
    found = stamped(root, change)
    assert (found.severity, found.fix, found.ticks) == ("warning", "rewrite", (tick, tick + 1))
    dataset = open_dataset(root)
    plan = plan_fix(dataset.lengths, [found])
    assert plan.has_changes
    write_fixed(dataset, plan, tmp_path / "copy")
    copy = open_dataset(tmp_path / "copy")
    assert copy.lengths == dataset.lengths
    due = np.arange(copy.lengths[8]) / copy.spec.rate_hz
    np.testing.assert_allclose(copy.episode(8).times_s, due, atol=1e-6)


def test_the_tolerance_for_reading_holds_for_time_stamps(tmp_path: Path, sound: Sequence[Rows]):
    root = write(tmp_path / "data", sound)
    rewrite(root, 8, lambda columns: columns["timestamp"].__imul__(1.01))
    dataset = open_dataset(root, ReadConfig(tolerance_s=0.2))
    assert only(inspect_numbers(dataset)).severity == "warning"


def test_time_stamps_within_the_tolerance_are_not_a_finding(tmp_path: Path, sound: Sequence[Rows]):
    root = write(tmp_path / "data", sound)
    rewrite(root, 8, lambda columns: columns["timestamp"][50:].__iadd__(0.00008))
    assert lines(inspect_all(root)) == []
