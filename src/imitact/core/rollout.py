"""A Policy on an Env as a stream of ticks; recording and evaluation both consume it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imitact.core.chunking import Chunking
from imitact.core.errors import BadInput, SpecMismatch
from imitact.core.types import Env, FloatArray, Observation, Policy, Spec


@dataclass(frozen=True)
class Tick:
    """One control period.

    index:       0 for the first tick of the episode.
    observation: what the action answers. The world has moved on when the tick is given, so only
                 frames that were read before can be read still: those of the cameras that
                 `rollout(..., keep=...)` names, and those that the policy looked at.
    action:      (A,) as commanded.
    reward, success: of the step that executed the action.
    chunk:       (K, A), the policy's answer at this tick; None where it was not asked.
    """

    index: int
    observation: Observation
    action: NDArray[np.float64]
    reward: float
    success: bool
    chunk: FloatArray | None


def rollout(
    policy: Policy,
    env: Env,
    *,
    seed: int,
    chunking: Chunking,
    step_cap: int | None = None,
    stop_on_success: bool = False,
    keep: tuple[str, ...] = (),
    keep_every: int = 1,
) -> Iterator[Tick]:
    """Run one episode, tick by tick.

    seed:            fixes the start of the world, and the policy's own randomness.
    step_cap:        ticks at most; None takes the Env's own.
    stop_on_success: end with the first tick that succeeds, as gym-aloha does.
    keep:            cameras whose frame every tick holds, read before the world moves on;
                     others are rendered only if the policy asks.
    keep_every:      keep them at every n-th tick only (tick 0 included).

    Where an answer is late and nothing is left to execute, the robot waits: it is commanded what it
    was commanded before, at the start of an episode the joints that it measures.

    Refuses a policy whose actions do not fit the Env, and a wait at the start for a robot that does
    not measure what it is commanded.
    """
    cap = env.step_cap if step_cap is None else step_cap
    if cap < 1:
        raise BadInput(f"a step cap of {cap} ticks runs nothing; it must be at least 1")
    env.spec.check_same(policy.spec, "the policy", "the environment", parts=("action names",))
    for camera in keep:
        env.spec.camera(camera)
    observation = env.reset(seed)
    policy.reset(seed)
    chunking.reset()
    held: NDArray[np.float64] | None = None
    for index in range(cap):
        if index % keep_every == 0:
            for camera in keep:
                observation.frames[camera]
        chunk = None
        if chunking.wants_chunk:
            chunk = policy.chunk(observation)
            chunking.feed(chunk)
        action = chunking.next()
        if action is None:
            action = _measured(observation, env.spec) if held is None else held
        held = action
        outcome = env.step(action)
        yield Tick(index, observation, action, outcome.reward, outcome.success, chunk)
        if stop_on_success and outcome.success:
            return
        observation = outcome.observation


def _measured(observation: Observation, spec: Spec) -> NDArray[np.float64]:
    """The action that holds what is measured now, (A,)."""
    units = dict(zip(spec.state_names, spec.state_units, strict=True))
    for name, unit in zip(spec.action_names, spec.action_units, strict=True):
        if units.get(name) != unit:
            there = f"measured in {units[name]!r}" if name in units else "not measured"
            raise SpecMismatch(
                f"until the first answer is there the robot holds its joints, but {name!r}, "
                f"commanded in {unit!r}, is {there}; run it without a delay"
            )
    state = np.asarray(observation.state, dtype=np.float64)
    return state[[spec.state_names.index(name) for name in spec.action_names]]
