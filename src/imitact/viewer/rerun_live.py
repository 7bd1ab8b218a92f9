"""Live Rerun: a process that reads the ticks and frames of a run and sends them as they happen.

It only reads mailboxes, at low priority: a slow viewer, or one that hangs, costs the control loop
nothing; records that were overwritten before it came to them are missing in the viewer, and it says
how many.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from imitact.core.robot import TimedFrame
from imitact.core.types import Spec
from imitact.core.words import counted
from imitact.parallel.child_process import ChildProcess, ParentPipe, ProcessOwner
from imitact.parallel.mailbox import Mailbox
from imitact.recording.tick_record import RecordReader, TickRecord
from imitact.viewer.rerun_export import open_live, parse_target, send_lines, send_values

SEND_S = 0.1
"""Time between two batches, s."""

FRAME_S = 0.1
"""Shortest time between two frames of a camera that are sent, s."""

JPEG_QUALITY = 75

NICE = 10
"""Added to the niceness of the process, so that control comes first."""

_NUMBER = re.compile(r"[0-9.]+")

CLOSE_TIMEOUT_S = 10.0
"""Time to send what is left at the end of a run, s."""


class LiveRerun(ProcessOwner):
    """The command's side: starts the process, says how it ended, and ends it."""

    def __init__(
        self,
        target: str,
        spec: Spec,
        reader: RecordReader,
        frames: Mapping[str, Mailbox],
        on_line: Callable[[str], object] = lambda line: None,
    ) -> None:
        """Prepare; `start` starts the process.

        Args:
            target: a file that ends in .rrd, or "spawn" for a new viewer.
            spec: of the robot.
            reader: of the records from now on; not to be used elsewhere.
            frames: the mailboxes of the cameras.
            on_line: receives what is wrong.

        Raises:
            BadInput: another target, or Rerun is not installed.
        """
        parse_target(target)
        self._on_line, self._has_said = on_line, False
        arguments = (target, spec, reader, dict(frames))
        super().__init__(ChildProcess("the sender to Rerun", send_run, arguments, on_line))

    def start(self) -> None:
        """Start the process, without waiting for it."""
        self._process.begin()

    def watch(self) -> None:
        """Say once that the process has ended; the run goes on without it."""
        if not self._has_said and (death := self.death()):
            self._has_said = True
            self._on_line(f"{death}; the run goes on, and its log can be sent later")

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Let the process send what is left, and end it."""
        self.watch()
        if not self._process.end(timeout_s):
            self._on_line(f"Rerun took no more within {timeout_s:g} s; the rest was not sent")


def send_run(
    parent: ParentPipe,
    target: str,
    spec: Spec,
    reader: RecordReader,
    frames: Mapping[str, Mailbox],
) -> None:
    """Send ticks and frames until the parent has gone or closed the pipe."""
    os.nice(NICE)
    recording = open_live(parse_target(target), "run")
    sender = RunSender(recording, spec)
    parent.ready()
    lost = 0
    is_over = False
    while not is_over:
        is_over = parent.parent_is_gone or _is_closed(parent)
        began_s = time.monotonic()
        sender.send_ticks(reader.new())
        for camera, box in frames.items():
            if sender.wants_frame(camera, box.newest) and (mail := box.read()) is not None:
                frame = TimedFrame(mail.values, float(mail.times[0]), mail.sequence)
                sender.send_frame(camera, frame)
        if reader.lost > lost:
            lost = reader.lost
            parent.line(
                f"Rerun is slow: {counted(lost, 'tick')} so far are missing in it, not in the log"
            )
        if not is_over:
            time.sleep(max(0.0, SEND_S - (time.monotonic() - began_s)))
    recording.flush(timeout_sec=CLOSE_TIMEOUT_S / 2)
    recording.disconnect()


def _is_closed(parent: ParentPipe) -> bool:
    parent.next_order(0.0)  # notices the end of the pipe
    return parent.parent_is_gone


class RunSender:
    """Sends records and frames to a recording: curves by joint, on the timelines of a run's log."""

    def __init__(self, recording: Any, spec: Spec) -> None:
        """Send to `recording`, a stream of Rerun."""
        self._recording, self._spec = recording, spec
        self._first_s: float | None = None
        self._sent_tick = -1
        self._frames: dict[str, tuple[int, float]] = {}
        self._said = ""

    def send_ticks(self, records: Sequence[TickRecord]) -> None:
        """Send what was asked, commanded, sent and measured, lateness, ages, holds and words."""
        if not records:
            return
        if self._first_s is None:
            self._first_s = records[0].due_s
        first_s = self._first_s
        ticks = np.array([record.tick for record in records])
        time_s = np.array([record.due_s for record in records]) - first_s
        spec = self._spec
        for what, names, values in (
            ("asked", spec.action_names, [record.asked for record in records]),
            ("commanded", spec.action_names, [record.action for record in records]),
            ("measured", spec.state_names, [record.state for record in records]),
        ):
            for name, column in zip(names, np.array(values).T, strict=True):
                send_values(self._recording, ["joint", name, what], ticks, time_s, column)
        self._send_sent(records, first_s)
        start_s = np.array([record.start_s for record in records])
        timing = {
            "lateness_ms": start_s - time_s - first_s,
            "age_of_state_ms": start_s - np.array([record.state_s[0] for record in records]),
            "answer_ms": np.array([record.answer_s for record in records]),
        }
        for row, camera in enumerate(spec.cameras):
            captured_s = np.array([record.frames_s[row] for record in records])
            timing[f"age_of_{camera.name}_ms"] = start_s - captured_s
        for name, times_s in timing.items():
            send_values(self._recording, ["timing", name], ticks, time_s, 1e3 * times_s)
        for name in ("seam", "stage", "hold", "engaged", "skipped"):
            column = np.array([float(getattr(record, name)) for record in records])
            send_values(self._recording, ["control", name], ticks, time_s, column)
        self._send_words(records, first_s)

    def _send_sent(self, records: Sequence[TickRecord], first_s: float) -> None:
        """Send the commands that reached the hardware, at the time at which they did, once each."""
        new = []
        for record in records:
            if record.sent_tick >= 0 and record.sent_tick != self._sent_tick:
                self._sent_tick = record.sent_tick
                new.append(record)
        if not new:
            return
        ticks = np.array([record.sent_tick for record in new])
        time_s = np.array([record.sent_s for record in new]) - first_s
        columns = np.array([record.sent for record in new]).T
        for name, column in zip(self._spec.action_names, columns, strict=True):
            send_values(self._recording, ["joint", name, "sent"], ticks, time_s, column)

    def _send_words(self, records: Sequence[TickRecord], first_s: float) -> None:
        """Send why the robot is held or the safety filter acts, where that changes but for
        its numbers."""
        lines = []
        for record in records:
            kind = _NUMBER.sub("", record.words)
            if kind and kind != self._said:
                lines.append((record.tick, record.due_s - first_s, record.words, bool(record.held)))
            self._said = kind
        send_lines(self._recording, ["words"], lines)

    def wants_frame(self, camera: str, newest: int) -> bool:
        """Return whether a frame is new, and it is time for one."""
        sequence, at_s = self._frames.get(camera, (0, -FRAME_S))
        return newest > sequence and time.monotonic() - at_s >= FRAME_S

    def send_frame(self, camera: str, frame: TimedFrame) -> None:
        """Send a frame, compressed, at the time of its capture; before the first tick, none."""
        if self._first_s is None:
            return
        import rerun as rr

        self._frames[camera] = frame.sequence, time.monotonic()
        self._recording.set_time("time", duration=frame.captured_s - self._first_s)
        image = rr.Image(frame.frame).compress(jpeg_quality=JPEG_QUALITY)
        self._recording.log(rr.new_entity_path(["camera", camera]), image)
