"""The one way from what a camera captures to what the network sees: a window of it, resized.

Every pixel of the result is the average of the area it covers, pixels at the border of that
area counting by the share that lies inside, rounded half up. The arithmetic is exact (integers
below 2^53), so the same frame gives the same bytes on every machine: a cached training frame
equals what the policy makes of the same captured frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput, SpecMismatch
from imitact.core.types import Frame

VERSION = 1
"""Changes whenever the bytes of a result would; caches of resized frames store it."""

_LARGEST = 1 << 24  # pixels; above it a 32-bit sum of bytes could overflow


@dataclass(frozen=True)
class View:
    """What a network sees of a camera.

    height, width: of the result, pixels.
    window:        the part of the captured frame that is seen, as its first row, the row after
                   its last, its first column and the column after its last; None for all of it.
    """

    height: int
    width: int
    window: tuple[int, int, int, int] | None = None

    def __post_init__(self) -> None:
        if self.window is not None:
            top, bottom, left, right = self.window
            if not (0 <= top < bottom and 0 <= left < right):
                raise BadInput(
                    f"window {self.window} (rows {top} to {bottom}, columns {left} to {right}) "
                    "holds no pixel; each range must begin at 0 or above and end after that"
                )

    @property
    def size(self) -> tuple[int, int]:
        """height, width."""
        return self.height, self.width

    def of(self, frame: Frame) -> Frame:
        """The window of a captured frame, uint8 (H, W, 3), resized to (height, width, 3).

        Refuses a frame that does not reach as far as the window.
        """
        if self.window is not None:
            top, bottom, left, right = self.window
            if bottom > frame.shape[0] or right > frame.shape[1]:
                raise SpecMismatch(
                    f"a frame of {frame.shape[0]}x{frame.shape[1]} pixels does not hold rows "
                    f"{top} to {bottom} and columns {left} to {right}"
                )
            frame = frame[top:bottom, left:right]
        return resize(frame, self.height, self.width)


def resize(frame: Frame, height: int, width: int) -> Frame:
    """The area average of `frame`, uint8 (H, W, 3), as uint8 (height, width, 3).

    Returns the frame itself (not a copy) where the size is the same. Refuses other types and
    shapes, and sizes below one pixel.
    """
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise SpecMismatch(
            f"a frame is uint8 of shape (height, width, 3); got {frame.dtype} of {frame.shape}"
        )
    if height < 1 or width < 1:
        raise BadInput(f"cannot resize a frame to {height}x{width}; both must be at least 1 pixel")
    have_h, have_w = frame.shape[:2]
    if (have_h, have_w) == (height, width):
        return frame
    if have_h * have_w >= _LARGEST:
        raise BadInput(
            f"a frame of {have_h}x{have_w} pixels is too large; the limit is 2^24 pixels"
        )
    if have_h % height == 0 and have_w % width == 0:
        return _whole_factors(frame, have_h // height, have_w // width)
    return _any_factors(frame, height, width)


def _whole_factors(frame: Frame, down: int, across: int) -> Frame:
    """The common case (480x640 to 120x160), 20 times faster than the general one."""
    small = frame[0::down].astype(np.uint32 if down > 256 else np.uint16)
    for row in range(1, down):
        small += frame[row::down]
    total = small[:, 0::across].astype(np.uint32)
    for column in range(1, across):
        total += small[:, column::across]
    area = down * across
    return ((total + area // 2) // area).astype(np.uint8)


def _any_factors(frame: Frame, height: int, width: int) -> Frame:
    have_h, have_w = frame.shape[:2]
    # float64 holds every partial sum exactly, so the order in which a BLAS adds cannot matter.
    rows = overlaps(have_h, height) @ frame.reshape(have_h, -1).astype(np.float64)
    columns = np.matmul(overlaps(have_w, width), rows.reshape(height, have_w, 3))
    area = have_h * have_w
    return ((columns.astype(np.int64) + area // 2) // area).astype(np.uint8)


@lru_cache(maxsize=32)
def overlaps(have: int, want: int) -> NDArray[np.float64]:
    """(want, have): the length that output i shares with input j, in units of 1 / want pixel."""
    starts = np.arange(want)[:, None] * have
    edges = np.arange(have)[None, :] * want
    shared = np.minimum(starts + have, edges + want) - np.maximum(starts, edges)
    table = np.clip(shared, 0, None).astype(np.float64)
    table.setflags(write=False)
    return table
