"""Motion check of any driver: blocked, mirrored and swapped joints are named; limits are kept."""

from __future__ import annotations

import numpy as np
import pytest

from imitact.core.clock import VirtualClock
from imitact.core.joint_limits import NO_LIMIT, JointLimits
from imitact.core.types import Spec
from imitact.robots.check_driver_motion import MOVES, check_driver_motion

NAMES, UNITS = ("left_pan.pos", "right_pan.pos", "gripper.pos"), ("deg", "deg", "%")
SPEC = Spec(NAMES, NAMES, UNITS, UNITS, (), 30.0)
LIMITS = JointLimits(
    NAMES,
    UNITS,
    np.array([-100.0, -100.0, 0.0]),
    np.array([100.0, 100.0, 100.0]),
    np.array([180.0, 180.0, NO_LIMIT]),
    np.array([2300.0, 2300.0, NO_LIMIT]),
    np.array([86_000.0, 86_000.0, NO_LIMIT]),
)


class Arm:
    """Joints that obey at once, but for those that are blocked."""

    spec = SPEC

    def __init__(self, start: tuple[float, ...] = (0.0, 10.0, 50.0)) -> None:
        self.at = np.array(start)
        self.blocked: set[int] = set()
        self.told = [self.at.copy()]

    def read(self):
        return self.at.copy()

    def write(self, action):
        self.told.append(np.array(action))
        for joint, value in enumerate(action):
            if joint not in self.blocked:
                self.at[joint] = value
        return action


class Hand:
    """A person who moves the joint of a leader that is asked for, or another one."""

    def __init__(self, leader: Arm, moves: dict[str, int], way: float = 1.0) -> None:
        self.leader, self.moves, self.way = leader, moves, way
        self.sees = True
        self.asked: list[str] = []

    def __call__(self, question: str) -> bool:
        self.asked.append(question)
        if not question.startswith("Move "):
            return self.sees
        name = question.split()[1]
        joint = self.moves.get(name, NAMES.index(name))
        if joint >= 0:
            self.leader.at[joint] += 10 * self.way
        return True


def check(arm, leader=None, hand=None):
    return check_driver_motion(arm, leader, LIMITS, "robot", VirtualClock(), hand)  # type: ignore[arg-type]


def test_a_good_arm_moves_each_joint_once_within_its_limits_and_comes_back():
    arm = Arm()
    assert check(arm) == []
    told = np.array(arm.told)
    np.testing.assert_allclose(np.ptp(told, axis=0), [MOVES[unit] for unit in UNITS], rtol=1e-9)
    np.testing.assert_allclose(told[-1], told[0], atol=1e-9)
    assert (np.diff(told, axis=0) != 0).sum(1).max() == 1


def test_a_joint_at_the_end_of_its_range_moves_the_other_way():
    arm = Arm((99.0, -99.0, 100.0))
    assert check(arm) == []
    told = np.array(arm.told)
    assert (told <= LIMITS.upper).all()
    assert (told >= LIMITS.lower).all()


def test_a_blocked_joint_is_named():
    arm = Arm()
    arm.blocked = {1}
    (finding,) = check(arm)
    assert (finding.name, finding.where) == ("does-not-follow", "robot: right_pan.pos")


@pytest.mark.parametrize("way", [1.0, -1.0])
def test_the_robot_moves_the_way_of_its_leader_and_a_person_compares(way: float):
    arm, leader = Arm(), Arm()
    hand = Hand(leader, {}, way)
    assert check(arm, leader, hand) == []
    assert len(hand.asked) == 6
    told = np.array(arm.told)
    assert np.sign(told.max(0) + told.min(0) - 2 * told[0]).tolist() == [way] * 3
    hand.sees = False
    assert {finding.name for finding in check(arm, leader, hand)} == {"joint-mirrored"}


def test_left_and_right_that_are_exchanged_are_named():
    leader = Arm()
    found = check(Arm(), leader, Hand(leader, {NAMES[0]: 1, NAMES[1]: 0}))
    assert [finding.name for finding in found] == ["joints-swapped"] * 2
    assert "right_pan.pos moved while left_pan.pos was moved" in found[0].came


def test_a_leader_that_does_not_move_is_named():
    leader = Arm()
    (finding,) = check(Arm(), leader, Hand(leader, {NAMES[2]: -1}))
    assert finding.name == "leader-still"
