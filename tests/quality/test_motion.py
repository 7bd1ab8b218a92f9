"""Motion check: every defect beside a near miss that is not a finding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.support.demonstrations import Rows, demonstrate, follow
from tests.support.inspection import COUNT, changed, inspect_rows, lines, moving, numbers, only


def test_idle_ends_longer_than_the_limits_are_found(tmp_path: Path, sound: Sequence[Rows]):
    episodes = [*sound]
    episodes[1] = demonstrate(1, head=30)
    episodes[6] = demonstrate(6, tail=120)
    head, tail = (f for f in numbers(tmp_path, episodes) if f.kind.startswith("idle"))
    assert (head.kind, head.severity, head.episode, head.fix) == (
        "idle-head", "warning", 1, "trim",
    )  # fmt: skip
    # A move begins slowly: it is seen some ticks after its first.
    assert head.value is not None
    assert 1.5 <= head.value <= 1.8
    assert head.ticks == (0, round(head.value * 20) - 4)
    length = len(episodes[6][0])
    assert (tail.kind, tail.episode, tail.fix) == ("idle-tail", 6, "trim")
    assert tail.ticks is not None
    # It ends slowly, and the state comes last; a second of it stays.
    assert length - 120 + 20 - 6 <= tail.ticks[0] <= length - 120 + 20 + 8
    assert tail.ticks[1] == length


def test_a_short_pause_at_either_end_is_not_a_finding(tmp_path: Path, sound: Sequence[Rows]):
    episodes = [demonstrate(seed, head=5, tail=90) for seed in range(COUNT)]
    assert lines(numbers(tmp_path, episodes)) == []


def test_an_episode_in_which_nothing_moves_is_found(tmp_path: Path, sound: Sequence[Rows]):
    still = np.tile(sound[0][1][0], (150, 1))
    found = numbers(tmp_path, [*sound, (follow(still, seed=9), still)])
    assert [f.episode for f in found] == [COUNT] * len(found)
    assert "no-motion" in {f.kind for f in found}


def test_a_frozen_joint_is_found(tmp_path: Path, sound: Sequence[Rows]):
    def freeze(state: np.ndarray, action: np.ndarray) -> None:
        state[:, 2] = state[0, 2] + np.random.default_rng(0).normal(0, 0.0005, len(state))

    found = numbers(tmp_path, changed(sound, 4, freeze))
    frozen = only([f for f in found if f.severity == "error"])
    assert (frozen.kind, frozen.episode, frozen.part, frozen.fix) == (
        "frozen-joint", 4, "wrist", "drop",
    )  # fmt: skip


def test_a_joint_that_is_not_commanded_to_move_is_not_frozen(tmp_path: Path, sound: Sequence[Rows]):
    def rest(state: np.ndarray, action: np.ndarray) -> None:
        state[:, 2], action[:, 2] = 0.401, 0.4 + 0.02 * np.sin(np.arange(len(action)))

    assert lines(numbers(tmp_path, changed(sound, 4, rest))) == []


def test_states_that_stop_being_updated_are_found_with_their_ticks(
    tmp_path: Path, sound: Sequence[Rows]
):
    first = moving(sound[5][1], 12)

    def stop(state: np.ndarray, action: np.ndarray) -> None:
        state[first : first + 12] = state[first]

    found = [f for f in numbers(tmp_path, changed(sound, 5, stop)) if f.severity == "error"]
    assert (only(found).kind, only(found).episode) == ("state-dropout", 5)
    assert only(found).ticks == (first, first + 12)


def test_states_that_repeat_briefly_or_at_rest_are_not_a_finding(
    tmp_path: Path, sound: Sequence[Rows]
):
    first = moving(sound[5][1], 12)

    def repeat(state: np.ndarray, action: np.ndarray) -> None:
        state[first : first + 4] = state[first]
        state[-10:] = state[-10]

    assert lines(numbers(tmp_path, changed(sound, 5, repeat))) == []


def test_a_joint_that_is_stuck_for_a_second_is_a_warning_unless_it_is_a_gripper(
    tmp_path: Path, sound: Sequence[Rows]
):
    first = moving(sound[5][1][:, [1, 1, 1]], 24)

    def hold(joint: int) -> Callable[..., None]:
        def change(state: np.ndarray, action: np.ndarray) -> None:
            state[first : first + 24, joint] = state[first, joint]

        return change

    found = only(numbers(tmp_path / "joint", changed(sound, 5, hold(1))))
    assert (found.kind, found.severity, found.part) == ("stuck-joint", "warning", "elbow")
    assert (found.episode, found.ticks) == (5, (first, first + 24))
    assert lines(numbers(tmp_path / "gripper", changed(sound, 5, hold(3)))) == []


def test_constant_dimensions_are_found(tmp_path: Path, sound: Sequence[Rows]):
    both, action_only = list(sound), list(sound)
    for index in range(COUNT):
        for given, dimensions in ((both, (0, 1)), (action_only, (1,))):
            rows = [r.copy() for r in given[index]]
            for which in dimensions:
                rows[which][:, 2] = 0.25
            given[index] = (rows[0], rows[1])
    assert [(f.kind, f.severity, f.part) for f in numbers(tmp_path / "both", both)] == [
        ("constant-dimension", "note", "wrist")
    ] * 2
    found = only(numbers(tmp_path / "one", action_only))
    assert (found.severity, found.part) == ("warning", "wrist")
    assert "action is 0.25" in found.what


@pytest.mark.parametrize("delay", [1, 2, 3, 4])
@pytest.mark.parametrize("idle", [5, 30])
def test_an_arm_that_starts_at_full_speed_is_not_a_stopped_sensor(delay: int, idle: int):
    """It repeats its state, to the bit, until the delay after the first command is over."""
    episodes = []
    for seed in range(3):
        speed = np.array([2.1, 1.2, -1.0, 0.7]) * (1 + 0.1 * seed)
        way = np.sin(np.arange(60)[:, None] / 20 * 1.3) * speed / 1.3
        action = np.concatenate([np.zeros((idle if seed == 1 else 5, 4)), way])
        state = np.concatenate([np.repeat(action[:1], delay, axis=0), action[:-delay]])
        episodes.append((np.round(state, 3), action))
    found = inspect_rows(episodes)
    assert [f for f in found if f.severity == "error"] == []
    assert [f.kind for f in found if f.episode == 1] == (["idle-head"] if idle == 30 else [])


def test_noise_of_a_joint_that_hardly_moves_is_not_motion_where_there_are_no_units(
    sound: Sequence[Rows],
):
    """The reading of a resting joint in whole counts, under commands of less than a count."""
    given = []
    for seed, (state, action) in enumerate(sound):
        state, action = np.rad2deg(state), np.rad2deg(action)
        action[:, 2] = 20 + 0.03 * np.sin(np.arange(len(action)) / 9 + seed)
        state[:, 2] = np.round(action[:, 2])
        given.append((state, action))
    found = inspect_rows(given, units=("unknown",) * 4)
    assert [f for f in found if f.kind in ("stuck-joint", "frozen-joint", "tracking-offset")] == []
