"""The numbers of a training: every one to a file, a few now and then to a person.

`metrics.jsonl` holds one JSON object a line, each with a "step" and, last, a CRC-32. A line is
written whole or not at all by this process; a killed one leaves at most one torn line, dropped on
resume, as is any line that is not what was written.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from imitact.core.errors import NotFinite
from imitact.storage.atomic import disk_full_guard
from imitact.storage.journal import append_whole, journal_line, parse_journal_line
from imitact.training.trackers import Trackers

Clock = Callable[[], float]
Say = Callable[[str], None]


class MetricsLog:
    """Writes metrics.jsonl and says progress.

    path:    of the file; None to write nothing, as a rank that is not the first.
    resumed: the step that training goes on from; lines of later steps are removed, since those
             steps will come again.
    every_s: at most one progress line in that many seconds.
    trackers: get every number too, after the file has it; closed with the logbook.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        resumed: int,
        say: Say,
        every_s: float = 5.0,
        trackers: Trackers | None = None,
    ) -> None:
        self._path = path
        self._say = say
        self._every_s = every_s
        self._trackers = trackers
        self._said = -math.inf
        self._file: int | None = None
        if path is not None:
            self._cut(path, resumed)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def _cut(self, path: Path, step: int) -> None:
        if not path.exists():
            return
        kept = []
        data = path.read_bytes()
        required = b',"crc32":' in data
        for number, text in enumerate(data.splitlines(keepends=True), 1):
            try:
                if parse_journal_line(text.rstrip(), required=required)["step"] <= step:
                    kept.append(text.rstrip() + b"\n")
            except (ValueError, KeyError, TypeError) as error:
                # The last one may have been torn by a kill in the middle of a write.
                self._say(f"{path}, line {number} is damaged ({error}): left out")
        with disk_full_guard(path):
            fresh = path.with_name(path.name + ".cut")
            fresh.write_bytes(b"".join(kept))
            fresh.replace(path)

    def write(self, step: int, numbers: Mapping[str, Any]) -> None:
        """One line. Refuses what is not finite: it could not be read back as JSON."""
        try:
            told = json.loads(json.dumps({"step": step, **numbers}, allow_nan=False))
        except ValueError as error:
            raise NotFinite(f"step {step}: a number for metrics.jsonl is not finite") from error
        if self._file is not None and self._path is not None:
            with disk_full_guard(self._path, "free some space, then resume"):
                append_whole(self._file, journal_line(told))
        if self._trackers:
            self._trackers.log(step, numbers)

    def progress(self, text: Callable[[], str]) -> None:
        """Say `text()`, unless a line was said a moment ago."""
        if time.monotonic() - self._said >= self._every_s:
            self._said = time.monotonic()
            self._say(text())

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
        if self._trackers:
            self._trackers.close()


class StepTimer:
    """How long the rest will take, from the last `window` steps, all that happened in them
    included: validation, checkpoints, waiting."""

    def __init__(self, window: int, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._window = max(1, window)
        self._marks: deque[tuple[int, float]] = deque()

    def mark(self, step: int) -> None:
        """`step` is done now."""
        self._marks.append((step, self._clock()))
        while self._marks[0][0] < step - self._window:
            self._marks.popleft()

    def seconds_a_step(self) -> float | None:
        """None before two marks."""
        if len(self._marks) < 2 or self._marks[-1][0] == self._marks[0][0]:
            return None
        (first, began), (last, ended) = self._marks[0], self._marks[-1]
        return (ended - began) / (last - first)

    def left_s(self, steps: int) -> float | None:
        """Seconds that `steps` more steps will take; None before it can be known."""
        pace = self.seconds_a_step()
        return None if pace is None else pace * steps


def format_duration(seconds: float | None) -> str:
    """For people: 45 s, 12 min, 3 h 20 min."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
