"""Tuning grid: the executions to try at each delay, without two that act alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

from imitact.core.chunking import Replay
from imitact.core.errors import BadInput
from imitact.core.execution import Execution
from imitact.core.temporal_ensemble import Ensemble


@dataclass(frozen=True)
class Grid:
    """Executions that a tuning tries, at each delay."""

    replay: tuple[int, ...] = (10, 25, 50, 100)
    """Ticks of a chunk that are executed before the next query (replay:N)."""

    m: tuple[float, ...] = (-0.1, 0.01, 0.1)
    """Weights exp(-m*i) of the temporal ensemble (ensemble:M/E), each with each of `every`. Above 0
    favours old predictions, as the paper's 0.01 does, below 0 new ones."""

    every: tuple[int, ...] = (5, 10, 25)
    """Ticks between two queries of the ensemble. The paper queries at every tick (1), which costs
    ten times the rendering and inference of 10."""

    delays: tuple[int, ...] = (0, 2, 5, 10)
    """Simulated delays from a query to its answer, ticks. The whole grid is tried at each."""

    def __post_init__(self) -> None:
        for name, least in (("replay", 1), ("every", 1), ("delays", 0)):
            for value in getattr(self, name):
                if value < least:
                    raise BadInput(f"--{name} is {value}; it must be at least {least}")
        for m in self.m:
            if not math.isfinite(m):
                raise BadInput(f"--m is {m}; it must be finite")
        if not self.replay and not (self.m and self.every):
            raise BadInput("the grid is empty; give --replay, or both --m and --every")
        if not self.delays:
            raise BadInput("--delays is empty; give at least one delay, usually 0")

    def at(self, delay_ticks: int, chunk_size: int) -> tuple[Execution, ...]:
        """Return the executions to try at one delay, from few queries to many.

        Of executions that act alike one is kept: a replay longer than the chunk replays the whole
        chunk, and where the delay exceeds the interval between queries, queries follow each other
        as fast as answers arrive. An ensemble whose chunks hardly overlap is left out. A delay as
        long as a chunk, or a grid of which nothing is left, is refused.
        """
        if delay_ticks >= chunk_size:
            raise BadInput(
                f"a chunk has {chunk_size} ticks, and an answer {delay_ticks} ticks late arrives "
                f"after all of them; tune for at most {chunk_size - 1}"
            )
        kept: dict[tuple[float, ...], Execution] = {}
        for n in sorted(set(self.replay), reverse=True):
            # The ticks between two queries in fact.
            interval = min(max(n, delay_ticks), max(chunk_size - delay_ticks, delay_ticks))
            execution = Execution(Replay(n).text, delay_ticks).within(chunk_size)
            kept.setdefault((interval,), execution)
        for every in sorted(set(self.every), reverse=True):
            interval = max(every, delay_ticks)
            if interval >= chunk_size - delay_ticks:
                continue
            for m in self.m:
                kept.setdefault((interval, m), Execution(Ensemble(m, every).text, delay_ticks))
        if not kept:
            raise BadInput(
                f"the grid has no execution for a delay of {delay_ticks} ticks and chunks of "
                f"{chunk_size}; give --replay, or smaller values of --every"
            )
        return tuple(kept.values())
