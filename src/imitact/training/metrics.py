"""Training metrics: metrics.jsonl, running means, totals, and the time left.

`metrics.jsonl` holds one JSON object per line, each with "step" first and a CRC-32 last. A process
that is killed leaves at most one incomplete line. It is removed on resume, like every other line
that is not what was written.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imitact.core.errors import NotFinite
from imitact.core.types import shown_unit
from imitact.storage.atomic import disk_full_guard, write_bytes
from imitact.storage.journal import append_whole, journal_line, parse_journal_line
from imitact.storage.regular_file import open_to_append, read_limited
from imitact.training.trackers import Trackers

MAX_LOG_BYTES = 512 << 20
"""A training of a million steps writes a tenth of it."""


class MetricsLog:
    """Writes metrics.jsonl, forwards it to the trackers, and limits the rate of progress lines.

    Lines of steps after `resumed` are removed from `path`, because training continues from there.
    Every rank but the first has None for `path` and writes no file. `log` receives a progress line
    every `every_s` seconds at most. The trackers are closed with this log.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        resumed: int,
        log: Callable[[str], None],
        every_s: float = 5.0,
        trackers: Trackers | None = None,
    ) -> None:
        self._path = path
        self._log = log
        self._every_s = every_s
        self._trackers = trackers
        self._last_progress_s = -math.inf
        self._file: int | None = None
        if path is not None:
            self._truncate(path, resumed)
            self._file = open_to_append(path)

    def _truncate(self, path: Path, step: int) -> None:
        """Remove damaged lines and those of steps after `step`."""
        if not path.exists():
            return
        kept = []
        data = read_limited(path, MAX_LOG_BYTES)
        required = b',"crc32":' in data  # lines of older versions have no checksum
        for number, text in enumerate(data.splitlines(keepends=True), 1):
            try:
                if parse_journal_line(text.rstrip(), required=required)["step"] <= step:
                    kept.append(text.rstrip() + b"\n")
            except (ValueError, KeyError, TypeError) as error:
                self._log(f"{path}, line {number} is damaged ({error}): removed")
        write_bytes(path, b"".join(kept))

    def write(self, step: int, numbers: Mapping[str, Any], **more: int) -> None:
        """Append one line; raise NotFinite for a number that JSON cannot represent.

        The trackers do not get `more`.
        """
        try:
            line = json.loads(json.dumps({"step": step, **numbers, **more}, allow_nan=False))
        except ValueError as error:
            raise NotFinite(f"step {step}: a number for metrics.jsonl is not finite") from error
        if self._file is not None and self._path is not None:
            with disk_full_guard(self._path, "free some space, then resume"):
                append_whole(self._file, journal_line(line))
        if self._trackers:
            self._trackers.log(step, numbers)

    def progress(self, text: Callable[[], str]) -> None:
        """Log `text()`, unless a progress line was logged less than `every_s` ago."""
        if time.monotonic() - self._last_progress_s >= self._every_s:
            self._last_progress_s = time.monotonic()
            self._log(text())

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
        if self._trackers:
            self._trackers.close()


def l1_unit(units: Sequence[str]) -> str:
    """Unit of the mean validation error: rad where any joint has it, since others do not count
    then, else the unit that all actions share; empty where there is none."""
    if "rad" in units:
        return "rad"
    shared = units[0] if len(set(units)) == 1 else ""
    return shown_unit(shared)


class RunningMeans:
    """Means over the steps since the last line of metrics.jsonl."""

    def __init__(self) -> None:
        self._samples = self._count = 0
        self._spent_s = self._waited_s = 0.0
        self._sums: dict[str, float] = {}

    def add(
        self, numbers: Mapping[str, float], samples: int, spent_s: float, waited_s: float
    ) -> dict[str, float]:
        """Add one step and return the means.

        On a GPU the numbers are those of the previous step, and there are none at the first one
        (`Updater.update`).
        """
        self._count += bool(numbers)
        self._samples += samples
        self._spent_s += spent_s
        self._waited_s += waited_s
        for name, value in numbers.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        return {
            **{name: total / self._count for name, total in self._sums.items()},
            "samples_per_s": self._samples / max(self._spent_s, 1e-9),
            "data_wait": self._waited_s / max(self._spent_s, 1e-9),
        }


@dataclass
class TrainingTotals:
    """Cost and result of a training so far, over all resumptions; stored in checkpoints."""

    wall_s: float = 0.0
    trained_s: float = 0.0
    waited_s: float = 0.0
    samples: int = 0
    flop_a_step: int = 0
    best_l1_rad: float | None = None
    best_step: int | None = None
    last: dict[str, Any] | None = None  # result of the last validation
    peak_rss_bytes: int = 0  # includes pages of the memory-mapped frame cache

    @property
    def last_l1_rad(self) -> float | None:
        return self.last["held_out_l1_rad"] if self.last else None

    def add_step(self, samples: int, spent_s: float, waited_s: float) -> None:
        self.samples += samples
        self.trained_s += spent_s
        self.waited_s += waited_s

    def add_validation(self, result: dict[str, Any]) -> None:
        self.last = result
        if self.best_l1_rad is None or result["held_out_l1_rad"] < self.best_l1_rad:
            self.best_l1_rad, self.best_step = result["held_out_l1_rad"], result["step"]

    def set_wall_time(self, wall_s: float) -> None:
        """Set the time since the start of training, and update the peak memory."""
        self.wall_s = wall_s
        try:
            import resource
        except ImportError:  # Windows: not measured
            return
        unit_bytes = 1 if sys.platform == "darwin" else 1024  # kB on Linux
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes
        self.peak_rss_bytes = max(self.peak_rss_bytes, peak_bytes)


class StepTimer:
    """Estimates the time left from the last `window` steps, with validation, checkpoints, waits."""

    def __init__(self, window: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._window = max(1, window)
        self._marks: deque[tuple[int, float]] = deque()

    def mark(self, step: int) -> None:
        """Record that `step` has just ended."""
        self._marks.append((step, self._clock()))
        while self._marks[0][0] < step - self._window:
            self._marks.popleft()

    def left_s(self, steps: int) -> float | None:
        """Return the time that `steps` more steps take, or None before two marks."""
        if len(self._marks) < 2 or self._marks[-1][0] == self._marks[0][0]:
            return None
        (first, start_s), (last, end_s) = self._marks[0], self._marks[-1]
        return (end_s - start_s) / (last - first) * steps


def format_duration(seconds: float | None) -> str:
    """Format a duration for people: 45 s, 12 min, 3 h 20 min; "?" for None."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
