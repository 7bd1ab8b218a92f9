"""LeRobot's side of benchmarks/robot_wall_clock.py: `lerobot-rollout`, with the times of its ticks.

    .venv-lerobot/bin/python benchmarks/lerobot_rollout_side.py '{"robot": {...}, "policy": ...}'

LeRobot's code runs as it is. The two methods through which its loop reaches the robot note the time
before they read, and after they sent. The policy is imitact's, as a plugin of LeRobot.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "integrations" / "lerobot_policy_imitact" / "src"), str(ROOT / "src")]

import lerobot_policy_imitact  # noqa: E402
import numpy as np  # noqa: E402
from lerobot.configs.types import FeatureType, PolicyFeature  # noqa: E402
from lerobot.policies.factory import get_policy_class, make_pre_post_processors  # noqa: E402
from lerobot.rollout.robot_wrapper import ThreadSafeRobot  # noqa: E402
from lerobot.scripts import lerobot_rollout  # noqa: E402

from imitact.models.policy import TorchPolicy  # noqa: E402


def write_policy(folder: Path, chunking: str, out: Path) -> None:
    """Write imitact's policy as a checkpoint of LeRobot."""
    ours = TorchPolicy.load(folder)
    spec = ours.spec
    images = {
        f"observation.images.{camera.name}": PolicyFeature(
            FeatureType.VISUAL, (3, camera.height, camera.width)
        )
        for camera in spec.cameras
    }
    state = PolicyFeature(FeatureType.STATE, (spec.state_size,))
    config = lerobot_policy_imitact.ImitactConfig(
        input_features={"observation.state": state, **images},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (spec.action_size,))},
        device="cpu",
        push_to_hub=False,
        chunking=chunking,
        rate_hz=spec.rate_hz,
        state_names=list(spec.state_names),
        action_names=list(spec.action_names),
        net=ours.config,
    )
    known: dict[str, dict[str, Any]] = {}
    for key, stats in (
        ("observation.state", ours.stats["state"]),
        ("action", ours.stats["action"]),
    ):
        values = {part: getattr(stats, part) for part in ("mean", "std", "min", "max")}
        known[key] = {**values, "count": np.array([stats.count])}
    policy = get_policy_class("imitact")(config, dataset_stats=known)
    policy.net.load_state_dict(ours.net.state_dict())
    for part in (policy, *make_pre_post_processors(config, dataset_stats=known)):
        part.save_pretrained(out)


def options(settings: Mapping[str, Any], prefix: str) -> list[str]:
    """Return settings as LeRobot's command line takes them."""
    found: list[str] = []
    for name, value in settings.items():
        if isinstance(value, Mapping) and name != "cameras":
            found += options(value, f"{prefix}.{name}")
        else:
            text = json.dumps(value) if isinstance(value, Mapping) else str(value)
            found.append(f"--{prefix}.{name}={text}")
    return found


def main() -> None:
    """Run LeRobot's command."""
    plan = json.loads(sys.argv[1])
    out = Path(plan["out"])
    write_policy(Path(plan["policy"]), plan["chunking"], out / "policy")
    begin: list[float] = []
    sent: list[float] = []
    read, send = ThreadSafeRobot.get_observation, ThreadSafeRobot.send_action

    def get_observation(self: ThreadSafeRobot) -> Any:
        begin.append(time.monotonic())
        return read(self)

    def send_action(self: ThreadSafeRobot, action: Any) -> Any:
        done = send(self, action)
        sent.append(time.monotonic())
        return done

    ThreadSafeRobot.get_observation, ThreadSafeRobot.send_action = get_observation, send_action
    sys.argv = [
        "lerobot-rollout",
        *options(plan["robot"], "robot"),
        f"--policy.path={out / 'policy'}",
        f"--fps={plan['fps']:g}",
        f"--duration={plan['seconds']:g}",
        "--device=cpu",
        "--task=hold",
        "--return_to_initial_position=false",
        "--play_sounds=false",
    ]
    try:
        lerobot_rollout.main()
    finally:
        if begin:
            (out / "ticks.json").write_text(json.dumps({"begin": begin, "sent": sent}))


if __name__ == "__main__":
    main()
