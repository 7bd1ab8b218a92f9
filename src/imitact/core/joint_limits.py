"""Joint limits: range, velocity, acceleration and jerk that commands must keep, per joint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput, SpecMismatch

_BOUNDS = ("lower", "upper", "velocity", "acceleration", "jerk")


@dataclass(frozen=True, eq=False)
class JointLimits:
    """Limits of commanded joint positions; each array is (A,), in the unit of its joint and s.

    Attributes:
        names: the A joints.
        units: a unit for each.
        lower: least position.
        upper: largest position.
        velocity: largest |velocity|, unit/s.
        acceleration: largest |acceleration|, unit/s².
        jerk: largest |jerk|, unit/s³.

    Raises:
        BadInput: a size differs, a value is not finite, a range is empty, or a bound is not
            positive.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    velocity: NDArray[np.float64]
    acceleration: NDArray[np.float64]
    jerk: NDArray[np.float64]

    def __post_init__(self) -> None:
        for bound in _BOUNDS:
            values = np.array(getattr(self, bound), np.float64)
            if values.shape != (len(self.names),):
                raise BadInput(
                    f"limits: {bound} has shape {values.shape}, expected ({len(self.names)},), one "
                    "for each joint"
                )
            least = -np.inf if bound in ("lower", "upper") else 0.0
            for name, value in zip(self.names, values, strict=True):
                if not np.isfinite(value) or value <= least:
                    raise BadInput(f"limits: {bound} of {name} is {value}; it must be positive")
            values.setflags(write=False)
            object.__setattr__(self, bound, values)
        if len(self.units) != len(self.names):
            raise BadInput(f"limits: {len(self.names)} joints but {len(self.units)} units")
        for name, low, high in zip(self.names, self.lower, self.upper, strict=True):
            if low >= high:
                raise BadInput(f"limits: {name} has the range {low:g} to {high:g}, which is empty")

    def to_json(self) -> dict[str, Any]:
        """Return the limits as plain JSON."""
        return {
            "names": list(self.names),
            "units": list(self.units),
            **{bound: getattr(self, bound).tolist() for bound in _BOUNDS},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> JointLimits:
        """Return the limits that `to_json` gave."""
        try:
            bounds = {bound: np.array(values[bound], np.float64) for bound in _BOUNDS}
            return cls(tuple(values["names"]), tuple(values["units"]), **bounds)
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(
                f"the limits cannot be read: {error!r} is missing or no number"
            ) from None

    def cut(self, other: JointLimits) -> JointLimits:
        """Return what both limits allow."""
        if self.names != other.names or self.units != other.units:
            raise SpecMismatch(
                f"limits of {', '.join(other.names)} in {', '.join(other.units)} cannot cut those "
                f"of {', '.join(self.names)} in {', '.join(self.units)}; both must be equal"
            )
        tighter = {b: np.minimum(getattr(self, b), getattr(other, b)) for b in _BOUNDS}
        tighter["lower"] = np.maximum(self.lower, other.lower)
        return JointLimits(self.names, self.units, **tighter)


def demonstrated_limits(
    actions: Iterable[NDArray[np.floating[Any]]],
    names: Sequence[str],
    units: Sequence[str],
    rate_hz: float,
    *,
    factor: float = 1.5,
) -> JointLimits:
    """Return the limits that demonstrations stayed within, widened by a factor.

    Velocity, acceleration and jerk are the largest differences of commanded positions from tick to
    tick; the range is widened by (factor - 1) / 2 of its width at each end.

    Args:
        actions: (T, A) of each episode, T >= 4; shorter ones give their range only.
    """
    low = np.full(len(names), np.inf)
    high = np.full(len(names), -np.inf)
    peaks = np.zeros((3, len(names)))
    for episode in actions:
        values = np.asarray(episode, np.float64)
        low, high = np.minimum(low, values.min(0)), np.maximum(high, values.max(0))
        for order in (1, 2, 3):
            if len(values) > order:
                slope = np.abs(np.diff(values, order, axis=0)).max(0) * rate_hz**order
                peaks[order - 1] = np.maximum(peaks[order - 1], slope)
    if not np.all(np.isfinite(low)):
        raise BadInput("no episode was given; limits are learned from at least one")
    # A joint that never moved still gets a range, and a speed at which it can be moved there.
    width = np.maximum(high - low, 0.02)
    margin = width * (factor - 1) / 2
    velocity, acceleration, jerk = np.maximum(peaks * factor, np.outer((1.0, 10.0, 100.0), width))
    return JointLimits(
        tuple(names), tuple(units), low - margin, high + margin, velocity, acceleration, jerk
    )
