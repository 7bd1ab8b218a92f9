"""Many episodes of a Policy on an Env: seeded, capped, in parallel, counted."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imitact import chunking as chunkings
from imitact.contract import BadInput, Env, ImitactError, Misfit, Policy, Spec
from imitact.evaluate.film import Film, Filming
from imitact.evaluate.journal import Journal
from imitact.evaluate.pace import Pace
from imitact.evaluate.processes import Failure, spread
from imitact.evaluate.tally import HELD_TICKS, Evaluation, Plan, Row, World, jerk
from imitact.rollout import rollout

JOURNAL = "episodes.jsonl"
_NEWS_EVERY_S = 1.0


@dataclass(frozen=True)
class Progress:
    """Where an evaluation stands.

    done, total, successes: episodes; `kept` of the done ones are from an earlier, interrupted run.
    spent_s: wall time of this run. left_s: what is left by the pace so far, None before there is
    one.
    """

    done: int
    total: int
    successes: int
    kept: int
    spent_s: float
    left_s: float | None


def evaluate(
    make_policy: Callable[[], Policy],
    make_env: Callable[[], Env],
    *,
    seeds: Sequence[int],
    chunking: str,
    step_cap: int | None = None,
    stop_on_success: bool = True,
    workers: int | None = None,
    videos: int = 0,
    filming: Filming | None = None,
    names: Mapping[str, str] | None = None,
    out: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Evaluation:
    """Run one episode a seed and count.

    make_policy, make_env: called once in each process; must be picklable (functions of a module,
                     or functools.partial of one) unless workers is 0.
    chunking:        "replay:N", "ensemble:M" or "ensemble:M/E" (see chunking.py).
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
    failed one is run again next time. Refuses a policy that does not fit the environment.
    """
    plan = Plan(
        seeds=tuple(int(seed) for seed in seeds),
        chunking=chunking,
        step_cap=step_cap,
        stop_on_success=stop_on_success,
        names=dict(names or {}),
        videos=videos,
        filming=filming or Filming(),
    )
    if out is None and videos:
        raise BadInput(f"{videos} videos need a folder to go to; give out")
    count = _cores() if workers is None else workers
    return _Run(plan, count, out, on_progress).go(make_policy, make_env)


class _Trial:
    """The job of one process: a policy and a world, made once, for one seed after another."""

    def __init__(
        self,
        make_policy: Callable[[], Policy],
        make_env: Callable[[], Env],
        plan: Plan,
        out: Path | None,
    ) -> None:
        self._plan = plan
        self._out = out
        self._env = make_env()
        self._policy = make_policy()
        spec = self._env.spec
        _check_fit(self._policy.spec, spec)
        self._filmed = frozenset(plan.seeds[: plan.videos])
        self._cameras = plan.filming.chosen(spec) if self._filmed else ()

    @property
    def about(self) -> World:
        env = self._env
        spec = env.spec
        return World(
            env.step_cap,
            tuple(env.stages),
            spec.action_names,
            spec.action_units,
            float(spec.rate_hz),
        )

    def close(self) -> None:
        self._env.close()

    def __call__(self, seed: int, tell: Callable[[tuple[int, float]], None], /) -> Row:
        """Run one episode; tells (ticks done, seconds spent) about once a second."""
        plan, env = self._plan, self._env
        began = told = time.monotonic()
        actions: list[NDArray[np.float64]] = []
        rewards: list[float] = []
        won: list[bool] = []
        queries = 0
        film = self._film(seed) if seed in self._filmed else None
        with film or nullcontext():
            for tick in rollout(
                self._policy,
                env,
                seed=seed,
                chunking=chunkings.parse(plan.chunking),
                step_cap=plan.step_cap,
                stop_on_success=plan.stop_on_success,
                keep=self._cameras if film else (),
                keep_every=plan.filming.every,
            ):
                actions.append(tick.action)
                rewards.append(float(tick.reward))
                won.append(bool(tick.success))
                queries += tick.chunk is not None
                if film:
                    film.take(tick)
                now = time.monotonic()
                if now - told >= _NEWS_EVERY_S:
                    tell((len(actions), now - began))
                    told = now
        top = max(rewards)
        stages = range(len(env.stages))
        ran_on = not plan.stop_on_success or not any(won)
        return Row(
            seed=seed,
            success=any(won),
            held=all(won[-HELD_TICKS:]) if ran_on else None,
            highest_stage=int(top) if stages else None,
            first_ticks=tuple(_first(rewards, stage) for stage in stages),
            reward_sum=sum(rewards),
            ticks=len(actions),
            queries=queries,
            jerk_rad_s3=jerk(np.stack(actions), env.spec),
            rewards=tuple((reward, len(list(run))) for reward, run in groupby(rewards)),
            wall_s=round(time.monotonic() - began, 3),
        )

    def _film(self, seed: int) -> Film:
        assert self._out is not None
        path = video_path(self._out, seed)
        title = f"seed {seed}  {self._plan.chunking}"
        return Film(path, self._env.spec, tuple(self._env.stages), self._plan.filming, title)


def _cores() -> int:
    """Those that this process may use, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def video_path(out: Path, seed: int) -> Path:
    """Where the video of a seed lies, if it was filmed."""
    return out / "videos" / f"seed-{seed}.mp4"


def _first(rewards: list[float], stage: int) -> int | None:
    return next((at for at, reward in enumerate(rewards) if reward >= stage), None)


def _check_fit(policy: Spec, env: Spec) -> None:
    """Refuse before the first episode what would fail, or mislead, in it."""
    for what, wanted, there in (
        ("state", policy.state_names, env.state_names),
        ("action", policy.action_names, env.action_names),
        ("state units", policy.state_units, env.state_units),
        ("action units", policy.action_units, env.action_units),
    ):
        if wanted != there:
            raise Misfit(
                f"the policy's {what} is {list(wanted)}, the environment's {list(there)}; "
                "evaluate it where it was trained for"
            )
    if policy.rate_hz != env.rate_hz:
        raise Misfit(
            f"the policy acts {policy.rate_hz:g} times a second, "
            f"the environment {env.rate_hz:g} times; they must agree"
        )
    sizes = {camera.name: (camera.height, camera.width) for camera in env.cameras}
    for camera in policy.cameras:
        if camera.name not in sizes:
            raise Misfit(
                f"the policy sees camera {camera.name!r}, the environment has {sorted(sizes)}; "
                "make the environment with the policy's cameras"
            )
        height, width = sizes[camera.name]
        if (height, width) != (camera.height, camera.width):
            raise Misfit(
                f"the policy sees camera {camera.name!r} at {camera.height}x{camera.width} pixels, "
                f"the environment gives {height}x{width}; make it with the policy's capture size"
            )


@dataclass(frozen=True)
class _Error:
    """A journal's note of an episode that raised."""

    seed: int
    message: str
    trace: str


class _Run:
    """One call of `evaluate`: what is kept, what is still to do, and how fast it goes."""

    def __init__(
        self,
        plan: Plan,
        workers: int,
        out: Path | None,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._plan = plan
        self._workers = workers
        self._out = out
        self._on_progress = on_progress
        self._journal = Journal(out / JOURNAL) if out else None
        self._world: World | None = None
        self._rows: dict[int, Row] = {}
        self._before_s = 0.0
        self._began = time.monotonic()
        self._pace = Pace(plan, max(1, min(workers, len(plan.seeds))))
        if self._journal:
            self._journal.head(asdict(plan))
            for world in self._journal.entries("world", World):
                self._world = world
            for row in self._journal.entries("episode", Row):
                if self._rows.setdefault(row.seed, row) is row:
                    self._pace.finished(row)
            self._before_s = max(self._journal.entries("clock_s", float), default=0.0)
        self._kept = len(self._rows)

    def go(self, make_policy: Callable[[], Policy], make_env: Callable[[], Env]) -> Evaluation:
        plan = self._plan
        waiting = [seed for seed in plan.seeds if seed not in self._rows]
        self._report()
        make_trial = partial(_Trial, make_policy, make_env, plan, self._out)
        # closing(): an error raised here must end the processes now, not at garbage collection.
        with closing(
            spread(
                make_trial,
                waiting,
                workers=self._workers,
                on_ready=self._ready,
                on_news=self._news,
            )
        ) as finished:
            for seed, result in finished:
                if isinstance(result, Failure):
                    raise self._failed(seed, result)
                self._finished(result)
        assert self._world is not None
        return Evaluation(
            plan=plan,
            world=self._world,
            rows=tuple(self._rows[seed] for seed in plan.seeds),
            workers=self._workers,
            wall_s=round(self._clock_s(), 3),
        )

    def _ready(self, world: World) -> None:
        self._pace.cap = world.step_cap if self._plan.step_cap is None else self._plan.step_cap
        if self._world is None:
            self._world = world
            if self._journal:
                self._journal.add("world", world)
        elif self._world != world:
            raise BadInput(
                f"the environment is not the one that the kept episodes of {self._out} ran in: "
                f"it was {self._world}, is now {world}; give another output folder"
            )

    def _news(self, seed: int, news: tuple[int, float]) -> None:
        self._pace.running(seed, *news)
        self._report()

    def _finished(self, row: Row) -> None:
        self._rows[row.seed] = row
        self._pace.finished(row)
        if self._journal:
            self._journal.add("episode", row)
            self._journal.add("clock_s", round(self._clock_s(), 3))
        self._report()

    def _failed(self, seed: int, failure: Failure) -> ImitactError:
        advice = ""
        if self._journal:
            self._journal.add("error", _Error(seed, failure.message, failure.trace))
            advice = (
                f" ({len(self._rows)} of {len(self._plan.seeds)} episodes are kept in {self._out}; "
                "the same command goes on from there)"
            )
        return failure.error(f"the episode of seed {seed} did not finish", advice)

    def _clock_s(self) -> float:
        return self._before_s + time.monotonic() - self._began

    def _report(self) -> None:
        self._on_progress(
            Progress(
                done=len(self._rows),
                total=len(self._plan.seeds),
                successes=sum(row.success for row in self._rows.values()),
                kept=self._kept,
                spent_s=time.monotonic() - self._began,
                left_s=self._pace.left_s(),
            )
        )
