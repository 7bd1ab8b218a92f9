"""Frame box: the writing end of imitact's mailbox (imitact.parallel.mailbox), for camera frames.

A ring of slots in shared memory that imitact made; this program gets its file descriptor. Layout:
int64 (number of the newest post, slots), then for each slot int64 (number of its post, checksum),
four float64 times, and the frame, padded to eight bytes.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

_TIMES = 4


class FrameBox:
    """The mailbox of one camera's frames, (H, W, 3) uint8."""

    def __init__(self, file: int, shape: Sequence[int], slots: int) -> None:
        """Map the memory behind a file descriptor."""
        self.shape = tuple(shape)
        size = int(np.prod(self.shape))
        stride = 8 * (2 + _TIMES) + -(-size // 8) * 8
        memory = mmap.mmap(file, 16 + slots * stride)
        self._slots = slots
        self._head = np.frombuffer(memory, np.int64, 2)
        self._rings: list[tuple[Any, Any, Any]] = []
        for slot in range(slots):
            at = 16 + slot * stride
            head = np.frombuffer(memory, np.int64, 2, at)
            times = np.frombuffer(memory, np.float64, _TIMES, at + 16)
            frame = np.frombuffer(memory, np.uint8, size, at + 8 * (2 + _TIMES))
            self._rings.append((head, times, frame.reshape(self.shape)))

    def post(self, frame: np.ndarray, captured_s: float) -> None:
        """Write a frame with the time of its capture, s on the system's monotonic clock.

        Raises:
            ValueError: the frame is not uint8 of the mailbox's shape.
        """
        if frame.shape != self.shape or frame.dtype != np.uint8:
            raise ValueError(f"{frame.dtype} of {frame.shape}, expected uint8 of {self.shape}")
        sequence = int(self._head[0]) + 1
        head, times, kept = self._rings[sequence % self._slots]
        head[0] = 0  # not to be read
        kept[...] = frame
        times[:] = (captured_s, 0.0, 0.0, 0.0)
        start = zlib.crc32(times.tobytes(), sequence & 0xFFFFFFFF)
        if kept.nbytes <= 4096:
            head[1] = zlib.crc32(kept.tobytes(), start)
        else:
            head[1] = zlib.crc32(kept[-1].tobytes(), zlib.crc32(kept[::64].tobytes(), start))
        head[0] = sequence
        self._head[0] = sequence
