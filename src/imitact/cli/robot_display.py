"""Robot display: what a person needs beside an arm, on a terminal; lines elsewhere."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from imitact.api.robot_session import RobotSession, stage_names
from imitact.cli.console import EVERY_S, escaped, print_progress
from imitact.core.words import counted
from imitact.recording.session_process import RecorderProcess

REFRESH_S = 0.2
LINES = 6
"""Lines of progress and faults that stay on the terminal."""

IN_A_LINE = ("state", "lateness", "keys", "recorder")
"""Rows that are shown without a terminal; the log has all."""

Row = tuple[str, str]


def state_rows(session: RobotSession) -> list[Row]:
    """Return what is shown of a session: name and value of each row."""
    statistics = session.statistics
    newest = statistics.newest
    rows: list[Row] = []
    state = session.phase or "waiting"
    if session.stopped:
        state = f"STOPPED ({state})"
    if newest is not None and (newest.held or newest.hold):
        state += f": held, {newest.words}" if newest.words else ": held"
    rows.append(("state", state))
    if newest is not None:
        ages = ", ".join(f"{name} {_ms(age_s)}" for name, age_s in statistics.ages_s.items())
        rows.append(("ages", ages))
        late = statistics.recent_lateness
        rows.append(
            (
                "lateness",
                f"p50 {_ms(late.p50_s)}, p99 {_ms(late.p99_s)}, skipped {statistics.skipped} of "
                f"{statistics.ticks + statistics.skipped}",
            )
        )
        if newest.engaged >= 0:
            rows.append(("leader", "engaged" if newest.engaged else "not engaged"))
        if not math.isnan(statistics.answers.p50_s):
            answers = statistics.answers
            rows.append(("answers", f"p50 {_ms(answers.p50_s)}, p99 {_ms(answers.p99_s)}"))
    if words := session.leader_words():
        rows.append(("keys", words))
    names = stage_names()
    for stage, acts in sorted(statistics.acts.items()):
        words = f": {acts.words}" if acts.words else ""
        rows.append((f"filter, {names.get(stage, stage)}", f"{counted(acts.ticks, 'tick')}{words}"))
    recorder = session.recorder
    if recorder is not None:
        text = f"{counted(recorder.episodes, 'episode')} kept"
        if session.recording:
            text += ", RECORDING"
        if isinstance(recorder, RecorderProcess):
            status = recorder.status
            text += f", {counted(status.rows, 'row')}, {status.lag_s:.1f} s behind"
            if status.lost_frames:
                text += f", {counted(status.lost_frames, 'frame')} lost"
        rows.append(("recorder", text))
    return rows


def _ms(time_s: float) -> str:
    return "none" if math.isnan(time_s) else f"{time_s * 1000:.1f} ms"


class RobotDisplay:
    """Shows a session: a table that is drawn anew on a terminal, a line every 10 s elsewhere.

    A context manager, which leaves the terminal as it was.
    """

    def __init__(
        self,
        keys: Mapping[str, str],
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare.

        Args:
            keys: what each key does, in words, for the last row.
            stream: stderr.
            clock: returns the time in s.
        """
        self._stream, self._clock = stream or sys.stderr, clock
        self._keys = "  ".join(f"[{key}] {words}" for key, words in keys.items())
        self._lines: list[str] = []
        self._rows: Sequence[Row] = ()
        self._shown_s = -math.inf
        self._live: Any = None

    def __enter__(self) -> RobotDisplay:
        try:
            is_terminal = self._stream.isatty()
        except ValueError:  # closed
            is_terminal = False
        if is_terminal:
            from rich.console import Console
            from rich.live import Live

            with contextlib.suppress(OSError, ValueError):
                console = Console(file=self._stream)
                self._live = Live(console=console, auto_refresh=False, redirect_stdout=False)
                self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            with contextlib.suppress(OSError, ValueError):
                self._live.stop()
            self._live = None

    def line(self, text: str) -> None:
        """Show a line of progress or of a fault, at once: while the robot starts and is parked
        nothing else is shown."""
        self._lines = [*self._lines[-LINES + 1 :], text]
        if self._live is None:
            print_progress(text, self._stream)
        else:
            self._draw()

    def show(self, session: RobotSession) -> None:
        """Show the session, if it is time to."""
        now_s = self._clock()
        if now_s - self._shown_s < (REFRESH_S if self._live is not None else EVERY_S):
            return
        self._shown_s = now_s
        self._rows = state_rows(session)
        if self._live is None:
            text = "; ".join(f"{name}: {value}" for name, value in self._rows if name in IN_A_LINE)
            print_progress(text, self._stream)
        else:
            self._draw()

    def _draw(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._live.update(self._table(self._rows), refresh=True)

    def _table(self, rows: Sequence[Row]) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        for name, value in rows:
            style = "bold red" if "STOPPED" in value or "held" in value else ""
            table.add_row(Text(name, "dim"), Text(escaped(value), style))
        lines = [Text(escaped(line), "dim") for line in self._lines]
        return Group(table, *lines, Text(self._keys, "cyan"))
