"""Evaluation episodes: a policy runs one seed in an environment and gives one row of results."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imitact.core import errors
from imitact.core.errors import ImitactError
from imitact.core.execution import Execution
from imitact.core.rollout import rollout
from imitact.core.types import Env, Policy
from imitact.evaluation.episode_video import EpisodeVideo, episode_video, video_path
from imitact.evaluation.results import HELD_TICKS, EnvInfo, EpisodeRow, EvaluationPlan, jerk

REPORT_EVERY_S = 1.0
"""Interval between two progress reports of a running episode."""


@dataclass(frozen=True)
class Job:
    """An episode to run: a seed under an execution."""

    execution: Execution
    seed: int

    def __str__(self) -> str:
        return f"{self.seed}, {self.execution}"


def episode_error(error: Exception) -> ImitactError:
    """Return the error that ended an episode, of the nearest class of `core/errors.py`.

    It can be sent to another process. Its one note is the traceback; its message has the type in
    front unless the error is an `ImitactError`.
    """
    kinds = (kind for kind in type(error).__mro__ if vars(errors).get(kind.__name__) is kind)
    kind = next(kinds, None)
    found = kind(str(error)) if kind else ImitactError(f"{type(error).__name__}: {error}")
    found.add_note("".join(traceback.format_exception(error)))
    return found


class EpisodeWorker:
    """A policy and an environment, created once, that run one job after another."""

    def __init__(
        self,
        make_policy: Callable[[], Policy],
        make_env: Callable[[], Env],
        plan: EvaluationPlan,
        video_folder: Path | None,
    ) -> None:
        """Create the policy and the environment; refuse a policy that does not fit.

        Jobs bring their own seed and execution. The plan's first `videos` seeds are recorded to
        `video_folder`.
        """
        self._plan = plan
        self._video_folder = video_folder
        self._env = make_env()
        self._policy = make_policy()
        spec = self._env.spec
        self._policy.spec.check_same(
            spec,
            "the environment",
            "the policy",
            advice="Evaluate the policy in the environment that it was trained for, with the same "
            "cameras at the same capture sizes",
        )
        self._recorded = frozenset(plan.seeds[: plan.videos])
        self._cameras = plan.video.cameras_in(spec) if self._recorded else ()

    @property
    def facts(self) -> EnvInfo:
        env, spec = self._env, self._env.spec
        names, units = spec.action_names, spec.action_units
        return EnvInfo(env.step_cap, tuple(env.stages), names, units, float(spec.rate_hz))

    def close(self) -> None:
        self._env.close()

    def work(
        self, job: Job, check_stop: Callable[[], object], report_ticks: Callable[[int], object]
    ) -> EpisodeRow | ImitactError:
        """Run one episode; an exception in it is returned, see `episode_error`.

        `check_stop` is called at every tick, `report_ticks` about once a second.
        """
        try:
            return self._episode(job, check_stop, report_ticks)
        except Exception as error:
            return episode_error(error)

    def _episode(
        self, job: Job, check_stop: Callable[[], object], report_ticks: Callable[[int], object]
    ) -> EpisodeRow:
        plan, env = self._plan, self._env
        started_s = reported_s = time.monotonic()
        actions: list[NDArray[np.float64]] = []
        rewards: list[float] = []
        successes: list[bool] = []
        queries, terminated = 0, False
        with self._video(job) as video:
            for tick in rollout(
                self._policy,
                env,
                seed=job.seed,
                chunking=job.execution,
                step_cap=plan.step_cap,
                stop_on_success=plan.stop_on_success,
                keep=self._cameras if video else (),
                keep_every=plan.video.every,
            ):
                actions.append(tick.action)
                rewards.append(float(tick.reward))
                successes.append(bool(tick.success))
                queries += tick.chunk is not None
                terminated = tick.terminated
                if video:
                    video.add(tick)
                check_stop()
                if time.monotonic() - reported_s >= REPORT_EVERY_S:
                    report_ticks(len(actions))
                    reported_s = time.monotonic()
        success = any(successes)
        stages = range(len(env.stages))
        return EpisodeRow(
            seed=job.seed,
            success=success,
            held=None
            if plan.stop_on_success and success
            else all(successes[-1 if terminated else -HELD_TICKS :]),
            highest_stage=int(max(rewards)) if stages else None,
            first_ticks=tuple(
                next((tick for tick, reward in enumerate(rewards) if reward >= stage), None)
                for stage in stages
            ),
            reward_sum=sum(rewards),
            ticks=len(actions),
            queries=queries,
            jerk_rad_s3=jerk(np.stack(actions), env.spec),
            rewards=tuple((reward, len(list(run))) for reward, run in groupby(rewards)),
            wall_s=round(time.monotonic() - started_s, 3),
        )

    def _video(self, job: Job) -> AbstractContextManager[EpisodeVideo | None]:
        if job.seed not in self._recorded:
            return nullcontext()
        assert self._video_folder is not None
        path = video_path(self._video_folder, job.seed)
        title = f"seed {job.seed}  {job.execution}"
        return episode_video(path, self._env.spec, self._env.stages, self._plan.video, title)
