"""The contract as runnable checks: hand in your own policy, environment or dataset.

Each check raises the first breach it finds as an error that says what came and what the
contract asks for; it returns nothing where all is well.
"""

from __future__ import annotations

import numpy as np

from imitact.core.errors import NotFinite, SpecMismatch
from imitact.core.types import Dataset, Env, Observation, Policy, Spec


def check_observation(spec: Spec, observation: Observation, where: str = "observation") -> None:
    """State and every camera of the Spec: there, of the right size and type, finite."""
    spec.check_state(np.asarray(observation.state), where)
    for camera in spec.cameras:
        if camera.name not in observation.frames:
            raise SpecMismatch(
                f"{where}: camera {camera.name!r} is missing; "
                f"it has {sorted(observation.frames)}, expected {[c.name for c in spec.cameras]}"
            )
        spec.check_frame(camera.name, observation.frames[camera.name], where)


def check_chunk(spec: Spec, chunk: np.ndarray, where: str = "chunk") -> None:
    """(K, A) with K at least 1, finite."""
    if chunk.ndim != 2 or chunk.shape[0] < 1 or chunk.shape[1] != spec.action_size:
        raise SpecMismatch(
            f"{where}: has shape {chunk.shape}, expected (K, {spec.action_size}) with K >= 1"
        )
    if not np.all(np.isfinite(chunk)):
        row, column = np.argwhere(~np.isfinite(chunk))[0]
        raise NotFinite(
            f"{where}: {spec.action_names[column]} is {chunk[row, column]} {row} ticks ahead"
        )


def check_policy(policy: Policy, observation: Observation, seed: int = 0) -> None:
    """A policy answers with a chunk that fits its Spec, and the same seed gives the same answer."""
    answers = []
    for _ in range(2):
        policy.reset(seed)
        answers.append(np.array(policy.chunk(observation)))
        check_chunk(policy.spec, answers[-1], "the policy's chunk")
    if not np.array_equal(answers[0], answers[1]):
        raise SpecMismatch(
            "the policy gave two answers to one observation after the same reset; "
            "its randomness must come from the seed of reset alone"
        )


def check_env(env: Env, seed: int = 0, ticks: int = 5) -> None:
    """Observations fit the Spec; the seed fixes the start; equal actions give equal worlds."""
    if env.step_cap < 1:
        raise SpecMismatch(
            f"the environment's step cap is {env.step_cap}; it must be at least 1 tick"
        )
    runs = []
    for _ in range(2):
        observation = env.reset(seed)
        seen = []
        action = None
        for tick in range(ticks):
            check_observation(env.spec, observation, f"tick {tick} of the environment")
            seen.append(np.array(observation.state))
            if action is None:
                action = np.zeros(env.spec.action_size)
                named = dict(zip(env.spec.state_names, observation.state, strict=True))
                for at, name in enumerate(env.spec.action_names):
                    action[at] = named.get(name, 0.0)  # holding still is safe in any world
            outcome = env.step(action)
            if not np.isfinite(outcome.reward):
                raise NotFinite(f"tick {tick} of the environment: the reward is {outcome.reward}")
            if env.stages and not 0 <= outcome.reward < len(env.stages):
                raise SpecMismatch(
                    f"tick {tick} of the environment: reward {outcome.reward} names no stage; "
                    f"there are {len(env.stages)}"
                )
            observation = outcome.observation
        runs.append(np.stack(seen))
    if not np.array_equal(runs[0], runs[1]):
        raise SpecMismatch(
            f"two episodes from seed {seed} with the same actions differ in their states"
        )
    _check_refusal(env)


def _check_refusal(env: Env) -> None:
    env.reset(0)
    for wrong in (np.zeros(env.spec.action_size + 1), np.full(env.spec.action_size, np.nan)):
        try:
            env.step(wrong)
        except (SpecMismatch, NotFinite):
            continue
        raise SpecMismatch(
            f"the environment took an action of shape {wrong.shape} holding {wrong[0]}; "
            "it must refuse what does not fit its Spec"
        )


def check_source(source: Dataset) -> None:
    """Lengths, sizes and types of every episode, finite values, and a first and last frame each."""
    if not source.lengths:
        raise SpecMismatch("the dataset has no episodes")
    for index, length in enumerate(source.lengths):
        where = f"episode {index}"
        if length < 1:
            raise SpecMismatch(f"{where} has no ticks")
        episode = source.episode(index)
        for what, rows, size in (
            ("state", episode.state, source.spec.state_size),
            ("action", episode.action, source.spec.action_size),
        ):
            if rows.shape != (length, size):
                raise SpecMismatch(
                    f"{where}: {what} has shape {rows.shape}, expected ({length}, {size})"
                )
            if not np.all(np.isfinite(rows)):
                tick = int(np.argwhere(~np.isfinite(rows))[0][0])
                raise NotFinite(f"{where}: {what} is not finite at tick {tick}")
        for camera in source.spec.cameras:
            for tick in {0, length - 1}:
                frames = list(episode.frames(camera.name, tick, tick + 1))
                if len(frames) != 1:
                    raise SpecMismatch(
                        f"{where}: camera {camera.name!r} has no frame at tick {tick}"
                    )
                source.spec.check_frame(camera.name, frames[0], where)
