"""Run log: what was set, and every tick of a run, as JSON lines that any program can read.

A folder has run.json (settings, and a summary once the run has ended) and ticks.jsonl. A run that
was killed leaves the ticks that were written, and a last line that may be cut off.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imitact.core.errors import DamagedFile
from imitact.core.types import Spec
from imitact.recording.tick_record import TickFormat, TickRecord
from imitact.storage.atomic import make_folder, write_json
from imitact.storage.json_file import read_json_object

RUN, TICKS = "run.json", "ticks.jsonl"
FORMAT = 1

_DIGITS = 5
"""Of joint values and times: 10 µrad, 10 µs."""


class RunLog:
    """Writes a log; a context manager that closes it."""

    def __init__(self, folder: Path, spec: Spec, settings: Mapping[str, Any]) -> None:
        """Begin the log of a run.

        Args:
            folder: is made; one that has a run already is begun anew.
            spec: of the robot.
            settings: plain JSON, for people and the viewer.
        """
        self.folder = folder
        self._about: dict[str, Any] = {
            "format": FORMAT,
            "settings": dict(settings),
            "spec": spec.to_json(),
            "summary": None,
        }
        self._form = TickFormat.of(spec)
        make_folder(folder)
        write_json(folder / RUN, self._about)
        self._file = (folder / TICKS).open("w", encoding="utf-8", buffering=1 << 16)
        self._first_s: float | None = None

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add(self, record: TickRecord) -> None:
        """Write the record of a tick."""
        if self._first_s is None:
            self._first_s = record.due_s
        self._file.write(json.dumps(tick_row(record, self._form, self._first_s)) + "\n")

    def end(self, summary: Mapping[str, Any]) -> None:
        """Write how the run went, and close."""
        self._file.close()
        self._about["summary"] = dict(summary)
        write_json(self.folder / RUN, self._about)


def tick_row(record: TickRecord, form: TickFormat, first_s: float) -> dict[str, Any]:
    """Return a tick as plain JSON: times in s since the first tick, ages in s, missing as null.

    `asked` is left out where it is what was commanded, to the bit. `sent` is what the hardware got
    last, at an earlier tick (`sent_tick`).
    """
    start_s = record.start_s
    row: dict[str, Any] = {
        "t": _number(record.due_s - first_s),
        "tick": record.tick,
        "phase": record.phase,
        "late": _number(start_s - record.due_s),
        "skipped": record.skipped,
        "state": _numbers(record.state),
        "action": _numbers(record.action),
        "state_age": _number(start_s - record.state_s[0]),
        "frame_ages": _numbers([start_s - captured_s for captured_s in record.frames_s]),
        "stage": record.stage,
        "held": int(record.held),
        "hold": int(record.hold),
    }
    if not np.array_equal(record.asked, record.action):
        row["asked"] = _numbers(record.asked)
    if record.sent_tick >= 0:
        row["sent"], row["sent_tick"] = _numbers(record.sent), record.sent_tick
        row["sent_at"] = _number(record.sent_s - first_s)
    if record.words:
        row["words"], row["joint"] = record.words, record.joint
    if record.engaged >= 0:
        row["engaged"], row["leader_age"] = record.engaged, _number(start_s - record.leader_s)
    if record.query:
        row["query"] = 1
    if record.answered_tick >= 0:
        row["answered_tick"], row["answer_s"] = record.answered_tick, _number(record.answer_s)
        row["seam"] = _number(record.seam)
    return row


def read_about(folder: Path) -> dict[str, Any]:
    """Return what run.json says: settings, spec, and the summary or None.

    Raises:
        DamagedFile: it is no run.json that this version reads.
    """
    about = read_json_object(folder / RUN)
    if about.get("format") != FORMAT or not isinstance(about.get("spec"), dict):
        raise DamagedFile(f"{folder / RUN} is no run log of format {FORMAT}")
    return about


def read_ticks(folder: Path, limit: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of a log, at most `limit`; a last line that is cut off is left out."""
    with (folder / TICKS).open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file):
            if number >= limit:
                return
            try:
                row = json.loads(line)
            except ValueError:
                if line.endswith("\n"):
                    raise DamagedFile(
                        f"{folder / TICKS}: line {number + 1} is no JSON; the lines before it can "
                        "be kept, and the rest deleted"
                    ) from None
                return
            if not isinstance(row, dict):
                raise DamagedFile(f"{folder / TICKS}: line {number + 1} is no tick")
            yield row


def _number(value: float) -> float | None:
    return round(float(value), _DIGITS) if math.isfinite(value) else None


def _numbers(values: Sequence[float] | np.ndarray) -> list[float | None]:
    return [_number(float(value)) for value in values]
