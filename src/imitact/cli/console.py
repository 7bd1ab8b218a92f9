"""Console: progress to stderr, results to stdout, so that `imitact evaluate > file` keeps results.

Control characters in names and paths are escaped. A stderr or stdout that is closed, cut off or
full loses its lines and nothing else: the work continues, and its exit code stays.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from imitact.training.metrics import format_duration

if TYPE_CHECKING:
    from rich.progress import Progress

EVERY_S = 10.0
"""Seconds between two lines of progress where stderr is not a terminal, as in a log file."""


def print_progress(line: str, stream: TextIO | None = None) -> None:
    """Print a line of progress to stderr; a stderr that cannot take it is ignored."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: the stream is closed
        _print(line, stream or sys.stderr)


def print_result(*lines: str) -> None:
    """Print lines of the result to stdout, or to stderr where stdout is full.

    A reader that has ended, as `head` does, needs no more lines.
    """
    for line in lines:
        try:
            _print(line, sys.stdout)
        except BrokenPipeError:
            return
        except (OSError, ValueError):
            print_progress(line)


def _print(line: str, stream: TextIO | None) -> None:
    if stream is None:  # it was closed before this process started
        return
    encoding = stream.encoding or "utf-8"
    text = escaped(line).encode(encoding, "backslashreplace").decode(encoding)
    print(text, file=stream, flush=True)


def escaped(text: str) -> str:
    """Return text with control characters written out, as in \\x1b; tabs stay."""
    return "".join(
        c if c.isprintable() or c in "\t\xa0" else c.encode("unicode_escape").decode() for c in text
    )


class ProgressDisplay:
    """Progress of a job: a moving bar on a terminal, a line every 10 s elsewhere.

    The time left follows the speed of this run, so it is unknown until this run has done something.
    Nothing is shown of a job with nothing to do.
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
        """Prepare to show how much is done of `total` in `unit` ("episodes"), on stderr.

        `what` names the job in a word or two; `clock` returns the time in s.
        """
        self._what, self._total, self._unit = what, total, unit
        self._clock = clock
        self._began_s = clock()
        self._start: float | None = None
        self._done = 0.0
        self._note = ""
        self._known_left_s: float | None = None
        self._printed_s: float | None = None
        self._printed = ""
        self._stream = stream or sys.stderr
        self._bar: Progress | None = _bar(self._stream) if total > 0 else None
        if self._bar:
            self._task = self._bar.add_task(escaped(what), total=total, text="")

    def __enter__(self) -> ProgressDisplay:
        with contextlib.suppress(OSError, ValueError):
            if self._bar:
                self._bar.start()
        self._show()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or self._done > (self._start or 0.0):
            self._show(last=True)
        with contextlib.suppress(OSError, ValueError):
            if self._bar:
                self._bar.stop()

    def to(self, done: float, note: str = "", left_s: float | None = None) -> None:
        """Show how much is done.

        Args:
            done: how much, in units. What is done at the first call was done by an earlier run.
            note: text beside the numbers.
            left_s: time left in s, where the job can estimate it better than from its speed.
        """
        if self._start is None:
            self._start = done
        self._done, self._note, self._known_left_s = done, note, left_s
        self._show()

    def left_s(self) -> float | None:
        """Return the estimated time left in s, or None while it is unknown."""
        if self._known_left_s is not None:
            return self._known_left_s
        done = self._done - (self._start or 0.0)
        if done <= 0:
            return None
        return (self._clock() - self._began_s) / done * (self._total - self._done)

    def text(self) -> str:
        """Return the progress in words: "12/50 episodes, left 9 min"."""
        time = f"left {format_duration(self.left_s())}"
        if self._done >= self._total:
            time = f"took {format_duration(self._clock() - self._began_s)}"
        count = f"{self._done:.0f}/{self._total:.0f} {self._unit}"
        return ", ".join(part for part in (count, self._note, time) if part)

    def _show(self, last: bool = False) -> None:
        if self._bar:
            with contextlib.suppress(OSError, ValueError):
                self._bar.update(self._task, completed=self._done, text=escaped(self.text()))
            return
        if self._total <= 0:
            return
        now_s, line = self._clock(), f"{self._what}: {self.text()}"
        is_due = last or self._printed_s is None or now_s - self._printed_s >= EVERY_S
        if is_due and line != self._printed:  # a log has no runs of equal lines
            self._printed_s, self._printed = now_s, line
            print_progress(line, self._stream)


def _bar(stream: TextIO) -> Progress | None:
    """Return a moving bar where the stream is a terminal."""
    try:
        if not stream.isatty():
            return None
    except ValueError:  # closed
        return None
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    class LossyConsole(Console):
        def on_broken_pipe(self) -> None:  # rich would exit
            self.quiet = True

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        console=LossyConsole(file=stream),
    )
