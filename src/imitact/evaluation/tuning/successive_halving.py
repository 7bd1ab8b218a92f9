"""Successive halving: each round drops the worse half of the settings; the last one is confirmed.

At each delay the whole grid runs on a few seeds; the better half continues on twice as many, until
few finalists are left, which run on all selection seeds and of which `selection.py` chooses one.
Executions are dropped by rank alone, so bad luck can drop a good one. All executions of a round run
on the same seeds. The success rate that led to the choice is biased upwards, so the chosen
execution runs again on confirmation seeds that played no part in it, and only that rate is
reported as its success.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from imitact.core.answer_delay import DELAY_RANGE, delay_bounds, delay_words
from imitact.core.errors import BadInput
from imitact.core.execution import Execution
from imitact.core.ranges import Count, CountOrNone, Seed, check_ranges
from imitact.core.words import counted
from imitact.evaluation.confidence_intervals import Paired
from imitact.evaluation.results import Evaluation, compare
from imitact.evaluation.tuning.grid import Grid
from imitact.evaluation.tuning.selection import Choice, choose, ranked

UNTUNED = Execution()
"""Execution of an untuned policy; the confirmation runs it for comparison."""


@dataclass(frozen=True)
class RaceConfig:
    """Seeds, and the number of executions that they are spent on."""

    delay_ticks: Annotated[int | str, DELAY_RANGE] = 0
    """Ticks from a query to its answer for which the execution is chosen; joins `delays`. Take the
    99th percentile of the inference time in the certificate of an export, rounded up to ticks, or
    3..9, which draws one of 3 to 9 for each answer."""

    first_seed: Seed = 5000
    """First of the seeds on which executions are compared. Demonstrations use 0 to 999, evaluations
    1000 and up."""

    first_round: Count = 10
    """Seeds of the first round, which runs all executions. Each round doubles the seeds and halves
    the executions."""

    finalists: Count = 4
    """Executions that run on all selection seeds."""

    selection: Count = 100
    """Seeds of the finalists."""

    confirmation: CountOrNone = 100
    """Seeds on which the chosen execution runs at every delay, beside the best one of that delay
    and replay:50; 0 skips the confirmation."""

    def __post_init__(self) -> None:
        check_ranges(self, "--")
        if self.selection < self.first_round:
            raise BadInput(
                f"--selection is {counted(self.selection, 'seed')}; it must be at least "
                f"--first-round, which is {self.first_round}"
            )
        if self.first_seed < 5000:
            raise BadInput(
                f"--first-seed is {self.first_seed}; seeds below 5000 are for demonstrations (0 to "
                "999) and evaluations (from 1000 on), and tuning on them would bias the result"
            )

    @property
    def selection_seeds(self) -> range:
        """Seeds that the choice is made by."""
        return range(self.first_seed, self.first_seed + self.selection)

    @property
    def confirmation_seeds(self) -> range:
        """Seeds after those of the selection, that the choice is confirmed on."""
        first = self.first_seed + self.selection
        return range(first, first + self.confirmation)

    def rounds(self, executions: int) -> list[tuple[int, int]]:
        """Return (executions, seeds) of each round, given the number of executions at the start."""
        found = []
        seeds = self.first_round
        while executions > self.finalists:
            found.append((executions, min(seeds, self.selection)))
            executions = max(self.finalists, (executions + 1) // 2)
            seeds *= 2
        return [*found, (executions, self.selection)]


@dataclass(frozen=True)
class DelayRace:
    """The race at one delay: the evaluations of each round, from best to worst, on the same seeds.

    The choice is among the finalists, which are the last round.
    """

    delay_ticks: int | str
    rounds: tuple[tuple[Evaluation, ...], ...]
    choice: Choice

    @property
    def longest(self) -> list[Evaluation]:
        """Longest evaluation of each execution; finalists first, those dropped first last."""
        found: dict[Execution, Evaluation] = {}
        for evaluations in reversed(self.rounds):
            for evaluation in evaluations:
                found.setdefault(evaluation.execution, evaluation)
        return list(found.values())


@dataclass(frozen=True)
class Tuning:
    """Result of a tuning.

    Attributes:
        chosen: chosen execution, at the delay of `RaceConfig.delay_ticks`.
        confirmed: evaluations on the confirmation seeds: at each delay the chosen one, the best of
            that delay, and the untuned one, without repetition.
        untuned: what is executed of the policy's chunks without a tuning, at no delay.
    """

    races: tuple[DelayRace, ...]
    chosen: Execution
    confirmed: tuple[Evaluation, ...]
    untuned: Execution = UNTUNED

    def confirmation(self, chunking: str, delay_ticks: int | str) -> Evaluation | None:
        """Return the evaluation of a chunking at a delay; None where it was not confirmed."""
        wanted = Execution(chunking, delay_ticks)
        return next((e for e in self.confirmed if e.execution == wanted), None)

    @property
    def gain(self) -> Paired | None:
        """Success of the chosen execution minus that of the untuned, on the confirmation seeds."""
        a = self.confirmation(self.chosen.chunking, self.chosen.delay_ticks)
        b = self.confirmation(self.untuned.chunking, self.chosen.delay_ticks)
        return compare(a, b) if a and b else None


RunEpisodes = Callable[[Sequence[Execution], Sequence[int]], list[Evaluation]]
"""Evaluates each execution on all of the seeds."""


def count_episodes(grid: Grid, race: RaceConfig, chunk_size: int) -> int:
    """Return the number of episodes: exact for the race, an upper bound for the confirmation."""
    delays = _delays(grid, race)
    total = 0
    for delay_ticks in delays:
        before = 0
        for executions, seeds in race.rounds(len(grid.at(delay_ticks, chunk_size))):
            total += executions * (seeds - before)
            before = seeds
    return total + len(delays) * 3 * race.confirmation


def tune(
    run: RunEpisodes,
    grid: Grid,
    race: RaceConfig,
    chunk_size: int,
    on_stage: Callable[[str], object] = lambda text: None,
) -> Tuning:
    """Race the grid at every delay, choose an execution, and confirm it.

    `run` may reuse episodes that it ran before. `chunk_size` is that of the policy, K ticks.
    `on_stage` gets a description of each stage as it begins.
    """

    def race_at(delay_ticks: int | str, executions: Sequence[Execution]) -> DelayRace:
        plan = race.rounds(len(executions))
        rounds: list[tuple[Evaluation, ...]] = []
        for number, (count, seeds) in enumerate(plan, 1):
            on_stage(
                f"delay {delay_words(delay_ticks)}, round {number} of {len(plan)}: "
                f"{counted(count, 'execution')} on {counted(seeds, 'seed')}"
            )
            found = ranked(run(executions[:count], race.selection_seeds[:seeds]))
            rounds.append(tuple(found))
            executions = [evaluation.execution for evaluation in found]
        return DelayRace(delay_ticks, tuple(rounds), choose(rounds[-1]))

    delays = _delays(grid, race)
    executions = [grid.at(delay, chunk_size) for delay in delays]  # all refused before the first
    races = tuple(map(race_at, delays, executions))
    by_delay = {each.delay_ticks: each.choice.chosen.execution for each in races}
    chosen = by_delay[race.delay_ticks]
    untuned = UNTUNED.within(chunk_size)
    confirmed: list[Evaluation] = []
    if race.confirmation:
        on_stage(f"confirmation on {counted(race.confirmation, 'other seed')}")
        wanted = [
            Execution(execution.chunking, delay)
            for delay in delays
            for execution in (chosen, by_delay[delay], untuned)
        ]
        confirmed = run(list(dict.fromkeys(wanted)), race.confirmation_seeds)
    return Tuning(races, chosen, tuple(confirmed), untuned)


def _delays(grid: Grid, race: RaceConfig) -> list[int | str]:
    return sorted({*grid.delays, race.delay_ticks}, key=delay_bounds)
