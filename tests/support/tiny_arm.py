"""A tiny world for the evaluation's tests: two arms of two joints and a gripper, two cameras.

The joints follow their command at once. Rewards are stages 0 to 3 by how near the left shoulder
is to 1 rad; the seed decides where it starts, and policies below reach on some seeds only.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from imitact.core.types import Camera, LazyFrames, Observation, Spec, StepResult

NAMES = ("left_shoulder", "left_elbow", "left_gripper", "right_shoulder", "right_elbow")
SPEC = Spec(
    NAMES,
    NAMES,
    ("rad", "rad", "1", "rad", "rad"),
    ("rad", "rad", "1", "rad", "rad"),
    (Camera("eye", 24, 32), Camera("wrist", 12, 16)),
    10.0,
)


class TinyArm:
    """Frames are of one grey, five times the tick.

    blind: rendering raises. slow_s: each step takes so long. slips: success lasts one tick.
    """

    spec = SPEC
    step_cap = 40
    stages = ("away", "near", "nearer", "there")

    def __init__(self, blind: bool = False, slow_s: float = 0.0, slips: bool = False) -> None:
        self.blind, self.slow_s, self.slips = blind, slow_s, slips
        self.tick = 0
        self.rendered: list[tuple[str, int]] = []

    def look(self) -> Observation:
        tick = self.tick

        def read(name: str) -> np.ndarray:
            if self.blind:
                raise AssertionError(f"camera {name} was rendered, though nobody needs it")
            self.rendered.append((name, tick))
            camera = SPEC.camera(name)
            return np.full((camera.height, camera.width, 3), 5 * tick, np.uint8)

        return Observation(
            self.joints, LazyFrames(("eye", "wrist"), read, lambda: self.tick == tick)
        )

    def reset(self, seed: int) -> Observation:
        self.tick = 0
        self.joints = np.random.default_rng(seed).uniform(-0.5, 0.5, 5)
        self.won = 0
        return self.look()

    def step(self, action: np.ndarray) -> StepResult:
        self.spec.check_action(action)
        time.sleep(self.slow_s)
        self.tick += 1
        self.joints = np.array(action)
        reach = self.joints[0]
        stage = 3 if reach > 0.95 else 2 if reach > 0.8 else 1 if reach > 0.5 else 0
        self.won += stage == 3
        if self.slips and self.won > 1:
            stage = min(stage, 2)
        return StepResult(self.look(), float(stage), stage == 3)

    def close(self) -> None:
        pass


class Reacher:
    """Moves the left shoulder up, on even seeds all the way; a little at random.

    looks: reads the frames of "eye". at: what happens when it is asked at that seed:
    "raise", "exit", "nan".
    """

    spec = SPEC
    k = 6

    def __init__(self, looks: bool = False, at: int | None = None, what: str = "raise") -> None:
        self.looks, self.at, self.what = looks, at, what

    def reset(self, seed: int) -> None:
        self.seed = seed
        self.noise = np.random.default_rng([seed, 1])

    def chunk(self, observation: Observation) -> np.ndarray:
        if self.looks:
            observation.frames["eye"]
        if self.seed == self.at:
            if self.what == "exit":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.what == "nan":
                return np.full((self.k, 5), np.nan)
            raise ValueError("the reacher has a cramp")
        goal = np.full(5, 1.0 if self.seed % 2 == 0 else 0.7)
        ahead = np.linspace(1, self.k, self.k)[:, None] / 10
        rows = observation.state + (goal - observation.state) * ahead
        return rows + self.noise.normal(0, 0.002, rows.shape)


class OtherJoints(Reacher):
    """Was trained on another robot."""

    spec = Spec(("x",), ("x",), ("m",), ("m",), (), 10.0)


class MoreCameras(Reacher):
    """Sees a camera that the world has not."""

    spec = Spec(NAMES, NAMES, SPEC.state_units, SPEC.action_units, (Camera("chest", 24, 32),), 10.0)


class LargerCamera(Reacher):
    """Sees a camera at another size."""

    spec = Spec(NAMES, NAMES, SPEC.state_units, SPEC.action_units, (Camera("eye", 48, 64),), 10.0)


class OtherRate(Reacher):
    """Acts five times as often."""

    spec = Spec(NAMES, NAMES, SPEC.state_units, SPEC.action_units, (), 50.0)


def no_policy(path: Path) -> Reacher:
    """A policy that cannot be loaded."""
    raise FileNotFoundError(f"no such file: {path}")
