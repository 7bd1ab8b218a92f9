"""Reference environment: the registered gym-aloha environment gives AlohaEnv's rewards."""

from __future__ import annotations

import numpy as np
import pytest

from imitact.core.chunking import Replay
from imitact.core.errors import BadInput, ImitactError
from imitact.core.rollout import rollout
from imitact.core.types import Observation
from imitact.envs import gym_aloha_reference
from imitact.envs.aloha import AlohaEnv
from imitact.envs.aloha_renderer import load_mujoco
from imitact.envs.experts.cube import CubeExpert


@pytest.fixture
def _unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable gym-aloha's rendering, which would take minutes; these tests read no frames."""
    load_mujoco()  # selects the OpenGL backend before dm_control does
    from dm_control.mujoco import Physics

    blank = np.zeros((480, 640, 3), np.uint8)
    monkeypatch.setattr(Physics, "render", lambda self, *size, **camera: blank)


class Recorded:
    """A policy that replays the actions of one episode."""

    def __init__(self, actions: np.ndarray) -> None:
        self.actions = actions
        self.spec = CubeExpert().spec

    def reset(self, seed: int) -> None:
        pass

    def chunk(self, observation: Observation) -> np.ndarray:
        assert observation.privileged is None, "the reference environment has no true state"
        return self.actions


def rewards(policy: Recorded, seed: int) -> list[float]:
    """Return the rewards of an episode in the reference environment, up to reward 4."""
    env = gym_aloha_reference.RegisteredAloha("cube")
    ticks = rollout(policy, env, seed=seed, chunking=Replay(400), stop_on_success=True)
    rewards = [tick.reward for tick in ticks]
    env.close()
    return rewards


@pytest.mark.usefixtures("_unrendered")
def test_rewards_equal_aloha_envs_at_every_tick() -> None:
    env = AlohaEnv("cube")
    ours = list(rollout(CubeExpert(), env, seed=1003, chunking=Replay(1), stop_on_success=True))
    env.close()
    policy = Recorded(np.stack([tick.action for tick in ours]))
    theirs = rewards(policy, 1003)
    assert theirs == [tick.reward for tick in ours]
    assert theirs[-1] == 4.0
    assert set(theirs) >= {0.0, 1.0, 2.0, 4.0}


def test_pixels_and_joints_equal_aloha_envs() -> None:
    theirs, ours = gym_aloha_reference.RegisteredAloha("cube"), AlohaEnv("cube")
    assert theirs.spec == ours.spec
    assert theirs.step_cap == ours.step_cap
    seen, known = theirs.reset(1001), ours.reset(1001)
    for _ in range(2):
        np.testing.assert_array_equal(seen.state, known.state)
        np.testing.assert_array_equal(seen.frames["top"], known.frames["top"])
        action = known.state + 0.05
        seen, known = theirs.step(action).observation, ours.step(action).observation
    theirs.close()
    ours.close()


@pytest.mark.usefixtures("_unrendered")
def test_a_step_before_reset_or_after_the_end_is_refused() -> None:
    env = gym_aloha_reference.RegisteredAloha("insertion", step_cap=2)
    with pytest.raises(ImitactError, match="not started; call reset"):
        env.step(np.zeros(14))
    state = env.reset(0).state
    env.step(state)
    env.step(state)
    with pytest.raises(ImitactError, match="has ended"):
        env.step(state)
    env.close()


def test_an_unknown_task_or_an_invalid_step_cap_is_refused() -> None:
    with pytest.raises(BadInput, match=r'no task of gym-aloha "knot"; expected cube, insertion'):
        gym_aloha_reference.RegisteredAloha("knot")
    with pytest.raises(BadInput, match="step cap is 0"):
        gym_aloha_reference.RegisteredAloha("cube", 0)
