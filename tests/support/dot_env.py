"""Dot environment: the smallest environment to record, a dot that an expert moves to a mark.

Everything is at module level and picklable, so that worker processes can create it.
"""

from __future__ import annotations

import time
from functools import partial

import numpy as np

from imitact.core.types import Camera, FloatArray, LazyFrames, Observation, Spec, StepResult

RATE_HZ = 20.0
TICKS = 30
NAMES = ("x", "y")
STAGES = ("not moved", "on its way", "at the mark")
REACH_M = 0.05


def dot_spec(cameras: tuple[tuple[str, int, int], ...] = (("top", 24, 32),)) -> Spec:
    """Two values in m, and cameras of the given (name, height, width) in pixels."""
    return Spec(
        state_names=NAMES,
        action_names=NAMES,
        state_units=("m", "m"),
        action_units=("m", "m"),
        cameras=tuple(Camera(*camera) for camera in cameras),
        rate_hz=RATE_HZ,
    )


class DotEnv:
    """A dot in the unit square that moves half of the way to the commanded position at each step.

    The seed determines the positions of dot and mark. Frames show both.

    Args:
        cameras: name, height and width of each camera.
        ticks: step cap.
        pause_s: time that each step takes, so that a test can interrupt it.
        rate_hz: rate of the Spec.
    """

    def __init__(
        self,
        cameras: tuple[tuple[str, int, int], ...] = (("top", 24, 32),),
        ticks: int = TICKS,
        pause_s: float = 0.0,
        rate_hz: float = RATE_HZ,
    ) -> None:
        spec = dot_spec(cameras)
        self._spec = Spec(
            spec.state_names,
            spec.action_names,
            spec.state_units,
            spec.action_units,
            spec.cameras,
            rate_hz,
        )
        self._ticks = ticks
        self._pause_s = pause_s
        self._position = np.zeros(2)
        self._mark = np.zeros(2)
        self._state_count = 0

    @property
    def spec(self) -> Spec:
        return self._spec

    @property
    def step_cap(self) -> int:
        return self._ticks

    @property
    def stages(self) -> tuple[str, ...]:
        return STAGES

    def reset(self, seed: int) -> Observation:
        rng = np.random.default_rng(seed)
        self._position = rng.uniform(0.0, 0.3, 2)
        self._mark = rng.uniform(0.6, 0.9, 2)
        self._state_count += 1
        return self._observation()

    def step(self, action: FloatArray) -> StepResult:
        self._spec.check_action(np.asarray(action))
        if self._pause_s:
            time.sleep(self._pause_s)
        halfway = self._position + 0.5 * (np.asarray(action) - self._position)
        self._position = np.clip(halfway, 0.0, 1.0)
        self._state_count += 1
        reached = bool(np.linalg.norm(self._position - self._mark) < REACH_M)
        moved = bool(np.any(self._position > 0.3))
        return StepResult(self._observation(), 2.0 if reached else float(moved), reached)

    def close(self) -> None:
        pass

    def _observation(self) -> Observation:
        count = self._state_count
        return Observation(
            state=self._position.copy(),
            frames=LazyFrames(
                [c.name for c in self._spec.cameras], self._draw, lambda: self._state_count == count
            ),
            privileged=self._mark.copy(),
        )

    def _draw(self, name: str) -> np.ndarray:
        camera = self._spec.camera(name)
        height, width = camera.height, camera.width
        # A smooth background like a camera's, so that lossy video changes it little.
        rows = np.linspace(40, 120, height)[:, None, None]
        columns = np.linspace(0, 60, width)[None, :, None]
        frame = (rows + columns + np.array([0.0, 10.0, 20.0])).astype(np.uint8)
        for (x, y), color in ((self._mark, (200, 60, 60)), (self._position, (240, 240, 240))):
            row, column = int(y * (height - 6)), int(x * (width - 6))
            frame[row : row + 6, column : column + 6] = color
        return frame


class DotExpert:
    """Moves to the mark at a varying pace; misses it at seeds whose last digit is in `misses`.

    Attributes:
        variation: the pace of the episode, without unit.
    """

    def __init__(self, misses: tuple[int, ...] = (3,)) -> None:
        self._misses = misses
        self._missing = False
        self.variation: dict[str, float] = {}

    @property
    def spec(self) -> Spec:
        return dot_spec()

    def reset(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 7])
        self._missing = seed % 10 in self._misses
        self.variation = {"pace": float(rng.uniform(0.4, 0.8))}

    def chunk(self, observation: Observation) -> FloatArray:
        mark = np.asarray(observation.privileged) - (0.2 if self._missing else 0.0)
        state = np.asarray(observation.state)
        return (state + self.variation["pace"] * (mark - state))[None]


TWO_CAMERAS = (("top", 24, 32), ("wrist", 32, 24))

make_dot = DotEnv
make_two_camera_dot = partial(DotEnv, TWO_CAMERAS)
make_slow_dot = partial(DotEnv, TWO_CAMERAS, TICKS, 0.004)
make_dot_expert = DotExpert


def make_expert_for(spec: Spec) -> DotExpert:
    """Return an expert for an environment of this Spec, as `--expert` calls it."""
    return DotExpert()
