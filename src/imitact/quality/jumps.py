"""Jump check: values that no motion explains: one-tick spikes, counters that run over, joined
episodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.grippers import is_gripper
from imitact.core.ranges import Length, Ranged
from imitact.core.types import FloatArray, Spec, with_unit
from imitact.quality.findings import Finding
from imitact.quality.motion import Floats

_EVENT_TICKS = 3
"""Jumps at most this many ticks apart are one event, such as the two sides of a spike."""

_TURNS = (360.0, 2 * np.pi, 4096.0, 65536.0)
"""Sizes at which counters of angles run over: degrees, rad, counts."""

_FAR = 1.5
"""Usual travels of a state that no arm covers in a tick."""


@dataclass(frozen=True)
class JumpLimits(Ranged):
    """Limits for a step of one tick that neither the step before nor the one after announces."""

    least_rad: Length = 0.25
    """Least size of a jump, rad; for other units, twice this fraction of the usual travel in an
    episode."""

    ratio: Length = 15.0
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


class JumpCheck:
    """Learns the extremes of all episodes, then finds the jumps of each."""

    def __init__(self, spec: Spec, limits: JumpLimits) -> None:
        self._spec, self._limits = spec, limits
        # Of state and action, for each episode: lowest, highest value and largest jump, (3, D).
        self._learned: tuple[list[Floats], list[Floats]] = ([], [])

    def learn(self, state: FloatArray, action: FloatArray) -> None:
        """Add the extremes of an episode."""
        for learned, rows in zip(self._learned, (state, action), strict=True):
            jump = unannounced_steps(rows).max(axis=0, initial=0.0)
            learned.append(np.stack([rows.min(axis=0), rows.max(axis=0), jump]))

    @cached_property
    def _extremes(self) -> list[tuple[Floats, Floats, Floats]]:
        """Of state and action: the two lowest and two highest values and the usual jump.

        The usual jump is the lower median: of two episodes, the one without a jump counts.
        """
        found = []
        for learned in self._learned:
            low, high, jump = np.stack(learned, axis=1).astype(np.float64)
            usual = np.sort(jump, axis=0)[(len(jump) - 1) // 2]
            found.append((np.sort(low, axis=0)[:2], np.sort(high, axis=0)[-2:], usual))
        return found

    def inspect(
        self, index: int, state: FloatArray, action: FloatArray, scale: tuple[Floats, Floats]
    ) -> Iterator[Finding]:
        """Find the jumps of an episode that was learned; `scale` as in `scales`."""
        if len(state) < 3:
            return
        events: list[tuple[int, int, int, float]] = []  # tick, part, dimension, size
        # The poses of objects may jump: an environment places them anew, and angles run over.
        robot = self._spec.state_size - self._spec.environment_size
        for part, rows in enumerate((state, action)):
            sizes, steps = unannounced_steps(rows), np.diff(rows.astype(np.float64), axis=0)
            busy = np.quantile(sizes, 0.9, axis=0)
            others = len(self._learned[part]) > 1
            usual = self._extremes[part][2] if others else _usual_alone(sizes, rows)
            ratio, least = self._limits.ratio, self._least(part, scale)
            found = sizes > np.maximum(least, ratio * np.maximum(usual, busy))
            # What no motion can be is found even if it is usual: farther than a joint travels in
            # an episode, or a turn of its counter.
            is_far = sizes > (_FAR if part == 0 else np.inf) * scale[part]
            is_turn = _turn(np.abs(steps), np.ptp(rows.astype(np.float64), axis=0)) > 0
            may_jump, hands = self._may_jump(part, rows, scale)
            found |= (is_far | is_turn) & (sizes > np.maximum(least, ratio * busy))
            found &= ~may_jump | (is_turn & ~hands)
            found[:, robot if part == 0 else rows.shape[1] :] = False
            for tick, dimension in np.argwhere(found):
                at = int(dimension)
                events.append((int(tick) + 1, part, at, float(steps[tick, at])))
        yield from self._findings(index, (state, action), sorted(events), scale)

    def _names_and_units(self, part: int) -> list[tuple[str, str]]:
        spec = self._spec
        names, units = (
            (spec.state_names, spec.state_units),
            (spec.action_names, spec.action_units),
        )[part]
        return [*zip(names, units, strict=True)]

    def _least(self, part: int, scale: tuple[Floats, Floats]) -> Floats:
        """Least size of a jump, (D,): twice as much where the travel stands for 1 rad."""
        has_limit = [unit in ("rad", "1") for _, unit in self._names_and_units(part)]
        return self._limits.least_rad * scale[part] * np.where(has_limit, 1.0, 2.0)

    def _may_jump(
        self, part: int, rows: FloatArray, scale: tuple[Floats, Floats]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether each value may jump, and whether it is a hand's, (D,) each.

        Commands may, and hands, which open and close at once, unless they go for a moment where
        they never go in other episodes.
        """
        outside = np.zeros(rows.shape[1], dtype=np.int64)
        if len(self._learned[part]) > 1:
            margin = self._least(part, scale)
            lows, highs, _ = self._extremes[part]
            # Those of the other episodes: the second where the first is of this one.
            low = np.where(rows.min(axis=0) <= lows[0], lows[1], lows[0]) - margin
            high = np.where(rows.max(axis=0) >= highs[1], highs[0], highs[1]) + margin
            outside = ((rows < low) | (rows > high)).sum(axis=0)
        hands = np.array([is_gripper(*each) for each in self._names_and_units(part)], dtype=bool)
        is_brief = (outside > 0) & (outside <= _EVENT_TICKS)
        return (hands | (part == 1)) & ~is_brief, hands

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
                f"its {('state', 'action')[part]} jumps by {with_unit(f'{size:.4g}', unit)}"
                + f" in one tick, to {value:.4g}"
            )
            if turn := _turn(abs(size), float(np.ptp(rows[part][:, dimension]))):
                text += f", as a counter does that runs over at {turn:.4g}"
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


def _turn(size: Any, span: Any) -> Any:
    """The turn that a step of `size` makes, if a counter runs over there; else 0.

    The values of a counter lie within a turn, and the step goes from one end of them to the other:
    `span` is their range in the episode.
    """
    found = np.zeros(np.shape(size))
    for turn in _TURNS:
        found = np.where((np.abs(size / turn - 1) < 0.1) & (size >= 0.9 * span), turn, found)
    return found
