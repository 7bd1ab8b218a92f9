"""Synthetic scene: an environment without a simulator, for the datasets of `make bench`.

Its frames compress to about the size of the ALOHA scene's, so that decoding takes the same time.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np

from imitact.core.types import Camera, FloatArray, Frame, LazyFrames, Observation, Spec, StepResult
from imitact.recording.recorder import record

JOINTS = 14
TICKS = 400
_JOINT_UNIT = ("rad",) * JOINTS


def spec(cameras: int, height: int, width: int) -> Spec:
    """Return a Spec of 14 joints in rad and that many cameras of that size, at 50 Hz."""
    names = tuple(f"joint_{n}" for n in range(JOINTS))
    seen = tuple(Camera(f"camera_{n}", height, width) for n in range(cameras))
    return Spec(names, names, _JOINT_UNIT, _JOINT_UNIT, seen, rate_hz=50.0)


class Scene:
    """Squares that move with the joints over a table; every tick is a success."""

    stages = ("begun", "done")

    def __init__(self, cameras: int, height: int, width: int, ticks: int) -> None:
        self.spec = spec(cameras, height, width)
        self.step_cap = ticks
        rows, columns = np.mgrid[:height, :width]
        table = np.stack([rows // 4 % 96 + 60, columns // 6 % 96 + 60, rows // 8 + 60], axis=-1)
        self._table = table.clip(0, 255).astype(np.uint8)
        self._state = np.zeros(JOINTS)
        self._tick = 0

    def reset(self, seed: int) -> Observation:
        self._state = np.random.default_rng(seed).uniform(-1, 1, JOINTS)
        self._tick = 0
        return self._observation()

    def step(self, action: FloatArray) -> StepResult:
        self._state = np.asarray(action, dtype=np.float64)
        self._tick += 1
        return StepResult(self._observation(), 1.0, True)

    def close(self) -> None:
        pass

    def _observation(self) -> Observation:
        now = self._tick
        names = [camera.name for camera in self.spec.cameras]
        return Observation(
            self._state.copy(), LazyFrames(names, self._draw, lambda: self._tick == now)
        )

    def _draw(self, camera: str) -> Frame:
        frame = self._table.copy()
        height, width = frame.shape[:2]
        side = height // 10
        for n in range(JOINTS // 2):
            down, right = (0.5 + 0.4 * np.sin(self._state[2 * n : 2 * n + 2])) * (
                height - side,
                width - side,
            )
            patch = frame[int(down) : int(down) + side, int(right) : int(right) + side]
            patch[:] = (40 * n, 255 - 30 * n, 128)
        return frame


class Wave:
    """An expert that commands a slow sine for each joint."""

    def __init__(self, of: Spec) -> None:
        self.spec = of

    def reset(self, seed: int) -> None:
        self._phase = np.random.default_rng(seed).uniform(0, 6, JOINTS)

    def chunk(self, observation: Observation) -> FloatArray:
        self._phase = self._phase + np.linspace(0.01, 0.05, JOINTS)
        return np.sin(self._phase)[None]


def make(
    out: Path, *, episodes: int, cameras: int, height: int, width: int, ticks: int = TICKS
) -> Path:
    """Record a dataset of that many episodes in `out`, unless a finished one is there."""
    if out.exists() and not (out / "done").exists():
        shutil.rmtree(out)
    if not out.exists():
        record(
            out,
            make_env=partial(Scene, cameras, height, width, ticks),
            make_expert=partial(Wave, spec(cameras, height, width)),
            episodes=episodes,
            task="move",
            seeds=range(episodes),
            workers=2,
            hold_ticks=1,
        )
        (out / "done").touch()
    return out
