"""Clock: time on a robot, which tests and simulations replace by a virtual one.

Times are in s since an arbitrary moment. The wall clock is the system's monotonic clock, which all
processes of one computer share, so that times taken in several processes can be compared.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Tells the time, and waits."""

    def now_s(self) -> float: ...

    def wait_until(self, due_s: float) -> None:
        """Return at `due_s`, or at once where it has passed."""
        ...


class WallClock:
    """The system's monotonic clock."""

    def now_s(self) -> float:
        return time.monotonic()

    def wait_until(self, due_s: float) -> None:
        while (left_s := due_s - time.monotonic()) > 0:
            time.sleep(left_s)


class VirtualClock:
    """A clock that jumps: waiting takes no time, and runs the events that are due before.

    What it drives is a function of its events alone, so two runs give the same bytes.
    """

    def __init__(self, now_s: float = 0.0) -> None:
        self._now_s = now_s
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._count = itertools.count()

    def now_s(self) -> float:
        return self._now_s

    def call_at(self, due_s: float, event: Callable[[], object]) -> None:
        """Run an event when the clock gets to `due_s`; events of one time in order of addition."""
        heapq.heappush(self._events, (max(due_s, self._now_s), next(self._count), event))

    def wait_until(self, due_s: float) -> None:
        while self._events and self._events[0][0] <= due_s:
            self._now_s, _, event = heapq.heappop(self._events)
            event()
        self._now_s = max(self._now_s, due_s)
