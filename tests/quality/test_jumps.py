"""Jump check: values that no motion explains, beside brisk motions that are not a finding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.support.demonstrations import Rows, demonstrate
from tests.support.inspection import changed, inspect_rows, lines, numbers, only


@pytest.mark.parametrize("tick", [0, 1, 31, -1])
def test_a_reading_out_of_range_for_one_tick_is_found_with_its_place(
    tick: int, tmp_path: Path, sound: Sequence[Rows]
):
    def spike(state: np.ndarray, action: np.ndarray) -> None:
        state[tick, 1] = 2147.0

    found = only([f for f in numbers(tmp_path, changed(sound, 4, spike)) if f.severity == "error"])
    assert (found.kind, found.episode, found.part, found.fix) == ("jump", 4, "elbow", "drop")
    length = len(sound[4][0])
    assert found.ticks is not None
    assert abs(found.ticks[0] - tick % length) <= 1
    assert abs(found.value or 0) == pytest.approx(2147, abs=3)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_spike_is_found_among_however_few_episodes(count: int, sound: Sequence[Rows]):
    def spike(state: np.ndarray, action: np.ndarray) -> None:
        state[40, 1] += 3.0

    found = inspect_rows(changed(sound[:count], 0, spike))
    assert [(f.kind, f.episode, f.ticks) for f in found if f.severity == "error"] == [
        ("jump", 0, (40, 41))
    ]
    assert [f for f in inspect_rows(sound[:count]) if f.kind == "jump"] == []


def test_a_counter_that_runs_over_is_found_in_state_and_action(sound: Sequence[Rows]):
    degrees = [(np.rad2deg(state), np.rad2deg(action)) for state, action in sound]

    def run_over(state: np.ndarray, action: np.ndarray) -> None:
        for rows in (state, action):
            rows[:, 2] = (rows[:, 2] - rows[:, 2].mean() + 360) % 360 - 180

    found = inspect_rows(changed(degrees, 4, run_over), units=("unknown",) * 4)
    jumps = [f for f in found if f.kind == "jump"]
    assert jumps
    assert {(f.episode, f.part, f.severity) for f in jumps} == {(4, "wrist", "error")}
    assert all("runs over at 360" in f.what for f in jumps)


def test_what_no_arm_can_do_is_found_even_if_most_episodes_have_it(sound: Sequence[Rows]):
    spikes, turns = [], []
    for state, action in sound:
        state = state.copy()
        state[40, 1] = 30.0
        spikes.append((state, action))
        degrees = [np.rad2deg(rows) for rows in (state, action)]
        for rows in degrees:
            rows[:, 0] = (rows[:, 0] - np.median(rows[:, 0]) + 360) % 360 - 180
        turns.append(tuple(degrees))
    found = [f for f in inspect_rows(spikes) if f.kind == "jump"]
    assert [(f.episode, f.part, f.ticks) for f in found] == [
        (index, "elbow", (40, 41)) for index in range(len(sound))
    ]
    found = [f for f in inspect_rows(turns, units=("unknown",) * 4) if f.kind == "jump"]
    assert {f.episode for f in found if f.part == "shoulder"} == {*range(len(sound))}


def test_a_step_of_a_turn_within_a_wider_range_is_no_counter_that_runs_over(
    sound: Sequence[Rows],
):
    """6.28 degrees in a tick, by an arm that moves by 60."""

    def nudge(state: np.ndarray, action: np.ndarray) -> None:
        state[50:, 1] += 2 * np.pi

    degrees = [(np.rad2deg(state), np.rad2deg(action)) for state, action in sound]
    found = inspect_rows(changed(degrees, 4, nudge), units=("unknown",) * 4)
    assert [f for f in found if f.kind == "jump"] == []


def test_rollouts_joined_into_one_episode_are_found_where_they_meet(sound: Sequence[Rows]):
    parts = [sound[index] for index in (4, 5, 6)]
    cut = [(state[:100], action[:100]) for state, action in parts]
    joined = tuple(np.concatenate(rows) for rows in zip(*cut, strict=True))
    found = [f for f in inspect_rows([*sound[:4], joined, *sound[7:]]) if f.kind == "jump"]  # type: ignore[list-item]
    assert [(f.episode, f.ticks) for f in found] == [(4, (100, 101)), (4, (200, 201))]


def test_a_command_that_leaves_the_range_of_all_other_episodes_for_a_tick_is_found(
    sound: Sequence[Rows],
):
    def spike(by: float) -> list[Rows]:
        def change(state: np.ndarray, action: np.ndarray) -> None:
            action[50, 0] += by * (1 if action[50, 0] < 0 else -1)

        return changed(sound, 4, change)

    found = only([f for f in inspect_rows(spike(9.0)) if f.kind == "jump"])
    assert (found.episode, found.ticks, found.part) == (4, (50, 51), "shoulder")
    assert [f for f in inspect_rows(spike(0.5)) if f.kind == "jump"] == []


def test_a_gripper_that_switches_in_one_episode_only_is_not_a_jump(sound: Sequence[Rows]):
    given = []
    for index, (state, action) in enumerate(sound):
        state, action = state.copy(), action.copy()
        for rows in (state, action):
            rows[:, 3] = 0.0 if index != 4 else np.arange(len(rows)) > 60
        given.append((state, action))
    assert [f for f in inspect_rows(given) if f.kind == "jump"] == []


def test_brisk_motion_at_a_low_rate_is_not_a_jump(sound: Sequence[Rows]):
    """Every third tick: 7 Hz, at which a move takes six ticks."""
    thinned = [(state[::3], action[::3]) for state, action in sound]
    assert lines([f for f in inspect_rows(thinned, rate_hz=20 / 3) if f.kind == "jump"]) == []
    only_one_moves = [
        demonstrate(seed)
        if seed == 0
        else tuple(np.repeat(r[:1], 90, 0) for r in demonstrate(seed))
        for seed in range(2)
    ]
    assert [f for f in inspect_rows(only_one_moves) if f.kind == "jump"] == []  # type: ignore[arg-type]
