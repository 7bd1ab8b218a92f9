"""Camera track: the frames of one camera in an episode while it is recorded, a frame a row.

A row whose frame was overwritten before it could be copied keeps the frame of the row before, with
the capture time of that one, and the loss is counted: a row never has a frame that it did not see.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from imitact.core.errors import RobotError
from imitact.core.robot import TimedFrame
from imitact.core.types import Camera, Frame
from imitact.datasets.episode_encoder import CameraEncoder
from imitact.datasets.lerobot.stats import FeatureStats
from imitact.datasets.video_config import VideoConfig

MAX_BACKLOG = 100
"""Frames that wait for the encoder of a camera before the recorder waits for it: 92 MB at 480x640,
2 s at 50 Hz."""

FrameAt = Callable[[str, int], TimedFrame | None]
"""Returns the frame of a camera by its number; None where it is gone."""


class CameraTrack:
    """Frames of one camera. Not the newest frame of a row decides, but its number.

    Attributes:
        lost: frames that were gone.
        captured_s: capture time of the frame of the newest row.
    """

    def __init__(
        self, path: Path, camera: Camera, rate_hz: float, video: VideoConfig, *, threaded: bool
    ) -> None:
        """Begin a video file; with `threaded` a thread encodes."""
        self.path, self.camera = path, camera
        self._encoder = CameraEncoder(path, camera, rate_hz, video, None)
        self._pool = ThreadPoolExecutor(1, f"encoder-{camera.name}") if threaded else None
        self._waiting: list[Future[None]] = []
        self._frame: Frame | None = None
        self._sequence = 0
        self.captured_s = float("nan")
        self.lost = 0

    @property
    def backlog(self) -> int:
        """Frames that wait for the encoder."""
        return sum(not future.done() for future in self._waiting)

    def take(self, sequence: int, frames: FrameAt) -> bool:
        """Copy the frame of that number, for `add`; return whether there is one to add.

        Args:
            sequence: of the newest frame at the tick; 0 before the first.
            frames: where to copy it from.
        """
        if sequence != self._sequence or self._frame is None:
            found = _copied(self.camera.name, sequence, frames)
            if found is not None:
                self._frame, self.captured_s = found.frame, found.captured_s
                self._sequence = sequence
            elif sequence > 0:
                self.lost += 1
        return self._frame is not None

    def add(self) -> None:
        """Append the frame that `take` copied."""
        assert self._frame is not None
        self._do(self._encoder.add, self._frame)

    def hold_back(self) -> None:
        """Keep the frames from here on out of the video, unless `accept` follows."""
        self._do(self._encoder.hold_back)

    def accept(self) -> None:
        self._do(self._encoder.accept)

    def finish(self) -> FeatureStats:
        """Finish the video; return the statistics of its frames."""
        self._settle()
        self._encoder.__exit__(None)
        return self._encoder.stats()

    def abandon(self) -> None:
        """Remove the video; what waits is not encoded."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        error = ValueError("dropped")
        self._encoder.__exit__(type(error), error, None)

    def _do(self, work: Callable[..., None], *values: Frame) -> None:
        if self._pool is None:
            work(*values)
            return
        while self._waiting and self._waiting[0].done():
            self._waiting.pop(0).result()
        if len(self._waiting) >= MAX_BACKLOG:
            self._waiting.pop(0).result()
        self._waiting.append(self._pool.submit(work, *values))

    def _settle(self) -> None:
        while self._waiting:
            self._waiting.pop(0).result()
        if self._pool is not None:
            self._pool.shutdown()


def _copied(camera: str, sequence: int, frames: FrameAt) -> TimedFrame | None:
    """Return a frame with its pixels; None where it is gone, or another one came."""
    try:
        found = frames(camera, sequence) if sequence > 0 else None
        if found is None or found.sequence != sequence:
            return None
        return TimedFrame(found.frame, found.captured_s, sequence)
    except RobotError:  # overwritten between its time and its pixels
        return None
