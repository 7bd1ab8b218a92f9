"""Rest ramp: the slow way of an arm to its rest pose, which stops where a joint is blocked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import RobotError
from imitact.core.types import FloatArray, Spec

PARK_SPEEDS: Mapping[str, float] = {"rad": 0.3, "deg": 17.0, "1": 0.5, "%": 30.0, "m": 0.1}
"""Largest speed of a joint on its way to the rest pose, unit/s."""

FOLLOWING_UNITS = ("rad", "deg")
"""Units of joints that must follow while parking; a gripper may hold something."""

HELD_LAG_S = 0.2
"""How far a joint that carries a load stays behind its goal, as time of travel at those speeds, s:
0.06 rad."""

SHORTEST_S = 0.5
"""Time of the shortest ramp, s."""


def park_speeds(units: Sequence[str], factor: float) -> NDArray[np.float64]:
    """Return the largest speeds of joints in these units, (A,), unit/s.

    Raises:
        RobotError: no speed is known for a unit.
    """
    if unknown := sorted({unit for unit in units if unit not in PARK_SPEEDS}):
        raise RobotError(f"it cannot be parked: no speed is known for {', '.join(unknown)}")
    return np.array([PARK_SPEEDS[unit] for unit in units]) * factor


def held_lag(units: Sequence[str]) -> NDArray[np.float64]:
    """Return how far joints that carry a load stay behind their goals, (A,); 0 where unknown."""
    return np.array([PARK_SPEEDS.get(unit, 0.0) for unit in units]) * HELD_LAG_S


def parking_start(
    spec: Spec,
    last: NDArray[np.float64] | None,
    measured: NDArray[np.float64] | None,
    lag: NDArray[np.float64],
    *,
    may_have_fallen: bool,
) -> NDArray[np.float64]:
    """Return where parking begins, (A,): each joint at its last command, or where it is.

    Args:
        spec: of the arm.
        last: (A,), the last command that was sent; None where there is none.
        measured: (A,); None where the joints are not measured.
        lag: (A,), how far a joint may be from its last command to count as there.
        may_have_fallen: whether the arm may have lost its torque; then every joint must be there.

    Raises:
        RobotError: nothing is known, or the arm has fallen: nobody expects it to rise by itself.
    """
    if measured is None or last is None:
        start = last if measured is None else measured
        if start is None:
            raise RobotError("it cannot be parked: its joints are not measured")
        return start
    is_near = np.abs(last - measured) <= lag
    is_near[[unit not in FOLLOWING_UNITS for unit in spec.action_units]] = True
    if may_have_fallen and not np.all(is_near):
        raise RobotError(
            f"{spec.action_names[int(np.argmin(is_near))]} is not where it was held, so the arm "
            "may have lost its torque; enable it to park it, or release it"
        )
    return np.where(is_near, last, measured)


class RestRamp:
    """A quintic ramp, at rest at both ends, whose jerk is bounded.

    All joints start and end together; the one with the longest way sets the duration.
    """

    def __init__(
        self,
        spec: Spec,
        start: FloatArray,
        rest: FloatArray,
        speeds: NDArray[np.float64],
        now_s: float,
        *,
        lag_s: float,
        blocked_s: float,
    ) -> None:
        """Begin.

        Args:
            spec: of the arm.
            start: (A,), where it begins.
            rest: (A,), the rest pose.
            speeds: (A,), the largest speeds, unit/s.
            now_s: when it begins.
            lag_s: how far a joint may be behind, as time of travel at its speed, s.
            blocked_s: time beyond that lag after which it counts as blocked, s.
        """
        self._spec, self._speeds = spec, speeds
        self._start, self._way = np.asarray(start), np.asarray(rest) - np.asarray(start)
        # The speed of 10 s³ - 15 s⁴ + 6 s⁵ is largest in the middle, 15/8 of the mean.
        longest_s = float(np.max(np.abs(self._way) / speeds))
        self.duration_s = max(SHORTEST_S, 15 / 8 * longest_s)
        self._progress_s, self._before_s = 0.0, now_s
        self._lag_s, self._blocked_s = lag_s, blocked_s
        self._behind_since_s: float | None = None

    def next(self, now_s: float, most_s: float) -> NDArray[np.float64]:
        """Return the pose for now, (A,); the ramp goes on by `most_s` at most, so that a stall
        makes no jump."""
        self._progress_s += min(now_s - self._before_s, most_s)
        self._before_s = now_s
        s = min(1.0, self._progress_s / self.duration_s)
        return self._start + self._way * s**3 * (10 - 15 * s + 6 * s**2)

    def blocked(
        self, asked: NDArray[np.float64], measured: NDArray[np.float64] | None, now_s: float
    ) -> str:
        """Return which joint has been too far behind for too long, in words; empty for none."""
        if measured is None:
            return ""
        spec = self._spec
        lag = np.abs(asked - measured) / self._speeds
        lag[[unit not in FOLLOWING_UNITS for unit in spec.action_units]] = 0
        worst = int(np.argmax(lag))
        if lag[worst] <= self._lag_s:
            self._behind_since_s = None
            return ""
        if self._behind_since_s is None:
            self._behind_since_s = now_s
        if now_s - self._behind_since_s <= self._blocked_s:
            return ""
        off = abs(asked[worst] - measured[worst])
        return f"{spec.action_names[worst]} is {off:.2f} {spec.action_units[worst]} behind"

    @property
    def is_done(self) -> bool:
        """Whether the rest pose is reached: commanded, and no joint too far behind."""
        return self._progress_s >= self.duration_s and self._behind_since_s is None
