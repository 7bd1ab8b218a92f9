"""Tracking check: every defect beside a near miss that is not a finding."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from imitact.quality.findings import errors
from imitact.quality.tracking import theil_sen_slope
from tests.support.demonstrations import NAMES, Rows, demonstrate
from tests.support.inspection import COUNT, inspect_rows, lines, numbers, only


def shifted(episodes: Sequence[Rows], ticks: int, which: Sequence[int]) -> list[Rows]:
    """With the states of some episodes later by `ticks`; earlier where it is negative."""
    given = list(episodes)
    for index in which:
        state, action = given[index]
        if ticks >= 0:
            later = np.concatenate([np.tile(state[0], (ticks, 1)), state])
            given[index] = (later[: len(action)], action)
        else:
            given[index] = (state[-ticks:], action[:ticks])
    return given


def test_a_delay_in_all_episodes_is_found_in_seconds(tmp_path: Path, sound: Sequence[Rows]):
    found = numbers(tmp_path, shifted(sound, 4, range(COUNT)))
    late = only(found)
    assert (late.kind, late.severity, late.episode) == ("tracking-lag", "warning", None)
    assert all(name in f"{late.part} {late.what}" for name in NAMES)
    assert late.value == pytest.approx(6.3 / 20, abs=0.3 / 20)
    assert lines(numbers(tmp_path / "near", shifted(sound, 1, range(COUNT)))) == []


def test_a_delay_is_measured_to_a_fraction_of_a_tick(tmp_path: Path):
    for number, ticks in enumerate((4.6, 5.3, 6.85)):
        episodes = []
        for seed in range(COUNT):
            _, action = demonstrate(seed)
            at = np.arange(len(action))
            state = np.stack([np.interp(at - ticks, at, column) for column in action.T], axis=1)
            noise = np.random.default_rng(seed).normal(0, 0.0005, state.shape)
            episodes.append((state + noise, action))
        late = only(numbers(tmp_path / str(number), episodes))
        assert late.kind == "tracking-lag"
        assert late.value == pytest.approx(ticks / 20, abs=0.15 / 20)


def test_states_that_move_before_their_actions_are_an_error(tmp_path: Path, sound: Sequence[Rows]):
    found = numbers(tmp_path / "all", shifted(sound, -5, range(COUNT)))
    late = only(found)
    assert (late.kind, late.severity, late.episode) == ("action-late", "error", None)
    assert all(name in f"{late.part} {late.what}" for name in NAMES)
    assert lines(numbers(tmp_path / "near", shifted(sound, -1, range(COUNT)))) == []


def test_one_episode_with_shifted_actions_is_found(tmp_path: Path, sound: Sequence[Rows]):
    found = only(numbers(tmp_path / "late", shifted(sound, 5, [7])))
    assert (found.kind, found.severity, found.episode) == ("lag-differs", "warning", 7)
    found = only(numbers(tmp_path / "early", shifted(sound, -5, [7])))
    assert (found.kind, found.severity, found.episode, found.fix) == (
        "action-late", "error", 7, "drop",
    )  # fmt: skip
    assert lines(numbers(tmp_path / "near", shifted(sound, 1, [7]))) == []


def moved(episodes: Sequence[Rows], joint: int, by: Callable[[int], float]) -> list[Rows]:
    """With the states of a joint offset by `by(index)` rad in each episode."""
    given = []
    for index, (state, action) in enumerate(episodes):
        state = state.copy()
        state[:, joint] += by(index)
        given.append((state, action))
    return given


@pytest.mark.parametrize(("by", "severity"), [(0.08, "warning"), (-0.3, "error")])
def test_an_offset_in_all_episodes_is_found_in_rad(
    by: float, severity: str, tmp_path: Path, sound: Sequence[Rows]
):
    found = only(numbers(tmp_path, moved(sound, 1, lambda index: by)))
    assert (found.kind, found.severity, found.episode, found.part, found.unit, found.fix) == (
        "tracking-offset", severity, None, "elbow", "rad", "",
    )  # fmt: skip
    assert found.value == pytest.approx(by, abs=0.01)


def test_the_offset_of_a_loaded_servo_is_not_a_finding(tmp_path: Path, sound: Sequence[Rows]):
    assert lines(numbers(tmp_path, moved(sound, 1, lambda index: -0.03 + 0.001 * index))) == []


def test_a_gripper_that_holds_something_has_no_offset(tmp_path: Path, sound: Sequence[Rows]):
    assert lines(numbers(tmp_path, moved(sound, 3, lambda index: 0.2))) == []


def test_a_drifting_calibration_is_found_with_its_drift(tmp_path: Path, sound: Sequence[Rows]):
    found = numbers(tmp_path, moved(sound, 0, lambda index: 0.012 * (index - 5.5)))
    drift = only(found)
    assert (drift.kind, drift.part, drift.severity) == ("tracking-drift", "shoulder", "warning")
    assert drift.value == pytest.approx(0.012 * 11, abs=0.02)
    near = moved(sound, 0, lambda index: 0.003 * (index - 5.5))
    assert lines(numbers(tmp_path / "near", near)) == []


def test_a_sudden_loss_of_calibration_is_found_with_its_episode(
    tmp_path: Path, sound: Sequence[Rows]
):
    found = numbers(tmp_path, moved(sound, 2, lambda index: 0.3 if index >= 8 else 0.0))
    # The changed starts of later episodes are notes of their own.
    drift = only([each for each in found if each.kind != "outlier-start"])
    assert drift.kind == "tracking-drift"
    assert (drift.episode, drift.part, drift.severity) == (8, "wrist", "error")
    assert drift.value == pytest.approx(0.3, abs=0.02)


def test_one_episode_with_another_offset_is_found(tmp_path: Path, sound: Sequence[Rows]):
    found = only(numbers(tmp_path, moved(sound, 2, lambda index: 0.15 if index == 3 else 0.0)))
    assert (found.kind, found.episode, found.part, found.fix) == ("offset-differs", 3, "wrist", "")
    assert found.value == pytest.approx(0.15, abs=0.02)


def test_values_of_unknown_unit_are_compared_with_their_travel(
    tmp_path: Path, sound: Sequence[Rows]
):
    """The same arm in degrees, which many datasets use without storing the unit."""
    degrees = [(np.rad2deg(state), np.rad2deg(action)) for state, action in sound]
    unknown = ("unknown",) * 4
    assert lines(numbers(tmp_path / "sound", degrees, units=unknown)) == []
    off = moved(degrees, 1, lambda index: 30.0)
    found = only(numbers(tmp_path / "off", off, units=unknown))
    assert (found.kind, found.part) == ("tracking-offset", "elbow")
    assert found.value == pytest.approx(30, abs=1)


def test_states_in_another_unit_than_their_actions_are_found(tmp_path: Path, sound: Sequence[Rows]):
    mixed = [(np.rad2deg(state), action) for state, action in sound]
    found = numbers(tmp_path, mixed, units=("unknown",) * 4)
    assert {f.kind for f in found} >= {"tracking-gain"}
    assert "tracking-offset" not in {f.kind for f in found}


def test_actions_that_copy_the_state_are_found(tmp_path: Path, sound: Sequence[Rows]):
    found = only(numbers(tmp_path, [(state, state) for state, _ in sound]))
    assert (found.kind, found.severity) == ("action-is-state", "warning")


def test_an_exponential_approach_gives_no_delay(tmp_path: Path):
    """The speeds of an exponential approach correlate equally at every delay."""
    ticks = np.arange(120)[:, None]
    rest = 0.9**ticks
    episodes = []
    for seed in range(10):
        to = np.random.default_rng(seed).uniform(0.5, 1.0, 4)
        state = to * (1 - rest)
        episodes.append((state, state + 0.3 * (to - state)))
    assert [f for f in numbers(tmp_path, episodes) if "late" in f.kind or "lag" in f.kind] == []


def test_the_theil_sen_slope_ignores_a_quarter_of_outliers():
    rng = np.random.default_rng(0)
    x = np.arange(30.0)
    y = 0.25 * x + rng.normal(0, 0.01, 30)
    y[rng.permutation(30)[:8]] += rng.uniform(-50, 50, 8)
    assert theil_sen_slope(x, y) == pytest.approx(0.25, abs=0.05)
    assert theil_sen_slope(np.arange(4000.0), 0.25 * np.arange(4000.0)) == pytest.approx(0.25)


def pulled(seed: int) -> Rows:
    """An arm whose wrist is hardly commanded, and is moved by the pull of shoulder and elbow."""
    state, action = (rows.copy() for rows in demonstrate(seed))
    action[:, 2] = 0.4 + 0.1 * (action[:, 1] + 0.8)
    shifted_pull = np.concatenate([action[2:, 1], np.repeat(action[-1:, 1], 2)])
    noise = np.random.default_rng(seed).normal(0, 0.01, len(state))
    state[:, 2] = 0.4 + 4.67 * 0.1 * (shifted_pull + 0.8) + 0.2 * (state[:, 0]) + noise
    return state, action


@pytest.mark.parametrize("unit", ["rad", "unknown"])
def test_a_joint_that_is_moved_by_the_pull_of_others_is_not_judged(unit: str):
    episodes = [pulled(seed) for seed in range(18)]
    found = inspect_rows(episodes, units=(unit,) * 3 + ("1",))
    assert [f for f in found if f.part == "wrist"] == []
    assert not errors(found)


def test_a_delay_states_how_far_the_action_moves_and_how_much_it_explains(
    tmp_path: Path, sound: Sequence[Rows]
):
    late = only(numbers(tmp_path, shifted(sound, -5, range(COUNT))))
    assert re.search(r"an action that moves by [\d.]+ rad explains \d+% of its motion", late.what)


@pytest.mark.parametrize("which", [range(COUNT), [7]])
def test_joints_in_exchanged_order_are_found(which: Sequence[int], sound: Sequence[Rows]):
    given = list(sound)
    for index in which:
        state, action = given[index]
        given[index] = (state[:, [1, 0, 2, 3]], action)
    found = [f for f in inspect_rows(given) if f.kind == "joints-swapped"]
    assert [(f.severity, f.episode) for f in found] == [("error", None if len(which) > 1 else 7)]
    assert "shoulder" in found[0].line
    assert "elbow" in found[0].line


def test_three_joints_in_another_order_are_found(sound: Sequence[Rows]):
    found = inspect_rows([(state[:, [1, 2, 0, 3]], action) for state, action in sound])
    swapped = only([f for f in found if f.kind == "joints-swapped"])
    assert "shoulder, elbow, wrist follow the actions of elbow, wrist, shoulder" in swapped.what


def steps(episodes: Sequence[Rows], late: int = 0) -> list[Rows]:
    """The same motion commanded as steps, which are stored late by some ticks."""
    given = []
    for seed, (_, action) in enumerate(episodes):
        step = np.diff(action, axis=0, append=action[-1:])
        state = np.concatenate([action[:1]] * 2 + [action[:-2]])  # follows two ticks later
        state = state + np.random.default_rng(seed).normal(0, 0.0005, state.shape)
        given.append((state[late:], step[: len(step) - late] * 10))
    return given


def test_actions_that_are_steps_are_compared_with_the_motion_they_ask_for(sound: Sequence[Rows]):
    units = ("unknown",) * 4
    assert lines([f for f in inspect_rows(steps(sound), units=units) if f.severity != "note"]) == []
    found = inspect_rows(steps(sound, late=5), units=units)
    late = only([f for f in found if f.severity == "error"])
    assert (late.kind, late.episode) == ("action-late", None)


def test_states_and_actions_of_other_names_are_paired_by_number(sound: Sequence[Rows]):
    names = ("a", "b", "c", "d")
    found = inspect_rows(shifted(sound, -5, range(COUNT)), action_names=names)
    assert only(found).kind == "action-late"


def test_actions_that_no_state_can_be_compared_with_are_named(sound: Sequence[Rows]):
    narrow = [(state[:, :3], action) for state, action in sound]
    found = only(inspect_rows(narrow, state_names=("x", "y", "z")))
    assert (found.kind, found.severity, found.episode) == ("not-compared", "note", None)
    found = only(inspect_rows(narrow, state_names=("shoulder", "elbow", "wrist")))
    assert "gripper" in found.what


def test_a_late_joint_alone_does_not_mean_lost_ticks(sound: Sequence[Rows]):
    given = list(sound)
    state, action = (rows.copy() for rows in given[7])
    state[3:, 2] = state[:-3, 2].copy()
    given[7] = (state, action)
    assert [f for f in inspect_rows(given) if f.kind in ("lag-differs", "action-late")] == []


def test_joints_that_move_alike_in_short_episodes_are_not_swapped():
    names = [f"joint_{number}" for number in range(6)]

    def reach(seed: int, ticks: int) -> Rows:
        rng = np.random.default_rng(seed)
        start, goal = rng.normal(0, 0.05, 6), rng.uniform(-0.8, 0.8) * np.linspace(1, 0.5, 6)
        along = np.linspace(0, 1, ticks)[:, None]
        action = start + (goal - start) * (3 * along**2 - 2 * along**3)
        return np.concatenate([action[:1], action[:-1]]), action

    for seed in range(60):
        for count, ticks in ((1, 20), (5, 20), (4, 26), (5, 40)):
            episodes = [reach(1000 * seed + each, ticks) for each in range(count)]
            found = inspect_rows(
                episodes,
                state_names=names,
                action_names=names,
                units=["unknown"] * 6,
                rate_hz=30,
            )
            assert errors(found) == [], (seed, count, ticks)
