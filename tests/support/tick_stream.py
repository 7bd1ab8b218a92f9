"""Tick stream: records and frames of a made-up robot, posted to mailboxes as a control loop does.

All values follow from the number of the tick, so that what was recorded can be compared with it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from imitact.core.hold import Hold
from imitact.core.robot import TimedFrame
from imitact.core.types import Camera, Spec
from imitact.datasets.video_config import VideoConfig
from imitact.parallel.mailbox import Mailbox
from imitact.recording.session_process import RecorderPlan, RecorderProcess
from imitact.recording.tick_record import TickFormat, TickRecord

RATE_HZ = 50.0
JOINTS, UNITS = ("waist", "elbow", "gripper"), ("rad", "rad", "1")
CAMERAS = (Camera("top", 16, 24), Camera("wrist", 12, 16))
SPEC = Spec(JOINTS, JOINTS, UNITS, UNITS, CAMERAS, RATE_HZ)
TASK = "wave"
FRAME_EVERY = 2
"""Ticks from one frame to the next."""

LOSSLESS = VideoConfig(codec="lossless")
PATIENCE_S = 120.0


def state_at(tick: int) -> np.ndarray:
    return np.sin(tick / 7 + np.arange(3))


def sent_at(tick: int) -> np.ndarray:
    """What the driver sent at a tick: the asked action, rounded."""
    return np.round(state_at(tick + 2), 3)


def frame_number(tick: int) -> int:
    """The number of the newest frame at a tick."""
    return tick // FRAME_EVERY + 1


def frame_of(camera: Camera, number: int) -> np.ndarray:
    """A frame whose pixels say its number."""
    return np.full((camera.height, camera.width, 3), number % 251, np.uint8)


def record_of(tick: int, phase: int = 1, **changes: object) -> TickRecord:
    """Return the record of a tick; its predecessor's command is known to have been sent."""
    due_s = 100.0 + tick / RATE_HZ
    asked = state_at(tick + 2)
    values = {
        "tick": tick, "phase": phase, "skipped": 0, "due_s": due_s, "start_s": due_s + 0.0005,
        "state": state_at(tick), "state_s": (due_s - 0.006, due_s - 0.002),
        "state_sequence": tick + 1,
        "frames_s": [due_s - 0.01 - tick % FRAME_EVERY / RATE_HZ] * len(CAMERAS),
        "frame_sequences": [frame_number(tick)] * len(CAMERAS),
        "asked": asked, "action": asked, "commanded_s": due_s + 0.001, "stage": 0, "joint": "",
        "held": 0, "hold": Hold.NONE, "words": "", "should_park": 0, "engaged": 1,
        "leader_s": due_s - 0.003, "query": 0, "answered_tick": -1, "answer_s": np.nan,
        "seam": np.nan, "sent": sent_at(tick - 1), "sent_tick": tick - 1,
        "sent_s": due_s - 1 / RATE_HZ + 0.004,
    }  # fmt: skip
    return TickRecord(**{**values, **changes})  # type: ignore[arg-type]


def frames_of(camera: str, number: int) -> TimedFrame | None:
    """Return a frame, as `RecordingSession.add` wants it."""
    captured_s = 100.0 + (number - 1) * FRAME_EVERY / RATE_HZ - 0.01
    return TimedFrame(frame_of(SPEC.camera(camera), number), captured_s, number)


class TickStream:
    """Posts ticks and frames to mailboxes, in step with a recorder."""

    def __init__(self) -> None:
        self.form = TickFormat.of(SPEC)
        self.records = self.form.mailbox(64)
        self.frames = {
            c.name: Mailbox.create((c.height, c.width, 3), "|u1", slots=8) for c in CAMERAS
        }
        self.tick = 0

    def post(self, **changes: object) -> TickRecord:
        """Post the next tick, and its frames where there are new ones; return its record."""
        tick, self.tick = self.tick, self.tick + 1
        number = frame_number(tick)
        for camera in CAMERAS:
            while self.frames[camera.name].newest < number:
                newer = self.frames[camera.name].newest + 1
                found = frames_of(camera.name, newer)
                assert found is not None
                self.frames[camera.name].post(found.frame, found.captured_s)
        record = record_of(tick, **changes)  # type: ignore[arg-type]
        self.records.post(self.form.pack(record), record.due_s)
        return record

    @contextmanager
    def recorder(self, out: Path, video: VideoConfig = LOSSLESS) -> Iterator[RecorderProcess]:
        """Run a recorder of this stream."""
        recorder = RecorderProcess(RecorderPlan(out, SPEC, TASK, self.frames, video))
        try:
            recorder.start(self.records, PATIENCE_S)
            yield recorder
        finally:
            recorder.close()

    def play(self, recorder: RecorderProcess, ticks: int) -> None:
        """Post the first ticks of an episode to a recorder, and wait until it has taken each."""
        for row in range(1, ticks + 1):
            recorder.add(self.post())
            wait_for(lambda rows=row: recorder.status.rows == rows, recorder)


def wait_for(condition: object, recorder: RecorderProcess | None = None) -> None:
    """Wait until a condition holds.

    Raises:
        AssertionError: it does not, or the recorder has ended.
    """
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():  # type: ignore[operator]
        assert recorder is None or not recorder.death(), recorder.death()
        assert time.monotonic() < deadline_s, "it did not come"
        time.sleep(0.002)
