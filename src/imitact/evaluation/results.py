"""Evaluation results: the plan, one row per episode, and the figures that follow from the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput
from imitact.core.execution import Execution
from imitact.core.types import Spec
from imitact.core.words import counted
from imitact.evaluation.confidence_intervals import Paired, clopper_pearson, paired
from imitact.evaluation.episode_video_config import EpisodeVideoConfig

HELD_TICKS = 10
"""A success counts as held if each of the last ten ticks succeeds, as in a demonstration."""


@dataclass(frozen=True)
class EpisodeRow:
    """Results of one episode.

    Attributes:
        seed: seed of the environment and of the policy.
        success: whether the environment's criterion held at one tick at least (the convention of
            gym-aloha, the released ACT and LeRobot, which all count a momentary success).
        held: whether it held at each of the last HELD_TICKS ticks, or at the last one where the
            environment terminated there; None if the episode was stopped at its first success.
        highest_stage: largest reward, where rewards are stages; else None.
        first_ticks: for each stage, the first tick whose reward was at least its number, or None.
        reward_sum: return; not comparable between episodes stopped at success and others.
        ticks: number of actions executed.
        queries: number of times the policy was queried.
        jerk_rad_s3: see `jerk`.
        rewards: rewards of all ticks, run-length encoded as (reward, number of ticks).
        wall_s: wall time of the episode; not compared by ==.
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
        """Return the reward of every tick."""
        return [reward for reward, times in self.rewards for _ in range(times)]


@dataclass(frozen=True)
class EvaluationPlan:
    """Settings of an evaluation; equal plans give equal rows.

    Attributes:
        step_cap: maximum number of ticks; None takes the environment's own.
        stop_on_success: whether an episode ends at its first success.
        names: names or fingerprints of the policy, environment and dataset.
        videos: number of seeds, from the first, whose episodes are recorded as videos.
    """

    seeds: tuple[int, ...]
    execution: Execution
    step_cap: int | None = None
    stop_on_success: bool = True
    names: Mapping[str, str] = field(default_factory=dict)
    videos: int = 0
    video: EpisodeVideoConfig = field(default_factory=EpisodeVideoConfig)

    def __post_init__(self) -> None:
        if not self.seeds:
            raise BadInput("no seeds were given; evaluate at least one")
        if twice := sorted(seed for seed, n in Counter(self.seeds).items() if n > 1):
            raise BadInput(f"seeds given more than once: {', '.join(map(str, twice))}")
        if min(self.seeds) < 0:
            raise BadInput(f"seed {min(self.seeds)} is negative; seeds start at 0")
        if self.step_cap is not None and self.step_cap < 1:
            raise BadInput(
                f"the step cap is {counted(self.step_cap, 'tick')}; it must be at least 1"
            )
        if self.videos < 0:
            raise BadInput(f"{counted(self.videos, 'video')} were requested; 0 records none")

    def to_json(self) -> dict[str, Any]:
        """Return the plan as written to disk; `from_json` reads it.

        A delay of 0 is left out, as in files written before there were delays.
        """
        delay_ticks = self.execution.delay_ticks
        return {
            "seeds": self.seeds,
            "chunking": self.execution.chunking,
            "step_cap": self.step_cap,
            "stop_on_success": self.stop_on_success,
            "names": dict(self.names),
            "videos": self.videos,
            "filming": asdict(self.video),
            **({"delay_ticks": delay_ticks} if delay_ticks else {}),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> EvaluationPlan:
        """Read what `to_json` returned; KeyError or ValueError where it does not fit."""
        # Keys that are no field are ignored.
        nested = {"execution": dict(values), "video": values.get("filming", {})}
        return msgspec.convert({**values, **nested}, cls)


@dataclass(frozen=True)
class EnvInfo:
    """Properties of the environment that results depend on."""

    step_cap: int
    stages: tuple[str, ...]
    action_names: tuple[str, ...]
    action_units: tuple[str, ...]
    rate_hz: float


@dataclass(frozen=True)
class Evaluation:
    """Rows of an evaluation, one per seed of its plan, and the environment that they came from.

    `workers` and `wall_s`, the wall time without pauses between interrupted runs, are not compared
    by ==.
    """

    plan: EvaluationPlan
    env_info: EnvInfo
    rows: tuple[EpisodeRow, ...]
    workers: int = field(compare=False)
    wall_s: float = field(compare=False)

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.plan.seeds

    @property
    def execution(self) -> Execution:
        return self.plan.execution

    @property
    def step_cap(self) -> int:
        """Number of ticks after which an episode counts as failed."""
        return self.env_info.step_cap if self.plan.step_cap is None else self.plan.step_cap

    @property
    def episodes(self) -> int:
        return len(self.rows)

    @property
    def successes(self) -> int:
        return sum(row.success for row in self.rows)

    @property
    def failed_seeds(self) -> list[int]:
        return [row.seed for row in self.rows if not row.success]

    @property
    def interval(self) -> tuple[float, float]:
        """95 % exact (Clopper-Pearson) interval of the success rate, between 0 and 1."""
        return clopper_pearson(self.successes, self.episodes)

    @property
    def held(self) -> int | None:
        """Number of episodes whose success was held at the end; None if they stop at success."""
        if self.plan.stop_on_success:
            return None
        return sum(bool(row.held) for row in self.rows)

    @property
    def reached(self) -> tuple[int, ...]:
        """For each stage, the number of episodes that reached it or a higher one."""
        by_stage = zip(*(row.first_ticks for row in self.rows), strict=True)
        return tuple(sum(tick is not None for tick in ticks) for ticks in by_stage)

    @property
    def mean_reward_sum(self) -> float:
        return float(np.mean([row.reward_sum for row in self.rows]))

    @property
    def mean_jerk_rad_s3(self) -> float | None:
        """Mean over the episodes that have a jerk; None if none has."""
        known = [row.jerk_rad_s3 for row in self.rows if row.jerk_rad_s3 is not None]
        return float(np.mean(known)) if known else None

    @property
    def queries_per_s(self) -> float:
        """Policy queries per second of simulated time."""
        ticks = sum(row.ticks for row in self.rows)
        return sum(row.queries for row in self.rows) * self.env_info.rate_hz / ticks

    @property
    def mean_success_tick(self) -> float | None:
        """Mean first tick of the last stage, over the episodes that succeeded."""
        known = [row.first_ticks[-1] for row in self.rows if row.success and row.first_ticks]
        ticks = [tick for tick in known if tick is not None]
        return float(np.mean(ticks)) if ticks else None

    def only(self, seeds: Sequence[int]) -> Evaluation:
        """Return the evaluation of these seeds alone; refuses seeds that were not evaluated."""
        by_seed = {row.seed: row for row in self.rows}
        missing = [str(seed) for seed in seeds if seed not in by_seed]
        if missing:
            raise BadInput(
                f"seeds not evaluated: {', '.join(missing)}; there are {describe_seeds(self.seeds)}"
            )
        rows = tuple(by_seed[seed] for seed in seeds)
        share = sum(row.wall_s for row in rows) / max(sum(row.wall_s for row in self.rows), 1e-9)
        plan = replace(self.plan, seeds=tuple(seeds))
        return replace(self, plan=plan, rows=rows, wall_s=self.wall_s * share)


def compare(a: Evaluation, b: Evaluation) -> Paired:
    """Compare the successes of A and B on the same seeds.

    Refuses evaluations of different seeds (see `Evaluation.only`) or different step caps.
    """
    if set(a.seeds) != set(b.seeds):
        raise BadInput(
            f"A ran {describe_seeds(a.seeds)}, B {describe_seeds(b.seeds)}; "
            "a paired comparison needs the same seeds"
        )
    if a.step_cap != b.step_cap:
        raise BadInput(
            f"A was capped at {counted(a.step_cap, 'tick')}, B at {b.step_cap}; give both one cap"
        )
    succeeded = {row.seed: row.success for row in b.rows}
    return paired([row.success for row in a.rows], [succeeded[row.seed] for row in a.rows])


def jerk(actions: NDArray[np.floating[Any]], spec: Spec) -> float | None:
    """Return the jerk of commanded actions (T, A): the mean absolute third difference · rate³.

    In rad/s³. Only dimensions in rad count: a gripper's 0 to 1 has another unit. None with fewer
    than four ticks or without joints in rad.
    """
    columns = [at for at, unit in enumerate(spec.action_units) if unit == "rad"]
    if len(actions) < 4 or not columns:
        return None
    return float(np.abs(np.diff(actions[:, columns], n=3, axis=0)).mean() * spec.rate_hz**3)


def describe_seeds(seeds: Sequence[int]) -> str:
    """Return "seeds 1000 to 1099", "seed 3", "seeds 1, 5, 9" or "20 seeds from 0 to 38"."""
    first, last = min(seeds), max(seeds)
    if len(seeds) == 1:
        return f"seed {first}"
    if last - first + 1 == len(seeds):
        return f"seeds {first} to {last}"
    if len(seeds) <= 8:
        return f"seeds {', '.join(str(seed) for seed in seeds)}"
    return f"{counted(len(seeds), 'seed')} from {first} to {last}"
