"""Keyboard leader: the robot follows while keys repeat, from where it is, by steps."""

from __future__ import annotations

import numpy as np
import pytest

from imitact.control.control_loop import ControlLoop
from imitact.control.engagement import Engagement
from imitact.control.parking import first_command
from imitact.control.sources import LeaderSource
from imitact.core.clock import VirtualClock
from imitact.core.hold import Hold
from imitact.teleoperation.keyboard import HAND_STEP_M, HELD_S, Keyboard
from tests.support.control import ARM, RATE_HZ, SPEC, ObedientRobot, PassThrough, moment


@pytest.fixture
def board():
    clock = VirtualClock(50.0)
    robot = ObedientRobot(clock, ARM)
    robot.state[:] = [0.5, -0.5]
    return Keyboard(robot, clock=clock), robot, clock


def values(keyboard: Keyboard) -> list[float]:
    reading = keyboard.leader.reading()
    assert reading is not None
    return np.round(reading.values, 6).tolist()


def test_a_robot_follows_while_a_key_repeats_and_100_ms_longer(board):
    keyboard, _, clock = board
    source = LeaderSource(
        keyboard.leader, ARM, Engagement(ARM.action_names, ARM.action_units, RATE_HZ)
    )

    def asked():
        return source.action(moment(now_s=clock.now_s(), command=0.5))

    assert "no key" in asked().words
    for _ in range(5):
        assert keyboard.press("=")
        assert asked().engaged
        clock.wait_until(clock.now_s() + HELD_S - 1e-6)
        assert asked().engaged
    clock.wait_until(clock.now_s() + 1e-5)
    assert asked().hold is Hold.NOT_ENGAGED
    assert asked().words == "the deadman is not held"


def test_keys_that_repeat_add_up_and_after_a_pause_they_begin_where_the_robot_is(board):
    keyboard, robot, clock = board
    assert "- and = move it" in keyboard.words, "before the first key it says what the keys do"
    for _ in range(3):
        keyboard.press("\x1b[A")
        clock.wait_until(clock.now_s() + 0.04)
    assert values(keyboard) == [0.56, -0.5]
    clock.wait_until(clock.now_s() + 1.0)
    robot.state[:] = [0.1, 0.2]
    assert keyboard.press("right")
    assert keyboard.words == "elbow"
    assert values(keyboard) == [0.56, -0.5], "choosing a joint moves nothing"
    reading = keyboard.leader.reading()
    assert reading is not None
    assert not reading.engaged
    keyboard.press("down")
    assert values(keyboard) == [0.1, 0.18]
    assert keyboard.words == "elbow to 0.18 rad"


def test_joints_stay_within_their_range(board):
    keyboard, robot, _ = board
    robot.state[:] = [3.14, 0.0]
    for _ in range(5):
        keyboard.press("=")
    assert values(keyboard)[0] == pytest.approx(np.pi, abs=1e-5)


@pytest.mark.parametrize("key", ["k", "", " ", "3", "0", "12", "[", "tab", "\x1b[Z", "é"])
def test_other_keys_are_left_to_others(board, key):
    keyboard, _, _ = board
    assert not keyboard.press(key)
    assert keyboard.leader.reading() is None


def test_a_robot_without_state_is_not_led(board):
    keyboard, robot, _ = board
    robot.age_s = np.inf
    assert keyboard.press("=")
    assert "no state yet" in keyboard.words
    assert keyboard.leader.reading() is None


def test_the_chosen_hand_of_aloha_moves_by_a_step():
    pytest.importorskip("mink")
    clock = VirtualClock(50.0)
    robot = ObedientRobot(clock, SPEC)
    robot.state[:] = start = np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.5] * 2)
    keyboard = Keyboard(robot, clock=clock)
    for key in ("\t", "pageup", "pageup", "["):
        assert keyboard.press(key)
    assert keyboard.words == "right_arm_gripper to 0.45"
    pose = np.array(values(keyboard))
    np.testing.assert_array_equal(pose[:7], start[:7])
    kinematics = keyboard._goal._kinematics
    assert kinematics is not None
    rise = kinematics.hand("right", pose[7:13]) - kinematics.hand("right", start[7:13])
    np.testing.assert_allclose(rise[:3, 3], [0, 0, 2 * HAND_STEP_M], atol=1e-4)


def test_a_key_that_is_tapped_moves_the_robot_by_its_step(board):
    keyboard, robot, clock = board
    source = LeaderSource(
        keyboard.leader, ARM, Engagement(ARM.action_names, ARM.action_units, RATE_HZ)
    )
    for tap in range(3):
        clock.call_at(clock.now_s() + 0.2 + 0.5 * tap, lambda: keyboard.press("="))
    loop = ControlLoop(robot, source, PassThrough(), clock, RATE_HZ)
    assert not loop.run(first_command(robot), 100).faults
    np.testing.assert_allclose(robot.state, [0.56, -0.5], atol=1e-9)
