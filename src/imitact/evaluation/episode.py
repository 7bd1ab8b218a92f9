"""An episode of a Policy on an Env, as a row of figures."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imitact.core import chunking as chunkings
from imitact.core import types
from imitact.core.errors import ImitactError
from imitact.core.rollout import rollout
from imitact.core.types import Env, Policy
from imitact.evaluation.results import HELD_TICKS, EvaluationPlan, Row, World, jerk
from imitact.evaluation.video import Film, video_path

TELL_EVERY_S = 1.0


@dataclass(frozen=True)
class EpisodeError:
    """An error that ended an episode, as text that crosses processes and can be kept.

    message: what it says; led by its type where that is no error of imitact's.
    base:    name of the nearest error of the contract, so that bad input stays bad input.
    trace:   the traceback.
    """

    message: str
    base: str
    trace: str

    @classmethod
    def of(cls, error: Exception) -> EpisodeError:
        """The Failure that an exception is."""
        trace = "".join(traceback.format_exception(error))
        if isinstance(error, ImitactError):
            known = (t.__name__ for t in type(error).__mro__ if vars(types).get(t.__name__) is t)
            return cls(str(error), next(known), trace)
        return cls(f"{type(error).__name__}: {error}", ImitactError.__name__, trace)

    def error(self, where: str, advice: str = "") -> ImitactError:
        """The error to raise, "where: message advice", with the traceback as a note."""
        raised = vars(types)[self.base](f"{where}: {self.message}{advice}")
        raised.add_note(self.trace)
        return raised


class Attempts:
    """A policy and a world, made once, for one seed after another (a Worker of data/crew.py)."""

    def __init__(
        self,
        make_policy: Callable[[], Policy],
        make_env: Callable[[], Env],
        plan: EvaluationPlan,
        out: Path | None,
    ) -> None:
        self._plan = plan
        self._out = out
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
        self._filmed = frozenset(plan.seeds[: plan.videos])
        self._cameras = plan.filming.chosen(spec) if self._filmed else ()

    @property
    def facts(self) -> World:
        """What there is to know of the world."""
        env = self._env
        spec = env.spec
        return World(
            env.step_cap,
            tuple(env.stages),
            spec.action_names,
            spec.action_units,
            float(spec.rate_hz),
        )

    def under(self, plan: EvaluationPlan) -> Attempts:
        """The same policy in the same world, neither made again, and nothing filmed."""
        other = copy(self)
        other._plan = plan
        other._filmed, other._cameras = frozenset[int](), ()
        return other

    def close(self) -> None:
        """Free the world."""
        self._env.close()

    def work(
        self, seed: int, go_on: Callable[[], object], tell: Callable[[int], object]
    ) -> Row | EpisodeError:
        """Run one episode; an error becomes a Failure. Tells ticks about once a second."""
        try:
            return self._episode(seed, go_on, tell)
        except Exception as error:
            return EpisodeError.of(error)

    def _episode(
        self, seed: int, go_on: Callable[[], object], tell: Callable[[int], object]
    ) -> Row:
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
                chunking=chunkings.parse(plan.chunking, plan.delay_ticks),
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
                go_on()
                if time.monotonic() - told >= TELL_EVERY_S:
                    tell(len(actions))
                    told = time.monotonic()
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
        title = f"seed {seed}  {self._plan.execution}"
        return Film(path, self._env.spec, tuple(self._env.stages), self._plan.filming, title)


def _first(rewards: list[float], stage: int) -> int | None:
    return next((at for at, reward in enumerate(rewards) if reward >= stage), None)
