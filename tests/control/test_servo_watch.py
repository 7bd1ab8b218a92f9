"""Servo watch: joints that do not follow, grippers that are stalled, servos that are not well."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from imitact.control.servo_watch import (
    FollowingBounds,
    FollowingWatch,
    HealthBounds,
    HealthWatch,
)
from imitact.core.robot import ServoHealth
from tests.support.safety import RATE_HZ, pair_limits, reading


def watch(**changes):
    limits = replace(pair_limits(), **changes)
    found = FollowingWatch(limits, RATE_HZ, FollowingBounds())
    found.begin(np.zeros(2))
    return found


def lags(found, commands, measured):
    """Return whether the watch finds a lag at each tick."""
    result = []
    for command, state in zip(commands, measured, strict=True):
        result.append(found.lag(found.measured(reading(np.array(state)))) is not None)
        found.commanded(np.array(command))
    return result


def test_a_joint_that_follows_late_does_not_lag_however_fast_it_is():
    way = np.array([[0.05 * tick, 0.0] for tick in range(100)])  # 2.5 rad/s
    late = np.concatenate([np.zeros((12, 2)), way])[:100]  # 0.24 s, 0.6 rad
    assert not any(lags(watch(), way, late))


def test_a_joint_that_stands_lags_once_its_commands_are_away_for_the_bounds_time():
    way = np.array([[min(0.01 * tick, 0.5), 0.0] for tick in range(100)])
    found = lags(watch(), way, np.zeros((100, 2)))
    first = found.index(True)
    assert first == pytest.approx(0.35 / 0.01 + 0.3 * RATE_HZ, abs=2)
    assert all(found[first:])


def test_a_joint_that_was_pushed_away_is_followed_again_only_when_it_is_clearly_back():
    found = watch()
    states = [0.0] * 5 + [0.4, 0.34, 0.2, 0.18, 0.17, 0.0]
    got = lags(found, [[0.0, 0.0]] * len(states), [[state, 0.0] for state in states])
    assert got[5:] == [True, True, True, True, False, False]


def test_a_gripper_that_holds_something_is_no_lag():
    assert not any(lags(watch(), [[0.0, -0.9]] * 50, [[0.0, 0.0]] * 50))


def test_a_joint_without_a_bound_for_its_unit_is_not_judged():
    found = watch(units=("km", "rad"))
    assert not any(lags(found, [[0.0, 0.0]] * 5, [[99.0, 0.0]] * 5))


def held(found, goal, command, states):
    """Let a gripper stand at states, and return what is made of its goal."""
    made, said = np.zeros(2), None
    for state in states:
        found.measured(reading(np.array([0.0, state])))
        made, said = found.unstalled(np.array([0.0, goal]), np.array([0.0, command]))
        found.commanded(np.array([0.0, command]))
    return made[1], said


def test_the_goal_of_a_stalled_gripper_stays_near_to_where_it_stands():
    made, said = held(watch(), -0.9, -0.6, [0.0] * 30)
    assert made == pytest.approx(-0.5)
    assert said is not None
    assert said[0] == "gripper"
    assert "stands at 0 rad and does not follow" in said[1]


@pytest.mark.parametrize(
    ("command", "states"),
    [
        (-0.1, [0.0] * 30),  # it was not told to go there yet
        (-0.6, list(np.linspace(0.4, 0.0, 30))),  # it moves
        (-0.6, [0.0] * 5),  # it has only just been seen
        (-0.6, [np.nan] * 30),
    ],
)
def test_the_goal_of_a_gripper_that_moves_or_may_move_is_left_alone(command, states):
    made, said = held(watch(), -0.9, command, states)
    assert (made, said) == (-0.9, None)


def test_a_gripper_may_be_pressed_as_hard_as_in_the_demonstrations():
    made, said = held(watch(gap=np.full(2, 1.2)), -0.9, -0.6, [0.0] * 30)
    assert (made, said) == (-0.9, None)
    made, said = held(watch(gap=np.full(2, 0.2)), -0.9, -0.6, [0.0] * 30)
    assert made == pytest.approx(-0.2)


def test_a_stalled_gripper_can_be_opened():
    made, said = held(watch(), 0.45, -0.5, [0.0] * 30)
    assert (made, said) == (0.45, None)


# -- health --------------------------------------------------------------------------------------


def judged(*servos, joint="waist", bounds=None):
    """Return the words about a servo at each tick."""
    found = HealthWatch(RATE_HZ, bounds or HealthBounds())
    return [(found.update({joint: servo}) or ("", ""))[1] for servo in servos]


@pytest.mark.parametrize(
    ("servo", "words"),
    [
        (ServoHealth(0.0), ""),
        (ServoHealth(0.0, temperature_c=69.9, voltage_v=1.0, load=0.9), ""),
        (ServoHealth(0.0, temperature_c=70.0), "waist: 70 degrees Celsius"),
        (ServoHealth(0.0, temperature_c=float("nan")), "nan degrees Celsius"),
        (ServoHealth(0.0, errors=("overload", "overheating")), "reports overload, overheating"),
    ],
)
def test_a_servo_is_judged_by_what_it_says(servo, words):
    (found,) = judged(servo)
    assert words in found
    assert bool(found) == bool(words)


def test_a_hot_servo_goes_on_only_when_it_has_cooled():
    servos = [ServoHealth(0.0, temperature_c=t) for t in (70.0, 69.0, 65.0, 64.0, 69.0)]
    assert [bool(words) for words in judged(*servos)] == [True, True, True, False, False]


def test_full_load_is_tolerated_for_its_time_and_of_a_gripper_always():
    servos = [ServoHealth(0.0, load=-1.0)] * 120
    assert [bool(words) for words in judged(*servos)].index(True) == 100
    assert not any(judged(*servos, joint="left_gripper"))
    servos[50] = ServoHealth(0.0, load=0.1)
    assert not any(judged(*servos))


def test_the_voltage_is_judged_where_bounds_are_given():
    bounds = HealthBounds(lower_voltage_v=10.0, upper_voltage_v=14.8)
    servos = [ServoHealth(0.0, voltage_v=v) for v in (9.9, 12.0, 15.0, float("nan"))]
    found = judged(*servos, bounds=bounds)
    assert [bool(words) for words in found] == [True, False, True, True]


def test_the_first_servo_that_is_not_well_is_named_and_all_are_counted():
    found = HealthWatch(RATE_HZ, HealthBounds())
    servos = {"a": ServoHealth(0.0, errors=("overload",)), "b": ServoHealth(0.0, load=1.0)}
    for _ in range(101):
        assert (found.update(servos) or ("", ""))[0] == "a"
    servos["a"] = ServoHealth(0.0)
    assert (found.update(servos) or ("", ""))[0] == "b"
