"""Following: how the states of one episode follow their actions, by delay, fit and offset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from imitact.core.ranges import Length, Range, Ranged, Seconds, Share
from imitact.core.types import FloatArray, Spec
from imitact.quality.motion import Floats, aligned, joint_pairs


@dataclass(frozen=True)
class TrackingLimits(Ranged):
    """Limits for how well a state follows its action. Lengths are in rad for joints in rad; for
    other units, a fraction of the usual travel in an episode."""

    lag_s: Annotated[float, Range(0, 60)] = 0.2
    """Largest delay of the state after its action, s; position-controlled arms have 0.04 to 0.1."""

    lag_spread_s: Seconds = 0.05
    """Largest difference between the delays of an episode and those of the dataset, s, over all
    its joints; a larger one suggests lost ticks. At least one and a half ticks, and six standard
    deviations of the other episodes."""

    offset_rad: Length = 0.05
    """Largest offset of a settled state from its action: 3 degrees, 2 cm at a reach of 40 cm; a
    loaded servo has 0.01 to 0.03."""

    error_offset_rad: Length = 0.2
    """Offset, or drift of the offset, from which on it is an error: 11 degrees, more than any load
    causes."""

    settle_s: Seconds = 0.3
    """Time for which an action must stay within `settled_rad` to count as settled, s."""

    settled_rad: Length = 0.03
    """Movement of a settled action; more than the tremor of a hand that holds still."""

    min_travel_rad: Length = 0.1
    """Travel of an action in an episode from which on its delay is measured."""

    min_correlation: Share = 0.7
    """Least correlation of the two speeds at the best delay; below it they are not compared."""

    min_fit: Share = 0.9
    """Least fraction of the variance of a state that its action must explain (R²), in the median
    episode, for the joint to be judged."""

    fit_gain: Annotated[float, Range(1, 1_000_000)] = 1.33
    """Largest ratio between the movements of a state and its action, either way, for the joint to
    be judged; beyond it, the joint is moved by something else, or the two are in different units
    (where the action explains at least 98 %)."""

    gain: Annotated[float, Range(1, 1_000_000)] = 2.0
    """Largest ratio between the movements of a state and its action, either way."""

    max_unexplained_ratio: Share = 0.5
    """A delay is out of range only if it leaves at most this fraction of what the best delay in
    range leaves unexplained (1 - correlation²)."""

    swapped_fit: Share = 0.95
    """Least correlation of two states with the action of the respective other one from which on
    they are swapped."""


@dataclass(frozen=True)
class Delay:
    """How one state follows what it is compared with in one episode.

    Attributes:
        ticks: the best delay, interpolated between ticks.
        correlation: correlation of the two speeds at the best delay.
        unexplained: 1 - correlation² by delay, (L,).
        gain: movement of the state per movement of its action, at the best delay.
        fit: fraction of the variance of the state that the action explains (R²); below 0 where
            they move against each other.
        travel: travel of the action, in scaled units.
    """

    ticks: float
    correlation: float
    unexplained: NDArray[np.float32]
    gain: float
    fit: float
    travel: float


@dataclass(frozen=True)
class Following:
    """What is kept of one episode for its J paired joints.

    Attributes:
        positions: delay against the action, which is a position; None where it hardly moves.
        steps: the same against the sum of all actions before, if actions are steps or speeds.
        offset: median of state minus action over settled ticks, (J,); NaN where there are none.
        max_difference: largest absolute difference of state and action at one tick, (J,).
        swapped: cycles of joints, of which the state of each follows the action of the next (of
            the last, that of the first), as positions.
        swapped_steps: the same for steps.
        excited: whether each action moves enough to be judged, (J,).
    """

    positions: list[Delay | None]
    steps: list[Delay | None]
    offset: Floats
    max_difference: Floats
    swapped: frozenset[tuple[int, ...]]
    swapped_steps: frozenset[tuple[int, ...]]
    excited: NDArray[np.bool_]


def candidate_lags(rate_hz: float, limits: TrackingLimits) -> NDArray[np.int64]:
    """Delays to try, in ticks: from the state before its action to well after it, (L,)."""
    return np.arange(-max(3, round(0.2 * rate_hz)), max(6, round(2.5 * limits.lag_s * rate_hz)) + 1)


def measure_following(
    state: FloatArray,
    action: FloatArray,
    scale: Floats,
    spec: Spec,
    limits: TrackingLimits,
) -> Following:
    """Measure an episode of finite values: state (T, S), action (T, A).

    `scale` has the amount that corresponds to 1 rad in each action, (A,).
    """
    joints = joint_pairs(spec)
    states, actions = ([joint[part] for joint in joints] for part in (0, 1))
    commanded = action[:, actions].astype(np.float64) / scale[actions]
    measured = state[:, states].astype(np.float64) / scale[actions]
    # Where actions are steps, the state is at the sum of those before.
    summed = np.cumsum(commanded, axis=0) - commanded
    excited = np.ptp(commanded, axis=0) >= limits.min_travel_rad
    positions, steps = (
        _delays(measured, given, excited, spec.rate_hz, limits) for given in (commanded, summed)
    )
    # A short episode is one motion, in which joints move alike and follow each other's actions.
    is_short = len(state) <= _too_short(spec.rate_hz, limits)
    lags = range(0 if is_short else round(limits.lag_s * spec.rate_hz) + 1)
    size = scale[actions]
    swapped, swapped_steps = (
        _swapped_joints(measured * size, given * size, lags, excited, limits, max_gain)
        for given, max_gain in ((commanded, limits.fit_gain), (summed, np.inf))
    )
    return Following(
        positions,
        steps,
        offset=_settled_offset(measured, commanded, spec.rate_hz, limits),
        max_difference=np.abs(measured - commanded).max(axis=0),
        swapped=swapped,
        swapped_steps=swapped_steps,
        excited=excited,
    )


def _speed_span(rate_hz: float) -> int:
    """Ticks of 0.06 s, between which speeds are measured: single ticks are mostly noise."""
    return max(1, round(0.06 * rate_hz))


def _too_short(rate_hz: float, limits: TrackingLimits) -> int:
    """Ticks up to which an episode is too short to tell how a state follows an action."""
    return _speed_span(rate_hz) + 4 * int(np.abs(candidate_lags(rate_hz, limits)).max())


def _delays(
    measured: Floats,
    given: Floats,
    excited: NDArray[np.bool_],
    rate_hz: float,
    limits: TrackingLimits,
) -> list[Delay | None]:
    """The delay of each joint; None for those that are not excited, and in short episodes."""
    lags, span = candidate_lags(rate_hz, limits), _speed_span(rate_hz)
    count = measured.shape[1]
    if len(measured) <= _too_short(rate_hz, limits):
        return [None] * count
    asked, moved = (rows[span:] - rows[:-span] for rows in (given, measured))
    correlations = np.array([_correlation(*aligned(asked, moved, int(lag))) for lag in lags])
    found: list[Delay | None] = []
    for joint in range(count):
        correlation = correlations[:, joint]
        if not excited[joint] or np.isnan(correlation).any():
            found.append(None)
            continue
        best = int(np.argmax(correlation))
        ticks = float(lags[best])
        if 0 < best < len(lags) - 1:  # vertex of the parabola through the best three
            before, top, after = correlation[best - 1 : best + 2]
            curvature = before - 2 * top + after
            ticks += 0.5 * (before - after) / curvature if curvature < 0 else 0.0
        one, other = aligned(given[:, joint], measured[:, joint], int(lags[best]))
        level = float(_correlation(one[:, None], other[:, None])[0])
        if np.isnan(level):
            found.append(None)
            continue
        found.append(
            Delay(
                ticks=ticks,
                correlation=float(correlation[best]),
                unexplained=(1 - np.square(np.maximum(correlation, 0.0))).astype(np.float32),
                gain=level * float(other.std() / one.std()),
                fit=level * abs(level),
                travel=float(np.ptp(given[:, joint])),
            )
        )
    return found


def _correlation(one: Floats, other: Floats) -> Floats:
    """Correlation of each column of (T, J) with the same of another; NaN where one is constant."""
    one, other = one - one.mean(axis=0), other - other.mean(axis=0)
    size = np.sqrt(np.square(one).sum(axis=0) * np.square(other).sum(axis=0))
    return np.divide(
        (one * other).sum(axis=0), size, out=np.full(len(size), np.nan), where=size > 0
    )


def _swapped_joints(
    measured: Floats,
    given: Floats,
    lags: Sequence[int],
    excited: NDArray[np.bool_],
    limits: TrackingLimits,
    max_gain: float,
) -> frozenset[tuple[int, ...]]:
    """Cycles of joints of which the state of each follows the action of the next, not its own.

    Args:
        measured: states of the joints, (T, J), in their own units.
        given: what their actions ask for, (T, J), in their own units.
        lags: delays at which they are compared, in ticks.
        excited: whether each action moves enough, (J,).
        limits: the limits.
        max_gain: largest ratio between the movements of a state and an action that belong together.
    """
    count = measured.shape[1]
    best = np.full((count, count), -1.0)  # correlation by state and action
    for lag in lags:
        one, other = aligned(given, measured, lag)
        if len(one) < 10:
            break
        one, other = one - one.mean(axis=0), other - other.mean(axis=0)
        size = np.sqrt(np.square(other).sum(axis=0)[:, None] * np.square(one).sum(axis=0)[None])
        best = np.maximum(best, np.divide(other.T @ one, size, out=best.copy(), where=size > 0))
    ratio = np.maximum(measured.std(axis=0), 1e-12)[:, None] / np.maximum(given.std(axis=0), 1e-12)
    is_alike = (ratio <= max_gain) & (ratio >= 1 / max_gain)
    fits = (best >= limits.swapped_fit) & is_alike & excited
    own = np.diag((best >= 1 - 4 * (1 - limits.swapped_fit)) & is_alike)
    fits &= ~own & ~own[:, None]
    leads_to = {
        int(j): int(np.argmax(np.where(fits[j], best[j], -1))) for j in np.flatnonzero(fits.any(1))
    }
    cycles = set()
    for start in leads_to:
        cycle = [int(start)]
        while (after := leads_to.get(cycle[-1])) is not None and after not in cycle:
            cycle.append(after)
        if after == start and start == min(cycle):
            cycles.add(tuple(cycle))
    return frozenset(cycles)


def _settled_offset(
    measured: Floats, commanded: Floats, rate_hz: float, limits: TrackingLimits
) -> Floats:
    """Median of measured minus commanded where the command has settled, (J,)."""
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
