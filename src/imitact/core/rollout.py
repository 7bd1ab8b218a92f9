"""Rollout: an episode of a Policy in an Env, as a stream of ticks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imitact.core.chunking import Chunking
from imitact.core.errors import BadInput
from imitact.core.execution import Execution
from imitact.core.executor import ActionExecutor
from imitact.core.types import Env, FloatArray, Observation, Policy
from imitact.core.words import counted


@dataclass(frozen=True)
class Tick:
    """One control period.

    Attributes:
        index: 0 for the first tick of the episode.
        observation: what the action answers. The environment has moved on when the tick is yielded,
            so only frames that were read before can still be read: those of the cameras in
            `rollout(..., keep=...)`, and those that the policy used.
        action: (A,) as commanded.
        reward: of the step that executed the action.
        success: of the same step.
        terminated: of the same step; it is the last one.
        chunk: (K, A), the policy's answer at this tick; None where it was not queried.
    """

    index: int
    observation: Observation
    action: NDArray[np.float64]
    reward: float
    success: bool
    chunk: FloatArray | None
    terminated: bool = False


def rollout(
    policy: Policy,
    env: Env,
    *,
    seed: int,
    chunking: Chunking | Execution | str | None = None,
    step_cap: int | None = None,
    stop_on_success: bool = False,
    keep: tuple[str, ...] = (),
    keep_every: int = 1,
    past_the_end: bool = False,
) -> Iterator[Tick]:
    """Run one episode and yield each tick, up to the one at which the Env ends it.

    Args:
        seed: fixes the start of the environment, and the policy's own randomness.
        chunking: how chunks become actions, as `ActionExecutor` takes it.
        step_cap: the most ticks; None takes the Env's own.
        stop_on_success: whether the first tick that succeeds ends the episode, as in gym-aloha.
        keep: cameras whose frames are read at every tick, before the environment moves on; others
            are rendered only where the policy reads them.
        keep_every: read those frames at every n-th tick only (tick 0 included).
        past_the_end: go on after the Env has ended the episode, as the first recordings did.

    Raises:
        SpecMismatch: the policy's actions do not fit the Env, or a late first chunk lets a robot
            hold that does not measure what it is commanded.
    """
    cap = env.step_cap if step_cap is None else step_cap
    if cap < 1:
        raise BadInput(f"a step cap of {counted(cap, 'tick')} runs nothing; it must be at least 1")
    env.spec.check_same(policy.spec, "the policy", "the environment", parts=("action names",))
    for camera in keep:
        env.spec.camera(camera)
    executor = ActionExecutor(policy, chunking, observed=env.spec)
    observation = env.reset(seed)
    executor.reset(seed)
    for index in range(cap):
        if index % keep_every == 0:
            for camera in keep:
                observation.frames[camera]
        action = executor.act(observation)
        result = env.step(action)
        yield Tick(
            index,
            observation,
            action,
            result.reward,
            result.success,
            executor.chunk,
            result.terminated,
        )
        if (result.terminated or result.truncated) and not past_the_end:
            return
        if stop_on_success and result.success:
            return
        observation = result.observation
