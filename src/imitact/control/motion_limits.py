"""Motion limits: the law that commanded positions keep, for one robot or for many at once.

A command passes to the bit where it is legal: within the range, with differences from tick to tick
within velocity, acceleration and jerk, and such that the joint can still stop within the range.
Where it is not, the joint brakes, which is always possible, because every motion that is let
through leaves a stop.

How a stop is known: the parabola through the last three commands gives velocity and acceleration
at the newest one, and from there the time-optimal stop with the same limits has a closed form: its
jerk is -J, 0 and +J in turn. Its positions at later ticks have differences within the limits,
because the third difference of a motion is a mean of its jerk over three ticks, with weights 1/6,
4/6 and 1/6 where the jerk is constant within each; velocity and acceleration likewise. So a joint
goes from passing to braking without a margin; the velocity at the end of a tick and a difference,
which is the mean of the tick, are never mixed.

Legend for shapes: A joints; ... any leading axes, of which N robots are one. Units are ticks: a
velocity is a change of position a tick.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput
from imitact.core.joint_limits import NO_LIMIT, JointLimits
from imitact.core.types import FloatArray

SLACK = 1e-9
"""Share of a limit by which rounding may exceed it."""

_TINY = 1e-300


@dataclass(slots=True)
class Motion:
    """Where commanded joints are, and how they move.

    Attributes:
        position: (..., A) the last command.
        step: (..., A) its difference from the command before.
        bend: (..., A) the difference of the last two steps.
        velocity: (..., A) at the end of the last tick, unit a tick.
        acceleration: (..., A) at the end of the last tick, unit a tick².
    """

    position: NDArray[np.float64]
    step: NDArray[np.float64]
    bend: NDArray[np.float64]
    velocity: NDArray[np.float64]
    acceleration: NDArray[np.float64]


@dataclass(slots=True)
class Knots:
    """Position, velocity and acceleration at one moment, each (..., A), in ticks."""

    position: NDArray[np.float64]
    velocity: NDArray[np.float64]
    acceleration: NDArray[np.float64]


class MotionLimits:
    """The law of range, velocity, acceleration and jerk, at one rate."""

    def __init__(self, limits: JointLimits, rate_hz: float) -> None:
        """Take the limits for ticks of 1 / rate_hz s.

        Raises:
            BadInput: the rate is not positive.
        """
        if not (np.isfinite(rate_hz) and rate_hz > 0):
            raise BadInput(f"the rate is {rate_hz} Hz; it must be positive")
        self.limits, self.rate_hz = limits, rate_hz
        self.lower, self.upper = limits.lower, limits.upper
        self.velocity = limits.velocity / rate_hz
        self.acceleration = limits.acceleration / rate_hz**2
        self.jerk = limits.jerk / rate_hz**3
        wide = 1 + SLACK
        self._velocity, self._acceleration = self.velocity * wide, self.acceleration * wide
        self._jerk = self.jerk * wide
        slack = SLACK * (self.upper - self.lower)
        self._lower, self._upper = self.lower - slack, self.upper + slack
        # No stop is longer than this; further from both ends none must be computed.
        speed, push, jerk = self.velocity, self.acceleration, self.jerk
        rise = np.minimum(push / jerk, np.sqrt(2 * speed / jerk))
        stop = _stop_distance(speed, np.zeros_like(speed), push, jerk)[0]
        reach = (speed * rise + stop) * (1 + 1e-6)
        free = np.minimum(limits.acceleration, limits.jerk) >= NO_LIMIT  # it stops at once
        self._near_lower = np.where(free, -np.inf, self.lower + reach)
        self._near_upper = np.where(free, np.inf, self.upper - reach)

    def begin(self, command: FloatArray) -> Motion:
        """Return the motion of joints that rest at a command, (..., A).

        It is taken as it is: a robot that rests outside of its range may move back, not further.
        """
        position = np.array(command, np.float64)
        if position.shape[-1:] != self.lower.shape or not np.all(np.isfinite(position)):
            raise BadInput(
                f"the pose {position} to begin at is not {len(self.lower)} finite positions"
            )
        return Motion(position, *(np.zeros_like(position) for _ in range(4)))

    def goal(self, motion: Motion, asked: FloatArray) -> tuple[NDArray[np.float64], NDArray[Any]]:
        """Return what is asked for, cut to the range, and whether each robot's is finite, (...).

        Where it is not finite, the goal is the last command.
        """
        goal = np.asarray(asked, np.float64)
        finite: NDArray[Any] = np.asarray(np.isfinite(goal).all(-1))
        if not finite.all():
            goal = np.where(finite[..., None], goal, motion.position)
        return self.cut(motion, goal), finite

    def cut(self, motion: Motion, asked: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return positions, (..., A), cut to the range: the same array where nothing is cut.

        For a joint that is outside of its range, the range reaches to where it is.
        """
        outside = (asked < self.lower) | (asked > self.upper)
        if not outside.any():
            return asked
        lower = np.minimum(self.lower, motion.position)
        upper = np.maximum(self.upper, motion.position)
        cut = np.where(outside, np.clip(asked, lower, upper), asked)
        return asked if np.array_equal(cut, asked) else cut

    def legal(self, motion: Motion, goal: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return whether the next command of each joint, (..., A), may be this one.

        Args:
            goal: (..., A), finite, as `cut` returns it.
        """
        step = goal - motion.position
        bend = step - motion.step
        ok = np.abs(step) <= self._velocity
        ok &= np.abs(bend) <= self._acceleration
        ok &= np.abs(bend - motion.bend) <= self._jerk
        return self.can_stop(Knots(goal, step + bend / 2, bend), motion.position, ok)

    def goes_on(
        self, motion: Motion, goal: NDArray[np.float64], goal_step: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Return whether a goal, (..., A), that keeps its velocity stays legal once it is stepped
        to: whether the joint is as fast as it, and not only where it is.

        Args:
            goal_step: (..., A), change of the goal in this tick.
        """
        step = goal - motion.position
        rest = goal_step - step
        ok = np.abs(rest) <= np.minimum(self._acceleration, self._jerk)
        return ok & (np.abs(rest - (step - motion.step)) <= self._jerk)

    def allows(self, motion: Motion, after: Knots) -> NDArray[np.bool_]:
        """Return whether joints may move on to positions with these velocities, (..., A).

        The same as `legal` for a motion whose velocity at the tick's end is known.
        """
        step = after.position - motion.position
        bend = step - motion.step
        ok = np.abs(step) <= self._velocity
        ok &= np.abs(bend) <= self._acceleration
        ok &= np.abs(bend - motion.bend) <= self._jerk
        ok &= np.abs(after.acceleration) <= self._acceleration
        return self.can_stop(after, motion.position, ok)

    def direct(self, motion: Motion, goal: NDArray[np.float64]) -> Motion:
        """Return the motion after the goal was commanded, (..., A), with the velocity of the
        parabola through the last three commands."""
        step = goal - motion.position
        bend = step - motion.step
        return Motion(goal, step, bend, step + bend / 2, bend)

    def brake(self, motion: Motion, where: NDArray[np.bool_] | None = None) -> Knots:
        """Return where joints are a tick later if they stop as fast as their limits allow.

        Args:
            where: (..., A), which joints; the result has these in a row. None for all.
        """
        push, jerk = self.acceleration, self.jerk
        lower, upper = self.lower, self.upper
        q, v, a = motion.position, motion.velocity, motion.acceleration
        if where is not None:
            push, jerk, lower, upper = (
                np.broadcast_to(bound, where.shape)[where] for bound in (push, jerk, lower, upper)
            )
            q, v, a = q[where], v[where], a[where]
        sign = _stop_sign(v, a, jerk)
        v, a = v * sign, a * sign
        start = q
        _, times = _stop_distance(v, a, push, jerk)
        left = np.ones_like(v)
        moved = np.zeros_like(v)
        for slope, time in zip((-1.0, 0.0, 1.0), times, strict=True):
            t = np.minimum(time, left)
            left = left - t
            j = slope * jerk
            moved = moved + ((j * t / 6 + a / 2) * t + v) * t
            v = v + (j * t / 2 + a) * t
            a = a + j * t
        rests = left > 0
        v, a = np.where(rests, 0.0, v * sign), np.where(rests, 0.0, a * sign)
        q = start + moved * sign
        # A stop ends within the range; only its last digits may not.
        q = np.minimum(np.maximum(q, np.minimum(lower, start)), np.maximum(upper, start))
        return Knots(q, v, a)

    def stop_pose(self, motion: Motion) -> NDArray[np.float64]:
        """Return where joints come to rest if they brake from now on, (..., A)."""
        sign = _stop_sign(motion.velocity, motion.acceleration, self.jerk)
        distance, _ = _stop_distance(
            motion.velocity * sign, motion.acceleration * sign, self.acceleration, self.jerk
        )
        return motion.position + sign * distance

    def follow(
        self, motion: Motion, asked: FloatArray
    ) -> tuple[Motion, NDArray[np.bool_], NDArray[Any]]:
        """Return the motion after one tick: legal goals pass, other joints brake.

        Args:
            asked: (..., A), anything.

        Returns:
            The motion; which joints passed, (..., A); which robots' goals were finite, (...).
        """
        goal, finite = self.goal(motion, asked)
        passed = self.legal(motion, goal)
        passed &= finite[..., None]
        if passed.all():
            return self.direct(motion, goal), passed, finite
        braking = ~passed
        return self.joined(motion, goal, self.brake(motion, braking), braking), passed, finite

    def joined(
        self, motion: Motion, goal: NDArray[np.float64], knots: Knots, where: NDArray[np.bool_]
    ) -> Motion:
        """Return the motion after joints `where` went on to the knots, the others to the goal."""
        goal = np.array(goal)
        goal[where] = knots.position
        result = self.direct(motion, goal)
        result.velocity[where] = knots.velocity
        result.acceleration = result.bend.copy()  # `direct` shares it
        result.acceleration[where] = knots.acceleration
        return result

    def can_stop(
        self, at: Knots, before: NDArray[np.float64], where: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Return whether joints can stop within range and velocity, (..., A).

        Args:
            at: where they are.
            before: (..., A), where they were; a joint that was outside of its range must stop no
                further out than that.
            where: (..., A), which joints matter; the result is false for the others.
        """
        v, a, jerk = at.velocity, at.acceleration, self.jerk
        rest = v + a * np.abs(a) / (2 * jerk)  # velocity once the acceleration is gone
        ok = where & (np.abs(rest) <= self._velocity)
        ok &= np.abs(v) <= self._velocity
        near = (at.position < self._near_lower) | (at.position > self._near_upper)
        near &= ok
        if not near.any():
            return ok
        shape = near.shape
        jerk, push, lower, upper = (
            np.broadcast_to(bound, shape)[near]
            for bound in (jerk, self.acceleration, self._lower, self._upper)
        )
        q, v, a, rest, before = at.position[near], v[near], a[near], rest[near], before[near]
        lower, upper = np.minimum(lower, before), np.maximum(upper, before)
        sign = np.where(rest < 0, -1.0, 1.0)
        v, a = v * sign, a * sign
        end = q + sign * _stop_distance(v, a, push, jerk)[0]
        fits = (end >= lower) & (end <= upper) & (q >= lower) & (q <= upper)
        turning = v < 0  # it goes the other way first
        if turning.any():
            v, a, jerk = v[turning], a[turning], jerk[turning]
            t = (a - np.sqrt(np.maximum(a * a + 2 * jerk * v, 0.0))) / jerk
            turn = q[turning] + sign[turning] * ((a / 2 - jerk * t / 6) * t + v) * t
            fits[turning] &= (turn >= lower[turning]) & (turn <= upper[turning])
        ok[near] &= fits
        return ok


def _stop_sign(
    v: NDArray[np.float64], a: NDArray[np.float64], jerk: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the sign of the velocity that is left once the acceleration is gone."""
    return np.where(v + a * np.abs(a) / (2 * jerk) < 0, -1.0, 1.0)


def _stop_distance(
    v: NDArray[np.float64],
    a: NDArray[np.float64],
    push: NDArray[np.float64],
    jerk: NDArray[np.float64],
) -> tuple[NDArray[np.float64], tuple[NDArray[np.float64], ...]]:
    """Return how far the time-optimal stop goes, and its three durations.

    The jerk is -J, 0 and +J in turn. `v + a|a| / 2J >= 0` must hold (see `_stop_sign`).
    """
    squared = np.maximum(jerk * v + a * a / 2, 0.0)
    peak = np.minimum(np.sqrt(squared), push)
    peak = np.maximum(peak, -a)  # an acceleration beyond its limit is only taken back
    first = (a + peak) / jerk
    last = peak / jerk
    end = peak * last / 2  # velocity that the last part takes away
    after = v + (a * a - peak * peak) / (2 * jerk)
    middle = np.maximum(after - end, 0.0) / np.maximum(peak, _TINY)
    distance = ((a / 2 - jerk * first / 6) * first + v) * first
    distance = distance + middle * (after + end) / 2 + end * last / 3
    return distance, (first, middle, last)
