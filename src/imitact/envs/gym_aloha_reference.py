"""Reference environment: the registered gym-aloha environment, to verify AlohaEnv's rewards."""

from __future__ import annotations

from typing import Any

import numpy as np

from imitact.core.aloha_joints import ALOHA_JOINTS, ALOHA_RATE_HZ, ALOHA_UNITS
from imitact.core.errors import BadInput, ImitactError, missing_package, unknown_name
from imitact.core.types import Camera, FloatArray, Observation, Spec, StepResult
from imitact.core.words import counted
from imitact.envs.aloha import STEP_CAP, TASKS
from imitact.envs.aloha_renderer import load_mujoco

GYM_IDS = {"cube": "gym_aloha/AlohaTransferCube-v0", "insertion": "gym_aloha/AlohaInsertion-v0"}
"""Names of the tasks in Gymnasium."""

_TOP = 4.0  # the reward at which gym-aloha ends an episode


class RegisteredAloha:
    """`gymnasium.make(GYM_IDS[task], obs_type="pixels_agent_pos", ...)` as an Env.

    It has camera `top` at 480x640 pixels, and state and actions as AlohaEnv. It is slow: gym-aloha
    renders three cameras at every step. It ends at reward 4 and at its step cap, and refuses a step
    after that; run it with `stop_on_success`. gym-aloha keeps the start of an episode in a global
    variable: use one instance at a time in a process. A `step_cap` of None is that of AlohaEnv.
    """

    stages = ()
    """gym-aloha does not describe its rewards; AlohaEnv does."""

    def __init__(self, task: str = "cube", step_cap: int | None = None) -> None:
        if task not in GYM_IDS:
            raise unknown_name("task of gym-aloha", task, TASKS)
        self.step_cap = STEP_CAP[task] if step_cap is None else step_cap
        if self.step_cap < 1:
            raise BadInput(
                f"the step cap is {counted(self.step_cap, 'tick')}; it must be at least 1"
            )
        load_mujoco()  # selects the OpenGL backend before dm_control does
        try:
            import gym_aloha  # noqa: F401  # registers its environments with Gymnasium
            import gymnasium
        except ModuleNotFoundError as error:
            raise missing_package(str(error.name), "sim") from error
        self._gym: Any = gymnasium.make(
            GYM_IDS[task], obs_type="pixels_agent_pos", max_episode_steps=self.step_cap
        )
        self._running = False
        cameras = (Camera("top", 480, 640),)
        self.spec = Spec(
            ALOHA_JOINTS, ALOHA_JOINTS, ALOHA_UNITS, ALOHA_UNITS, cameras, ALOHA_RATE_HZ
        )

    def reset(self, seed: int) -> Observation:
        observed, _ = self._gym.reset(seed=seed)
        self._running = True
        return _observation(observed)

    def step(self, action: FloatArray) -> StepResult:
        if not self._running:
            raise ImitactError("the episode has ended or not started; call reset(seed) first")
        self.spec.check_action(action)
        observed, reward, terminated, truncated, _ = self._gym.step(action)
        self._running = not (terminated or truncated)
        return StepResult(_observation(observed), float(reward), float(reward) == _TOP)

    def close(self) -> None:
        self._gym.close()


def _observation(observed: Any) -> Observation:
    return Observation(np.array(observed["agent_pos"]), {"top": observed["pixels"]["top"]})
