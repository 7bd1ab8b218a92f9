"""Action executor: it commands what a rollout of the same policy commands, tick by tick."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imitact.core.chunking import Chunking, Replay
from imitact.core.errors import BadInput
from imitact.core.execution import Execution
from imitact.core.executor import ActionExecutor, execution_of
from imitact.core.rollout import rollout
from imitact.core.types import FloatArray, Observation, Spec, StepResult

SPEC = Spec(("x", "y"), ("y", "x"), ("rad", "m"), ("m", "rad"), (), 50.0)


class Follows:
    """An environment whose joints go where they are commanded; its stages are not used."""

    spec = SPEC
    step_cap = 40
    stages = ()

    def reset(self, seed: int) -> Observation:
        self.state = np.random.default_rng(seed).normal(size=2)
        return Observation(self.state)

    def step(self, action: FloatArray) -> StepResult:
        self.spec.check_action(action)
        self.state = action[::-1].copy()
        return StepResult(Observation(self.state), 0.0, False)

    def close(self) -> None: ...


class Noisy:
    """A policy whose chunks depend on the observation and on the seed of the episode."""

    spec = SPEC
    execution: Execution | None = None

    def __init__(self, k: int = 10) -> None:
        self.k = k

    def reset(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def chunk(self, observation: Observation) -> FloatArray:
        return observation.state[::-1] + self.rng.normal(size=(self.k, 2)).cumsum(axis=0)


def executed(executor: ActionExecutor, seed: int, ticks: int = 40) -> np.ndarray:
    """What an executor commands in an episode, (T, A)."""
    env = Follows()
    observation = env.reset(seed)
    executor.reset(seed)
    actions = []
    for _ in range(ticks):
        actions.append(executor(observation))
        observation = env.step(actions[-1]).observation
    return np.stack(actions)


def rolled_out(policy: Noisy, chunking: Execution | Chunking | str, seed: int) -> np.ndarray:
    ticks = rollout(policy, Follows(), seed=seed, chunking=chunking)
    return np.stack([tick.action for tick in ticks])


@given(
    st.sampled_from(["replay:1", "replay:7", "replay:50", "ensemble:0.01", "ensemble:-0.3/4"]),
    st.integers(0, 6),
    st.integers(1, 12),
    st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_an_executor_commands_what_a_rollout_commands(
    text: str, delay_ticks: int, k: int, seed: int
) -> None:
    execution = Execution(text, delay_ticks)
    wanted = rolled_out(Noisy(k), execution, seed)
    executor = ActionExecutor(Noisy(k), execution)
    for _ in range(2):  # an episode leaves nothing for the next
        np.testing.assert_array_equal(executed(executor, seed), wanted)
    np.testing.assert_array_equal(rolled_out(Noisy(k), execution.new(), seed), wanted)


def test_an_execution_may_be_a_text_a_whole_one_or_the_policys_own() -> None:
    policy = Noisy()
    assert execution_of(policy) is None
    wanted = executed(ActionExecutor(policy, Execution("replay:50")), 1)
    np.testing.assert_array_equal(executed(ActionExecutor(policy), 1), wanted)
    np.testing.assert_array_equal(executed(ActionExecutor(policy, "replay:50"), 1), wanted)
    np.testing.assert_array_equal(executed(ActionExecutor(policy, Replay(50)), 1), wanted)
    policy.execution = Execution("ensemble:0.01/3", 2)
    tuned = executed(ActionExecutor(policy), 1)
    np.testing.assert_array_equal(tuned, executed(ActionExecutor(Noisy(), policy.execution), 1))
    assert not np.array_equal(tuned, wanted)
    np.testing.assert_array_equal(executed(ActionExecutor(policy, "replay:50"), 1), wanted)
    with pytest.raises(BadInput, match='chunking "sometimes" is not known'):
        ActionExecutor(policy, "sometimes")


def test_an_executor_that_was_not_reset_begins_with_seed_0() -> None:
    env, executor = Follows(), ActionExecutor(Noisy(), "replay:3")
    observation = env.reset(0)
    np.testing.assert_array_equal(
        executor.act(observation), executed(ActionExecutor(Noisy(), "replay:3"), 0, 1)[0]
    )


def test_the_chunk_of_a_tick_is_shown_where_the_policy_was_queried() -> None:
    env, executor = Follows(), ActionExecutor(Noisy(), "replay:4")
    observation = env.reset(0)
    queried = []
    for tick in range(9):
        action = executor.act(observation)
        if executor.chunk is not None:
            queried.append(tick)
            np.testing.assert_array_equal(executor.chunk[0], action)
        observation = env.step(action).observation
    assert queried == [0, 4, 8]


def test_while_the_first_chunk_is_late_the_measured_joints_are_commanded() -> None:
    env = Follows()
    start = env.reset(5).state
    executor = ActionExecutor(Noisy(), Execution("replay:4", delay_ticks=2))
    np.testing.assert_array_equal(executed(executor, 5, 2), [start[::-1]] * 2)
