"""Soft start: no motion at the first command, and a slow way to the first pose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from imitact.control.control_loop import ControlLoop
from imitact.control.parking import ParkedPose, RampSource, first_command
from imitact.core.clock import VirtualClock
from imitact.core.errors import BadInput, DamagedFile, RobotError
from tests.support.control import ARM, RATE_HZ, ObedientRobot, PassThrough

GOAL = np.array([1.0, -0.5])


def ramp(goal=GOAL, start=(0.0, 0.0), ticks=1000, at_tick=lambda tick, robot, safety: None):
    clock = VirtualClock()
    robot, safety, records = ObedientRobot(clock), PassThrough(), []
    for tick in range(ticks):
        clock.call_at(tick / RATE_HZ - 1e-9, lambda tick=tick: at_tick(tick, robot, safety))
    source = RampSource(goal, ARM.action_names, ARM.action_units, RATE_HZ)
    loop = ControlLoop(robot, source, safety, clock, RATE_HZ, records.append)
    outcome = loop.run(np.array(start), ticks)
    return outcome, np.stack([record.action for record in records])


def test_a_ramp_goes_from_rest_to_rest_at_no_more_than_a_slow_speed():
    outcome, commands = ramp()
    assert (outcome.ended, outcome.words) == ("source", "the pose is reached")
    np.testing.assert_array_equal(commands[-1], GOAL)
    speed = np.abs(np.diff(commands, axis=0)) * RATE_HZ
    assert speed.max() <= 0.3 + 1e-9
    assert speed.max() > 0.29
    assert speed[0].max() < 0.01
    assert speed[-1].max() < 0.01
    assert np.all(np.diff(commands[:, 0]) >= 0)


def test_a_ramp_to_where_the_robot_is_ends_at_once():
    outcome, commands = ramp(start=GOAL)
    assert outcome.ticks == 1
    np.testing.assert_array_equal(commands, [GOAL])


@pytest.mark.parametrize("by", ["the loop", "the safety filter"])
def test_a_ramp_waits_while_the_robot_is_held(by):
    def at_tick(tick, robot, safety):
        held = 100 <= tick < 180
        if by == "the loop":
            robot.silent = "hot" if held else None
        else:
            safety.holds = held

    outcome, commands = ramp(at_tick=at_tick)
    assert outcome.ticks == ramp()[0].ticks + 80
    assert np.abs(np.diff(commands, axis=0)).max() * RATE_HZ <= 0.3 + 1e-9


def test_a_ramp_ends_only_where_the_robot_is_at_the_pose_or_gets_no_further():
    class Slow(PassThrough):
        """A filter that lets the first joint move by 0.2 rad/s, and up to a limit."""

        def __init__(self, limit: float) -> None:
            super().__init__()
            self.limit = limit

        def check(self, asked, *others):
            before = self.command[0]
            verdict = super().check(asked, *others)
            verdict.action[0] = min(before + np.clip(asked[0] - before, -0.004, 0.004), self.limit)
            return verdict

    for limit, words in ((9.0, "the pose is reached"), (0.8, "not reached: waist +11 degrees")):
        clock, records = VirtualClock(), []
        source = RampSource(GOAL, ARM.action_names, ARM.action_units, RATE_HZ)
        loop = ControlLoop(
            ObedientRobot(clock), source, Slow(limit), clock, RATE_HZ, records.append
        )
        outcome = loop.run(np.zeros(2), 2000)
        assert outcome.ended == "source"
        assert words in outcome.words
        assert records[-1].action[0] == pytest.approx(min(limit, 1.0), abs=0.01)


def test_a_pose_that_is_not_one_finite_value_a_joint_is_refused():
    for bad in (np.zeros(3), np.array([0.0, np.nan])):
        with pytest.raises(BadInput, match="finite values, one a joint"):
            RampSource(bad, ARM.action_names, ARM.action_units, RATE_HZ)


def test_a_run_begins_with_the_command_that_holds_the_robot_not_with_where_it_sags():
    robot = ObedientRobot(VirtualClock())
    robot.state = np.array([0.3, 0.4])
    np.testing.assert_array_equal(first_command(robot), (0.3, 0.4))
    robot.command(np.array([0.5, 0.5]), 7)
    robot.state = np.array([0.48, 0.47])
    np.testing.assert_array_equal(first_command(robot), (0.5, 0.5))


def test_a_robot_that_measures_its_joints_in_another_order_begins_where_it_is():
    robot = ObedientRobot(VirtualClock(), replace(ARM, state_names=("elbow", "waist")))
    robot.state = np.array([0.1, 0.2])
    np.testing.assert_array_equal(first_command(robot), (0.2, 0.1))


def test_a_robot_of_which_nobody_knows_where_it_is_does_not_begin():
    robot = ObedientRobot(VirtualClock())
    robot.age_s = np.inf
    with pytest.raises(RobotError, match="no state yet"):
        first_command(robot)
    robot.age_s, robot.state = 0.0, np.array([np.nan, 0.0])
    with pytest.raises(RobotError, match="not finite"):
        first_command(robot)
    with pytest.raises(RobotError, match='elbow is commanded in "rad" and not measured in it'):
        first_command(ObedientRobot(VirtualClock(), replace(ARM, state_units=("rad", "deg"))))


def test_a_servo_that_came_back_a_quarter_turn_off_is_told_from_an_arm_that_was_moved(tmp_path):
    names = ("waist", "elbow", "wrist", "roll", "gripper")
    parked = ParkedPose(names, ("rad", "rad", "deg", "deg", "1"), (0.0, 1.0, 0.0, 10.0, 0.5))
    parked.write(tmp_path / "parked.json")
    assert ParkedPose.read(tmp_path / "parked.json") == parked
    turned, moved = parked.differences(np.array([2 * np.pi, 1.4, 91.0, 10.5, 0.9]))
    assert turned == ["waist +360 degrees", "wrist +91 deg"]
    assert moved == ["elbow +23 degrees", "gripper +0.40"]


@pytest.mark.parametrize(
    "text", ['{"names": ["a"]}', '{"names": [], "units": ["rad"], "pose": []}']
)
def test_a_damaged_file_of_a_parked_pose_is_refused(tmp_path, text):
    file = tmp_path / "parked.json"
    assert ParkedPose.read(file) is None
    file.write_text(text)
    with pytest.raises(DamagedFile, match="no pose of a parked robot"):
        ParkedPose.read(file)
