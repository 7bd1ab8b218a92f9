"""From chunks of K future actions to the one action of this tick.

Two ways, as the ACT paper has them (Zhao et al. 2023, section IV-A): run a part of each chunk
and ask again (`Replay`), or ask often and average all predictions of this tick (`Ensemble`).
"""

from __future__ import annotations

import math
import re
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from imitact.contract import BadInput, FloatArray, ImitactError, NotFinite


class Chunking(Protocol):
    """Decides when a policy is asked, and which action is executed.

    Each tick: if `wants_chunk`, `feed` it the policy's answer to the observation of this tick;
    then `next` gives the action of this tick.
    """

    @property
    def text(self) -> str:
        """The setting as written on a command line; `parse` reads it back."""
        ...

    @property
    def wants_chunk(self) -> bool:
        """Whether this tick needs an answer of the policy."""
        ...

    def reset(self) -> None:
        """Begin an episode."""
        ...

    def feed(self, chunk: FloatArray) -> None:
        """Take a chunk, (K, A), whose row 0 is for this tick."""
        ...

    def next(self) -> NDArray[np.float64]:
        """The action of this tick, (A,); the tick is over with it."""
        ...


def _checked(chunk: FloatArray) -> NDArray[np.float64]:
    if chunk.ndim != 2 or chunk.shape[0] < 1 or chunk.shape[1] < 1:
        raise BadInput(f"a chunk has shape (K, A) with K and A at least 1; got {chunk.shape}")
    if not np.all(np.isfinite(chunk)):
        row, column = np.argwhere(~np.isfinite(chunk))[0]
        raise NotFinite(f"the chunk is {chunk[row, column]} at row {row}, dimension {column}")
    return np.array(chunk, dtype=np.float64)


class Replay:
    """Executes the first n of K actions, then asks again (n = 100 = K in the released code).

    A chunk shorter than n is executed whole.
    """

    def __init__(self, n: int) -> None:
        if n < 1:
            raise BadInput(f"replay:{n} executes nothing; n must be at least 1 tick")
        self._n = n
        self.reset()

    @property
    def text(self) -> str:
        return f"replay:{self._n}"

    @property
    def wants_chunk(self) -> bool:
        return self._at >= self._left

    def reset(self) -> None:
        self._chunk: NDArray[np.float64] | None = None
        self._at = 0
        self._left = 0

    def feed(self, chunk: FloatArray) -> None:
        self._chunk = _checked(chunk)
        self._at = 0
        self._left = min(self._n, len(chunk))

    def next(self) -> NDArray[np.float64]:
        if self._chunk is None or self.wants_chunk:
            raise ImitactError("no action is left; feed a chunk when wants_chunk says so")
        self._at += 1
        return self._chunk[self._at - 1].copy()


class Ensemble:
    """The paper's temporal ensemble: the average of every live prediction of this tick.

    The prediction made i queries after the oldest live one weighs exp(-m·i); w_0 is the oldest,
    so m > 0 trusts the past and m < 0 the present; weights are normalised. A prediction is live
    while its chunk reaches this tick: a zero action is a vote like any other (the released code
    drops rows that contain an exact 0).

    every: ticks between two queries; 1 asks at each tick, as the paper does.

    Memory is the live chunks, at most ceil(K / every) of them with K·A numbers each, however
    long the episode.
    """

    def __init__(self, m: float, every: int = 1) -> None:
        if not math.isfinite(m):
            raise BadInput(f"the ensemble's m is {m}; it must be a finite number (the paper: 0.01)")
        if every < 1:
            raise BadInput(f"a query every {every} ticks is not possible; it must be at least 1")
        self._m = float(m)
        self._every = every
        self.reset()

    @property
    def text(self) -> str:
        every = "" if self._every == 1 else f"/{self._every}"
        short = f"{self._m:g}"
        return f"ensemble:{short if float(short) == self._m else repr(self._m)}{every}"

    @property
    def wants_chunk(self) -> bool:
        due = self._tick % self._every == 0 and self._fed_at != self._tick
        return due or not self._live

    def reset(self) -> None:
        self._live: list[
            tuple[int, NDArray[np.float64]]
        ] = []  # (tick of row 0, chunk), oldest first
        self._tick = 0
        self._fed_at = -1

    def feed(self, chunk: FloatArray) -> None:
        checked = _checked(chunk)
        if self._live and checked.shape[1] != self._live[-1][1].shape[1]:
            raise BadInput(
                f"the chunk has {checked.shape[1]} action dimensions, "
                f"the one before it {self._live[-1][1].shape[1]}"
            )
        self._live.append((self._tick, checked))
        self._fed_at = self._tick

    def next(self) -> NDArray[np.float64]:
        if not self._live:
            raise ImitactError(
                "no prediction reaches this tick; feed a chunk when wants_chunk says so"
            )
        votes = np.stack([chunk[self._tick - born] for born, chunk in self._live])
        # Counted from the prediction that weighs most, so that its weight is 1 whatever m is;
        # with an m so large that others overflow, they overflow to exp(-inf) = 0.
        heaviest = 0 if self._m >= 0 else len(votes) - 1
        with np.errstate(over="ignore", under="ignore"):
            weights = np.exp(-self._m * (np.arange(len(votes)) - heaviest))
        action = weights @ votes / weights.sum()
        self._tick += 1
        self._live = [(born, c) for born, c in self._live if self._tick - born < len(c)]
        return action


_FORM = (
    "replay:N (execute N ticks of a chunk) or ensemble:M (weights exp(-M·i); ensemble:M/E asks "
    "every E ticks)"
)
_REPLAY = re.compile(r"replay:(\d+)")
_ENSEMBLE = re.compile(r"ensemble:([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?:/(\d+))?")


def parse(text: str) -> Replay | Ensemble:
    """`replay:50`, `ensemble:0.01` or `ensemble:0.01/5`; refuses anything else, with the form."""
    if found := _REPLAY.fullmatch(text):
        return Replay(int(found[1]))
    if found := _ENSEMBLE.fullmatch(text):
        return Ensemble(float(found[1]), int(found[2] or 1))
    raise BadInput(f"chunking {text!r} is not known; expected {_FORM}")
