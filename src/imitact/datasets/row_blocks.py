"""Rows that hold a tick each: those that are asked for, read in blocks, as numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput
from imitact.parallel.isolated_process import MAX_ANSWER_BYTES

READ_BYTES = 8 << 20
"""Of frames read at a time; more only where a chunk of the file holds more."""


def last_of(index: int, length: int, start: int, stop: int | None) -> int:
    """The tick after the last one asked for, None being all; refuses what the episode has not."""
    stop = length if stop is None else stop
    if not 0 <= start <= stop <= length:
        raise BadInput(f"ticks {start} to {stop} of episode {index} do not exist; it has {length}")
    return stop


def in_blocks(
    read: Callable[[int, int], Any], start: int, stop: int, row_bytes: int, chunk_rows: int
) -> Iterator[Any]:
    """Rows start to stop, one after the other, read some at a time: a few megabytes, or as many
    rows as are packed together, so that none is unpacked twice."""
    most = max(1, READ_BYTES // max(1, row_bytes))
    packed = min(max(1, chunk_rows), max(most, MAX_ANSWER_BYTES // 4 // max(1, row_bytes)))
    many = max(1, most // packed) * packed
    at = start
    while at < stop:
        end = min(stop, at // packed * packed + many)
        yield from read(at, end)
        at = end


def in_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """(T, width) whatever the shape; a number too large is infinite, which who trains refuses."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values.reshape(len(values), -1), dtype=np.float32)
