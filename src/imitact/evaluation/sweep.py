"""Episodes of one policy in one world under many executions, each run once and kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType

from imitact.core.chunking import Execution
from imitact.core.cpu import available_cores
from imitact.core.errors import BadInput
from imitact.core.types import Env, Policy
from imitact.evaluation.episode import Attempts, EpisodeError
from imitact.evaluation.results import Evaluation, EvaluationPlan, Row, World
from imitact.evaluation.runner import ONE_THREAD, check_picklable, settled
from imitact.parallel.worker_pool import Ready, WorkerPool
from imitact.storage.journal import Journal

JOURNAL = "tune.jsonl"
"""Finished episodes, in the output folder."""


@dataclass(frozen=True)
class Job:
    """An episode to run: a seed under an execution."""

    execution: Execution
    seed: int

    def __str__(self) -> str:
        return f"{self.seed}, {self.execution}"


@dataclass(frozen=True)
class Kept:
    """A finished episode in the journal."""

    execution: Execution
    row: Row


class Sweeper:
    """Runs a Job after the other with one policy in one world (a Worker of data/crew.py)."""

    def __init__(
        self, make_policy: Callable[[], Policy], make_env: Callable[[], Env], plan: EvaluationPlan
    ) -> None:
        self._plan = plan
        self._attempts = Attempts(make_policy, make_env, plan, None)

    @property
    def facts(self) -> World:
        """What there is to know of the world."""
        return self._attempts.facts

    def work(
        self, seed: Job, go_on: Callable[[], object], tell: Callable[[int], object]
    ) -> Row | EpisodeError:
        """Run one; an error becomes a Failure."""
        given = seed.execution
        plan = replace(
            self._plan,
            seeds=(seed.seed,),
            chunking=given.chunking,
            delay_ticks=given.delay_ticks,
        )
        return self._attempts.under(plan).work(seed.seed, go_on, tell)

    def close(self) -> None:
        """Free the world."""
        self._attempts.close()


class Sweep:
    """Gives evaluations of any executions on any seeds; runs what it has not yet.

    make_policy, make_env, workers: as `trials.evaluate` takes them. Processes are started when
                 there is something to run, all executions share them, they end with the `with`.
    names:       what is evaluated; finished episodes are used again only under the same names.
    step_cap:    ticks at most; None takes the environment's own. Episodes end at their success.
    out:         finished episodes are kept in out/tune.jsonl; None keeps nothing.
    on_progress: called with (done, each_s) as episodes finish, and about every half second between:
                 how many of those asked for so far are there, and at this run's pace the seconds
                 that one more takes, None before it is known.

    Rows are those that `trials.evaluate` gives for the same execution and seed.
    """

    def __init__(
        self,
        make_policy: Callable[[], Policy],
        make_env: Callable[[], Env],
        *,
        workers: int | None = None,
        names: Mapping[str, str] | None = None,
        step_cap: int | None = None,
        out: Path | None = None,
        on_progress: Callable[[int, float | None], object] = lambda done, each_s: None,
    ) -> None:
        self._plan = EvaluationPlan(
            (0,), Execution().chunking, step_cap=step_cap, names=dict(names or {})
        )
        self._make = partial(Sweeper, make_policy, make_env, self._plan)
        self.workers = available_cores() if workers is None else workers
        if self.workers < 0:
            raise BadInput(f"{self.workers} workers are not possible; 0 works in this process")
        self._out = out
        self._on_progress = on_progress
        self._asked: set[Job] = set()
        self._ran = 0
        self._journal = Journal(out / JOURNAL) if out else None
        self._world: World | None = None
        self._rows: dict[Job, Row] = {}
        self._crew: WorkerPool | None = None
        self._here: Sweeper | None = None
        self._before_s = 0.0
        self._began = time.monotonic()
        if self._journal:
            self._journal.head({"tune": 1, "names": self._plan.names, "step_cap": step_cap})
            for world in self._journal.entries("world", World):
                self._world = world
            for kept in self._journal.entries("episode", Kept):
                self._rows.setdefault(Job(kept.execution, kept.row.seed), kept.row)
            self._before_s = max(self._journal.entries("clock_s", float), default=0.0)

    def __enter__(self) -> Sweep:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._crew:
            self._crew.__exit__(kind, error, trace)
        if self._here:
            self._here.close()

    @property
    def wall_s(self) -> float:
        """Seconds spent, without pauses between interrupted runs."""
        return self._before_s + time.monotonic() - self._began

    def missing(self, executions: Sequence[Execution], seeds: Sequence[int]) -> list[Job]:
        """What is still to run; seed by seed, so that what takes long is spread evenly."""
        jobs = dict.fromkeys(Job(e, seed) for seed in seeds for e in executions)
        return [job for job in jobs if job not in self._rows]

    def evaluations(
        self, executions: Sequence[Execution], seeds: Sequence[int]
    ) -> list[Evaluation]:
        """One for each execution, on all of the seeds."""
        self._asked.update(Job(e, seed) for e in executions for seed in seeds)
        self._tell()
        if jobs := self.missing(executions, seeds):
            if self.workers:
                self._apart(jobs)
            else:
                self._in_here(jobs)
        assert self._world is not None
        found = []
        for execution in executions:
            rows = tuple(self._rows[Job(execution, seed)] for seed in seeds)
            plan = replace(
                self._plan,
                seeds=tuple(seeds),
                chunking=execution.chunking,
                delay_ticks=execution.delay_ticks,
            )
            wall_s = round(sum(row.wall_s for row in rows), 3)
            found.append(Evaluation(plan, self._world, rows, self.workers, wall_s))
        return found

    def _in_here(self, jobs: Sequence[Job]) -> None:
        if self._here is None:
            self._here = self._make()
            self._ready(self._here.facts)
        for job in jobs:
            self._finished(job, self._here.work(job, lambda: None, lambda ticks: self._tell()))

    def _apart(self, jobs: Sequence[Job]) -> None:
        if self._crew is None:
            check_picklable(self._make)
            self._crew = WorkerPool(self.workers, self._make, ONE_THREAD)
        waiting = list(reversed(jobs))
        while waiting or self._crew.under_way:
            while waiting and self._crew.idle:
                self._crew.give(waiting.pop())
            for message in self._crew.messages():
                if isinstance(message, Ready):
                    self._ready(message.facts)
                else:
                    self._finished(message.seed, message.result)
            self._tell()

    def _ready(self, world: World) -> None:
        self._world = settled(self._world, world, self._journal, self._out)

    def _finished(self, job: Job, row: Row | EpisodeError) -> None:
        if isinstance(row, EpisodeError):
            advice = ""
            if self._journal:
                self._journal.add("error", {"seed": job.seed, **asdict(row)})
                advice = " (finished episodes are kept; the same command goes on from there)"
            raise row.error(f"the episode of seed {job} did not finish", advice)
        self._rows[job] = row
        self._ran += 1
        if self._journal:
            self._journal.add("episode", Kept(job.execution, row))
            self._journal.add("clock_s", round(self.wall_s, 3))
        self._tell()

    def _tell(self) -> None:
        each_s = (time.monotonic() - self._began) / self._ran if self._ran else None
        self._on_progress(sum(job in self._rows for job in self._asked), each_s)
