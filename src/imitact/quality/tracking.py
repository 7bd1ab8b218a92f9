"""How the state follows its action: how late, and how far beside it.

A leader arm whose calibration has drifted against its follower shows here and nowhere in the loss:
a network learns a wrong action as readily as a right one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from imitact.core.types import FloatArray, Spec
from imitact.quality.findings import Finding, Severity
from imitact.quality.motion import Floats, is_gripper, pairs

_SIGMA = 1.4826
"""Standard deviations in a median absolute deviation, of normal values."""


@dataclass(frozen=True)
class TrackingLimits:
    """How well a state must follow its action. In rad for joints in rad; for other units in parts
    of how far the value usually goes in an episode."""

    lag_s: float = 0.2
    """Delay of the state behind its action, s; position-controlled arms have 0.04 to 0.1."""

    lag_spread_s: float = 0.1
    """How far an episode's delay may be from that of the dataset, s; more, and ticks were lost."""

    offset_rad: float = 0.05
    """How far a settled state may be beside its action: 3 degrees, 2 cm at an arm's reach of 40 cm;
    a servo that carries a load has 0.01 to 0.03."""

    far_offset_rad: float = 0.2
    """From here on an offset, or its drift, is an error: 11 degrees, no servo's load."""

    settle_s: float = 0.3
    """An action has settled if it has kept to `settled_rad` for so long, s."""

    settled_rad: float = 0.03
    """And this is how far it may have moved in that time; a hand that holds still trembles less."""

    moves_rad: float = 0.1
    """An action must go this far in an episode for its delay to be told."""

    likeness: float = 0.7
    """Least correlation of the two speeds at the best delay; less, and they are not one joint's."""

    gain: float = 2.0
    """How many times as far, or as little, a state may move as its action."""

    doubt: float = 0.5
    """The best delay may leave at most this part of what another delay, which would be in order,
    leaves unexplained (1 - correlation²); more, and the delay is not told."""


@dataclass(frozen=True)
class Tracking:
    """What one episode tells of each paired joint (J): some sums, whatever its length.

    products: (L, J) sum over ticks of action speed times state speed, a delay a row.
    squares:  (L, 2, J) sums of the squares of the two.
    offset:   (J,) median of state less action where the action has settled; NaN where it never has.
    beside:   (J,) largest absolute difference of state and action at one tick.
    """

    products: Floats
    squares: Floats
    offset: Floats
    beside: Floats


def delays(rate_hz: float, limits: TrackingLimits) -> NDArray[np.int64]:
    """The delays in ticks that are tried: the state before its action, and up to well behind."""
    return np.arange(-max(3, round(0.2 * rate_hz)), max(6, round(2.5 * limits.lag_s * rate_hz)) + 1)


def track(
    state: FloatArray,
    action: FloatArray,
    scale: tuple[Floats, Floats],
    spec: Spec,
    limits: TrackingLimits,
) -> Tracking:
    """Of one episode of finite numbers; `scale` is what counts as 1 rad, from `scales`."""
    joints = pairs(spec)
    lags = delays(spec.rate_hz, limits)
    at_s, at_a = ([joint[side] for joint in joints] for side in (0, 1))
    commanded = action[:, at_a].astype(np.float64) / scale[1][at_a]
    measured = state[:, at_s].astype(np.float64) / scale[1][at_a]
    products = np.zeros((len(lags), len(joints)))
    squares = np.zeros((len(lags), 2, len(joints)))
    # Over three ticks or 0.06 s: single differences are mostly the encoder's noise.
    over = max(1, round(0.06 * spec.rate_hz))
    if len(state) > over + 4 * int(np.abs(lags).max()) and joints:
        speeds = [rows[over:] - rows[:-over] for rows in (commanded, measured)]
        speeds[0][:, np.ptp(commanded, axis=0) < limits.moves_rad] = 0.0
        for row, lag in enumerate(lags):
            a, s = _shifted(speeds[0], speeds[1], int(lag))
            a, s = a - a.mean(axis=0), s - s.mean(axis=0)
            products[row] = (a * s).sum(axis=0)
            squares[row] = np.square(a).sum(axis=0), np.square(s).sum(axis=0)
        squares[:, :, ~np.any(speeds[0], axis=0)] = 0.0
    beside = np.abs(measured - commanded).max(axis=0)
    return Tracking(products, squares, _settled(measured, commanded, spec.rate_hz, limits), beside)


def _shifted(one: Floats, other: Floats, lag: int) -> tuple[Floats, Floats]:
    """one[t] beside other[t + lag], for every t at which there are both."""
    if lag >= 0:
        return one[: len(one) - lag], other[lag:]
    return one[-lag:], other[:lag]


def _settled(measured: Floats, commanded: Floats, rate_hz: float, limits: TrackingLimits) -> Floats:
    """(J,) the median of measured less commanded where the command has kept still."""
    count = commanded.shape[1]
    window = max(2, round(limits.settle_s * rate_hz))
    offset = np.full(count, np.nan)
    if len(commanded) < 2 * window:
        return offset
    moved = np.ptp(sliding_window_view(commanded, window, axis=0), axis=-1)
    apart = (measured - commanded)[window - 1 :]
    for joint in range(count):
        still = moved[:, joint] <= limits.settled_rad
        if still.sum() >= window:
            offset[joint] = np.median(apart[still, joint])
    return offset


@dataclass(frozen=True)
class Delay:
    """A joint's delay in one episode: the lag in ticks, to a fraction of one.

    likeness:    correlation of the two speeds at that delay.
    gain:        how far the state moves for a unit of its action, at that delay.
    unexplained: 1 - correlation² by delay, (L,).
    """

    ticks: float
    likeness: float
    gain: float
    unexplained: NDArray[np.float32]


def delay(products: Floats, squares: Floats, lags: NDArray[np.int64]) -> Delay | None:
    """From the sums of one joint, (L,) and (L, 2); None where it never moved."""
    size = np.sqrt(squares[:, 0] * squares[:, 1])
    if not np.all(size > 0):
        return None
    likeness = products / size
    best = int(np.argmax(likeness))
    ticks = float(lags[best])
    if 0 < best < len(lags) - 1:  # the top of the parabola through the best three
        before, top, after = likeness[best - 1 : best + 2]
        bend = before - 2 * top + after
        ticks += 0.5 * (before - after) / bend if bend < 0 else 0.0
    gain = float(products[best] / squares[best, 0])
    unexplained = (1 - np.square(np.maximum(likeness, 0.0))).astype(np.float32)
    return Delay(ticks, float(likeness[best]), gain, unexplained)


class Followers:
    """Gathers the Tracking of every episode, then tells what is wrong with it."""

    def __init__(self, spec: Spec, scale: tuple[Floats, Floats], limits: TrackingLimits) -> None:
        self._spec, self._limits = spec, limits
        self._joints = pairs(spec)
        self._scale = scale[1]
        self._lags = delays(spec.rate_hz, limits)
        self._beside = np.zeros(len(self._joints))
        self._episodes: list[int] = []
        self._offsets: list[Floats] = []
        self._delays: list[list[Delay | None]] = []

    def add(self, index: int, tracking: Tracking) -> None:
        self._beside = np.maximum(self._beside, tracking.beside)
        self._episodes.append(index)
        self._offsets.append(tracking.offset)
        self._delays.append(
            [
                delay(tracking.products[:, j], tracking.squares[:, :, j], self._lags)
                for j in range(len(self._joints))
            ]
        )

    def findings(self) -> list[Finding]:
        found: list[Finding] = []
        for joint, (_, a) in enumerate(self._joints):
            own = {
                index: row[joint]
                for index, row in zip(self._episodes, self._delays, strict=True)
                if row[joint] is not None
            }
            own = {index: delay for index, delay in own.items() if delay}
            if not own:
                continue  # never seen to move: nothing can be told
            if np.median([d.likeness for d in own.values()]) < self._limits.likeness:
                continue  # not one joint's numbers
            found += self._of_delays(joint, a, own)
            gain = float(np.median([d.gain for d in own.values()]))
            if is_gripper(self._spec, a):
                continue
            if not 1 / self._limits.gain <= gain <= self._limits.gain:
                found.append(self._of_gain(a, gain))
            else:
                found += self._of_offsets(a, np.array([row[joint] for row in self._offsets]))
        return _gathered(found)

    def _of_gain(self, a: int, gain: float) -> Finding:
        return Finding(
            "tracking-gain",
            "warning",
            f"its state moves {gain:.3g} times as far as its action, expected 1",
            "Are the two in different units, or scaled otherwise? Such actions can be learned, "
            "and their offset cannot be told",
            part=self._spec.action_names[a],
            value=gain,
        )

    # --- delays ---

    def _of_delays(self, joint: int, a: int, own: dict[int, Delay]) -> list[Finding]:
        rate, limits = self._spec.rate_hz, self._limits
        name = self._spec.action_names[a]
        if self._beside[joint] <= 1e-6:
            return [
                Finding(
                    "action-is-state",
                    "warning",
                    "its action is its state at the same tick, in every episode",
                    "Such actions tell where the arm is, not where it was sent: record what was "
                    "commanded, or take the next tick's state",
                    part=name,
                )
            ]
        # Medians of the episodes, not one correlation over all: a jump in one would decide it.
        usual = float(np.median([d.ticks for d in own.values()]))
        leading = {index for index, d in own.items() if self._leads(d)}
        all_lead = len(leading) > len(own) / 2
        found = []
        if all_lead:
            found.append(
                Finding(
                    "action-late",
                    "error",
                    f"its state moves {-usual:.1f} ticks before its action does",
                    "Actions were stored late against states: shift them, or record again with "
                    "the action that was commanded at the tick of the state",
                    part=name,
                    value=usual / rate,
                    unit="s",
                )
            )
        elif usual / rate > limits.lag_s and (
            sum(self._lags_behind(d) for d in own.values()) > len(own) / 2
        ):
            found.append(
                Finding(
                    "tracking-lag",
                    "warning",
                    f"its state follows its action {usual / rate:.3f} s late "
                    f"({usual:.1f} ticks), expected at most {limits.lag_s:g} s",
                    "Look for a slow controller, smoothed commands or states that are read late",
                    part=name,
                    value=usual / rate,
                    unit="s",
                )
            )
        for index, single in own.items():
            late = index in leading
            apart = (single.ticks - usual) / rate
            far = abs(apart) > limits.lag_spread_s and self._differs(single, usual)
            if single.likeness < limits.likeness or not (far or (late and not all_lead)):
                continue
            found.append(
                Finding(
                    "action-late" if late else "lag-differs",
                    "error" if late else "warning",
                    f"its state follows its action by {single.ticks:.1f} ticks, in the other "
                    f"episodes by {usual:.1f}",
                    "Ticks were lost, or actions and states were joined wrongly; leave the episode "
                    "out or record it again",
                    index,
                    part=name,
                    value=apart,
                    unit="s",
                    fix="drop" if late else "",
                )
            )
        return found

    def _leads(self, own: Delay) -> bool:
        """Whether the state surely moves before its action."""
        fine = self._lags >= 0
        return own.ticks <= -0.5 and self._clearly(own, own.unexplained[fine], self._limits.doubt)

    def _lags_behind(self, own: Delay) -> bool:
        """Whether a delay in order explains the speeds less well, if only a little: a slow servo
        smears what it follows, so that no delay explains it much better than the next."""
        fine = (self._lags >= 0) & (self._lags <= self._limits.lag_s * self._spec.rate_hz)
        return self._clearly(own, own.unexplained[fine], 0.95)

    def _differs(self, own: Delay, usual: float) -> bool:
        near = np.abs(self._lags - usual) <= 1
        return self._clearly(own, own.unexplained[near], self._limits.doubt)

    def _clearly(self, own: Delay, otherwise: NDArray[np.float32], doubt: float) -> bool:
        # Where even a wrong delay leaves nothing unexplained, as in one exponential approach,
        # every delay fits and none is told.
        least = float(otherwise.min())
        return least > 0.001 and 1 - own.likeness**2 <= doubt * least

    # --- offsets ---

    def _of_offsets(self, a: int, column: Floats) -> list[Finding]:
        known = np.isfinite(column)
        offsets, numbers = column[known], np.array(self._episodes)[known]
        if not len(offsets):
            return []
        limits = self._limits
        usual = float(np.median(offsets))
        found = []
        if abs(usual) > limits.offset_rad:
            found.append(
                Finding(
                    "tracking-offset",
                    self._severity(usual),
                    f"its settled state is {self._said(usual, a)} beside its action (median of "
                    f"{len(offsets)} episodes), expected at most "
                    f"{self._said(limits.offset_rad, a)}",
                    "Calibrate leader and follower against each other, and see what the arm "
                    "carries; a copy cannot know which of the two is right",
                    part=self._spec.action_names[a],
                    value=usual * float(self._scale[a]),
                    unit=self._spec.action_units[a],
                )
            )
        drift = self._drift(a, offsets, numbers)
        if drift:
            explained = drift.value is not None and abs(usual * self._scale[a]) <= abs(drift.value)
            return [drift] if explained else [*found, drift]
        sigma = _SIGMA * float(np.median(np.abs(offsets - usual)))
        for index, offset in zip(numbers, offsets, strict=True):
            apart = float(offset) - usual
            if len(offsets) >= 5 and abs(apart) > max(2 * limits.offset_rad, 6 * sigma):
                found.append(
                    Finding(
                        "offset-differs",
                        self._severity(apart),
                        f"its settled state is {self._said(float(offset), a)} beside its action, "
                        f"in the other episodes {self._said(usual, a)}",
                        "Was the arm calibrated, bumped or loaded before it? Leave the episode "
                        "out, or record it again",
                        int(index),
                        part=self._spec.action_names[a],
                        value=apart * float(self._scale[a]),
                        unit=self._spec.action_units[a],
                    )
                )
        return found

    def _drift(self, a: int, offsets: Floats, numbers: NDArray[np.int64]) -> Finding | None:
        """Whether the offset goes one way over the episodes, slowly or at once."""
        if len(offsets) < 8:
            return None
        slope = theil_sen(numbers.astype(np.float64), offsets)
        drift = slope * float(numbers[-1] - numbers[0])
        place, step = _step(offsets)
        sudden = abs(step) > abs(drift)
        size = step if sudden else drift
        if abs(size) <= self._limits.offset_rad:
            return None
        if sudden:
            rest = np.concatenate([
                offsets[:place] - np.median(offsets[:place]),
                offsets[place:] - np.median(offsets[place:]),
            ])  # fmt: skip
        else:
            line = slope * numbers
            rest = offsets - line - np.median(offsets - line)
        sigma = _SIGMA * float(np.median(np.abs(rest)))
        if abs(size) <= 4 * sigma:
            return None
        words = (
            f"its settled state moves by {self._said(size, a)} against its action from episode "
            f"{int(numbers[place])} on"
            if sudden
            else f"its settled state drifts by {self._said(size, a)} against its action from "
            f"episode {int(numbers[0])} to {int(numbers[-1])}"
        )
        return Finding(
            "tracking-drift",
            self._severity(size),
            f"{words}, expected at most {self._said(self._limits.offset_rad, a)}",
            "Leader and follower lost their common calibration while recording: calibrate, and "
            "record the later episodes again",
            int(numbers[place]) if sudden else None,
            part=self._spec.action_names[a],
            value=size * float(self._scale[a]),
            unit=self._spec.action_units[a],
        )

    def _severity(self, offset: float) -> Severity:
        return "error" if abs(offset) > self._limits.far_offset_rad else "warning"

    def _said(self, amount: float, a: int) -> str:
        unit = self._spec.action_units[a]
        value = amount * float(self._scale[a])
        return f"{value:.3g}" if unit in ("1", "unknown") else f"{value:.3g} {unit}"


def _gathered(findings: Sequence[Finding]) -> list[Finding]:
    """What concerns the delays of several joints of one episode, or of all, is one finding: that
    of the joint that is farthest off, with the number of the others."""
    groups: dict[tuple[str, int | None], list[Finding]] = {}
    rest = []
    for finding in findings:
        if finding.kind in _DELAYS:
            groups.setdefault((finding.kind, finding.episode), []).append(finding)
        else:
            rest.append(finding)
    told = []
    for group in groups.values():
        worst = max(group, key=lambda f: abs(f.value or 0.0))
        others = [f.part for f in group if f is not worst]
        words = f"; the same of {', '.join(others)}" if others else ""
        told.append(replace(worst, what=worst.what + words))
    return [*told, *rest]


_DELAYS = {"action-late", "action-is-state", "tracking-lag", "lag-differs"}


def theil_sen(x: Floats, y: Floats) -> float:
    """The median slope of all pairs of points, which a third of wild points cannot turn.

    Of many points, some 300 that are spread evenly.
    """
    if len(x) > 300:
        kept = np.round(np.linspace(0, len(x) - 1, 300)).astype(int)
        x, y = x[kept], y[kept]
    one, other = np.triu_indices(len(x), 1)
    apart = x[other] - x[one]
    return float(np.median((y[other] - y[one])[apart != 0] / apart[apart != 0]))


def _step(values: Sequence[float] | Floats) -> tuple[int, float]:
    """(place, height): the one step that fits best, between places place - 1 and place.

    Three values at least stay on either side, so that no single wild one makes a step.
    """
    values = np.asarray(values)
    best, place, height = -1.0, 0, 0.0
    for at in np.unique(np.round(np.linspace(3, len(values) - 3, 300)).astype(int)):
        before, after = values[:at], values[at:]
        weight = len(before) * len(after) / len(values)
        if (fit := weight * float(after.mean() - before.mean()) ** 2) > best:
            best, place = fit, int(at)
            height = float(np.median(after) - np.median(before))
    return place, height
