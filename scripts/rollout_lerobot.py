"""`lerobot-rollout` with imitact's policy on a robot that is not there: what reaches its motors?

    LEROBOT_PYTHON scripts/rollout_lerobot.py --checkpoint runs/lerobot/checkpoints/last

LEROBOT_PYTHON has lerobot 0.6.1, imitact and integrations/lerobot_policy_imitact; the checkpoint is
one of `lerobot-train --policy.type=imitact`. A robot of the checkpoint's joints and cameras, which
is where it was sent and sees noise, is registered with LeRobot and driven by LeRobot's own
`lerobot-rollout` for two seconds. The checkpoint then goes through `imitact import-policy`, and its
policy answers the same observations by imitact's own rollout: the commands must be the same. Exit
code 0 if they are, and if the robot was driven at all.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from lerobot.robots import Robot, RobotConfig
from lerobot.scripts import lerobot_rollout

from imitact.cli import import_policy
from imitact.cli.policies import loader
from imitact.core.chunking import parse
from imitact.core.rollout import rollout
from imitact.core.types import Observation, Spec, StepResult

RATE_HZ, DURATION_S = 25, 2.0
CHUNKING = "ensemble:0.01/5"
MOST = 2e-6
"""Radians between the two commands of a tick: float32 on one side, float64 on the other."""


@RobotConfig.register_subclass("ghost")
@dataclass
class GhostConfig(RobotConfig):
    """A robot of these joints, and of cameras by (height, width)."""

    joints: list[str] = field(default_factory=list)
    eyes: dict[str, list[int]] = field(default_factory=dict)


class Ghost(Robot):
    """Is at once where it is sent; keeps what it told and what it was told."""

    config_class = GhostConfig
    name = "ghost"
    told: ClassVar[list[tuple[np.ndarray, dict[str, np.ndarray]]]] = []
    sent: ClassVar[list[np.ndarray]] = []

    def __init__(self, config: GhostConfig) -> None:
        super().__init__(config)
        self._config = config
        self._at = np.zeros(len(config.joints), np.float32)
        self._noise = np.random.default_rng(0)
        self._connected = False

    @property
    def observation_features(self) -> dict[str, Any]:
        return {**self.action_features, **{n: (*s, 3) for n, s in self._config.eyes.items()}}

    @property
    def action_features(self) -> dict[str, Any]:
        return {f"{name}.pos": float for name in self._config.joints}

    @property
    def is_connected(self) -> bool:
        return self._connected

    @property
    def is_calibrated(self) -> bool:
        return True

    def connect(self, calibrate: bool = True) -> None:
        self._connected = True

    def disconnect(self) -> None:
        self._connected = False

    def calibrate(self) -> None: ...

    def configure(self) -> None: ...

    def get_observation(self) -> dict[str, Any]:
        frames = {
            name: self._noise.integers(0, 256, (*size, 3), np.uint8)
            for name, size in self._config.eyes.items()
        }
        Ghost.told.append((self._at.copy(), frames))
        return {**dict(zip(self.action_features, self._at.tolist(), strict=True)), **frames}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        self._at = np.array([action[name] for name in self.action_features], np.float32)
        Ghost.sent.append(self._at.copy())
        return action


class Again:
    """What the ghost told, once more, as an Env."""

    stages = ()

    def __init__(self, spec: Spec, told: list[tuple[np.ndarray, dict[str, np.ndarray]]]) -> None:
        self.spec, self.step_cap = spec, len(told)
        self._told = [Observation(state.astype(np.float64), frames) for state, frames in told]
        self._tick = 0

    def reset(self, seed: int) -> Observation:
        self._tick = 0
        return self._told[0]

    def step(self, action: Any) -> StepResult:
        self._tick += 1
        return StepResult(self._told[min(self._tick, len(self._told) - 1)], 0.0, False)

    def close(self) -> None: ...


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    given = parser.parse_args()
    source = given.checkpoint / "pretrained_model"
    with tempfile.TemporaryDirectory() as folder:
        policy = Path(folder) / "policy"
        import_policy.run(import_policy.ImportPolicy(source=given.checkpoint, out=policy))
        answers = loader(policy)()
    joints = ",".join(answers.spec.action_names)
    eyes = ",".join(f"{c.name}: [{c.height}, {c.width}]" for c in answers.spec.cameras)
    sys.argv = [
        "lerobot-rollout", f"--policy.path={source}", f"--policy.chunking={CHUNKING}",
        "--policy.device=cpu", "--task=any", f"--fps={RATE_HZ}", f"--duration={DURATION_S}",
        "--robot.type=ghost", f"--robot.joints=[{joints}]", f"--robot.eyes={{{eyes}}}",
        "--play_sounds=false", "--return_to_initial_position=false",
    ]  # fmt: skip
    lerobot_rollout.main()
    # LeRobot looks once while it connects.
    told, sent = Ghost.told[1:], Ghost.sent
    if len(sent) < RATE_HZ * DURATION_S / 4:
        print(f"only {len(sent)} commands in {DURATION_S} s", file=sys.stderr)
        return 1
    ticks = rollout(answers, Again(answers.spec, told), seed=0, chunking=parse(CHUNKING))
    apart = [np.abs(t.action - there).max() for t, there in zip(ticks, sent, strict=False)]
    print(f"{len(apart)} commands, {CHUNKING}: at most {max(apart):.1e} rad apart")
    return 0 if max(apart) <= MOST else 1


if __name__ == "__main__":
    sys.exit(main())
