"""Temporal ensemble: the average of all live predictions for a tick, weighted by their age."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from imitact.core.chunking import Chunking
from imitact.core.errors import BadInput
from imitact.core.words import counted


class Ensemble(Chunking):
    """The paper's temporal ensemble: the average of all live predictions for this tick.

    The prediction queried i queries after the oldest live one has the weight exp(-m·i). So w_0 is
    that of the oldest: m > 0 favours old predictions, m < 0 new ones; weights are normalized. A
    prediction is live from its arrival for as long as its chunk reaches the tick. A zero action
    counts like any other (the released code drops rows that contain an exact 0).

    Memory holds at most ceil(K / every) live chunks of K·A numbers, however long the episode.
    """

    def __init__(self, m: float, every: int = 1, delay_ticks: int = 0) -> None:
        """Begin an episode; `every` ticks are between two queries, in the paper 1."""
        if not math.isfinite(m):
            raise BadInput(
                f"the ensemble's m is {m}; it must be a finite number (released with 0.01)"
            )
        if every < 1:
            raise BadInput(
                f"the ensemble queries every {counted(every, 'tick')}, expected at least 1"
            )
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
        return self._executed // self._every > self._queried // self._every

    def _action(self) -> NDArray[np.float64]:
        predictions = np.stack([chunk[self._executed - start] for start, chunk in self._live])
        # Counted from the prediction of the largest weight, so that this weight is 1 for any m;
        # with an m so large that others overflow, they overflow to exp(-inf) = 0.
        largest = 0 if self._m >= 0 else len(predictions) - 1
        with np.errstate(over="ignore", under="ignore"):
            weights = np.exp(-self._m * (np.arange(len(predictions)) - largest))
        return weights @ predictions / weights.sum()
