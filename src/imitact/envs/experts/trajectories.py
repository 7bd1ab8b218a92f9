"""The path of an arm as a sum of overlapping minimum-jerk movements.

Human reaches compose that way (Flash and Henis 1991, doi:10.1162/jocn.1991.3.3.220).
"""

from __future__ import annotations

import numpy as np

from imitact.core.types import FloatArray
from imitact.envs.experts.kinematics import Kinematics, Pose, Vector


def minimum_jerk(s: FloatArray) -> Vector:
    """0 to 1 with neither speed nor acceleration at the ends (Flash and Hogan 1985)."""
    s = np.clip(np.asarray(s, np.float64), 0.0, 1.0)
    return s**3 * (10.0 - 15.0 * s + 6.0 * s**2)


class ArmPath:
    """Joints and gripper (T, 7) of one arm: its start plus a sum of minimum-jerk movements.

    Begins and durations are in ticks. A movement that begins before the last has ended blends
    into it; one that is added while the path is being followed changes nothing before it begins.
    """

    def __init__(self, side: str, start: Vector, ticks: int, kinematics: Kinematics) -> None:
        self.joints = np.tile(start, (ticks, 1))
        self._side = side
        self._goal = start.copy()
        self._kinematics = kinematics

    @property
    def goal(self) -> Vector:
        """(6,) joint angles at the end of all movements, rad."""
        return self._goal[:6].copy()

    def move(self, begin: float, ticks: float, pose: Pose, bow_m: Vector | None = None) -> None:
        """Add a movement to a pose, bowed by `bow_m` half way."""
        self._go(begin, ticks, self._kinematics.joints(self._side, pose), bow_m)

    def move_straight(self, begin: float, ticks: float, to: Vector) -> None:
        """Add a movement to joint angles (6,), in which the fingertips follow a straight line.

        Half way they are on it exactly. Without that, 5 cm bend by a millimetre.
        """
        tips = [self._tip(joints) for joints in (self._goal[:6], 0.5 * (to + self._goal[:6]), to)]
        self._go(begin, ticks, to, 0.5 * (tips[0] + tips[2]) - tips[1])

    def grip(self, begin: float, ticks: float, to: float) -> None:
        """Add a movement of the gripper to an opening between 0 and 1."""
        self.joints[:, 6] += self._progress(begin, ticks) * (to - self._goal[6])
        self._goal[6] = to

    def _go(self, begin: float, ticks: float, to: Vector, bow_m: Vector | None) -> None:
        s = self._progress(begin, ticks)
        self.joints[:, :6] += np.outer(s, to - self._goal[:6])
        if bow_m is not None:
            middle = 0.5 * (to + self._goal[:6])
            bow = self._kinematics.shifted(self._side, middle, bow_m) - middle
            self.joints[:, :6] += np.outer(4.0 * s * (1.0 - s), bow)
        self._goal[:6] = to

    def _tip(self, joints: Vector) -> Vector:
        return self._kinematics.hand(self._side, joints)[:3, 3]

    def _progress(self, begin: float, ticks: float) -> Vector:
        return minimum_jerk((np.arange(len(self.joints)) + 1.0 - begin) / ticks)
