"""Jump check: values that no motion explains: one-tick spikes, counters that run over, joined
episodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imitact.core.types import FloatArray, Spec
from imitact.quality.findings import Finding
from imitact.quality.motion import Floats, is_hand, shown_unit

_EVENT_TICKS = 3
"""Jumps at most this many ticks apart are one event, such as the two sides of a spike."""

_TURNS = (360.0, 2 * np.pi, 4096.0, 65536.0)
"""Sizes at which counters of angles run over: degrees, rad, counts."""


@dataclass(frozen=True)
class JumpLimits:
    """Limits for a step of one tick that neither the step before nor the one after announces."""

    least_rad: float = 0.25
    """Least size of a jump, rad; for other units, as a fraction of the usual travel in an
    episode."""

    ratio: float = 15.0
    """Least size in multiples of the largest unannounced step of the median episode; fast arms at
    a low rate reach 10."""


def unannounced_steps(rows: FloatArray) -> Floats:
    """The part of each step between two ticks beyond the steps beside it, (T - 1, D).

    An arm speeds up and slows down over several ticks, so that a step lies between those beside
    it (or between them and standstill) but for a small rest. A jump lies far outside.
    """
    steps = np.diff(rows.astype(np.float64), axis=0)
    if len(steps) < 2:
        return steps * 0
    before = np.concatenate([steps[1:2], steps[:-1]])
    after = np.concatenate([steps[1:], steps[-2:-1]])
    low, high = (extreme(extreme(before, after), 0.0) for extreme in (np.minimum, np.maximum))
    return np.abs(steps - np.clip(steps, low, high))


@dataclass(frozen=True)
class _Extremes:
    """Of one part (state or action) of an episode: (D,) each."""

    low: Floats
    high: Floats
    jump: Floats


class JumpCheck:
    """Learns the extremes of all episodes, then finds the jumps of each."""

    def __init__(self, spec: Spec, limits: JumpLimits) -> None:
        self._spec, self._limits = spec, limits
        self._extremes: dict[int, tuple[_Extremes, _Extremes]] = {}

    def learn(self, index: int, state: FloatArray, action: FloatArray) -> None:
        """Add the extremes of an episode of at least two ticks."""
        state_extremes, action_extremes = (
            _Extremes(
                rows.min(axis=0).astype(np.float64),
                rows.max(axis=0).astype(np.float64),
                unannounced_steps(rows).max(axis=0, initial=0.0),
            )
            for rows in (state, action)
        )
        self._extremes[index] = (state_extremes, action_extremes)

    def inspect(
        self, index: int, state: FloatArray, action: FloatArray, scale: tuple[Floats, Floats]
    ) -> Iterator[Finding]:
        """Find the jumps of an episode that was learned; `scale` as in `scales`."""
        events: list[tuple[int, int, int, float]] = []  # tick, part, dimension, size
        # The poses of objects may jump: an environment places them anew, and angles run over.
        robot = self._spec.state_size - self._spec.environment_size
        for part, rows in enumerate((state, action)):
            sizes = unannounced_steps(rows)
            sizes[:, robot if part == 0 else len(sizes[0]) :] = 0.0
            every = [own[part] for own in self._extremes.values()]
            if len(every) > 1:
                # The lower median: of two episodes, the one without a jump counts.
                jumps = np.sort(np.stack([own.jump for own in every]), axis=0)
                usual = jumps[(len(every) - 1) // 2]
            else:
                usual = _usual_alone(sizes, rows)
            usual = np.maximum(usual, np.quantile(sizes, 0.9, axis=0))
            least = np.maximum(self._limits.least_rad * scale[part], self._limits.ratio * usual)
            free = self._may_jump(index, part, rows, scale)
            for tick, dimension in np.argwhere((sizes > least) & ~free):
                size = float(rows[tick + 1, dimension] - rows[tick, dimension])
                events.append((int(tick) + 1, part, int(dimension), size))
        yield from self._findings(index, (state, action), sorted(events), scale)

    def _names_and_units(self, part: int) -> list[tuple[str, str]]:
        spec = self._spec
        names, units = (
            (spec.state_names, spec.state_units),
            (spec.action_names, spec.action_units),
        )[part]
        return [*zip(names, units, strict=True)]

    def _may_jump(
        self, index: int, part: int, rows: FloatArray, scale: tuple[Floats, Floats]
    ) -> NDArray[np.bool_]:
        """Whether each value may jump, (D,).

        Commands may, unless they go where they never go in other episodes; hands, which open and
        close at once, unless they do so for a moment.
        """
        outside = np.zeros(rows.shape[1], dtype=np.int64)
        others = [each[part] for i, each in self._extremes.items() if i != index]
        if others:
            margin = self._limits.least_rad * scale[part]
            low = np.min([each.low for each in others], axis=0) - margin
            high = np.max([each.high for each in others], axis=0) + margin
            outside = ((rows < low) | (rows > high)).sum(axis=0)
        hands = np.array([is_hand(*each) for each in self._names_and_units(part)])
        is_brief = (outside > 0) & (outside <= _EVENT_TICKS)
        return np.where(hands, ~is_brief, (part == 1) & (outside == 0))

    def _findings(
        self,
        index: int,
        rows: tuple[FloatArray, FloatArray],
        events: Sequence[tuple[int, int, int, float]],
        scale: tuple[Floats, Floats],
    ) -> Iterator[Finding]:
        """One finding for each group of events that follow on each other."""
        groups: list[list[tuple[int, int, int, float]]] = []
        for event in events:
            if groups and event[0] - groups[-1][-1][0] <= _EVENT_TICKS:
                groups[-1].append(event)
            else:
                groups.append([event])
        for group in groups:
            largest = max(abs(size) / scale[part][at] for _, part, at, size in group)
            tick, part, dimension, size = next(
                e for e in group if abs(e[3]) / scale[e[1]][e[2]] > 0.8 * largest
            )
            name, unit = self._names_and_units(part)[dimension]
            others = len({event[1:3] for event in group}) - 1
            last = max(event[0] for event in group)
            value = float(rows[part][tick, dimension])
            text = (
                f"its {('state', 'action')[part]} jumps by {size:.4g} {shown_unit(unit)}".rstrip()
                + f" in one tick, to {value:.4g}"
            )
            if is_turn := [turn for turn in _TURNS if abs(abs(size) / turn - 1) < 0.1]:
                text += f", as a counter does that runs over at {is_turn[0]:.4g}"
            elif last > tick or any(event[0] < tick for event in group):
                text += ", and back"
            if others:
                text += f"; {others} other value{'s' if others > 1 else ''} with it"
            first = min(event[0] for event in group)
            ticks = (first, max(last, first + 1))
            of = {"ticks": ticks, "part": name, "value": size, "unit": unit}
            yield Finding.of("jump", text, index, **of)


def _usual_alone(sizes: Floats, rows: FloatArray) -> Floats:
    """The largest unannounced step outside the largest event of an episode, (D,).

    Values that are only ever on or off jump by nature: infinity.
    """
    usual = np.empty(sizes.shape[1])
    for dimension, column in enumerate(sizes.T):
        at = int(np.argmax(column))
        rest = np.delete(column, slice(max(0, at - _EVENT_TICKS), at + _EVENT_TICKS + 1))
        is_switch = len(np.unique(rows[:, dimension])) <= 2
        usual[dimension] = np.inf if is_switch else rest.max(initial=0.0)
    return usual
