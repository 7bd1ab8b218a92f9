"""Arm trajectories: sums of overlapping minimum-jerk movements.

Human reaching superposes movements so (Flash and Henis 1991, doi:10.1162/jocn.1991.3.3.220).
"""

from __future__ import annotations

import numpy as np

from imitact.core.types import FloatArray
from imitact.envs.experts.kinematics import HandPose, Kinematics, Vector


def minimum_jerk(s: FloatArray) -> Vector:
    """Progress from 0 to 1, without speed or acceleration at the ends (Flash and Hogan 1985)."""
    s = np.clip(np.asarray(s, np.float64), 0.0, 1.0)
    return s**3 * (10.0 - 15.0 * s + 6.0 * s**2)


class ArmTrajectory:
    """Trajectory of one arm: its start plus a sum of minimum-jerk movements.

    A movement that starts before the previous one has ended blends into it. A movement that is
    added during execution changes nothing before its start.

    Args:
        side: "left" or "right".
        start: joints and gripper at the start, (7,).
        ticks: length T.
        kinematics: of both arms.

    Attributes:
        joints: joint angles in rad and gripper at each tick, (T, 7).
    """

    def __init__(self, side: str, start: Vector, ticks: int, kinematics: Kinematics) -> None:
        self.joints = np.tile(start, (ticks, 1))
        self._side = side
        self._goal = start.copy()
        self._kinematics = kinematics

    @property
    def goal(self) -> Vector:
        """Joint angles at the end of all movements, (6,), rad."""
        return self._goal[:6].copy()

    def move(self, start: float, ticks: float, pose: HandPose, bow_m: Vector | None = None) -> None:
        """Add a movement that starts at a tick, lasts so many, and ends in a hand pose.

        `bow_m`, (3,), is the offset of the hand from the direct path half way.
        """
        self._add(start, ticks, self._kinematics.joints(self._side, pose), bow_m)

    def move_straight(self, start: float, ticks: float, to: Vector) -> None:
        """Add a movement to joint angles (6,) in which the fingertips follow a straight line.

        They are exactly on it half way. Without this, a path of 5 cm deviates by a millimeter.
        """
        tips = [self._tip(joints) for joints in (self._goal[:6], 0.5 * (to + self._goal[:6]), to)]
        self._add(start, ticks, to, 0.5 * (tips[0] + tips[2]) - tips[1])

    def grip(self, start: float, ticks: float, to: float) -> None:
        """Add a movement of the gripper to an opening between 0 and 1."""
        self.joints[:, 6] += self._progress(start, ticks) * (to - self._goal[6])
        self._goal[6] = to

    def _add(self, start: float, ticks: float, to: Vector, bow_m: Vector | None) -> None:
        s = self._progress(start, ticks)
        self.joints[:, :6] += np.outer(s, to - self._goal[:6])
        if bow_m is not None:
            middle = 0.5 * (to + self._goal[:6])
            bow = self._kinematics.shifted(self._side, middle, bow_m) - middle
            self.joints[:, :6] += np.outer(4.0 * s * (1.0 - s), bow)
        self._goal[:6] = to

    def _tip(self, joints: Vector) -> Vector:
        return self._kinematics.hand(self._side, joints)[:3, 3]

    def _progress(self, start: float, ticks: float) -> Vector:
        return minimum_jerk((np.arange(len(self.joints)) + 1.0 - start) / ticks)
