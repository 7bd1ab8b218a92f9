"""Many episodes of a Policy on an Env: seeded, capped, in parallel, counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

from imitact.core.cpu import available_cores
from imitact.core.errors import BadInput, ImitactError
from imitact.core.types import Env, Policy
from imitact.evaluation.episode import TELL_EVERY_S, Attempts, EpisodeError
from imitact.evaluation.eta import Pace
from imitact.evaluation.results import Evaluation, EvaluationPlan, Row, World
from imitact.evaluation.video import Filming
from imitact.parallel.worker_pool import SINGLE_THREADED_RENDERING, Ready, WorkerPool
from imitact.storage.journal import Journal
from imitact.storage.lock import exclusive_writer

JOURNAL = "episodes.jsonl"
"""Finished episodes, in the output folder."""

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    **SINGLE_THREADED_RENDERING,
}
"""Set in every process before its libraries load.

Processes that each take all cores stand in each other's way; and sums are split by thread, so
one thread everywhere is what makes rows the same for any number of processes.
"""


@dataclass(frozen=True)
class EvaluationProgress:
    """Where an evaluation stands.

    done, total, successes: episodes, those of earlier, interrupted runs included.
    left_s:                 what is left by the pace of this run, None before there is one.
    """

    done: int
    total: int
    successes: int
    left_s: float | None


def evaluate(
    make_policy: Callable[[], Policy],
    make_env: Callable[[], Env],
    *,
    seeds: Sequence[int],
    chunking: str,
    delay_ticks: int = 0,
    step_cap: int | None = None,
    stop_on_success: bool = True,
    workers: int | None = None,
    videos: int = 0,
    filming: Filming | None = None,
    names: Mapping[str, str] | None = None,
    out: Path | None = None,
    on_progress: Callable[[EvaluationProgress], None] = lambda progress: None,
) -> Evaluation:
    """Run one episode a seed and count.

    make_policy, make_env: called once in each process; must be picklable (functions of a module,
                     or functools.partial of one) unless workers is 0.
    chunking:        "replay:N", "ensemble:M" or "ensemble:M/E" (see chunking.py).
    delay_ticks:     simulated, from a question to its answer (see chunking.py).
    step_cap:        ticks at most; None takes the environment's own.
    stop_on_success: end an episode at its first success, as gym-aloha does; else run to the cap,
                     and report too whether success held.
    workers:         processes, each held to one thread, so that rows do not depend on their
                     number; None takes one a core; 0 runs here, in as many threads as there are.
    videos:          film the first so many seeds, to out/videos (see `Filming`).
    names:           stored with the result; an interrupted evaluation goes on only under the same
                     names, so put the policy's fingerprint here.
    out:             a folder; each finished episode is kept in out/episodes.jsonl, and the same
                     call goes on where it was interrupted. None keeps and writes nothing.
    on_progress:     called as episodes finish, and about once a second between.

    An episode that raises is noted in the journal and ends the evaluation with an error of the
    same kind (Misfit stays Misfit) that names the seed; finished episodes are kept, and the
    failed one is run again next time. Refuses a policy that does not fit the environment, and a
    folder that another process writes to.
    """
    plan = EvaluationPlan(
        seeds=tuple(int(seed) for seed in seeds),
        chunking=chunking,
        step_cap=step_cap,
        stop_on_success=stop_on_success,
        names=dict(names or {}),
        videos=videos,
        filming=filming or Filming(),
        delay_ticks=delay_ticks,
    )
    if out is None and videos:
        raise BadInput(f"{videos} videos need a folder to go to; give out")
    count = available_cores() if workers is None else workers
    if count < 0:
        raise BadInput(f"{count} workers are not possible; 0 works in this process")
    with exclusive_writer(out, "evaluation") if out else nullcontext():
        return _Run(plan, count, out, on_progress).go(make_policy, make_env)


def film(
    make_policy: Callable[[], Policy],
    make_env: Callable[[], Env],
    evaluation: Evaluation,
    *,
    seeds: Sequence[int],
    out: Path,
    workers: int | None = None,
    on_progress: Callable[[EvaluationProgress], None] = lambda progress: None,
) -> Evaluation:
    """Run seeds of an evaluation once more and film them, to out/videos; those that are there are
    filmed again. The evaluation in `out`, if any, stays as it is.

    Gives the rows of these runs. They are the evaluation's own where a seed decides all that a
    world does, as it does in ours.
    """
    plan = replace(evaluation.plan, seeds=tuple(seeds), videos=len(seeds))
    count = available_cores() if workers is None else workers
    with exclusive_writer(out, "evaluation"):
        return _Run(plan, count, None, on_progress, films=out).go(make_policy, make_env)


def check_picklable(make: Callable[[], object]) -> None:
    """Refuse what cannot be sent to a worker process."""
    try:
        ForkingPickler.dumps(make)
    except Exception as error:  # pickle raises whatever the object's own code raises
        raise BadInput(
            f"make_policy and make_env cannot be sent to another process ({error}); give "
            "functions of a module, or functools.partial of one, or set workers to 0"
        ) from error


def settled(kept: World | None, world: World, journal: Journal | None, out: Path | None) -> World:
    """The world that episodes run in, noted in the journal when it is first known.

    Refuses another one than the kept episodes of `out` ran in.
    """
    if kept is None:
        if journal:
            journal.add("world", world)
    elif kept != world:
        raise BadInput(
            f"the environment is not the one that the kept episodes of {out} ran in: "
            f"it was {kept}, is now {world}; give another output folder"
        )
    return world


class _Run:
    """One call of `evaluate`: what is kept, what is still to do, and how fast it goes."""

    def __init__(
        self,
        plan: EvaluationPlan,
        workers: int,
        out: Path | None,
        on_progress: Callable[[EvaluationProgress], None],
        films: Path | None = None,
    ) -> None:
        self._plan = plan
        self._workers = workers
        self._out = out
        self._films = films or out
        self._on_progress = on_progress
        self._journal = Journal(out / JOURNAL) if out else None
        self._world: World | None = None
        self._rows: dict[int, Row] = {}
        self._before_s = 0.0
        self._began = time.monotonic()
        self._pace = Pace(plan, max(1, min(workers, len(plan.seeds))))
        if self._journal:
            self._journal.head(plan.told())
            for world in self._journal.entries("world", World):
                self._world = world
            for row in self._journal.entries("episode", Row):
                if self._rows.setdefault(row.seed, row) is row:
                    self._pace.finished(row)
            self._before_s = max(self._journal.entries("clock_s", float), default=0.0)

    def go(self, make_policy: Callable[[], Policy], make_env: Callable[[], Env]) -> Evaluation:
        waiting = [seed for seed in self._plan.seeds if seed not in self._rows]
        self._report()
        if waiting:
            make = partial(Attempts, make_policy, make_env, self._plan, self._films)
            if self._workers == 0:
                self._here(make, waiting)
            else:
                self._apart(make, waiting)
        assert self._world is not None
        return Evaluation(
            plan=self._plan,
            world=self._world,
            rows=tuple(self._rows[seed] for seed in self._plan.seeds),
            workers=self._workers,
            wall_s=round(self._clock_s(), 3),
        )

    def _here(self, make: Callable[[], Attempts], seeds: Sequence[int]) -> None:
        with closing(make()) as attempts:
            self._ready(attempts.facts)
            for seed in seeds:
                began = time.monotonic()

                def tell(ticks: int, seed: int = seed, began: float = began) -> None:
                    self._pace.running(seed, ticks, time.monotonic() - began)
                    self._report()

                self._finished(seed, attempts.work(seed, lambda: None, tell))

    def _apart(self, make: Callable[[], Attempts], seeds: Sequence[int]) -> None:
        check_picklable(make)
        waiting = list(reversed(seeds))
        given: dict[int, float] = {}
        with WorkerPool(min(self._workers, len(seeds)), make, ONE_THREAD) as crew:
            while waiting or crew.under_way:
                for message in crew.messages():
                    if isinstance(message, Ready):
                        self._ready(message.facts)
                    else:
                        self._finished(message.seed, message.result)
                while waiting and crew.idle:
                    given[waiting[-1]] = time.monotonic()
                    crew.give(waiting.pop())
                for seed, ticks in crew.under_way.items():
                    self._pace.running(seed, ticks, time.monotonic() - given[seed])
                if time.monotonic() - self._reported >= TELL_EVERY_S:
                    self._report()

    def _ready(self, world: World) -> None:
        self._pace.cap = world.step_cap if self._plan.step_cap is None else self._plan.step_cap
        self._world = settled(self._world, world, self._journal, self._out)

    def _finished(self, seed: int, row: Row | EpisodeError) -> None:
        if isinstance(row, EpisodeError):
            raise self._failed(seed, row)
        self._rows[row.seed] = row
        self._pace.finished(row)
        if self._journal:
            self._journal.add("episode", row)
            self._journal.add("clock_s", round(self._clock_s(), 3))
        self._report()

    def _failed(self, seed: int, failure: EpisodeError) -> ImitactError:
        advice = ""
        if self._journal:
            self._journal.add("error", {"seed": seed, **asdict(failure)})
            advice = (
                f" ({len(self._rows)} of {len(self._plan.seeds)} episodes are kept in {self._out}; "
                "the same command goes on from there)"
            )
        return failure.error(f"the episode of seed {seed} did not finish", advice)

    def _clock_s(self) -> float:
        return self._before_s + time.monotonic() - self._began

    def _report(self) -> None:
        self._reported = time.monotonic()
        self._on_progress(
            EvaluationProgress(
                done=len(self._rows),
                total=len(self._plan.seeds),
                successes=sum(row.success for row in self._rows.values()),
                left_s=self._pace.left_s(),
            )
        )
