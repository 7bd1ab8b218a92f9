"""Goals: what a person's motions of virtual hands and of sliders make of a robot's pose.

Motions are counted from the pose at which the clutch closed, so that closing it moves nothing.
Hands are moved where the arms' kinematics are known, which are those of ALOHA; every joint of every
arm can be set by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.aloha_joints import ARM_JOINTS
from imitact.core.errors import BadInput, ImitactError
from imitact.core.joint_limits import JointLimits
from imitact.core.types import FloatArray

RANGES = {
    "rad": (-math.pi, math.pi),
    "deg": (-180.0, 180.0),
    "1": (0.0, 1.0),
    "%": (-100.0, 100.0),
    "m": (-1.0, 1.0),
}
"""Range of a joint without limits, by unit. LeRobot's grippers, 0 to 100 %, use half of theirs."""

STEP = np.array([0.02] * 3 + [0.08] * 3)
"""Largest motion of a hand in one update, m and rad: 1 m/s and 4 rad/s at 50 updates per second. A
larger one is caught up with in the next updates, so that joints never jump to another solution."""

MAX_JOINT_STEP = 0.06
"""Largest step of a joint in one update, rad: 3 rad/s at 50 updates per second, the speed of the
arms. A motion that needs more is made in smaller steps, as near a straight wrist, where turning the
hand a little turns the forearm far."""

LEAST_SHARE = 0.02
"""Share of a step below which a hand stays: there its joints would jump to another solution."""

REACH_ERROR_M = 0.005
"""Distance of the hand from its goal from which on it is out of reach, m."""


def joint_ranges(
    names: Sequence[str], units: Sequence[str], limits: JointLimits | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return least and largest position of each joint, (A,) each.

    Raises:
        BadInput: there are no limits, and the range of a unit is not known; or the limits are of
            other joints.
    """
    if limits is not None:
        if limits.names != tuple(names):
            raise BadInput(
                f"the limits are of {', '.join(limits.names)}; the robot is commanded "
                f"{', '.join(names)}"
            )
        return np.array(limits.lower), np.array(limits.upper)
    for name, unit in zip(names, units, strict=True):
        if unit not in RANGES:
            raise BadInput(
                f'{name} is in "{unit}", whose range is not known; give limits in robot.toml '
                f"([limits.{name}])"
            )
    low, high = zip(*(RANGES[unit] for unit in units), strict=True)
    return np.array(low), np.array(high)


@dataclass(frozen=True)
class Hand:
    """A hand that kinematics can move.

    Attributes:
        side: "left" or "right".
        joints: places of the six arm joints in the action.
        gripper: place of the gripper in the action.
    """

    side: str
    joints: tuple[int, ...]
    gripper: int


def known_hands(names: Sequence[str], units: Sequence[str]) -> tuple[Hand, ...]:
    """Return the hands of ALOHA's arms among the joints of an action; empty on other robots."""
    places, found = {name: place for place, name in enumerate(names)}, []
    for side in ("left", "right"):
        wanted = [f"{side}_arm_{joint}" for joint in ARM_JOINTS]
        if all(name in places for name in wanted):
            rows = tuple(places[name] for name in wanted)
            if all(units[row] == "rad" for row in rows[:6]):
                found.append(Hand(side, rows[:6], rows[6]))
    return tuple(found)


def load_kinematics(hands: Sequence[Hand]) -> Any | None:
    """Return the kinematics of ALOHA's arms; None without hands, or without the extra "sim"."""
    if not hands:
        return None
    try:
        from imitact.envs.experts.kinematics import Kinematics

        return Kinematics({hand.side: [0.0] * 6 for hand in hands})
    except (ImportError, ImitactError):
        return None


class Goal:
    """The pose to which a person's motions lead."""

    def __init__(self, hands: Sequence[Hand], kinematics: Any | None) -> None:
        """Prepare; `begin` comes first.

        Args:
            hands: that can be moved.
            kinematics: of these hands; None where there is none, and then joints are set only.
        """
        self._hands = tuple(hands) if kinematics is not None else ()
        self._kinematics = kinematics
        self.begin(np.zeros(0))

    @property
    def hands(self) -> tuple[Hand, ...]:
        return self._hands

    @property
    def out_of_reach(self) -> tuple[bool, ...]:
        """Whether each hand was kept from going further when it was last moved."""
        return tuple(self._out)

    def begin(self, pose: FloatArray) -> None:
        """Close the clutch at a pose, (A,); motions count from here."""
        self.pose = np.array(pose, np.float64)
        count = len(self._hands)
        self._start: list[Any] = [None] * count
        self._done, self._slack = np.zeros((count, 6)), np.zeros((count, 6))
        self._out = [False] * count

    def move(self, offsets: FloatArray, joints: FloatArray) -> NDArray[np.float64]:
        """Return the pose, (A,), for the motions since `begin`.

        A hand that is out of reach stays at the edge, and comes back as soon as it is moved back.

        Args:
            offsets: (H, 6), of each hand: x, y, z in m in the world's frame; yaw about the
                vertical, pitch and roll about the hand's own axes, in rad.
            joints: (A,), positions of joints that are set by themselves; NaN leaves one.
        """
        for place in range(len(self._hands)):
            self._move_hand(place, np.asarray(offsets[place], np.float64))
        values = np.asarray(joints, np.float64)
        is_set = np.isfinite(values)
        if np.any(is_set):
            self.pose[is_set] = values[is_set]
            for place, hand in enumerate(self._hands):
                if is_set[list(hand.joints)].any():  # motions of the hand go on from here
                    self._restart(place)
        return self.pose.copy()

    def _restart(self, place: int) -> None:
        self._start[place] = None
        self._slack[place] += self._done[place]
        self._done[place] = 0.0

    def _move_hand(self, place: int, offset: NDArray[np.float64]) -> None:
        hand, done = self._hands[place], self._done[place]
        assert self._kinematics is not None
        left = offset - self._slack[place] - done
        if np.max(np.abs(left)) < 1e-9:  # rounding
            return
        before = self.pose[list(hand.joints)]
        if self._start[place] is None:
            self._start[place] = self._kinematics.hand(hand.side, before)
        share = 1.0 / max(1.0, float(np.max(np.abs(left) / STEP)))
        joints, target, share = self._solve(place, before, left, share)
        self._out[place] = share == 0.0
        if share == 0.0:
            self._slack[place] += left
            return
        self.pose[list(hand.joints)] = joints
        self._done[place] = done + share * left
        missing = self._kinematics.hand(hand.side, joints)[:3, 3] - target[:3, 3]
        if np.linalg.norm(missing) > REACH_ERROR_M:
            self._out[place] = True
            self._done[place, :3] += missing
            # All that is left is given up, so that the way back begins at once.
            self._slack[place] = offset - self._done[place]

    def _solve(
        self, place: int, before: NDArray[np.float64], left: NDArray[np.float64], share: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """Return joints, (6,), and transform of a hand after a share of the motion that is left.

        The share is made smaller until no joint steps too far; 0 where that does not help.
        """
        assert self._kinematics is not None
        side, least = self._hands[place].side, LEAST_SHARE * share
        while share >= least:
            target = _moved(self._start[place], self._done[place] + share * left)
            try:
                joints = self._kinematics.joints_near(side, before, target)
            except Exception:  # the solver found no solution (mink's own errors)
                break
            largest = float(np.max(np.abs(joints - before)))
            if largest <= MAX_JOINT_STEP:
                return joints, target, share
            if not math.isfinite(largest):
                break
            share *= min(0.5, 0.8 * MAX_JOINT_STEP / largest)
        return before, self._start[place], 0.0


def _moved(start: NDArray[np.float64], offset: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a hand's transform, (4, 4), moved and turned by an offset, (6,)."""
    moved = start.copy()
    moved[:3, 3] += offset[:3]
    yaw, pitch, roll = offset[3:]
    moved[:3, :3] = _about(2, yaw) @ start[:3, :3] @ _about(1, pitch) @ _about(0, roll)
    return moved


def _about(axis: int, angle: float) -> NDArray[np.float64]:
    """Return the rotation, (3, 3), about an axis: x, y or z."""
    one, two = (axis + 1) % 3, (axis + 2) % 3
    turn = np.eye(3)
    turn[one, one] = turn[two, two] = math.cos(angle)
    turn[two, one], turn[one, two] = math.sin(angle), -math.sin(angle)
    return turn
