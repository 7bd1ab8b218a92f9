"""Row blocks: the rows of arrays, one per tick, checked, and read a few megabytes at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput, SpecMismatch
from imitact.core.types import Spec
from imitact.parallel.isolated_process import MAX_ANSWER_BYTES

BLOCK_BYTES = 8 << 20
"""Bytes of frames read at a time; more only where one chunk of the file holds more."""


def checked_stop(episode: int, length: int, start: int, stop: int | None) -> int:
    """Return `stop`, or `length` for None; refuse ticks that an episode does not have."""
    stop = length if stop is None else stop
    if not 0 <= start <= stop <= length:
        raise BadInput(
            f"ticks {start} to {stop} of episode {episode} do not exist; it has {length}"
        )
    return stop


def check_shapes(spec: Spec, state: NDArray[Any], action: NDArray[Any]) -> None:
    """Refuse other than state (T, S) and action (T, A) of at least one tick."""
    length = len(state)
    want = ((length, spec.state_size), (length, spec.action_size))
    if (state.shape, action.shape) != want or length < 1:
        raise SpecMismatch(
            f"state has shape {state.shape} and action {action.shape}; expected {want[0]} and "
            f"{want[1]}, with at least 1 tick"
        )


def in_blocks(
    read: Callable[[int, int], Any], start: int, stop: int, row_bytes: int, chunk_rows: int
) -> Iterator[Any]:
    """Yield rows `start` to `stop`, read in blocks of whole chunks so that none is unpacked twice.

    `read` gets the first row and the one after the last; the file compresses `chunk_rows` together.
    """
    most = max(1, BLOCK_BYTES // max(1, row_bytes))
    chunk = min(max(1, chunk_rows), max(most, MAX_ANSWER_BYTES // 4 // max(1, row_bytes)))
    block = max(1, most // chunk) * chunk
    at = start
    while at < stop:
        end = min(stop, at // chunk * chunk + block)
        yield from read(at, end)
        at = end


def as_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return rows of any shape as (T, width); values too large for float32 become infinite."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values.reshape(len(values), -1), dtype=np.float32)
