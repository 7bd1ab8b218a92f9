"""The registered gym-aloha environment as an Env, for proof that ours gives the same rewards."""

from __future__ import annotations

from typing import Any

import numpy as np

from imitact.core.aloha_joints import ALOHA_JOINTS, ALOHA_RATE_HZ, ALOHA_UNITS
from imitact.core.errors import BadInput, ImitactError
from imitact.core.types import Camera, FloatArray, Observation, Spec, StepResult
from imitact.envs.aloha import STEP_CAP, TASKS, load_mujoco

IDS = {"cube": "gym_aloha/AlohaTransferCube-v0", "insertion": "gym_aloha/AlohaInsertion-v0"}
"""The names under which Gymnasium knows the tasks."""

_TOP = 4.0  # the reward at which gym-aloha ends an episode


class RegisteredAloha:
    """`gym.make(IDS[task], obs_type="pixels_agent_pos", max_episode_steps=step_cap)` as an Env.

    It sees its own pixels (camera `top`, 480x640) and joints, and takes the same actions as
    AlohaEnv. Slow: gym-aloha renders three cameras at every step, asked for or not. It ends by
    itself at reward 4 and at its step cap; a step after that is refused, so run it with
    `stop_on_success`. step_cap None takes that of AlohaEnv. gym-aloha keeps the start of an
    episode in a module's global: use one at a time in a process.
    """

    stages = ()
    """gym-aloha has no words for its rewards; AlohaEnv has them."""

    def __init__(self, task: str = "cube", step_cap: int | None = None) -> None:
        if task not in IDS:
            raise BadInput(f"gym-aloha registers no task {task!r}; there are {list(TASKS)}")
        if step_cap is None:
            step_cap = STEP_CAP[task]
        if step_cap < 1:
            raise BadInput(f"a step cap of {step_cap} ticks runs nothing; it must be at least 1")
        load_mujoco()  # chooses the OpenGL backend before dm_control would
        try:
            import gym_aloha  # noqa: F401  # registers its environments with Gymnasium
            import gymnasium
        except ModuleNotFoundError as error:
            raise BadInput(
                f"{error.name} is not installed; install it with: pip install 'imitact[sim]'"
            ) from error
        self._step_cap = step_cap
        self._gym: Any = gymnasium.make(
            IDS[task], obs_type="pixels_agent_pos", max_episode_steps=step_cap
        )
        self._running = False
        self._spec = Spec(
            ALOHA_JOINTS,
            ALOHA_JOINTS,
            ALOHA_UNITS,
            ALOHA_UNITS,
            (Camera("top", 480, 640),),
            ALOHA_RATE_HZ,
        )

    @property
    def spec(self) -> Spec:
        return self._spec

    @property
    def step_cap(self) -> int:
        return self._step_cap

    def reset(self, seed: int) -> Observation:
        observed, _ = self._gym.reset(seed=seed)
        self._running = True
        return _observation(observed)

    def step(self, action: FloatArray) -> StepResult:
        if not self._running:
            raise ImitactError("the registered environment has ended or not begun; reset it")
        self._spec.check_action(action)
        observed, reward, terminated, truncated, _ = self._gym.step(action)
        self._running = not (terminated or truncated)
        return StepResult(_observation(observed), float(reward), float(reward) == _TOP)

    def close(self) -> None:
        self._gym.close()


def _observation(observed: Any) -> Observation:
    return Observation(np.array(observed["agent_pos"]), {"top": observed["pixels"]["top"]})


def make(task: str = "cube", step_cap: int | None = None) -> RegisteredAloha:
    """RegisteredAloha as a function, for functools.partial across processes."""
    return RegisteredAloha(task, step_cap)
