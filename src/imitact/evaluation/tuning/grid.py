"""The executions that are worth trying: a grid without two that act alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

from imitact.core.chunking import Ensemble, Execution, Replay
from imitact.core.errors import BadInput


@dataclass(frozen=True)
class Grid:
    """What a tuning tries, at each delay."""

    replay: tuple[int, ...] = (10, 25, 50, 100)
    """Ticks of a chunk that are executed before the next is asked for (replay:N)."""

    m: tuple[float, ...] = (-0.1, 0.01, 0.1)
    """Weights exp(-m*i) of the temporal ensemble (ensemble:M/E): above 0 trusts old predictions, as
    the paper's 0.01 does, below 0 new ones. Each is tried with each of `every`."""

    every: tuple[int, ...] = (5, 10, 25)
    """Ticks between two queries of the ensemble. The paper asks at every tick (1), which renders
    and infers ten times as often as 10 does."""

    delays: tuple[int, ...] = (0, 2, 5, 10)
    """Ticks from a query to its answer, simulated; all of the grid is tried at each, so the cost
    grows with their number."""

    def __post_init__(self) -> None:
        for name, least in (("replay", 1), ("every", 1), ("delays", 0)):
            for value in getattr(self, name):
                if value < least:
                    raise BadInput(f"{name} is {value}; it must be at least {least}")
        for m in self.m:
            if not math.isfinite(m):
                raise BadInput(f"m is {m}; it must be finite")
        if not self.replay and not (self.m and self.every):
            raise BadInput("the grid is empty; give lengths of replay, or m and every")
        if not self.delays:
            raise BadInput("no delay is given to tune at; give at least one, usually 0")

    def at(self, delay_ticks: int, chunk: int) -> tuple[Execution, ...]:
        """The settings to try at that delay with chunks of `chunk` ticks, from few queries to many.

        Of settings that act alike one is kept: a replay beyond the chunk is that of the whole
        chunk, and where answers take longer than the wished interval, queries are as many as
        answers. An ensemble that asks hardly before its chunk runs out has nothing to average and
        is left out. Refuses a delay as long as a chunk, and a grid with nothing left.
        """
        if delay_ticks >= chunk:
            raise BadInput(
                f"a chunk has {chunk} ticks: an answer {delay_ticks} ticks late comes when all of "
                f"them are over; tune for at most {chunk - 1}"
            )
        kept: dict[tuple[float, ...], Execution] = {}
        for n in sorted(set(self.replay), reverse=True):
            key = (_interval(n, delay_ticks, chunk),)
            kept.setdefault(key, Execution(Replay(n).text, delay_ticks))
        for every in sorted(set(self.every), reverse=True):
            interval = max(every, delay_ticks)
            if interval >= chunk - delay_ticks:
                continue
            for m in self.m:
                kept.setdefault((interval, m), Execution(Ensemble(m, every).text, delay_ticks))
        if not kept:
            raise BadInput(
                f"no setting of the grid makes sense at a delay of {delay_ticks} ticks with chunks "
                f"of {chunk}: give lengths of replay, or smaller values of every"
            )
        return tuple(kept.values())


def _interval(n: int, delay_ticks: int, chunk: int) -> int:
    """Ticks between two queries that are really asked, where n are wished for."""
    return min(max(n, delay_ticks), max(chunk - delay_ticks, delay_ticks))
