"""Chunking: from chunks of K future actions to the one action of each tick.

Two ways, as in the ACT paper (Zhao et al. 2023, section IV-A): execute a part of each chunk, then
query the policy again (`Replay`), or query often and average all predictions for this tick
(`Ensemble`). Both take a delay into account: with a delay of d ticks, the chunk queried at a tick
arrives d ticks later, and until then the earlier chunks are executed.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

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
        """Begin an episode.

        Args:
            delay_ticks: from a query to its answer; 0 answers within the same tick.
        """
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


class Ensemble(Chunking):
    """The paper's temporal ensemble: the average of all live predictions for this tick.

    The prediction queried i queries after the oldest live one has the weight exp(-m·i). So w_0 is
    that of the oldest: m > 0 favours old predictions, m < 0 new ones; weights are normalized. A
    prediction is live from its arrival for as long as its chunk reaches the tick. A zero action
    counts like any other (the released code drops rows that contain an exact 0).

    Memory holds at most ceil(K / every) live chunks of K·A numbers, however long the episode.
    """

    def __init__(self, m: float, every: int = 1, delay_ticks: int = 0) -> None:
        """Begin an episode.

        Args:
            m: the decay of the weights.
            every: ticks between two queries; 1 queries at each tick, as in the paper.
            delay_ticks: from a query to its answer.
        """
        if not math.isfinite(m):
            raise BadInput(f"the ensemble's m is {m}; it must be a finite number (the paper: 0.01)")
        if every < 1:
            raise BadInput(f"the ensemble queries every {every} ticks, expected at least 1")
        self._m = float(m)
        self._every = every
        super().__init__(delay_ticks)

    @property
    def text(self) -> str:
        """The setting as in `--chunking`, without its delay; `parse` reads it back."""
        every = "" if self._every == 1 else f"/{self._every}"
        short = f"{self._m:g}"
        return f"ensemble:{short if float(short) == self._m else repr(self._m)}{every}"

    def _due(self) -> bool:
        # At ticks 0, E, 2E, ..., or as soon as the answer before has arrived.
        return self._tick // self._every > self._queried // self._every

    def _action(self) -> NDArray[np.float64]:
        predictions = np.stack([chunk[self._tick - start] for start, chunk in self._live])
        # Counted from the prediction of the largest weight, so that this weight is 1 for any m;
        # with an m so large that others overflow, they overflow to exp(-inf) = 0.
        largest = 0 if self._m >= 0 else len(predictions) - 1
        with np.errstate(over="ignore", under="ignore"):
            weights = np.exp(-self._m * (np.arange(len(predictions)) - largest))
        return weights @ predictions / weights.sum()


_FORM = (
    "replay:N (execute N ticks of a chunk) or ensemble:M (weights exp(-M·i); ensemble:M/E queries "
    "every E ticks)"
)
# Whole numbers of up to nine digits: longer ones are refused, not computed with.
_REPLAY = re.compile(r"replay:([0-9]{1,9})")
_ENSEMBLE = re.compile(
    r"ensemble:([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)(?:/([0-9]{1,9}))?"
)


def parse(text: str, delay_ticks: int = 0) -> Replay | Ensemble:
    """Return the chunking of a text: `replay:50`, `ensemble:0.01` or `ensemble:0.01/5`.

    Args:
        text: the setting.
        delay_ticks: from a query to its answer.

    Raises:
        BadInput: the text is anything else.
    """
    if found := _REPLAY.fullmatch(text):
        return Replay(int(found[1]), delay_ticks)
    if found := _ENSEMBLE.fullmatch(text):
        return Ensemble(float(found[1]), int(found[2] or 1), delay_ticks)
    raise BadInput(f'chunking "{text}" is not known; expected {_FORM}')


@dataclass(frozen=True)
class Execution:
    """How a policy's chunks become actions; a tuned policy carries its own.

    Attributes:
        chunking: `replay:N`, `ensemble:M` or `ensemble:M/E`; equal settings are spelled alike.
        delay_ticks: from a query to its answer; simulated or, on a robot, expected.
    """

    chunking: str = "replay:50"
    delay_ticks: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "chunking", self.new().text)

    def new(self) -> Replay | Ensemble:
        """Return a new chunking with these settings, at the start of an episode."""
        return parse(self.chunking, self.delay_ticks)

    def __str__(self) -> str:
        """As in "replay:50" or "replay:50 with a delay of 3 ticks"."""
        if not self.delay_ticks:
            return self.chunking
        s = "" if self.delay_ticks == 1 else "s"
        return f"{self.chunking} with a delay of {self.delay_ticks} tick{s}"
