"""From a grid of executions to the one to take: a race on the same seeds, then a confirmation.

At each delay the whole grid runs on a few seeds; the better half goes on to twice as many, until
few finalists are left, which run on all selection seeds and of which `choice.py` takes one. Who is
dropped is decided by rank alone, so a good setting may be dropped by bad luck; what is left was
compared on the same seeds. The number that a choice was made by flatters it, so what is chosen
runs on other seeds, which nothing was chosen by, and only those numbers are its success.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from imitact.core.chunking import Execution
from imitact.core.errors import BadInput
from imitact.evaluation.results import Evaluation, compare
from imitact.evaluation.statistics import Paired
from imitact.evaluation.tuning.grid import Grid
from imitact.evaluation.tuning.selection import Choice, choose, ranked

UNTUNED = Execution()
"""What is done with a policy that nobody tuned; the confirmation runs it beside."""


@dataclass(frozen=True)
class Race:
    """Seeds, and how many settings they are spent on."""

    delay: int = 0
    """Ticks from a query to its answer for which the setting is chosen: an answer's time (the
    certificate of an export tells its 99th percentile) in ticks, rounded up. Joins `delays`."""

    first_seed: int = 5000
    """First of the seeds that settings are compared on. Demonstrations use 0 to 999, evaluations
    1000 and on."""

    first_round: int = 10
    """Seeds on which all settings run; each round after it doubles them and halves the settings."""

    finalists: int = 4
    """Settings that run on all selection seeds."""

    selection: int = 100
    """Seeds of the finalists."""

    confirmation: int = 100
    """Seeds after those, on which what was chosen runs at every delay, beside what was chosen for
    that delay and replay:50; 0 confirms nothing."""

    def __post_init__(self) -> None:
        for name, least in (
            ("delay", 0),
            ("first_seed", 0),
            ("first_round", 1),
            ("finalists", 1),
            ("confirmation", 0),
        ):
            value = getattr(self, name)
            if value < least:
                raise BadInput(f"{name} is {value}; it must be at least {least}")
        if self.selection < self.first_round:
            raise BadInput(
                f"selection is {self.selection} seeds; it must be at least first_round, which is "
                f"{self.first_round}"
            )
        if self.first_seed < 5000:
            raise BadInput(
                f"first_seed is {self.first_seed}; seeds below 5000 are for demonstrations (0 to "
                "999) and evaluations (from 1000 on), and tuning on them would flatter the result"
            )

    @property
    def selection_seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.selection)

    @property
    def confirmation_seeds(self) -> range:
        first = self.first_seed + self.selection
        return range(first, first + self.confirmation)

    def rounds(self, settings: int) -> list[tuple[int, int]]:
        """(settings, seeds) of each round of a race that so many settings begin."""
        found = []
        seeds = self.first_round
        while settings > self.finalists:
            found.append((settings, min(seeds, self.selection)))
            settings = max(self.finalists, (settings + 1) // 2)
            seeds *= 2
        return [*found, (settings, self.selection)]


@dataclass(frozen=True)
class Heat:
    """The race at one delay.

    rounds: the evaluations of each, from best to worst, all of a round on the same seeds.
    choice: among the finalists, which are the last round.
    """

    delay_ticks: int
    rounds: tuple[tuple[Evaluation, ...], ...]
    choice: Choice

    @property
    def furthest(self) -> list[Evaluation]:
        """Each setting with the most seeds it ran on; finalists first, first dropped last."""
        found: dict[Execution, Evaluation] = {}
        for evaluations in reversed(self.rounds):
            for evaluation in evaluations:
                found.setdefault(evaluation.execution, evaluation)
        return list(found.values())


@dataclass(frozen=True)
class Tuning:
    """What a tuning found.

    heats:     the race at each delay.
    chosen:    the setting for the delay that was asked for.
    confirmed: on the confirmation seeds: at each delay, `chosen` (at that delay), what was chosen
               for that delay, and UNTUNED; each once.
    """

    heats: tuple[Heat, ...]
    chosen: Execution
    confirmed: tuple[Evaluation, ...]

    def confirmation(self, chunking: str, delay_ticks: int) -> Evaluation | None:
        """Of a setting at a delay, where it was run."""
        wanted = Execution(chunking, delay_ticks)
        return next((e for e in self.confirmed if e.execution == wanted), None)

    @property
    def gain(self) -> Paired | None:
        """Success of what was chosen minus that of UNTUNED, on the confirmation seeds."""
        a = self.confirmation(self.chosen.chunking, self.chosen.delay_ticks)
        b = self.confirmation(UNTUNED.chunking, self.chosen.delay_ticks)
        return compare(a, b) if a and b else None


Run = Callable[[Sequence[Execution], Sequence[int]], list[Evaluation]]
"""Evaluates each execution on all of the seeds."""


def episodes(grid: Grid, race: Race, chunk: int) -> int:
    """How many a tuning runs: exactly in the race, at most in the confirmation."""
    delays = _delays(grid, race)
    total = 0
    for delay in delays:
        before = 0
        for settings, seeds in race.rounds(len(grid.at(delay, chunk))):
            total += settings * (seeds - before)
            before = seeds
    return total + len(delays) * 3 * race.confirmation


def tune(
    run: Run,
    grid: Grid,
    race: Race,
    chunk: int,
    on_stage: Callable[[str], object] = lambda words: None,
) -> Tuning:
    """Race the grid at every delay, choose, confirm.

    run:      gives evaluations; whatever it ran before it need not run again.
    chunk:    ticks of the policy's chunks, K.
    on_stage: told what begins, in words.
    """
    delays = _delays(grid, race)
    fields = {delay: grid.at(delay, chunk) for delay in delays}
    heats = tuple(_heat(run, race, delay, fields[delay], on_stage) for delay in delays)
    by_delay = {heat.delay_ticks: heat.choice.chosen.execution for heat in heats}
    chosen = by_delay[race.delay]
    confirmed: list[Evaluation] = []
    if race.confirmation:
        on_stage(f"confirmation on {race.confirmation} other seeds")
        wanted = [
            Execution(execution.chunking, delay)
            for delay in delays
            for execution in (chosen, by_delay[delay], UNTUNED)
        ]
        confirmed = run(list(dict.fromkeys(wanted)), race.confirmation_seeds)
    return Tuning(heats, chosen, tuple(confirmed))


def _delays(grid: Grid, race: Race) -> list[int]:
    return sorted({*grid.delays, race.delay})


def _heat(
    run: Run,
    race: Race,
    delay: int,
    field: Sequence[Execution],
    on_stage: Callable[[str], object],
) -> Heat:
    plan = race.rounds(len(field))
    rounds: list[tuple[Evaluation, ...]] = []
    for number, (count, seeds) in enumerate(plan, 1):
        on_stage(f"delay {delay}, round {number} of {len(plan)}: {count} settings on {seeds} seeds")
        found = ranked(run(field[:count], race.selection_seeds[:seeds]))
        rounds.append(tuple(found))
        field = [evaluation.execution for evaluation in found]
    return Heat(delay, tuple(rounds), choose(rounds[-1]))
