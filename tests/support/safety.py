"""Limits, streams and measures for the tests of the safety filter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imitact.control.contract import Ages
from imitact.control.motion_limits import Motion, MotionLimits
from imitact.core.aloha_joints import ALOHA_JOINTS, ALOHA_UNITS
from imitact.core.joint_limits import JointLimits
from imitact.core.robot import Reading

RATE_HZ = 50.0
FRESH = Ages(0.01, {})
GRIPPERS = (6, 13)


def aloha_limits(jerk: float = 1500.0) -> JointLimits:
    """Return round limits of ALOHA's joints; its grippers are faster and shorter."""
    size = len(ALOHA_JOINTS)
    lower, upper = np.full(size, -3.2), np.full(size, 3.2)
    velocity, acceleration, jerks = np.full(size, 3.14), np.full(size, 40.0), np.full(size, jerk)
    for gripper in GRIPPERS:
        lower[gripper], upper[gripper] = 0.0, 1.0
        velocity[gripper], acceleration[gripper], jerks[gripper] = 10.0, 120.0, 4000.0
    return JointLimits(ALOHA_JOINTS, ALOHA_UNITS, lower, upper, velocity, acceleration, jerks)


def pair_limits(**changes: float) -> JointLimits:
    """Return limits of two joints, a waist and a gripper in rad."""
    values = {
        "lower": -1.0, "upper": 1.0, "velocity": 2.0, "acceleration": 30.0, "jerk": 1000.0,
    } | changes  # fmt: skip
    bounds = {name: np.full(2, value) for name, value in values.items()}
    return JointLimits(("waist", "gripper"), ("rad", "rad"), **bounds)


def reading(values: NDArray[np.float64]) -> Reading:
    """Return a fresh reading."""
    return Reading(np.array(values, np.float64), 0.0, 0.0, 1)


class HostileStream:
    """Asks for what a broken policy or leader might ask for; ten kinds take turns.

    They are: anywhere, noise, NaN, limit to limit, 1000 rad off, a run-away, a slow drift over the
    edge, infinities, full jerk both ways, and jumps that stay (seams of chunks).
    """

    def __init__(
        self,
        law: MotionLimits,
        rng: np.random.Generator,
        shape: tuple[int, ...],
        each_ticks: int = 60,
    ) -> None:
        """Prepare for robots and joints of this shape, (..., A)."""
        self._law, self._rng, self._shape, self._each = law, rng, shape, each_ticks
        self._lower, self._upper = (
            np.broadcast_to(bound, shape) for bound in (law.lower, law.upper)
        )
        self._width = self._upper - self._lower
        self._kept = self._drift = np.zeros(shape)

    def asked(self, tick: int, motion: Motion) -> NDArray[np.float64]:
        """Return what is asked for at a tick of this motion, (..., A)."""
        rng, shape, width = self._rng, self._shape, self._width
        kind = tick // self._each % 10
        p, step = motion.position, motion.step
        if tick % self._each == 0:
            self._kept, self._drift = p.copy(), rng.normal(0, 0.01, shape) * width
        if kind == 0:
            return self._lower + rng.uniform(-0.5, 1.5, shape) * width
        if kind == 1:
            return p + rng.normal(0, 0.003, shape) * width
        if kind == 2:
            return np.where(rng.random(shape) < 0.01, np.nan, p + step)
        if kind == 3:
            dice = rng.random(shape)
            self._kept = np.where(dice < 0.05, self._upper, self._kept)
            self._kept = np.where(dice > 0.95, self._lower, self._kept)
            return self._kept
        if kind == 4:
            return p + rng.normal(0, 1000, shape)
        if kind == 5:
            return p + step * 1.02
        if kind == 6:
            self._kept = self._kept + self._drift
            return self._kept
        if kind == 7:
            return np.where(rng.random(shape) < 0.01, np.inf, p)
        if kind == 8:
            jolt = np.where(rng.random(shape) < 0.5, -self._law.jerk, self._law.jerk)
            push = self._law.acceleration
            return p + step + np.clip(motion.bend + jolt, -push, push)
        self._kept = self._kept + (rng.random(shape) < 0.05) * rng.normal(0, 0.2, shape) * width
        return self._kept


class Shares:
    """The largest velocity, acceleration and jerk of commands, as shares of their limits, and how
    far they were out of range; from differences of the positions alone."""

    def __init__(self, law: MotionLimits, start: NDArray[np.float64]) -> None:
        """Begin at rest, (..., A)."""
        self._law, self._before = law, [start.copy() for _ in range(3)]
        self.velocity = self.acceleration = self.jerk = 0.0
        self.beyond = -np.inf

    def add(self, q: NDArray[np.float64]) -> None:
        """Take the commands of a tick, (..., A); NaN counts as infinitely far out of range."""
        law, (q1, q2, q3) = self._law, self._before
        self.velocity = max(self.velocity, float(np.max(np.abs(q - q1) / law.velocity)))
        bend = np.abs(q - 2 * q1 + q2) / law.acceleration
        self.acceleration = max(self.acceleration, float(np.max(bend)))
        self.jerk = max(self.jerk, float(np.max(np.abs(q - 3 * q1 + 3 * q2 - q3) / law.jerk)))
        beyond = np.maximum(law.lower - q, q - law.upper)
        self.beyond = max(self.beyond, float(np.nan_to_num(beyond, nan=np.inf).max()))
        self._before = [q.copy(), q1, q2]

    @property
    def worst(self) -> float:
        """The largest of the three shares."""
        return max(self.velocity, self.acceleration, self.jerk)
