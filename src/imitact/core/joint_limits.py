"""Joint limits: range, velocity, acceleration and jerk that commands must keep, per joint."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput, NotFinite, SpecMismatch, unknown_name
from imitact.core.types import FloatArray
from imitact.core.words import counted

_BOUNDS = ("lower", "upper", "velocity", "acceleration", "jerk")

NO_LIMIT = 1e9
"""Velocity, acceleration or jerk from which on there is none, in any unit. A joint without limits
of acceleration and jerk can stop at once, so that it may run into the end of its range."""


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
        gap: largest distance of a command from the measured joint, which is how hard a gripper
            presses on what it holds; None where it is not known.

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
    gap: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        for bound in (*_BOUNDS, *(() if self.gap is None else ("gap",))):
            values = np.array(getattr(self, bound), np.float64)
            if values.shape != (len(self.names),):
                raise BadInput(
                    f"limits: {bound} has shape {values.shape}, expected ({len(self.names)},), one "
                    "for each joint"
                )
            least = -np.inf if bound in ("lower", "upper") else 0.0
            for name, value in zip(self.names, values, strict=True):
                if not np.isfinite(value) or value <= least:
                    kind = "finite" if least < 0 else "finite and positive"
                    raise BadInput(f"limits: {bound} of {name} is {value}; it must be {kind}")
            values.setflags(write=False)
            object.__setattr__(self, bound, values)
        if len(self.units) != len(self.names):
            raise BadInput(
                f"limits: {counted(len(self.names), 'joint')} but {len(self.units)} units"
            )
        for name, low, high in zip(self.names, self.lower, self.upper, strict=True):
            if low >= high:
                raise BadInput(f"limits: {name} has the range {low:g} to {high:g}, which is empty")

    def to_json(self) -> dict[str, Any]:
        """Return the limits as plain JSON."""
        return {
            "names": list(self.names),
            "units": list(self.units),
            **{bound: getattr(self, bound).tolist() for bound in _BOUNDS},
            **({} if self.gap is None else {"gap": self.gap.tolist()}),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> JointLimits:
        """Return the limits that `to_json` gave.

        Raises:
            BadInput: a key is missing or unknown, or a value is of another type.
        """
        if not isinstance(values, Mapping):
            raise BadInput("the limits are no table of names, units and bounds")
        known = {"names", "units", "gap", *_BOUNDS}
        missing = sorted(known - {"gap"} - values.keys())
        unknown = sorted(values.keys() - known)
        if missing or unknown:
            raise BadInput(
                f"the limits lack {', '.join(missing) or 'nothing'}, and have the unknown keys "
                f"{', '.join(unknown) or 'none'}"
            )
        texts: list[tuple[str, ...]] = []
        for key in ("names", "units"):
            if not isinstance(values[key], list) or not all(
                isinstance(text, str) for text in values[key]
            ):
                raise BadInput(f"{key} of the limits are no list of texts")
            texts.append(tuple(values[key]))
        try:
            bounds = {
                bound: np.array(values[bound], np.float64)
                for bound in (*_BOUNDS, "gap")
                if bound in values
            }
        except (TypeError, ValueError, OverflowError) as error:
            raise BadInput(f"a bound of the limits is no list of numbers: {error}") from None
        return cls(texts[0], texts[1], **bounds)

    def cut(self, other: JointLimits) -> JointLimits:
        """Return what both limits allow."""
        self.cut_check(other)
        tighter = {b: np.minimum(getattr(self, b), getattr(other, b)) for b in _BOUNDS}
        tighter["lower"] = np.maximum(self.lower, other.lower)
        gaps = [gap for gap in (self.gap, other.gap) if gap is not None]
        return JointLimits(
            self.names, self.units, **tighter, gap=np.minimum.reduce(gaps) if gaps else None
        )

    def cut_check(self, other: JointLimits) -> None:
        """Refuse limits of other joints or in other units."""
        if self.names != other.names or self.units != other.units:
            raise SpecMismatch(
                f"limits of {', '.join(other.names)} in {', '.join(other.units)} cannot cut those "
                f"of {', '.join(self.names)} in {', '.join(self.units)}; both must be equal"
            )

    def reaching(self, *poses: FloatArray) -> JointLimits:
        """Return limits whose range includes poses, each (A,): a start pose that no demonstration
        was in."""
        lower = np.minimum.reduce([self.lower, *poses])
        upper = np.maximum.reduce([self.upper, *poses])
        return dataclasses.replace(self, lower=lower, upper=upper)

    def freed(self, by: JointLimits) -> JointLimits:
        """Return limits that leave the motion of joints free where other limits do.

        A gripper whose force is capped needs no limit of its speed, and the demonstrations of
        somebody who closed it slowly are none.
        """
        self.cut_check(by)
        free = {
            bound: np.where(getattr(by, bound) >= NO_LIMIT, NO_LIMIT, getattr(self, bound))
            for bound in ("velocity", "acceleration", "jerk")
        }
        return dataclasses.replace(self, **free)

    def narrowed(self, margins: Mapping[str, float]) -> JointLimits:
        """Return limits whose range is shorter at both ends, by unit; other units stay.

        A calibrated range ends at a stop of the arm, where a servo that is told to go on overloads.
        """
        margin = np.array([margins.get(unit, 0.0) for unit in self.units])
        return dataclasses.replace(self, lower=self.lower + margin, upper=self.upper - margin)


CALIBRATION_MARGINS = {"rad": math.radians(3.0), "deg": 3.0}
"""What is cut from each end of a calibrated range, by unit."""


@dataclass(frozen=True)
class CombinedLimits:
    """Limits that several sources allow, and which of them gave each bound.

    Attributes:
        limits: what all of them allow.
        sources: bound to the name of its source for each joint.
    """

    limits: JointLimits
    sources: Mapping[str, tuple[str, ...]]

    def lines(self) -> list[str]:
        """Return a line for each joint, for people: its bounds with their sources."""
        limits, lines = self.limits, []
        for joint, (name, unit) in enumerate(zip(limits.names, limits.units, strict=True)):
            given: dict[str, list[str]] = {}
            for bound in _BOUNDS:
                value = getattr(limits, bound)[joint]
                text = f"any {bound}" if value >= NO_LIMIT else f"{bound} {value:.3g}"
                given.setdefault(self.sources[bound][joint], []).append(text)
            parts = "; ".join(f"{', '.join(texts)} ({who})" for who, texts in given.items())
            lines.append(f"{name} in {unit}: {parts}")
        return lines


def combined_limits(
    sources: Mapping[str, JointLimits | Mapping[str, Mapping[str, float | None]]],
) -> CombinedLimits:
    """Return the tightest bounds of several sources, with the source of each.

    Args:
        sources: name for people ("demonstrations", "calibration", "robot.toml") to limits, the
            first of which has all joints; or to what a person wrote: joint to bound to value,
            where None and what is left out stay.

    Raises:
        BadInput: there are none, a joint or bound is unknown, or two sources leave no range.
        SpecMismatch: joints or units differ.
    """
    given_all = list(sources.items())
    if not given_all or not isinstance(base := given_all[0][1], JointLimits):
        raise BadInput("no limits were given; a robot moves within limits only")
    first, others = given_all[0][0], given_all[1:]
    bounds = {bound: getattr(base, bound).copy() for bound in _BOUNDS}
    who = {bound: [first] * len(base.names) for bound in _BOUNDS}
    gap = base.gap
    for source, given in others:
        if isinstance(given, JointLimits):
            base.cut_check(given)
            if given.gap is not None:
                gap = given.gap if gap is None else np.minimum(gap, given.gap)
            table = {
                name: {bound: float(getattr(given, bound)[joint]) for bound in _BOUNDS}
                for joint, name in enumerate(given.names)
            }
        else:
            table = given
        for name, values in table.items():
            if name not in base.names:
                raise unknown_name(f"joint in the limits of {source}", name, base.names)
            joint = base.names.index(name)
            for bound, value in values.items():
                if bound not in _BOUNDS:
                    raise unknown_name(f"bound of {name} in {source}", bound, _BOUNDS)
                now = bounds[bound][joint]
                if value is not None and (value > now if bound == "lower" else value < now):
                    bounds[bound][joint], who[bound][joint] = value, source
    for joint, name in enumerate(base.names):
        low, high = bounds["lower"][joint], bounds["upper"][joint]
        if low >= high:
            raise BadInput(
                f"{name} has no range: at least {low:.4g} ({who['lower'][joint]}), at most "
                f"{high:.4g} ({who['upper'][joint]}). Is it the right arm, and its calibration?"
            )
    limits = JointLimits(base.names, base.units, **bounds, gap=gap)
    return CombinedLimits(limits, {bound: tuple(names) for bound, names in who.items()})


class DemonstratedLimits:
    """Limits that demonstrations stayed within, learned from one episode after the other."""

    def __init__(self, names: Sequence[str], units: Sequence[str], rate_hz: float) -> None:
        """Begin without an episode; names and units are those of the A actions."""
        self._names, self._units, self._rate_hz = tuple(names), tuple(units), rate_hz
        self._low = np.full(len(names), np.inf)
        self._high = np.full(len(names), -np.inf)
        self._peaks = np.zeros((3, len(names)))
        self._gap: NDArray[np.float64] | None = None

    def add(
        self,
        actions: NDArray[np.floating[Any]],
        measured: NDArray[np.floating[Any]] | None = None,
    ) -> None:
        """Take an episode, which begins at rest, so that its replay stays within the limits.

        Args:
            actions: (T, A).
            measured: (T, A), the joints that were measured at the same ticks, NaN where they were
                not; None where they are not known.

        Raises:
            BadInput: the shape is another.
            NotFinite: an action is not finite.
        """
        values = np.asarray(actions, np.float64)
        if values.ndim != 2 or values.shape[1] != len(self._names):
            raise BadInput(
                f"actions of shape {values.shape} were given, expected (T, {len(self._names)})"
            )
        if not np.all(np.isfinite(values)):
            tick, joint = np.argwhere(~np.isfinite(values))[0]
            raise NotFinite(
                f"{self._names[joint]} is {values[tick, joint]} at tick {tick} of an episode; "
                "`imitact check` names the episode"
            )
        if not len(values):
            return
        self._low = np.minimum(self._low, values.min(0))
        self._high = np.maximum(self._high, values.max(0))
        from_rest = np.concatenate([np.repeat(values[:1], 3, axis=0), values])
        step, bend, jolt = (np.diff(from_rest, order, axis=0) for order in (1, 2, 3))
        # Velocity at the end of a tick, where a stop would begin.
        speeds = np.maximum(np.abs(step[1:]), np.abs(step[1:] + bend / 2))
        for order, slopes in enumerate((speeds, np.abs(bend), np.abs(jolt)), start=1):
            peak = slopes.max(0) * self._rate_hz**order
            self._peaks[order - 1] = np.maximum(self._peaks[order - 1], peak)
        if measured is not None:
            gap = np.nan_to_num(np.abs(values - np.asarray(measured, np.float64))).max(0)
            self._gap = gap if self._gap is None else np.maximum(self._gap, gap)

    def limits(self, factor: float = 1.5) -> JointLimits:
        """Return the limits, widened by a factor.

        Velocity, acceleration and jerk are the largest differences of commanded positions from
        tick to tick; the range is widened by (factor - 1) / 2 of its width at each end.

        Raises:
            BadInput: there was no tick.
        """
        if not np.all(np.isfinite(self._low)):
            raise BadInput("no episode was given; limits are learned from at least one tick")
        # A joint that never moved still gets a range, and a speed at which it can be moved there.
        width = np.maximum(self._high - self._low, 0.02)
        margin = width * (factor - 1) / 2
        least = np.outer((1.0, 10.0, 100.0), width)
        velocity, acceleration, jerk = np.maximum(self._peaks * factor, least)
        # What it takes to let the largest acceleration go adds to the velocity.
        velocity = np.maximum(velocity, self._peaks[0] + self._peaks[1] ** 2 / (2 * jerk))
        gap = self._gap if self._gap is None else np.maximum(self._gap * factor, 0.1 * width)
        return JointLimits(
            self._names,
            self._units,
            self._low - margin,
            self._high + margin,
            velocity,
            acceleration,
            jerk,
            gap,
        )


def demonstrated_limits(
    actions: Iterable[NDArray[np.floating[Any]]],
    names: Sequence[str],
    units: Sequence[str],
    rate_hz: float,
    *,
    factor: float = 1.5,
) -> JointLimits:
    """Return the limits that episodes of actions, each (T, A), stayed within, widened by a factor.

    See `DemonstratedLimits`.
    """
    learned = DemonstratedLimits(names, units, rate_hz)
    for episode in actions:
        learned.add(episode)
    return learned.limits(factor)
