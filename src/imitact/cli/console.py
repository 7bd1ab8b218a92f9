"""What a person who waits gets to read: what goes on, how far it is, how long it will take.

Progress goes to stderr, results to stdout: `imitact evaluate ... > result.txt` keeps the result.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from imitact.training.metrics import duration

EVERY_S = 10.0
"""Seconds between two lines of progress where nobody can see a line move, as in a log."""


def print_progress(line: str) -> None:
    """A line for the person who waits."""
    print(line, file=sys.stderr, flush=True)


def print_result(line: str) -> None:
    """A line of the result."""
    print(line, flush=True)


class ProgressDisplay:
    """How far a job is: a bar that moves on a terminal, a line every 10 s elsewhere.

    what:  the job, as a word or two.
    total: how much there is to do, in `unit`.

    The time left is that of this run's own pace, unknown until something is done in it.
    """

    def __init__(
        self,
        what: str,
        total: float,
        unit: str,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._clock = clock
        self._began = clock()
        self._start: float | None = None
        self._done = 0.0
        self._note = ""
        self._known_left_s: float | None = None
        self._said: float | None = None
        self._stream = stream or sys.stderr
        self._bar: Progress | None = None
        if self._stream.isatty():
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[text]}", markup=False),
                console=Console(file=self._stream),
            )
            self._task = self._bar.add_task(what, total=total, text="")

    def __enter__(self) -> ProgressDisplay:
        if self._bar:
            self._bar.start()
        self._show()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None or self._done > (self._start or 0.0):
            self._show(last=True)
        if self._bar:
            self._bar.stop()

    def to(self, done: float, note: str = "", left_s: float | None = None) -> None:
        """So much is done by now; `note` says what else there is to say.

        What is done at the first call was done before this run, and tells nothing of its pace.
        left_s: the time left, where the job itself knows better than its pace tells.
        """
        if self._start is None:
            self._start = done
        self._done, self._note, self._known_left_s = done, note, left_s
        self._show()

    def left_s(self) -> float | None:
        """Seconds that the rest will take at this run's pace; None before it is known."""
        if self._known_left_s is not None:
            return self._known_left_s
        done = self._done - (self._start or 0.0)
        if done <= 0:
            return None
        return (self._clock() - self._began) / done * (self._total - self._done)

    def text(self) -> str:
        """How far, and how long yet: "12/50 episodes, left 9 min"."""
        parts = [f"{self._done:.0f}/{self._total:.0f} {self._unit}"]
        if self._note:
            parts.append(self._note)
        if self._done < self._total:
            parts.append(f"left {duration(self.left_s())}")
        else:
            parts.append(f"took {duration(self._clock() - self._began)}")
        return ", ".join(parts)

    def _show(self, last: bool = False) -> None:
        if self._bar:
            self._bar.update(self._task, completed=self._done, text=self.text())
            return
        now = self._clock()
        if last or self._said is None or now - self._said >= EVERY_S:
            self._said = now
            print(f"{self._what}: {self.text()}", file=self._stream, flush=True)
