"""Timed frames: camera frames with their capture times, copied out of a mailbox when they are used.

A control loop asks for sequence and time of every camera at every tick; a frame of 480x640 pixels
is copied only when a policy or a recorder looks at it.
"""

from __future__ import annotations

from collections.abc import Callable

from imitact.core.errors import RobotError
from imitact.core.robot import TimedFrame
from imitact.core.types import Frame
from imitact.parallel.mailbox import Mailbox

FRAME_SLOTS = 30
"""Frames that a camera's mailbox keeps: 1 s at 30 frames/s, in which a recorder must copy them."""


class LazyTimedFrame(TimedFrame):
    """A frame that is read at its first use, then kept."""

    def __init__(self, read: Callable[[], Frame], captured_s: float, sequence: int) -> None:
        """Remember how to read the frame; `read` raises RobotError where it is gone."""
        object.__setattr__(self, "_read", read)
        object.__setattr__(self, "_kept", None)
        object.__setattr__(self, "captured_s", captured_s)
        object.__setattr__(self, "sequence", sequence)

    @property
    def frame(self) -> Frame:  # type: ignore[override]
        """(H, W, 3), RGB."""
        if self._kept is None:  # type: ignore[attr-defined]
            object.__setattr__(self, "_kept", self._read())  # type: ignore[attr-defined]
        return self._kept  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        return f"LazyTimedFrame(captured_s={self.captured_s}, sequence={self.sequence})"


def frame_mailbox(height: int, width: int) -> Mailbox:
    """Return a mailbox for the frames of one camera; its first time is that of the capture."""
    return Mailbox.create((height, width, 3), "|u1", slots=FRAME_SLOTS)


def newest_frame(camera: str, box: Mailbox) -> TimedFrame | None:
    """Return the newest frame of a mailbox; None before the first."""
    newest = box.times()
    if newest is None:
        return None
    sequence, times = newest

    def read() -> Frame:
        mail = box.read(sequence)
        if mail is None:
            raise RobotError(
                f"frame {sequence} of camera {camera} was overwritten before it was used; its "
                f"mailbox keeps {box.slots} frames"
            )
        return mail.values

    return LazyTimedFrame(read, float(times[0]), sequence)
