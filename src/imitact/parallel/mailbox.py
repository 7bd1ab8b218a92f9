"""Mailbox: newest values with their times between processes, in shared memory, without waiting.

One process posts, any number read. A ring of slots keeps the last posts, so that a reader can copy
an older one; a checksum finds the rare copy that a post overtook, and it is read again.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
import zlib
from dataclasses import dataclass
from multiprocessing.context import assert_spawning
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput

_HEAD = 2  # of the mailbox: sequence of the newest post, number of slots
_SLOT_HEAD = 2  # of a slot: sequence of its post, checksum
TIMES = 4
"""Times (float64) that each post carries."""


@dataclass(frozen=True)
class Mail:
    """One post, copied.

    Attributes:
        sequence: number of the post, from 1.
        values: of the mailbox's shape and type.
        times: (TIMES,) s; what they mean is between writer and reader.
    """

    sequence: int
    values: NDArray[Any]
    times: NDArray[np.float64]


class Mailbox:
    """A ring of posts in shared memory.

    It reaches another process as an argument of a `multiprocessing` process that is spawned, or by
    the number of `fileno` (`subprocess` with pass_fds). The memory has no name: it goes with the
    last process that has it, however that ends.
    """

    def __init__(self, file: int, shape: tuple[int, ...], dtype: str, slots: int) -> None:
        """Use the memory of an open file; `create` makes a new one."""
        self.shape, self.dtype, self.slots = tuple(shape), dtype, slots
        self._file = file
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        stride = 8 * (_SLOT_HEAD + TIMES) + -(-size // 8) * 8
        total = 8 * _HEAD + slots * stride
        if os.fstat(file).st_size < total:
            os.ftruncate(file, total)
        memory = mmap.mmap(file, total)
        self._head = np.frombuffer(memory, np.int64, _HEAD)
        self._slots: list[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[Any]]] = []
        for slot in range(slots):
            at = 8 * _HEAD + slot * stride
            head = np.frombuffer(memory, np.int64, _SLOT_HEAD, at)
            times = np.frombuffer(memory, np.float64, TIMES, at + 8 * _SLOT_HEAD)
            flat = np.frombuffer(memory, np.uint8, size, at + 8 * (_SLOT_HEAD + TIMES))
            self._slots.append((head, times, flat.view(dtype).reshape(shape)))

    @classmethod
    def create(cls, shape: tuple[int, ...], dtype: str = "<f8", slots: int = 4) -> Mailbox:
        """Make a mailbox."""
        if slots < 2:
            raise BadInput(f"a mailbox of {slots} slots is overwritten as it is read; give 2")
        shared = Path("/dev/shm")  # Linux's files in memory; elsewhere a file that is mapped
        with tempfile.TemporaryFile(dir=shared if shared.is_dir() else None) as file:
            return cls(os.dup(file.fileno()), shape, dtype, slots)

    def __reduce__(self) -> tuple[Any, ...]:
        assert_spawning(self)
        return _received, (DupFd(self._file), self.shape, self.dtype, self.slots)

    def fileno(self) -> int:
        """Return the descriptor of the shared memory."""
        return self._file

    def post(self, values: NDArray[Any], *times: float) -> int:
        """Write values, with up to TIMES times; return the number of the post."""
        sequence = int(self._head[0]) + 1
        head, kept_times, kept = self._slots[sequence % self.slots]
        head[0] = 0  # not to be read
        kept[...] = values
        kept_times[:] = (*times, *(0.0,) * (TIMES - len(times)))
        head[1] = _checksum(sequence, kept_times, kept)
        head[0] = sequence
        self._head[0] = sequence
        return sequence

    @property
    def newest(self) -> int:
        """The number of the newest post; 0 before the first."""
        return int(self._head[0])

    def read(self, sequence: int | None = None) -> Mail | None:
        """Return a post; None takes the newest. None where there is none, or it is gone."""
        for _ in range(self.slots):
            wanted = self.newest if sequence is None else sequence
            if wanted < 1:
                return None
            head, kept_times, kept = self._slots[wanted % self.slots]
            values, times, checksum = kept.copy(), kept_times.copy(), int(head[1])
            if int(head[0]) == wanted and checksum == _checksum(wanted, times, values):
                return Mail(wanted, values, times)
            if sequence is not None:
                return None
        return None

    def times(self, sequence: int | None = None) -> tuple[int, NDArray[np.float64]] | None:
        """Return number and times of a post, as `read` does, without copying its values."""
        for _ in range(self.slots):
            wanted = self.newest if sequence is None else sequence
            if wanted < 1:
                return None
            head, kept_times, _values = self._slots[wanted % self.slots]
            before, times, after = int(head[0]), kept_times.copy(), int(head[0])
            if before == after == wanted:
                return wanted, times
            if sequence is not None:
                return None
        return None

    def close(self) -> None:
        """Close the descriptor; the memory goes once its last array has gone."""
        file, self._file = self._file, -1
        if file >= 0:
            with contextlib.suppress(OSError):
                os.close(file)

    def __del__(self) -> None:
        if "_file" in self.__dict__:
            self.close()


def _received(file: Any, shape: tuple[int, ...], dtype: str, slots: int) -> Mailbox:
    return Mailbox(file.detach(), shape, dtype, slots)


def _checksum(sequence: int, times: NDArray[np.float64], values: NDArray[Any]) -> int:
    """Return a checksum of a post; of large values of every 64th row and the last."""
    start = zlib.crc32(times.tobytes(), sequence & 0xFFFFFFFF)
    if values.nbytes <= 4096:
        return zlib.crc32(values.tobytes(), start)
    return zlib.crc32(values[-1].tobytes(), zlib.crc32(values[::64].tobytes(), start))
