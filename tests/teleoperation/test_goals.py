"""Goals: closing the clutch moves nothing, hands go where they are led, as far as they reach."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from imitact.core.aloha_joints import ALOHA_JOINTS, ALOHA_UNITS
from imitact.core.errors import BadInput
from imitact.core.joint_limits import JointLimits
from imitact.teleoperation import goals
from imitact.teleoperation.goals import MAX_JOINT_STEP, Goal, joint_ranges, known_hands
from tests.support.control import ARM

START = np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.5] * 2)
HANDS = known_hands(ALOHA_JOINTS, ALOHA_UNITS)
NO_JOINTS = np.full(14, np.nan)


@pytest.fixture(scope="module")
def kinematics():
    pytest.importorskip("mink")
    return goals.load_kinematics(HANDS)


@pytest.fixture
def goal(kinematics):
    goal = Goal(HANDS, kinematics)
    goal.begin(START)
    return goal


def offset(hand: int, *values: float) -> np.ndarray:
    offsets = np.zeros((2, 6))
    offsets[hand, : len(values)] = values
    return offsets


def led(goal: Goal, offsets: np.ndarray, updates: int = 80) -> np.ndarray:
    """Lead there; joints never jump."""
    pose = goal.pose.copy()
    for _ in range(updates):
        before, pose = pose, goal.move(offsets, NO_JOINTS)
        assert np.abs(pose - before).max() <= MAX_JOINT_STEP
    return pose


def test_the_hands_of_aloha_are_known_by_their_joints():
    left, right = HANDS
    assert (left.side, left.joints, left.gripper) == ("left", (0, 1, 2, 3, 4, 5), 6)
    assert (right.side, right.joints, right.gripper) == ("right", (7, 8, 9, 10, 11, 12), 13)
    (only,) = known_hands(ALOHA_JOINTS[7:], ALOHA_UNITS[7:])
    assert (only.side, only.joints) == ("right", (0, 1, 2, 3, 4, 5))
    assert known_hands(ARM.action_names, ARM.action_units) == ()
    assert known_hands(ALOHA_JOINTS, ("deg",) * 14) == ()


def test_closing_the_clutch_moves_nothing(goal):
    np.testing.assert_array_equal(goal.move(np.zeros((2, 6)), NO_JOINTS), START)


@pytest.mark.parametrize("hand", [0, 1])
def test_a_hand_goes_as_far_as_it_is_led_and_the_other_stays(goal, kinematics, hand):
    arm, side = HANDS[hand], HANDS[hand].side
    pose = led(goal, offset(hand, 0.03, -0.02, 0.05))
    before = kinematics.hand(side, START[list(arm.joints)])
    after = kinematics.hand(side, pose[list(arm.joints)])
    np.testing.assert_allclose(after[:3, 3] - before[:3, 3], [0.03, -0.02, 0.05], atol=1e-4)
    np.testing.assert_allclose(after[:3, :3], before[:3, :3], atol=1e-3)
    rest = [place for place in range(14) if place not in arm.joints]
    np.testing.assert_array_equal(pose[rest], START[rest])
    assert goal.out_of_reach == (False, False)


def test_a_roll_turns_the_wrist_alone(goal):
    pose = led(goal, offset(0, 0, 0, 0, 0, 0, 0.7))
    # The wrist's last joint turns about the fingers.
    np.testing.assert_allclose(pose - START, [0] * 5 + [0.7] + [0] * 8, atol=1e-3)


def test_a_hand_out_of_reach_stays_at_the_edge_and_comes_back_at_once(goal, kinematics):
    edge = led(goal, offset(0, 1.0))
    assert goal.out_of_reach == (True, False)
    assert np.all(np.isfinite(edge))
    at_edge = kinematics.hand("left", edge[:6])[0, 3]
    back = led(goal, offset(0, 0.95), 30)
    moved = kinematics.hand("left", back[:6])[0, 3] - at_edge
    assert -0.06 < moved < -0.04, "5 cm back are 5 cm, however far out the person was"


def test_a_joint_that_is_set_is_there_and_the_hand_goes_on_from_it(goal, kinematics):
    led(goal, offset(0, 0.02), 5)
    joints = NO_JOINTS.copy()
    joints[[5, 6]] = 0.4, 0.9
    pose = goal.move(offset(0, 0.02), joints)
    assert pose[5:7].tolist() == [0.4, 0.9]
    before = kinematics.hand("left", pose[:6])
    after = kinematics.hand("left", led(goal, offset(0, 0.05), 10)[:6])
    np.testing.assert_allclose(after[:3, 3] - before[:3, 3], [0.03, 0, 0], atol=1e-4)


def test_ranges_are_the_limits_or_those_of_the_units():
    low, high = joint_ranges(("a", "b"), ("1", "deg"))
    assert (low.tolist(), high.tolist()) == ([0.0, -180.0], [1.0, 180.0])
    size = np.ones(2)
    limits = JointLimits(("a", "b"), ("1", "x"), -size, size, size, size, size)
    assert joint_ranges(("a", "b"), ("1", "x"), limits)[0].tolist() == [-1.0, -1.0]
    with pytest.raises(BadInput, match=r'b is in "x", whose range is not known.*\[limits.b\]'):
        joint_ranges(("a", "b"), ("1", "x"))
    with pytest.raises(BadInput, match="the limits are of a, c"):
        joint_ranges(("a", "b"), ("1", "x"), replace(limits, names=("a", "c")))


def test_a_solver_that_fails_leaves_the_hand_where_it_is(kinematics, monkeypatch):
    def fails(*arguments: object) -> None:
        raise RuntimeError("no solution")

    goal = Goal(HANDS, kinematics)
    goal.begin(START)
    monkeypatch.setattr(kinematics, "joints_near", fails)
    np.testing.assert_array_equal(goal.move(offset(0, 0.1), NO_JOINTS), START)
    assert goal.out_of_reach == (True, False)
    monkeypatch.undo()
    assert np.abs(led(goal, offset(0, 0.15)) - START).max() > 0.05, "it goes on later"


def test_a_hand_goes_on_from_a_pose_beyond_the_limits_of_the_scene(kinematics):
    goal = Goal(HANDS, kinematics)
    beyond = START.copy()
    beyond[1] = -1.95  # the shoulder's limit is -1.85
    goal.begin(beyond)
    pose = led(goal, offset(0, 0.0, 0.0, 0.05))
    assert np.all(np.isfinite(pose))
