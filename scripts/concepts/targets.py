"""Why absolute joint targets: what the scripted expert commands, and what the arms do with it.

`measure` runs the expert in imitact's ALOHA scene without rendering, and keeps one joint and one
gripper of one episode, and the spread of absolute and of delta targets over several.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from concepts.look import BLUE, FAINT, GREEN, ORANGE, panels, say

NUMBERS = Path(__file__).parents[2] / "benchmarks" / "results" / "targets.json"
SEED = 1000
SEEDS = range(16)
K = 100
RATE_HZ = 50.0
JOINT, GRIPPER = "right_arm_elbow", "right_arm_gripper"


def episode(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """States and actions of the expert at that seed, (T, 14) each."""
    from imitact.core.chunking import Replay
    from imitact.core.rollout import rollout
    from imitact.envs.aloha import AlohaEnv
    from imitact.envs.experts.registry import CubeExpert

    env = AlohaEnv("cube")
    ticks = list(rollout(CubeExpert(), env, seed=seed, chunking=Replay(1)))
    env.close()
    states = np.array([t.observation.state for t in ticks])
    return states, np.array([t.action for t in ticks])


def numbers() -> dict[str, object]:
    """What `measure` keeps, from the simulator."""
    from imitact.core.aloha_joints import ALOHA_JOINTS
    from imitact.envs.experts.registry import REVISION

    state, action = episode(SEED)
    joint, gripper = ALOHA_JOINTS.index(JOINT), ALOHA_JOINTS.index(GRIPPER)
    arms = [i for i, name in enumerate(ALOHA_JOINTS) if not name.endswith("gripper")]
    absolute: list[np.ndarray] = []
    delta: list[np.ndarray] = []
    for seed in SEEDS:
        s, a = episode(seed)
        ahead = np.lib.stride_tricks.sliding_window_view(a, K, axis=0)  # (T - K + 1, 14, K)
        absolute.append(ahead[:, arms])
        delta.append((ahead - s[: len(ahead), :, None])[:, arms])

    def spread(rows: list[np.ndarray]) -> list[float]:
        return np.concatenate(rows).std(axis=0).mean(axis=0).round(4).tolist()

    return {
        "seed": SEED,
        "expert": REVISION,
        "command_rad": action[:, joint].round(4).tolist(),
        "measured_rad": state[:, joint].round(4).tolist(),
        "gripper_command": action[:, gripper].round(4).tolist(),
        "gripper_measured": state[:, gripper].round(4).tolist(),
        "absolute_std_rad": spread(absolute),
        "delta_std_rad": spread(delta),
    }


def measure() -> None:
    """Run the expert, half a second an episode, and keep the numbers."""
    NUMBERS.write_text(json.dumps(numbers(), indent=None) + "\n", encoding="utf-8")


def draw() -> str:
    """A joint that lags, a gripper that presses, and how wide targets spread over the chunk."""
    told = json.loads(NUMBERS.read_text())
    seconds = np.arange(len(told["command_rad"])) / RATE_HZ
    behind = np.abs(np.subtract(told["command_rad"], told["measured_rad"]))
    with panels(3) as ((joint, gripper, spread), svg):
        for axes, command, measured in (
            (joint, told["command_rad"], told["measured_rad"]),
            (gripper, told["gripper_command"], told["gripper_measured"]),
        ):
            axes.plot(seconds, command, color=ORANGE)
            axes.plot(seconds, measured, color=BLUE)
        joint.set(xlabel="time, s", ylabel="right elbow, rad", xlim=(2.4, 4.0))
        joint.set_title("the arm lags", y=1.02)
        say(joint, 2.45, 0.0, "commanded", ORANGE)
        say(joint, 3.2, 0.45, "measured", BLUE)
        say(joint, 2.85, 0.95, f"by up to {behind.max():.3f} rad")
        gripper.set(xlabel="time, s", ylabel="right gripper, 0 to 1", ylim=(-0.05, 1.19))
        gripper.set_title("the gripper presses", y=1.02)
        say(gripper, 5.0, 0.46, "held by\nthe cube", BLUE)
        say(gripper, 5.0, 0.06, "commanded", ORANGE)
        ahead_s = np.arange(K) / RATE_HZ
        spread.plot(ahead_s, told["absolute_std_rad"], color=GREEN)
        spread.plot(ahead_s, told["delta_std_rad"], color=FAINT)
        spread.set(xlabel="ahead in the chunk, s", ylabel="spread of targets, rad", ylim=(0, 0.3))
        spread.set_title("deltas grow", y=1.02)
        say(spread, 0.35, 0.26, "absolute", GREEN)
        say(spread, 0.6, 0.08, "delta to the state", FAINT)
    return svg[0]
