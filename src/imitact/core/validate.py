"""Contract checks: whether your own policy, environment or dataset keeps the contract of its type.

Each check raises the first violation that it finds, with what came and what was expected.
"""

from __future__ import annotations

import time

import numpy as np

from imitact.core.errors import NotFinite, SpecMismatch
from imitact.core.types import Dataset, Env, FloatArray, Observation, Policy, Spec
from imitact.core.words import counted


def check_chunk(spec: Spec, chunk: np.ndarray, where: str = "chunk") -> None:
    """Check that a chunk is (K, A) with K at least 1, and finite."""
    if chunk.ndim != 2 or chunk.shape[0] < 1 or chunk.shape[1] != spec.action_size:
        raise SpecMismatch(
            f"{where}: has shape {chunk.shape}, expected (K, {spec.action_size}) with K >= 1"
        )
    if not np.all(np.isfinite(chunk)):
        row, column = np.argwhere(~np.isfinite(chunk))[0]
        raise NotFinite(
            f"{where}: {spec.action_names[column]} is {chunk[row, column]} {counted(row, 'tick')} "
            "ahead"
        )


def check_policy(policy: Policy, observation: Observation, seed: int = 0) -> None:
    """Check that chunks fit the Spec, and that the same seed gives the same chunk."""
    answers = []
    for _ in range(2):
        policy.reset(seed)
        answers.append(np.array(policy.chunk(observation)))
        check_chunk(policy.spec, answers[-1], "the policy's chunk")
    if not np.array_equal(answers[0], answers[1]):
        raise SpecMismatch(
            "the policy gave two answers to one observation after the same reset; all of its "
            "randomness must come from the seed of reset"
        )


def check_first_ticks(env: Env, policy: Policy | None = None, seed: int = 0) -> float:
    """Check the first two ticks of an episode; return how long the last of them took, in s.

    `policy` commands it; without one the joints are held.
    """
    observation = env.reset(seed)
    if policy is not None:
        policy.reset(seed)
    tick_s = 0.0
    for tick in range(2):
        began_s = time.perf_counter()
        env.spec.checked(observation, f"tick {tick} of the environment")
        if policy is None:
            action = _holding_action(env, observation)
        else:
            chunk = np.asarray(policy.chunk(observation))
            check_chunk(env.spec, chunk, "the expert's chunk")
            action = chunk[0]
        result = env.step(action)
        _check_reward(env, result.reward, tick)
        tick_s = time.perf_counter() - began_s
        observation = result.observation
        if result.terminated or result.truncated:
            break
    return tick_s


def _holding_action(env: Env, observation: Observation) -> FloatArray:
    """Return the measured joints as an action, and 0 for the others: safe in any environment."""
    named = dict(zip(env.spec.state_names, np.ravel(observation.state), strict=False))
    return np.array([named.get(name, 0.0) for name in env.spec.action_names])


def _check_reward(env: Env, reward: float, tick: int) -> None:
    if not np.isfinite(reward):
        raise NotFinite(f"tick {tick} of the environment: the reward is {reward}")
    if env.stages and not 0 <= reward < len(env.stages):
        raise SpecMismatch(
            f"tick {tick} of the environment: reward {reward} is not a stage; there are "
            f"{len(env.stages)}, numbered from 0"
        )


def check_env(env: Env, seed: int = 0, ticks: int = 5) -> None:
    """Check that observations fit the Spec, and that seed and actions determine an episode."""
    if env.step_cap < 1:
        raise SpecMismatch(f"the environment's step cap is {env.step_cap}; it must be at least 1")
    runs = []
    for _ in range(2):
        observation = env.reset(seed)
        action = _holding_action(env, observation)
        seen = []
        for tick in range(ticks):
            env.spec.checked(observation, f"tick {tick} of the environment")
            seen.append(np.array(observation.state))
            result = env.step(action)
            _check_reward(env, result.reward, tick)
            observation = result.observation
            if result.terminated or result.truncated:
                break
        runs.append(np.stack(seen))
    if not np.array_equal(runs[0], runs[1]):
        raise SpecMismatch(f"two episodes from seed {seed} with the same actions differ in state")
    _check_refusal(env)


def _check_refusal(env: Env) -> None:
    env.reset(0)
    for wrong in (np.zeros(env.spec.action_size + 1), np.full(env.spec.action_size, np.nan)):
        try:
            env.step(wrong)
        except (SpecMismatch, NotFinite):
            continue
        raise SpecMismatch(
            f"the environment accepted an action of shape {wrong.shape} with {wrong[0]} in it; "
            "it must refuse what does not fit its Spec"
        )


def check_dataset(dataset: Dataset) -> None:
    """Check lengths, shapes and finite values of every episode, and its first and last frames."""
    if not dataset.lengths:
        raise SpecMismatch("the dataset has no episodes")
    for index, length in enumerate(dataset.lengths):
        where = f"episode {index}"
        if length < 1:
            raise SpecMismatch(f"{where} has no ticks")
        episode = dataset.episode(index)
        for what, rows, size in (
            ("state", episode.state, dataset.spec.state_size),
            ("action", episode.action, dataset.spec.action_size),
        ):
            if rows.shape != (length, size):
                raise SpecMismatch(
                    f"{where}: {what} has shape {rows.shape}, expected ({length}, {size})"
                )
            if not np.all(np.isfinite(rows)):
                tick = int(np.argwhere(~np.isfinite(rows))[0][0])
                raise NotFinite(f"{where}: {what} is not finite at tick {tick}")
        for camera in dataset.spec.cameras:
            for tick in {0, length - 1}:
                frames = list(episode.frames(camera.name, tick, tick + 1))
                if len(frames) != 1:
                    raise SpecMismatch(f"{where}: camera {camera.name} has no frame at tick {tick}")
                dataset.spec.check_frame(camera.name, frames[0], where)
