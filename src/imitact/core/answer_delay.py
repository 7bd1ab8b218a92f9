"""Answer delay: ticks from a query to its answer, simulated or expected from measured times.

A delay is a number of ticks, the same for every answer, or a text such as "3..9": each answer takes
one of 3 to 9 ticks, drawn anew with equal probability.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from imitact.core import random_streams
from imitact.core.errors import BadInput
from imitact.core.ranges import Range
from imitact.core.words import counted

ANSWERS = 50
"""Answer times that the estimate takes into account, the newest."""

MAX_TICKS = 10_000
"""Largest delay that can be set."""

_NUMBER = "0|[1-9][0-9]{0,8}"
_DRAWN = re.compile(rf"({_NUMBER})\.\.({_NUMBER})")


def delay_bounds(delay: int | str, name: str = "delay_ticks") -> tuple[int, int]:
    """Return the shortest and the longest delay, ticks; they are equal where none is drawn.

    Args:
        name: of the setting, for the message.

    Raises:
        BadInput: it is below 0 or above `MAX_TICKS`, or no text such as 3..9.
    """
    if isinstance(delay, str):
        found = _DRAWN.fullmatch(delay)
        if not found or not int(found[1]) < int(found[2]) <= MAX_TICKS:
            raise BadInput(
                f'{name} is "{delay}"; expected a number of ticks, or 3..9 for delays drawn '
                f"from 3 to 9, of at most {MAX_TICKS}"
            )
        return int(found[1]), int(found[2])
    if not 0 <= delay <= MAX_TICKS:
        most = f" and at most {MAX_TICKS}" if delay > 0 else ""
        raise BadInput(f"{name} is {delay}; expected at least 0{most}")
    return delay, delay


def delay_words(delay: int | str) -> str:
    """Return a delay in words, as in "1 tick" or "3 to 9 ticks"."""
    low, high = delay_bounds(delay)
    last = counted(high, "tick")
    return last if low == high else f"{low} to {last}"


class _DelayRange(Range):
    """Of numbers of ticks, and of texts such as "3..9"."""

    def check(self, name: str, value: Any) -> None:
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, str):
                delay_bounds(each, name)
            else:
                super().check(name, each)


DELAY_RANGE = _DelayRange(0, MAX_TICKS)
"""Of the settings of a delay."""


def delayed_by(delays: Iterable[int], seed: int | Sequence[int] | None = None) -> Iterator[int]:
    """Yield delays for ever, ticks: in turn, or drawn from `seed` with equal probability."""
    choices = np.array(tuple(delays), np.int64)
    if not len(choices) or choices.min() < 0:
        raise BadInput("delays are at least one number of ticks, none below 0")
    rng = None if seed is None else np.random.default_rng(seed)
    turn = 0
    while True:
        yield int(choices[turn % len(choices)] if rng is None else rng.choice(choices))
        turn += 1


def episode_delays(delay: int | str, seed: int) -> Iterator[int]:
    """Yield the delays of an episode's answers, ticks; `seed` is that of the episode."""
    low, high = delay_bounds(delay)
    return delayed_by(range(low, high + 1), [seed, random_streams.DELAYS])


class AnswerTimes:
    """Measured answer times of a policy, and how many ticks an answer is expected to take.

    The first is left out: it holds what a library prepares at its first call.
    """

    def __init__(self) -> None:
        self._times_s: deque[float] = deque(maxlen=ANSWERS)
        self._is_first = True

    def add(self, time_s: float) -> None:
        if not self._is_first:
            self._times_s.append(time_s)
        self._is_first = False

    @property
    def p95_s(self) -> float | None:
        """The time within which 95 % of the answers came, s; None before the second answer."""
        if not self._times_s:
            return None
        return sorted(self._times_s)[math.ceil(0.95 * len(self._times_s)) - 1]

    def expected_ticks(self, rate_hz: float) -> int | None:
        """Return the ticks within which 95 % of the answers came; None before the second."""
        p95_s = self.p95_s
        # 1e-6: a time of exactly d ticks is d ticks, however it was rounded.
        return None if p95_s is None else max(0, math.ceil(p95_s * rate_hz - 1e-6))
