"""Chunking: from chunks of K future actions to the one action of each tick.

Two ways, as in the ACT paper (Zhao et al. 2023, section IV-A): execute a part of each chunk, then
query the policy again (`Replay`), or query often and average all predictions for this tick
(`Ensemble` in temporal_ensemble.py). Both take a delay into account: with a delay of d ticks, the
chunk queried at a tick arrives d ticks later, and until then the earlier chunks are executed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput, ImitactError, NotFinite
from imitact.core.types import FloatArray


class Chunking:
    """Decides when a policy is queried, and which action is executed.

    At each tick: if `wants_chunk`, `feed` it the policy's chunk for the observation of this tick;
    then `next` returns the action of this tick.

    One query at a time: while an answer is on its way the policy is not queried, as with one
    network on one computer. Ticks in which the robot waits do not count here, because nothing is
    executed: the first chunk begins at its row 0 after the wait, and a chunk that arrives while an
    earlier one is executed begins at row `delay_ticks`. Where chunks are longer than the delay, the
    policy is queried early enough for the next chunk to arrive as the last one runs out.
    """

    def __init__(self, delay_ticks: int) -> None:
        """Begin an episode; with a delay of 0 a query is answered within the same tick."""
        if delay_ticks < 0:
            raise BadInput(f"the delay is {delay_ticks} ticks, expected at least 0")
        self._delay = delay_ticks
        self.reset()

    def reset(self) -> None:
        """Begin an episode."""
        # (tick of row 0, chunk), oldest first
        self._live: list[tuple[int, NDArray[np.float64]]] = []
        self._awaited: tuple[int, NDArray[np.float64]] | None = None
        self._wait = 0
        self._tick = 0
        self._queried = 0

    @property
    def wants_chunk(self) -> bool:
        """Whether this tick needs a chunk from the policy."""
        if self._awaited is not None:
            return False
        return not self._live or self._due() or self._tick >= max(map(self._last_call, self._live))

    def feed(self, chunk: FloatArray) -> None:
        """Take a chunk, (K, A), whose row 0 is for this tick; it arrives after the delay."""
        if chunk.ndim != 2 or chunk.shape[0] < 1 or chunk.shape[1] < 1:
            raise BadInput(f"the chunk has shape {chunk.shape}, expected (K, A) with K, A >= 1")
        if not np.all(np.isfinite(chunk)):
            row, column = np.argwhere(~np.isfinite(chunk))[0]
            raise NotFinite(f"the chunk is {chunk[row, column]} at row {row}, dimension {column}")
        if self._live and chunk.shape[1] != self._live[-1][1].shape[1]:
            raise BadInput(
                f"the chunk has {chunk.shape[1]} action dimensions, "
                f"the one before it {self._live[-1][1].shape[1]}"
            )
        self._queried = self._tick
        self._awaited = self._tick, np.array(chunk, dtype=np.float64)
        self._wait = self._delay
        self._arrive()

    def next(self) -> NDArray[np.float64] | None:
        """Return the action of this tick, (A,), and end the tick.

        None where no chunk has arrived yet: the robot waits.
        """
        if self.wants_chunk:
            raise ImitactError("no action is left; feed a chunk when wants_chunk is true")
        action = None
        if self._live:
            action = self._action()
            self._tick += 1
            self._drop_past()
        self._wait -= 1
        self._arrive()
        return action

    def _due(self) -> bool:
        """Whether it is time for the next query, although an action is left."""
        raise NotImplementedError

    def _action(self) -> NDArray[np.float64]:
        """Return the action of this tick, from the chunks that reach it."""
        raise NotImplementedError

    def _last_call(self, live: tuple[int, NDArray[np.float64]]) -> int:
        """Return the last tick for a query whose answer arrives before this chunk runs out."""
        start, chunk = live
        return start + len(chunk) - (self._delay if len(chunk) > self._delay else 0)

    def _arrive(self) -> None:
        if self._awaited is not None and self._wait <= 0:
            self._live.append(self._awaited)
            self._awaited = None
            self._drop_past()

    def _drop_past(self) -> None:
        self._live = [(start, c) for start, c in self._live if self._tick - start < len(c)]


class Replay(Chunking):
    """Executes n of K actions, then queries again (n = 100 = K in the released code).

    A chunk shorter than n is executed whole.
    """

    def __init__(self, n: int, delay_ticks: int = 0) -> None:
        if n < 1:
            raise BadInput(f"replay:{n} executes nothing; n must be at least 1 tick")
        self._n = n
        super().__init__(delay_ticks)

    @property
    def text(self) -> str:
        """The setting as in `--chunking`, without its delay; `parse` reads it back."""
        return f"replay:{self._n}"

    def _due(self) -> bool:
        return self._tick >= self._queried + self._n

    def _action(self) -> NDArray[np.float64]:
        start, chunk = self._live[-1]
        return chunk[self._tick - start].copy()

    def _drop_past(self) -> None:
        super()._drop_past()
        self._live = self._live[-1:]
