"""Tiny arm environment for the tests of evaluation: five joints, two cameras.

The joints reach their targets in one step. Rewards are stages 0 to 3, by the distance of the left
shoulder from 1 rad. The seed determines the start; the policies below succeed at some seeds only.
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
    """The environment. Its frames have one gray level, five times the tick.

    Args:
        blind: rendering raises an error.
        slow_s: time that each step takes.
        slips: success lasts one tick.
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
                raise AssertionError(f"camera {name} was rendered without need")
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
    """Moves the left shoulder up, at even seeds to the goal, with a little noise.

    Args:
        looks: whether it reads the frames of "eye".
        at: seed at which it fails; None for never.
        what: how it fails: "raise", "exit" or "nan".
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
    """A policy for another robot."""

    spec = Spec(("x",), ("x",), ("m",), ("m",), (), 10.0)


class MoreCameras(Reacher):
    """A policy with a camera that the environment does not have."""

    spec = Spec(NAMES, NAMES, SPEC.state_units, SPEC.action_units, (Camera("chest", 24, 32),), 10.0)


class LargerCamera(Reacher):
    """A policy with a camera of another size."""

    spec = Spec(NAMES, NAMES, SPEC.state_units, SPEC.action_units, (Camera("eye", 48, 64),), 10.0)


class OtherRate(Reacher):
    """A policy at five times the rate."""

    spec = Spec(NAMES, NAMES, SPEC.state_units, SPEC.action_units, (), 50.0)


def no_policy(path: Path) -> Reacher:
    """A policy that cannot be loaded."""
    raise FileNotFoundError(f"no such file: {path}")
