"""Tuning grid: the executions to try at each delay, without two that act alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from imitact.core.answer_delay import DELAY_RANGE, delay_bounds, delay_words
from imitact.core.chunking import Replay
from imitact.core.errors import BadInput
from imitact.core.execution import Execution
from imitact.core.ranges import Range, check_ranges
from imitact.core.temporal_ensemble import Ensemble
from imitact.core.words import counted


@dataclass(frozen=True)
class Grid:
    """Executions that a tuning tries, at each delay."""

    replay: Annotated[tuple[int, ...], Range(1, 1_000_000)] = (10, 25, 50, 100)
    """Ticks of a chunk that are executed before the next query (replay:N)."""

    m: Annotated[tuple[float, ...], Range(-1_000, 1_000)] = (-0.1, 0.01, 0.1)
    """Weights exp(-m*i) of the temporal ensemble (ensemble:M/E), each with each of `every`. Above 0
    favours old predictions, as the released code's 0.01 does, below 0 new ones."""

    every: Annotated[tuple[int, ...], Range(1, 1_000_000)] = (5, 10, 25)
    """Ticks between two queries of the ensemble. The paper queries at every tick (1), which costs
    ten times the rendering and inference of 10."""

    delays: Annotated[tuple[int | str, ...], DELAY_RANGE] = (0, 2, 5, 10)
    """Simulated delays from a query to its answer, ticks; 3..9 draws one of 3 to 9 for each answer.
    The whole grid is tried at each."""

    fade: Annotated[tuple[int, ...], Range(0, 1_000_000)] = (0, 10)
    """Ticks over which the shift of a new chunk fades (replay:N~F), with each of `replay`; 0 does
    not shift it."""

    def __post_init__(self) -> None:
        check_ranges(self, "--")
        if not (self.replay and self.fade) and not (self.m and self.every):
            raise BadInput("the grid is empty; give --replay and --fade, or both --m and --every")
        if not self.delays:
            raise BadInput("--delays is empty; give at least one delay, usually 0")

    def at(self, delay_ticks: int | str, chunk_size: int) -> tuple[Execution, ...]:
        """Return the executions to try at one delay, from few queries to many.

        Of executions that act alike one is kept: a replay longer than the chunk replays the whole
        chunk, and where the delay exceeds the interval between queries, queries follow each other
        as fast as answers arrive. Of drawn delays the shortest counts here. An ensemble whose
        chunks hardly overlap is left out. A delay as long as a chunk, or a grid of which nothing is
        left, is refused.
        """
        shortest, longest = delay_bounds(delay_ticks)
        if longest >= chunk_size:
            raise BadInput(
                f"a chunk has {counted(chunk_size, 'tick')}, and an answer "
                f"{counted(longest, 'tick')} late arrives after all of them; tune for at most "
                f"{chunk_size - 1}"
            )
        kept: dict[tuple[float | str, ...], Execution] = {}
        for n in sorted(set(self.replay), reverse=True):
            # The ticks between two queries in fact.
            interval = min(max(n, shortest), max(chunk_size - longest, longest))
            for fade in sorted(set(self.fade)):
                text = Replay(n, fade_ticks=fade).text
                execution = Execution(text, delay_ticks).within(chunk_size)
                kept.setdefault((interval, fade), execution)
        for every in sorted(set(self.every), reverse=True):
            if max(every, longest) >= chunk_size - longest:
                continue
            interval = max(every, shortest)
            for m in self.m:
                text = Ensemble(m, every).text
                kept.setdefault(("ensemble", interval, m), Execution(text, delay_ticks))
        if not kept:
            raise BadInput(
                f"the grid has no execution for a delay of {delay_words(delay_ticks)} and "
                f"chunks of {chunk_size}; give --replay, or smaller values of --every"
            )
        return tuple(kept.values())
