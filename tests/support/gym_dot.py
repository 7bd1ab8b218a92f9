"""Dot environment for Gymnasium: a dot moves half of the way to the commanded position.

It terminates when the dot is at the mark. Like gym-xarm it refuses actions out of bounds.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np


class Dot(gymnasium.Env):
    """The environment.

    Args:
        obs_type: form of the observation: pixels_agent_pos, blind, cameras, nested or state.
        tells: whether `info` has `is_success`.
        leaves: whether a start depends on the last action of the previous episode.
        breaks: message of the error that the constructor raises; empty for none.
        fails: message of the error that a step raises; empty for none.
    """

    metadata: ClassVar = {"render_modes": [], "render_fps": 20}

    def __init__(
        self,
        obs_type: str = "pixels_agent_pos",
        tells: bool = True,
        leaves: bool = False,
        breaks: str = "",
        fails: str = "",
    ) -> None:
        if breaks:
            raise RuntimeError(breaks)
        self.myself = self  # a reference cycle, so that only the garbage collector destroys it
        self.obs_type, self.tells, self.leaves, self.fails = obs_type, tells, leaves, fails
        self.last = np.zeros(2)
        self.action_space = gymnasium.spaces.Box(0.0, 1.0, (2,), np.float32)
        self.observation_space = gymnasium.spaces.Space()
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.dot = self.np_random.uniform(0.1, 0.3, 2)
        self.mark = self.np_random.uniform(0.5, 0.9, 2)
        self.steps = 0
        if self.leaves:
            self.dot = self.dot + 0.1 * self.last
        return self.observed(), {"mark": self.mark}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), f"{action!r} is out of bounds"
        if self.fails:
            raise RuntimeError(self.fails)
        self.steps, self.last = self.steps + 1, np.asarray(action, np.float64)
        self.dot = self.dot + 0.5 * (np.asarray(action, np.float64) - self.dot)
        near = float(np.linalg.norm(self.dot - self.mark))
        info = {"mark": self.mark, **({"is_success": near < 0.08} if self.tells else {})}
        return self.observed(), -near, near < 0.08, False, info

    def observed(self) -> Any:
        frame = np.full((48, 64, 3), 60, np.uint8)
        for (x, y), color in ((self.mark, (220, 60, 60)), (self.dot, (240, 240, 240))):
            row, column = int(y * 44), int(x * 60)
            frame[row : row + 5, column : column + 5] = color
        if self.obs_type == "pixels_agent_pos":
            return {"pixels": frame, "agent_pos": self.dot.astype(np.float32)}
        if self.obs_type == "blind":
            return {"agent_pos": self.dot.astype(np.float32), "mark": self.mark}
        if self.obs_type == "cameras":
            return {"pixels": {"top": frame, "side": frame[:, ::2]}, "agent_pos": self.dot}
        if self.obs_type == "nested":
            joints = {"x": self.dot[0], "y": self.dot[1]}
            return {"images": {"front": frame}, "robot": joints, "vector": self.dot}
        return self.dot


class Expert:
    """Moves to the mark at a pace that varies with the seed."""

    def __init__(self, spec: Any) -> None:
        self.spec = spec

    def reset(self, seed: int) -> None:
        self.pace = np.random.default_rng([seed, 1]).uniform(0.2, 0.4)

    def chunk(self, observation: Any) -> Any:
        mark, dot = observation.privileged.info["mark"], observation.state[:2]
        return (dot + self.pace * (mark - dot))[None]


gymnasium.register("gym_dot/Dot-v0", entry_point=Dot, max_episode_steps=60)
gymnasium.register("gym_dot/Endless-v0", entry_point=Dot)
