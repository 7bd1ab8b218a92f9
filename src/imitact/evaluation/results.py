"""What an evaluation found: its episodes, and all that follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.chunking import Execution
from imitact.core.errors import BadInput
from imitact.core.types import Spec
from imitact.evaluation.statistics import Paired, paired, wilson
from imitact.evaluation.video import Filming

HELD_TICKS = 10
"""A success is held at the end if each of the last ten ticks succeeds, as in a demonstration."""


@dataclass(frozen=True)
class Row:
    """One episode.

    seed:          fixed the start of the world and the policy's own randomness.
    success:       the environment's criterion held at one tick at least (the field's convention:
                   gym-aloha, the released ACT and LeRobot all count a momentary success).
    held:          it held at each of the last HELD_TICKS ticks; None if the episode was stopped at
                   its first success.
    highest_stage: the largest reward, where rewards are stages; else None.
    first_ticks:   for each stage, the first tick whose reward was at least its number, or None.
    reward_sum:    the return. Not comparable between episodes stopped at success and others.
    ticks:         actions executed.
    queries:       how often the policy was asked.
    jerk_rad_s3:   see `jerk`.
    rewards:       of all ticks, as (reward, how many ticks in a row).
    wall_s:        time it took; two rows that differ in nothing else are equal.
    """

    seed: int
    success: bool
    held: bool | None
    highest_stage: int | None
    first_ticks: tuple[int | None, ...]
    reward_sum: float
    ticks: int
    queries: int
    jerk_rad_s3: float | None
    rewards: tuple[tuple[float, int], ...]
    wall_s: float = field(compare=False)

    def reward_each_tick(self) -> list[float]:
        """`rewards` written out."""
        return [reward for reward, times in self.rewards for _ in range(times)]


@dataclass(frozen=True)
class EvaluationPlan:
    """What is evaluated, as the caller gave it: the same plan gives the same rows.

    step_cap: ticks at most; None takes the environment's own.
    names:    what policy, environment or dataset this is, in words or fingerprints.
    videos:   how many of the first seeds are filmed.
    delay_ticks: simulated: from a question to its answer (see chunking.py).
    """

    seeds: tuple[int, ...]
    chunking: str
    step_cap: int | None = None
    stop_on_success: bool = True
    names: Mapping[str, str] = field(default_factory=dict)
    videos: int = 0
    filming: Filming = field(default_factory=Filming)
    delay_ticks: int = 0

    def __post_init__(self) -> None:
        if not self.seeds:
            raise BadInput("no seeds were given; evaluate at least one")
        if len(set(self.seeds)) != len(self.seeds):
            twice = sorted({s for s in self.seeds if self.seeds.count(s) > 1})
            raise BadInput(f"each seed counts once; given more than once: {twice}")
        if min(self.seeds) < 0:
            raise BadInput(f"seeds are 0 or more; got {min(self.seeds)}")
        if self.step_cap is not None and self.step_cap < 1:
            raise BadInput(f"a step cap of {self.step_cap} ticks runs nothing; at least 1")
        if self.videos < 0:
            raise BadInput(f"{self.videos} videos are not possible; 0 films nothing")
        # One spelling a setting, so that "ensemble:.010" goes on where "ensemble:0.01" stopped.
        object.__setattr__(self, "chunking", self.execution.chunking)

    @property
    def execution(self) -> Execution:
        """How chunks become actions."""
        return Execution(self.chunking, self.delay_ticks)

    def told(self) -> dict[str, Any]:
        """All of it as plain values.

        A delay of 0 is not told, so that what was written before there were delays reads the same.
        """
        told = asdict(self)
        if not self.delay_ticks:
            del told["delay_ticks"]
        return told


@dataclass(frozen=True)
class World:
    """What the environment said of itself: its step cap in ticks, stages, names, units, rate."""

    step_cap: int
    stages: tuple[str, ...]
    action_names: tuple[str, ...]
    action_units: tuple[str, ...]
    rate_hz: float


@dataclass(frozen=True)
class Evaluation:
    """Rows, with the plan and the world they came from; everything else follows from them.

    wall_s: time spent evaluating, without pauses between interrupted runs. It and `workers` do
            not count when two evaluations are compared by ==.
    """

    plan: EvaluationPlan
    world: World
    rows: tuple[Row, ...]
    workers: int = field(compare=False)
    wall_s: float = field(compare=False)

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.plan.seeds

    @property
    def chunking(self) -> str:
        return self.plan.chunking

    @property
    def execution(self) -> Execution:
        return self.plan.execution

    @property
    def step_cap(self) -> int:
        """Ticks after which an episode counts as failed."""
        return self.world.step_cap if self.plan.step_cap is None else self.plan.step_cap

    @property
    def episodes(self) -> int:
        return len(self.rows)

    @property
    def successes(self) -> int:
        return sum(row.success for row in self.rows)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the success rate, between 0 and 1."""
        return wilson(self.successes, self.episodes)

    @property
    def held(self) -> int | None:
        """Episodes whose success held at the end; None where episodes stop at success."""
        if self.plan.stop_on_success:
            return None
        return sum(bool(row.held) for row in self.rows)

    @property
    def reached(self) -> tuple[int, ...]:
        """For each stage, the episodes that reached it or a higher one."""
        return tuple(
            sum(row.first_ticks[stage] is not None for row in self.rows)
            for stage in range(len(self.world.stages))
        )

    @property
    def mean_reward_sum(self) -> float:
        return float(np.mean([row.reward_sum for row in self.rows]))

    @property
    def mean_jerk_rad_s3(self) -> float | None:
        """Mean of the episodes' own means; None where no episode has one."""
        known = [row.jerk_rad_s3 for row in self.rows if row.jerk_rad_s3 is not None]
        return float(np.mean(known)) if known else None

    @property
    def queries_per_s(self) -> float:
        """How often the policy was asked, in a second of the world's time."""
        ticks = sum(row.ticks for row in self.rows)
        return sum(row.queries for row in self.rows) * self.world.rate_hz / ticks

    @property
    def mean_success_tick(self) -> float | None:
        """Of the episodes that succeeded, the mean tick of the last stage's first reward."""
        known = [row.first_ticks[-1] for row in self.rows if row.success and row.first_ticks]
        ticks = [tick for tick in known if tick is not None]
        return float(np.mean(ticks)) if ticks else None

    def only(self, seeds: Sequence[int]) -> Evaluation:
        """The same evaluation as if it had run these seeds alone; refuses seeds it has not."""
        by_seed = {row.seed: row for row in self.rows}
        missing = [seed for seed in seeds if seed not in by_seed]
        if missing:
            raise BadInput(f"seeds {missing} were not evaluated; there are {spell(self.seeds)}")
        rows = tuple(by_seed[seed] for seed in seeds)
        share = sum(row.wall_s for row in rows) / max(sum(row.wall_s for row in self.rows), 1e-9)
        plan = replace(self.plan, seeds=tuple(seeds))
        return replace(self, plan=plan, rows=rows, wall_s=self.wall_s * share)


def compare(a: Evaluation, b: Evaluation) -> Paired:
    """Successes of A and B on the same seeds.

    Refuses evaluations of different seeds (see `Evaluation.only`) or different step caps.
    """
    if set(a.seeds) != set(b.seeds):
        raise BadInput(
            f"A ran {spell(a.seeds)}, B {spell(b.seeds)}; a paired comparison needs the same seeds"
        )
    if a.step_cap != b.step_cap:
        raise BadInput(
            f"A was capped at {a.step_cap} ticks, B at {b.step_cap}; give both the same cap"
        )
    won = {row.seed: row.success for row in b.rows}
    return paired([row.success for row in a.rows], [won[row.seed] for row in a.rows])


def jerk(actions: NDArray[np.floating[Any]], spec: Spec) -> float | None:
    """How rough a commanded motion is: mean |third difference| · rate³, rad/s³.

    actions: (T, A) as commanded, one row a tick. The mean is over all ticks and all dimensions
    whose unit is rad: a gripper's 0 to 1 has no place in it. None where there are fewer than four
    ticks or no joints.
    """
    columns = [at for at, unit in enumerate(spec.action_units) if unit == "rad"]
    if len(actions) < 4 or not columns:
        return None
    return float(np.abs(np.diff(actions[:, columns], n=3, axis=0)).mean() * spec.rate_hz**3)


def spell(seeds: Sequence[int]) -> str:
    """Seeds in words: "seeds 1000 to 1099", "seed 3", "4 seeds from 1 to 9"."""
    first, last = min(seeds), max(seeds)
    if len(seeds) == 1:
        return f"seed {first}"
    if last - first + 1 == len(seeds):
        return f"seeds {first} to {last}"
    if len(seeds) <= 8:
        return f"seeds {', '.join(str(seed) for seed in seeds)}"
    return f"{len(seeds)} seeds from {first} to {last}"
