"""Tracking check: the delay and the offset between the state of a joint and its action.

A leader arm whose calibration has drifted against its follower shows here and nowhere in the loss:
a network learns a wrong action as easily as a right one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from imitact.core.types import FloatArray, Spec
from imitact.quality import motion
from imitact.quality.findings import KINDS, Finding
from imitact.quality.motion import MAD_TO_SIGMA, Floats, amount_text, is_gripper, joint_pairs


@dataclass(frozen=True)
class TrackingLimits:
    """Limits for how well a state follows its action. Lengths are in rad for joints in rad; for
    other units, a fraction of the usual travel in an episode."""

    lag_s: float = 0.2
    """Largest delay of the state after its action, s; position-controlled arms have 0.04 to 0.1."""

    lag_spread_s: float = 0.1
    """Largest difference between the delay of an episode and that of the dataset, s; a larger one
    suggests lost ticks."""

    offset_rad: float = 0.05
    """Largest offset of a settled state from its action: 3 degrees, 2 cm at a reach of 40 cm; a
    loaded servo has 0.01 to 0.03."""

    error_offset_rad: float = 0.2
    """Offset, or drift of the offset, from which on it is an error: 11 degrees, more than any load
    causes."""

    settle_s: float = 0.3
    """Time for which an action must stay within `settled_rad` to count as settled, s."""

    settled_rad: float = 0.03
    """Movement of a settled action; more than the tremor of a hand that holds still."""

    min_travel_rad: float = 0.1
    """Travel of an action in an episode from which on its delay is measured."""

    min_correlation: float = 0.7
    """Least correlation of the two speeds at the best delay; below it they are not compared."""

    gain: float = 2.0
    """Largest ratio between the movements of a state and its action, either way."""

    max_unexplained_ratio: float = 0.5
    """A delay is out of range only if it leaves at most this fraction of what the best delay in
    range leaves unexplained (1 - correlation²)."""


def _settled_offset(
    measured: Floats, commanded: Floats, rate_hz: float, limits: TrackingLimits
) -> Floats:
    """Median of measured minus commanded where the command has settled, (J,); else NaN."""
    count = commanded.shape[1]
    window = max(2, round(limits.settle_s * rate_hz))
    offset = np.full(count, np.nan)
    if len(commanded) < 2 * window:
        return offset
    moved = np.ptp(sliding_window_view(commanded, window, axis=0), axis=-1)
    difference = (measured - commanded)[window - 1 :]
    for joint in range(count):
        still = moved[:, joint] <= limits.settled_rad
        if still.sum() >= window:
            offset[joint] = np.median(difference[still, joint])
    return offset


@dataclass(frozen=True)
class Delay:
    """Delay of a joint in one episode.

    Attributes:
        ticks: the best delay, interpolated between ticks.
        correlation: of the two speeds, at the best delay.
        gain: movement of the state per movement of its action, at the best delay.
        unexplained: 1 - correlation² by delay, (L,).
    """

    ticks: float
    correlation: float
    gain: float
    unexplained: NDArray[np.float32]


def joint_delays(
    commanded: Floats,
    measured: Floats,
    lags: NDArray[np.int64],
    rate_hz: float,
    min_travel_rad: float,
) -> list[Delay | None]:
    """Delay of each of J joints in an episode, from its scaled actions and states, (T, J).

    None where an action never moves, or the episode is too short.
    """
    count = commanded.shape[1]
    # Differences over 0.06 s: those of single ticks are mostly encoder noise.
    span = max(1, round(0.06 * rate_hz))
    if len(commanded) <= span + 4 * int(np.abs(lags).max()):
        return [None] * count
    products, squares = np.zeros((len(lags), count)), np.zeros((len(lags), 2, count))
    speeds = [rows[span:] - rows[:-span] for rows in (commanded, measured)]
    speeds[0][:, np.ptp(commanded, axis=0) < min_travel_rad] = 0.0
    for row, lag in enumerate(lags):
        a, s = motion.aligned(speeds[0], speeds[1], int(lag))
        a, s = a - a.mean(axis=0), s - s.mean(axis=0)
        products[row] = (a * s).sum(axis=0)
        squares[row] = np.square(a).sum(axis=0), np.square(s).sum(axis=0)
    return [_best_delay(products[:, j], squares[:, :, j], lags) for j in range(count)]


def _best_delay(products: Floats, squares: Floats, lags: NDArray[np.int64]) -> Delay | None:
    """Delay of a joint, from the sums of products (L,) and of squares (L, 2) of its two speeds."""
    size = np.sqrt(squares[:, 0] * squares[:, 1])
    if not np.all(size > 0):
        return None
    correlation = products / size
    best = int(np.argmax(correlation))
    ticks = float(lags[best])
    if 0 < best < len(lags) - 1:  # vertex of the parabola through the best three
        before, top, after = correlation[best - 1 : best + 2]
        curvature = before - 2 * top + after
        ticks += 0.5 * (before - after) / curvature if curvature < 0 else 0.0
    gain = float(products[best] / squares[best, 0])
    unexplained = (1 - np.square(np.maximum(correlation, 0.0))).astype(np.float32)
    return Delay(ticks, float(correlation[best]), gain, unexplained)


class TrackingCheck:
    """Collects delays and offsets of all episodes of a dataset, then compares them."""

    def __init__(self, spec: Spec, scale: tuple[Floats, Floats], limits: TrackingLimits) -> None:
        self._spec, self._limits = spec, limits
        self._joints = joint_pairs(spec)
        self._scale = scale[1]
        # Delays to try, in ticks: from the state before its action to well after it, (L,).
        earliest, latest = round(0.2 * spec.rate_hz), round(2.5 * limits.lag_s * spec.rate_hz)
        self._lags = np.arange(-max(3, earliest), max(6, latest) + 1)
        self._max_difference = np.zeros(len(self._joints))
        self._episodes: list[int] = []
        self._offsets: list[Floats] = []
        self._delays: list[list[Delay | None]] = []

    def add(self, index: int, state: FloatArray, action: FloatArray) -> None:
        """Add an episode of finite values."""
        states, actions = ([joint[part] for joint in self._joints] for part in (0, 1))
        commanded = action[:, actions].astype(np.float64) / self._scale[actions]
        measured = state[:, states].astype(np.float64) / self._scale[actions]
        difference = np.abs(measured - commanded).max(axis=0)
        self._max_difference = np.maximum(self._max_difference, difference)
        self._episodes.append(index)
        rate_hz, limits = self._spec.rate_hz, self._limits
        self._offsets.append(_settled_offset(measured, commanded, rate_hz, limits))
        delays = joint_delays(commanded, measured, self._lags, rate_hz, limits.min_travel_rad)
        self._delays.append(delays)

    def findings(self) -> list[Finding]:
        found: list[Finding] = []
        for joint, (_, a) in enumerate(self._joints):
            rows = zip(self._episodes, self._delays, strict=True)
            delays = {index: delay for index, row in rows if (delay := row[joint]) is not None}
            if not delays:
                continue  # it never moved
            correlation = np.median([d.correlation for d in delays.values()])
            if correlation < self._limits.min_correlation:
                continue  # state and action are not of the same joint
            found += self._inspect_delays(joint, a, delays)
            gain = float(np.median([d.gain for d in delays.values()]))
            if is_gripper(self._spec, a):
                continue
            if not 1 / self._limits.gain <= gain <= self._limits.gain:
                text = f"its state moves {gain:.3g} times as far as its action, expected 1"
                name = self._spec.action_names[a]
                found.append(Finding.of("tracking-gain", text, part=name, value=gain))
            else:
                found += self._inspect_offsets(a, np.array([row[joint] for row in self._offsets]))
        return _merged_joints(found)

    # --- delays ---

    def _inspect_delays(self, joint: int, a: int, delays: dict[int, Delay]) -> Iterator[Finding]:
        rate_hz, limits = self._spec.rate_hz, self._limits
        name = self._spec.action_names[a]
        if self._max_difference[joint] <= 1e-6:
            text = "its action equals its state at the same tick, in every episode"
            yield Finding.of("action-is-state", text, part=name)
            return
        # The median over episodes, because one jump could dominate a correlation over all of them.
        usual = float(np.median([d.ticks for d in delays.values()]))
        leading = {
            index
            for index, d in delays.items()
            if d.ticks <= -0.5 and self._explains_better(d, self._lags >= 0)
        }
        most_lead = len(leading) > len(delays) / 2
        usual_s = usual / rate_hz
        in_range = (self._lags >= 0) & (self._lags <= limits.lag_s * rate_hz)
        # A small margin is enough: a slow servo smooths its command, so that no delay explains the
        # speeds much better than the next one.
        behind = sum(self._explains_better(d, in_range, 0.95) for d in delays.values())
        if most_lead:
            text = f"its state moves {-usual:.1f} ticks before its action does"
            yield Finding.of("action-late", text, part=name, value=usual_s, unit="s")
        elif usual_s > limits.lag_s and behind > len(delays) / 2:
            text = (
                f"its state follows its action {usual_s:.3f} s late ({usual:.1f} ticks), expected "
                f"at most {limits.lag_s:g} s"
            )
            yield Finding.of("tracking-lag", text, part=name, value=usual_s, unit="s")
        for index, delay in delays.items():
            leads = index in leading
            kind = "action-late" if leads else "lag-differs"
            difference_s = (delay.ticks - usual) / rate_hz
            differs = abs(difference_s) > limits.lag_spread_s and self._explains_better(
                delay, np.abs(self._lags - usual) <= 1
            )
            if delay.correlation < limits.min_correlation or not (
                differs or (leads and not most_lead)
            ):
                continue
            text = (
                f"its state follows its action by {delay.ticks:.1f} ticks, in the other "
                f"episodes by {usual:.1f}"
            )
            of = {"part": name, "value": difference_s, "unit": "s"}
            yield Finding.of(kind, text, index, remedy=KINDS["lag-differs"].remedy, **of)

    def _explains_better(
        self, delay: Delay, others: NDArray[np.bool_], max_ratio: float | None = None
    ) -> bool:
        """Whether the best delay leaves less unexplained than any of `others`, a mask (L,)."""
        # If even a wrong delay leaves nothing unexplained, as in one exponential approach, every
        # delay fits and none can be measured.
        least = float(delay.unexplained[others].min())
        max_ratio = self._limits.max_unexplained_ratio if max_ratio is None else max_ratio
        return least > 0.001 and 1 - delay.correlation**2 <= max_ratio * least

    # --- offsets ---

    def _inspect_offsets(self, a: int, column: Floats) -> list[Finding]:
        known = np.isfinite(column)
        offsets, numbers = column[known], np.array(self._episodes)[known]
        if not len(offsets):
            return []
        limits = self._limits
        usual = float(np.median(offsets))
        found = []
        if abs(usual) > limits.offset_rad:
            text = (
                f"its settled state is off its action by {self._amount(usual, a)} (median of "
                f"{len(offsets)} episodes), expected at most {self._amount(limits.offset_rad, a)}"
            )
            found.append(Finding.of("tracking-offset", text, **self._fields(a, usual)))
        drift = self._drift(a, offsets, numbers)
        if drift:
            explained = drift.value is not None and abs(usual * self._scale[a]) <= abs(drift.value)
            return [drift] if explained else [*found, drift]
        sigma = MAD_TO_SIGMA * float(np.median(np.abs(offsets - usual)))
        for index, offset in zip(numbers, offsets, strict=True):
            difference = float(offset) - usual
            if len(offsets) >= 5 and abs(difference) > max(2 * limits.offset_rad, 6 * sigma):
                text = (
                    f"its settled state is off its action by {self._amount(float(offset), a)}, "
                    f"in the other episodes by {self._amount(usual, a)}"
                )
                of = self._fields(a, difference)
                found.append(Finding.of("offset-differs", text, int(index), **of))
        return found

    def _drift(self, a: int, offsets: Floats, numbers: NDArray[np.int64]) -> Finding | None:
        """Find an offset that changes over the episodes, gradually or in one step."""
        if len(offsets) < 8:
            return None
        slope = theil_sen_slope(numbers.astype(np.float64), offsets)
        first, last = int(numbers[0]), int(numbers[-1])
        drift = slope * float(last - first)
        place, step = _largest_step(offsets)
        is_sudden = abs(step) > abs(drift)
        size = step if is_sudden else drift
        if abs(size) <= self._limits.offset_rad:
            return None
        if is_sudden:
            parts = (offsets[:place], offsets[place:])
            rest = np.concatenate([part - np.median(part) for part in parts])
        else:
            line = slope * numbers
            rest = offsets - line - np.median(offsets - line)
        sigma = MAD_TO_SIGMA * float(np.median(np.abs(rest)))
        if abs(size) <= 4 * sigma:
            return None
        episode = int(numbers[place]) if is_sudden else None
        verb, when = ("moves", f"{episode} on") if is_sudden else ("drifts", f"{first} to {last}")
        text = (
            f"its settled state {verb} by {self._amount(size, a)} against its action from episode "
            f"{when}, expected at most {self._amount(self._limits.offset_rad, a)}"
        )
        return Finding.of("tracking-drift", text, episode, **self._fields(a, size))

    def _fields(self, a: int, offset: float) -> dict[str, Any]:
        """Severity, joint and value, in the unit of the joint, of a finding about an offset."""
        return {
            "severity": "error" if abs(offset) > self._limits.error_offset_rad else "warning",
            "part": self._spec.action_names[a],
            "value": offset * float(self._scale[a]),
            "unit": self._spec.action_units[a],
        }

    def _amount(self, amount: float, a: int) -> str:
        return amount_text(amount, float(self._scale[a]), self._spec.action_units[a])


_DELAY_KINDS = {"action-late", "action-is-state", "tracking-lag", "lag-differs"}


def _merged_joints(findings: Sequence[Finding]) -> list[Finding]:
    """Merge the delays of several joints into that of the worst joint, which lists the others."""
    groups: dict[tuple[str, int | None], list[Finding]] = {}
    others = []
    for finding in findings:
        if finding.kind in _DELAY_KINDS:
            groups.setdefault((finding.kind, finding.episode), []).append(finding)
        else:
            others.append(finding)
    merged = []
    for group in groups.values():
        worst = max(group, key=lambda f: abs(f.value or 0.0))
        joints = [f.part for f in group if f is not worst]
        also = f"; the same for {', '.join(joints)}" if joints else ""
        merged.append(replace(worst, what=worst.what + also))
    return [*merged, *others]


def theil_sen_slope(x: Floats, y: Floats) -> float:
    """Median slope over all pairs of points, robust to nearly a third of outliers.

    Of more than 300 points, 300 evenly spaced ones are used.
    """
    if len(x) > 300:
        kept = np.round(np.linspace(0, len(x) - 1, 300)).astype(int)
        x, y = x[kept], y[kept]
    first, second = np.triu_indices(len(x), 1)
    dx, dy = x[second] - x[first], y[second] - y[first]
    return float(np.median(dy[dx != 0] / dx[dx != 0]))


def _largest_step(values: Floats) -> tuple[int, float]:
    """The step function that fits best: its place, before values[place], and its height.

    At least three values are on either side, so that a single outlier is not a step.
    """
    best, place, height = -1.0, 0, 0.0
    for at in np.unique(np.round(np.linspace(3, len(values) - 3, 300)).astype(int)):
        before, after = values[:at], values[at:]
        weight = len(before) * len(after) / len(values)
        if (fit := weight * float(after.mean() - before.mean()) ** 2) > best:
            best, place = fit, int(at)
            height = float(np.median(after) - np.median(before))
    return place, height
