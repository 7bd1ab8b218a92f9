"""Rollout parity: `lerobot-rollout` with imitact's policy sends the commands of imitact's rollout.

    LEROBOT_PYTHON scripts/rollout_lerobot.py --checkpoint runs/lerobot/checkpoints/last

LEROBOT_PYTHON has lerobot 0.6.1, imitact and integrations/lerobot_policy_imitact; the checkpoint is
one of `lerobot-train --policy.type=imitact`. A simulated robot with the checkpoint's joints and
cameras, which reaches every command at once and sees noise, is registered with LeRobot and driven
by LeRobot's `lerobot-rollout` for two seconds. Then `imitact import-policy` imports the checkpoint,
and its policy answers the same observations in imitact's rollout. Exit code 0 if the commands are
equal and the robot received enough of them.
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
from imitact.core.execution import parse
from imitact.core.rollout import rollout
from imitact.core.types import Observation, Spec, StepResult
from imitact.deploy.load_policy import policy_loader

RATE_HZ, DURATION_S = 25, 2.0
CHUNKING = "ensemble:0.01/5"
TOLERANCE_RAD = 2e-6
"""Largest difference of the commands of a tick: float32 on one side, float64 on the other."""


@RobotConfig.register_subclass("ghost")
@dataclass
class GhostConfig(RobotConfig):
    """Settings of a simulated robot: its joints, and its cameras by (height, width)."""

    joints: list[str] = field(default_factory=list)
    eyes: dict[str, list[int]] = field(default_factory=dict)


class Ghost(Robot):
    """A robot that reaches every command at once; it keeps its observations and commands."""

    config_class = GhostConfig
    name = "ghost"
    observed: ClassVar[list[tuple[np.ndarray, dict[str, np.ndarray]]]] = []
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
        Ghost.observed.append((self._at.copy(), frames))
        return {**dict(zip(self.action_features, self._at.tolist(), strict=True)), **frames}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        self._at = np.array([action[name] for name in self.action_features], np.float32)
        Ghost.sent.append(self._at.copy())
        return action


class ReplayedEnv:
    """An Env that replays the observations of the robot."""

    stages = ()

    def __init__(
        self, spec: Spec, observed: list[tuple[np.ndarray, dict[str, np.ndarray]]]
    ) -> None:
        self.spec, self.step_cap = spec, len(observed)
        self._observations = [Observation(s.astype(np.float64), frames) for s, frames in observed]
        self._tick = 0

    def reset(self, seed: int) -> Observation:
        self._tick = 0
        return self._observations[0]

    def step(self, action: Any) -> StepResult:
        self._tick += 1
        last = len(self._observations) - 1
        return StepResult(self._observations[min(self._tick, last)], 0.0, False)

    def close(self) -> None: ...


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    given = parser.parse_args()
    source = given.checkpoint / "pretrained_model"
    with tempfile.TemporaryDirectory() as folder:
        policy = Path(folder) / "policy"
        import_policy.run(import_policy.ImportPolicy(source=given.checkpoint, out=policy))
        imported = policy_loader(policy)()
    joints = ",".join(imported.spec.action_names)
    eyes = ",".join(f"{c.name}: [{c.height}, {c.width}]" for c in imported.spec.cameras)
    sys.argv = [
        "lerobot-rollout", f"--policy.path={source}", f"--policy.chunking={CHUNKING}",
        "--policy.device=cpu", "--task=any", f"--fps={RATE_HZ}", f"--duration={DURATION_S}",
        "--robot.type=ghost", f"--robot.joints=[{joints}]", f"--robot.eyes={{{eyes}}}",
        "--play_sounds=false", "--return_to_initial_position=false",
    ]  # fmt: skip
    lerobot_rollout.main()
    # LeRobot takes one observation while it connects.
    observed, sent = Ghost.observed[1:], Ghost.sent
    if len(sent) < RATE_HZ * DURATION_S / 4:
        print(f"only {len(sent)} commands in {DURATION_S} s", file=sys.stderr)
        return 1
    env = ReplayedEnv(imported.spec, observed)
    ticks = rollout(imported, env, seed=0, chunking=parse(CHUNKING))
    differences = [np.abs(t.action - other).max() for t, other in zip(ticks, sent, strict=False)]
    print(f"{len(differences)} commands, {CHUNKING}: differ by at most {max(differences):.1e} rad")
    return 0 if max(differences) <= TOLERANCE_RAD else 1


if __name__ == "__main__":
    sys.exit(main())
