"""From chunks of K future actions to the one action of this tick.

Two ways, as the ACT paper has them (Zhao et al. 2023, section IV-A): run a part of each chunk
and ask again (`Replay`), or ask often and average all predictions of this tick (`Ensemble`).
Both know answers that take time: with a delay of d ticks, the chunk asked for at a tick is there
d ticks later, and until then the earlier ones go on.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput, ImitactError, NotFinite
from imitact.core.types import FloatArray


class Chunking(Protocol):
    """Decides when a policy is asked, and which action is executed.

    Each tick: if `wants_chunk`, `feed` it the policy's answer to the observation of this tick;
    then `next` gives the action of this tick.
    """

    @property
    def text(self) -> str:
        """The setting as written on a command line, without its delay; `parse` reads it back."""
        ...

    @property
    def wants_chunk(self) -> bool:
        """Whether this tick needs an answer of the policy."""
        ...

    def reset(self) -> None:
        """Begin an episode."""
        ...

    def feed(self, chunk: FloatArray) -> None:
        """Take a chunk, (K, A), whose row 0 is for this tick; it counts after the delay."""
        ...

    def next(self) -> NDArray[np.float64] | None:
        """The action of this tick, (A,); the tick is over with it.

        None where there is none yet, because the answer is still on its way: the robot waits.
        """
        ...


def _checked(chunk: FloatArray) -> NDArray[np.float64]:
    if chunk.ndim != 2 or chunk.shape[0] < 1 or chunk.shape[1] < 1:
        raise BadInput(f"a chunk has shape (K, A) with K and A at least 1; got {chunk.shape}")
    if not np.all(np.isfinite(chunk)):
        row, column = np.argwhere(~np.isfinite(chunk))[0]
        raise NotFinite(f"the chunk is {chunk[row, column]} at row {row}, dimension {column}")
    return np.array(chunk, dtype=np.float64)


class _Timed:
    """When answers are asked for, when they are there, and what of them reaches a tick.

    delay_ticks: from a question to its answer; 0 has it in the same tick.

    One question at a time: while an answer is on its way none is asked, as one network on one
    computer works. Ticks in which the robot waits move no clock here, since nothing was executed:
    so the first chunk begins at its row 0 after the wait, and a chunk that arrives while an earlier
    one goes on begins at row `delay_ticks`. A question is asked early enough, where chunks are
    longer than the delay, for its answer to arrive as the chunk before runs out.
    """

    def __init__(self, delay_ticks: int) -> None:
        if delay_ticks < 0:
            raise BadInput(f"an answer {delay_ticks} ticks late is not possible; at least 0")
        self._delay = delay_ticks
        self.reset()

    def reset(self) -> None:
        self._live: list[
            tuple[int, NDArray[np.float64]]
        ] = []  # (tick of row 0, chunk), oldest first
        self._awaited: tuple[int, NDArray[np.float64]] | None = None
        self._wait = 0
        self._tick = 0
        self._asked = 0

    @property
    def wants_chunk(self) -> bool:
        if self._awaited is not None:
            return False
        return not self._live or self._due() or self._tick >= max(map(self._end, self._live))

    def feed(self, chunk: FloatArray) -> None:
        checked = _checked(chunk)
        if self._live and checked.shape[1] != self._live[-1][1].shape[1]:
            raise BadInput(
                f"the chunk has {checked.shape[1]} action dimensions, "
                f"the one before it {self._live[-1][1].shape[1]}"
            )
        self._asked = self._tick
        self._awaited = self._tick, checked
        self._wait = self._delay
        self._arrive()

    def next(self) -> NDArray[np.float64] | None:
        if self.wants_chunk:
            raise ImitactError("no action is left; feed a chunk when wants_chunk says so")
        action = None
        if self._live:
            action = self._action()
            self._tick += 1
            self._forget()
        self._wait -= 1
        self._arrive()
        return action

    def _due(self) -> bool:
        """Whether it is time for the next question, though an action is left."""
        raise NotImplementedError

    def _action(self) -> NDArray[np.float64]:
        """Of this tick, from the chunks that reach it."""
        raise NotImplementedError

    def _end(self, live: tuple[int, NDArray[np.float64]]) -> int:
        """The tick at which an answer must be asked for, lest nothing be left when it comes."""
        born, chunk = live
        return born + len(chunk) - (self._delay if len(chunk) > self._delay else 0)

    def _arrive(self) -> None:
        if self._awaited is not None and self._wait <= 0:
            self._live.append(self._awaited)
            self._awaited = None
            self._forget()

    def _forget(self) -> None:
        self._live = [(born, c) for born, c in self._live if self._tick - born < len(c)]


class Replay(_Timed):
    """Executes n of K actions, then asks again (n = 100 = K in the released code).

    A chunk shorter than n is executed whole.
    """

    def __init__(self, n: int, delay_ticks: int = 0) -> None:
        if n < 1:
            raise BadInput(f"replay:{n} executes nothing; n must be at least 1 tick")
        self._n = n
        super().__init__(delay_ticks)

    @property
    def text(self) -> str:
        return f"replay:{self._n}"

    def _due(self) -> bool:
        return self._tick >= self._asked + self._n

    def _action(self) -> NDArray[np.float64]:
        born, chunk = self._live[-1]
        return chunk[self._tick - born].copy()

    def _forget(self) -> None:
        super()._forget()
        self._live = self._live[-1:]


class Ensemble(_Timed):
    """The paper's temporal ensemble: the average of every live prediction of this tick.

    The prediction asked for i queries after the oldest live one weighs exp(-m·i); w_0 is the
    oldest, so m > 0 trusts the past and m < 0 the present; weights are normalised. A prediction is
    live from its arrival on while its chunk reaches this tick: a zero action is a vote like any
    other (the released code drops rows that contain an exact 0).

    every: ticks between two queries; 1 asks at each tick, as the paper does.

    Memory is the live chunks, at most ceil(K / every) of them with K·A numbers each, however
    long the episode.
    """

    def __init__(self, m: float, every: int = 1, delay_ticks: int = 0) -> None:
        if not math.isfinite(m):
            raise BadInput(f"the ensemble's m is {m}; it must be a finite number (the paper: 0.01)")
        if every < 1:
            raise BadInput(f"a query every {every} ticks is not possible; it must be at least 1")
        self._m = float(m)
        self._every = every
        super().__init__(delay_ticks)

    @property
    def text(self) -> str:
        every = "" if self._every == 1 else f"/{self._every}"
        short = f"{self._m:g}"
        return f"ensemble:{short if float(short) == self._m else repr(self._m)}{every}"

    def _due(self) -> bool:
        # At ticks 0, E, 2E, ..., or as soon as the answer before is there.
        return self._tick // self._every > self._asked // self._every

    def _action(self) -> NDArray[np.float64]:
        votes = np.stack([chunk[self._tick - born] for born, chunk in self._live])
        # Counted from the prediction that weighs most, so that its weight is 1 whatever m is;
        # with an m so large that others overflow, they overflow to exp(-inf) = 0.
        heaviest = 0 if self._m >= 0 else len(votes) - 1
        with np.errstate(over="ignore", under="ignore"):
            weights = np.exp(-self._m * (np.arange(len(votes)) - heaviest))
        return weights @ votes / weights.sum()


_FORM = (
    "replay:N (execute N ticks of a chunk) or ensemble:M (weights exp(-M·i); ensemble:M/E asks "
    "every E ticks)"
)
# Whole numbers of up to nine digits: a text of any length is refused, not computed with.
_REPLAY = re.compile(r"replay:([0-9]{1,9})")
_ENSEMBLE = re.compile(
    r"ensemble:([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)(?:/([0-9]{1,9}))?"
)


def parse(text: str, delay_ticks: int = 0) -> Replay | Ensemble:
    """`replay:50`, `ensemble:0.01` or `ensemble:0.01/5`; refuses anything else, with the form.

    delay_ticks: from a question to its answer.
    """
    if found := _REPLAY.fullmatch(text):
        return Replay(int(found[1]), delay_ticks)
    if found := _ENSEMBLE.fullmatch(text):
        return Ensemble(float(found[1]), int(found[2] or 1), delay_ticks)
    raise BadInput(f"chunking {text!r} is not known; expected {_FORM}")


@dataclass(frozen=True)
class Execution:
    """How a policy's chunks become actions; a policy may carry its own.

    chunking:    `replay:N`, `ensemble:M` or `ensemble:M/E`, in one spelling a setting.
    delay_ticks: from a question to its answer, simulated or, on a robot, expected.
    """

    chunking: str = "replay:50"
    delay_ticks: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "chunking", parse(self.chunking, self.delay_ticks).text)

    def __str__(self) -> str:
        """ "replay:50", "replay:50 with a delay of 3 ticks"."""
        if not self.delay_ticks:
            return self.chunking
        s = "" if self.delay_ticks == 1 else "s"
        return f"{self.chunking} with a delay of {self.delay_ticks} tick{s}"
