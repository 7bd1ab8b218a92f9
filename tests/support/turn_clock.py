"""Turn clock: a virtual clock for threads that take turns, so that what they do is the same again.

One thread runs at a time. Where it waits, the clock jumps to the earliest time for which a thread
or an event waits, and that one goes on. Code between two waits takes no time.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from typing import Any


class TurnClock:
    """The clock. The thread that makes it has the first turn."""

    def __init__(self, now_s: float = 0.0) -> None:
        self._now_s = now_s
        self._waiting: list[tuple[float, int, threading.Semaphore | Callable[[], object]]] = []
        self._count = itertools.count()

    def now_s(self) -> float:
        return self._now_s

    def wait_until(self, due_s: float) -> None:
        """Let others run until `due_s`."""
        turn = threading.Semaphore(0)
        self.call_at(due_s, turn)
        if not self._pass_on(turn):
            turn.acquire()

    def call_at(self, due_s: float, event: threading.Semaphore | Callable[[], object]) -> None:
        """Run an event, which must not wait, when the clock gets to `due_s`."""
        heapq.heappush(self._waiting, (max(due_s, self._now_s), next(self._count), event))

    def _pass_on(self, own: threading.Semaphore | None = None) -> bool:
        """Give the turn to the next thread; return whether that is this one."""
        while self._waiting:
            self._now_s, _, event = heapq.heappop(self._waiting)
            if event is own:
                return True
            if isinstance(event, threading.Semaphore):
                event.release()
                return False
            event()
        return False

    def thread(self, *, target: Callable[[], Any], name: str = "", daemon: bool = True) -> Any:
        """Make a thread that takes turns, as `threading.Thread` does."""
        return _TurnThread(self, target, name, daemon)


class _TurnThread:
    """A thread whose `join` waits on the virtual clock."""

    def __init__(self, clock: TurnClock, target: Callable[[], Any], name: str, daemon: bool):
        self._clock, self._target, self._is_alive = clock, target, False
        self._turn = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name=name, daemon=daemon)

    def start(self) -> None:
        self._is_alive = True
        self._clock.call_at(self._clock.now_s(), self._turn)
        self._thread.start()

    def _run(self) -> None:
        self._turn.acquire()
        try:
            self._target()
        finally:
            self._is_alive = False
            self._clock._pass_on()  # pyright: ignore[reportPrivateUsage]

    def is_alive(self) -> bool:
        return self._is_alive

    def join(self, timeout_s: float) -> None:
        end_s = self._clock.now_s() + timeout_s
        while self._is_alive and self._clock.now_s() < end_s:
            self._clock.wait_until(self._clock.now_s() + 0.01)
