"""Evaluation runner: seeded episodes of a policy in an environment, in parallel and resumable."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

from imitact.core.cpu import available_cores
from imitact.core.errors import BadInput, ImitactError
from imitact.core.execution import Execution
from imitact.core.types import Env, Policy
from imitact.core.words import counted
from imitact.evaluation.episode import REPORT_EVERY_S, EpisodeWorker, Job
from imitact.evaluation.episode_journal import EpisodeJournal
from imitact.evaluation.episode_video_config import EpisodeVideoConfig
from imitact.evaluation.eta import TimeLeft
from imitact.evaluation.results import EnvInfo, EpisodeRow, Evaluation, EvaluationPlan
from imitact.parallel.worker_pool import SINGLE_THREADED_RENDERING, WorkerPool, WorkerReady
from imitact.storage.lock import exclusive_writer

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    **SINGLE_THREADED_RENDERING,
}
"""Environment variables of every worker process, set before its libraries load.

One thread each keeps processes from competing for cores, and makes rows independent of the number
of processes: the order of floating-point sums depends on the number of threads.
"""


@dataclass(frozen=True)
class EvaluationProgress:
    """Progress of an evaluation or a tuning, in episodes; those of interrupted runs count."""

    done: int
    total: int  # requested so far
    successes: int
    left_s: float | None  # estimated; None while unknown
    episode_s: float | None = None  # wall time of this run per episode; None before the first


class Evaluator:
    """Runs episodes under any executions and seeds, each once, and keeps the results.

    Use as a context manager: its worker processes start with the first episode and end with it.
    """

    def __init__(
        self,
        make_policy: Callable[[], Policy],
        make_env: Callable[[], Env],
        plan: EvaluationPlan,
        *,
        workers: int | None = None,
        journal: EpisodeJournal | None = None,
        video_folder: Path | None = None,
        on_progress: Callable[[EvaluationProgress], None] = lambda progress: None,
    ) -> None:
        """Prepare a run, with arguments as in `evaluate`; nothing is started yet.

        `evaluations` takes its own seeds and executions; all else is as in `plan`. Finished
        episodes are read from the journal and added to it; without one they are in memory alone.
        """
        self.workers = available_cores() if workers is None else workers
        if self.workers < 0:
            raise BadInput(f"workers is {self.workers}; 0 runs the episodes in this process")
        self._plan = plan
        self._make_worker = partial(EpisodeWorker, make_policy, make_env, plan, video_folder)
        self._journal = journal
        self._on_progress = on_progress
        self._env_info = journal.env_info if journal else None
        self._earlier_s = journal.clock_s if journal else 0.0
        self._started_s = self._reported_s = time.monotonic()
        self._ran = 0
        self._time_left = TimeLeft(self.workers, frozenset(plan.seeds[: plan.videos]))
        self._rows, self._requested = self._time_left.rows, self._time_left.expected
        self._rows.update(journal.rows if journal else {})
        self._resources = ExitStack()
        self._pool: WorkerPool | None = None
        self._worker: EpisodeWorker | None = None

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *error: object) -> None:
        self._resources.close()

    @property
    def wall_s(self) -> float:
        """Seconds spent, without pauses between interrupted runs."""
        return self._earlier_s + time.monotonic() - self._started_s

    def missing(self, executions: Sequence[Execution], seeds: Sequence[int]) -> list[Job]:
        """Return the episodes still to run, seed by seed."""
        jobs = dict.fromkeys(Job(e, seed) for seed in seeds for e in executions)
        return [job for job in jobs if job not in self._rows]

    def evaluations(
        self, executions: Sequence[Execution], seeds: Sequence[int]
    ) -> list[Evaluation]:
        """Return one evaluation per execution on all of the seeds, running what is missing."""
        self._requested.update(Job(e, seed) for e in executions for seed in seeds)
        self._report()
        if jobs := self.missing(executions, seeds):
            (self._run_in_pool if self.workers else self._run_here)(jobs)
        return [self._evaluation(execution, tuple(seeds)) for execution in executions]

    def _evaluation(self, execution: Execution, seeds: tuple[int, ...]) -> Evaluation:
        assert self._env_info is not None
        rows = tuple(self._rows[Job(execution, seed)] for seed in seeds)
        plan = replace(self._plan, seeds=seeds, execution=execution)
        wall_s = round(sum(row.wall_s for row in rows), 3)
        return Evaluation(plan, self._env_info, rows, self.workers, wall_s)

    def _run_here(self, jobs: Sequence[Job]) -> None:
        if self._worker is None:
            self._worker = self._resources.enter_context(closing(self._make_worker()))
            self._env_ready(self._worker.facts)
        for job in jobs:
            started_s = time.monotonic()

            def report_ticks(ticks: int, job: Job = job, started_s: float = started_s) -> None:
                self._time_left.running[job] = ticks, time.monotonic() - started_s
                self._report()

            self._finished(job, self._worker.work(job, lambda: None, report_ticks))

    def _run_in_pool(self, jobs: Sequence[Job]) -> None:
        size = min(self.workers, len(jobs))
        if self._pool is None or self._pool.size < size:  # a smaller one is replaced
            try:
                ForkingPickler.dumps(self._make_worker)
            except Exception as error:  # pickle raises whatever the object's own code raises
                raise BadInput(
                    f"make_policy and make_env cannot be sent to another process ({error}); give "
                    "functions of a module, or functools.partial of one, or set workers to 0"
                ) from error
            self._resources.close()
            pool = WorkerPool(size, self._make_worker, ONE_THREAD)
            self._pool = self._resources.enter_context(pool)
        pool = self._pool
        waiting = list(reversed(jobs))
        started_s: dict[Job, float] = {}
        while waiting or pool.in_flight:
            while waiting and pool.has_idle_worker:
                started_s[waiting[-1]] = time.monotonic()
                pool.submit(waiting.pop())
            for message in pool.events():
                if isinstance(message, WorkerReady):
                    self._env_ready(message.facts)
                else:
                    self._finished(message.job, message.result)
            for job, ticks in pool.in_flight.items():
                self._time_left.running[job] = ticks, time.monotonic() - started_s[job]
            if time.monotonic() - self._reported_s >= REPORT_EVERY_S:
                self._report()

    def _env_ready(self, env_info: EnvInfo) -> None:
        self._time_left.step_cap = self._plan.step_cap or env_info.step_cap
        if self._journal:
            self._journal.add_env(env_info)
        self._env_info = env_info

    def _finished(self, job: Job, result: EpisodeRow | ImitactError) -> None:
        if isinstance(result, ImitactError):
            advice = ""
            if self._journal:
                self._journal.add_error(job, result)
                advice = (
                    f" ({counted(len(self._rows), 'finished episode')} are kept in "
                    f"{self._journal.folder}; the same command continues from there)"
                )
            error = type(result)(f"seed {job}: the episode failed: {result}{advice}")
            error.add_note(result.__notes__[0])
            raise error
        self._rows[job] = result
        self._ran += 1
        self._time_left.running.pop(job, None)
        if self._journal:
            self._journal.add(job, result, self.wall_s)
        self._report()

    def _report(self) -> None:
        self._reported_s = time.monotonic()
        finished = [self._rows[job] for job in self._requested if job in self._rows]
        self._on_progress(
            EvaluationProgress(
                done=len(finished),
                total=len(self._requested),
                successes=sum(row.success for row in finished),
                left_s=self._time_left.left_s(),
                episode_s=(self._reported_s - self._started_s) / self._ran if self._ran else None,
            )
        )


def evaluate(
    make_policy: Callable[[], Policy],
    make_env: Callable[[], Env],
    *,
    seeds: Sequence[int],
    execution: Execution | str,
    chunk_size: int | None = None,
    step_cap: int | None = None,
    stop_on_success: bool = True,
    workers: int | None = None,
    videos: int = 0,
    video: EpisodeVideoConfig | None = None,
    names: Mapping[str, str] | None = None,
    out: Path | None = None,
    on_progress: Callable[[EvaluationProgress], None] = lambda progress: None,
) -> Evaluation:
    """Run one episode per seed and count successes.

    An episode that raises is noted in the journal and ends the evaluation with an error of the
    same class that names the seed; finished episodes are kept, and the same call runs the failed
    one again. SpecMismatch where the policy does not fit the environment; BadInput where `out`
    holds another evaluation or is being written by another process.

    Args:
        make_policy: creates the policy, once per process. Must be picklable (a function of a
            module, or functools.partial of one) unless `workers` is 0.
        make_env: creates the environment; as `make_policy`.
        execution: how chunks become actions; a text is taken as in `--chunking`.
        chunk_size: ticks of the policy's chunks, where known: a longer replay is reported as what
            is executed, all of a chunk.
        step_cap: maximum number of ticks; None takes the environment's own.
        stop_on_success: end an episode at its first success, as gym-aloha does; else run to the
            step cap, and also report whether success was held.
        workers: number of processes, each held to one thread, so that rows do not depend on their
            number; None takes one per core; 0 runs here, with as many threads as there are.
        videos: number of seeds, from the first, to record as videos in out/videos.
        names: stored with the result. An interrupted evaluation continues only under the same
            names, so give the policy's fingerprint here.
        out: output folder. Finished episodes are kept in out/episodes.jsonl, and the same call
            continues an interrupted evaluation. None writes nothing.
        on_progress: called as episodes finish, and about once a second in between.
    """
    given = Execution(execution) if isinstance(execution, str) else execution
    plan = EvaluationPlan(
        seeds=tuple(int(seed) for seed in seeds),
        execution=given.within(chunk_size),
        step_cap=step_cap,
        stop_on_success=stop_on_success,
        names=dict(names or {}),
        videos=videos,
        video=video or EpisodeVideoConfig(),
    )
    if out is None and videos:
        raise BadInput(f"{counted(videos, 'video')} need an output folder; give `out`")
    with exclusive_writer(out, "evaluation") if out else nullcontext():
        journal = EpisodeJournal.of_evaluation(plan, out, chunk_size) if out else None
        plan = replace(plan, names=journal.names) if journal else plan
        with Evaluator(
            make_policy,
            make_env,
            plan,
            workers=workers,
            journal=journal,
            video_folder=out,
            on_progress=on_progress,
        ) as evaluator:
            (evaluation,) = evaluator.evaluations([plan.execution], plan.seeds)
            return replace(evaluation, wall_s=round(evaluator.wall_s, 3))


def record_videos(
    make_policy: Callable[[], Policy],
    make_env: Callable[[], Env],
    evaluation: Evaluation,
    *,
    seeds: Sequence[int],
    out: Path,
    workers: int | None = None,
    on_progress: Callable[[EvaluationProgress], None] = lambda progress: None,
) -> Evaluation:
    """Run seeds of an evaluation again and record them to out/videos, replacing existing videos.

    The evaluation in `out`, if any, stays as it is. The one that is returned has equal rows where
    the seed alone determines an episode, as in the environments of imitact.
    """
    plan = replace(evaluation.plan, seeds=tuple(seeds), videos=len(seeds))
    with (
        exclusive_writer(out, "evaluation"),
        Evaluator(
            make_policy, make_env, plan, workers=workers, video_folder=out, on_progress=on_progress
        ) as evaluator,
    ):
        return evaluator.evaluations([plan.execution], plan.seeds)[0]
