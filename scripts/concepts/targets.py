"""Figure on joint targets: commands of the scripted expert and the joints measured meanwhile.

`measure` runs the expert in imitact's ALOHA scene without rendering, and records one joint and one
gripper of one episode, and the standard deviation of absolute and delta targets over several.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from concepts.style import BLUE, FAINT, GREEN, ORANGE, label, panels

NUMBERS = Path(__file__).parents[2] / "benchmarks" / "results" / "targets.json"
SEED = 1000
SEEDS = range(16)
K = 100
RATE_HZ = 50.0
JOINT, GRIPPER = "right_arm_elbow", "right_arm_gripper"


def episode(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return states and actions of the expert at a seed, (T, 14) each."""
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
    """Return what `measure` records, from the simulator."""
    from imitact.core.aloha_joints import ALOHA_JOINTS
    from imitact.envs.experts.registry import CubeExpert

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
        "expert": CubeExpert.REVISION,
        "command_rad": action[:, joint].round(4).tolist(),
        "measured_rad": state[:, joint].round(4).tolist(),
        "gripper_command": action[:, gripper].round(4).tolist(),
        "gripper_measured": state[:, gripper].round(4).tolist(),
        "absolute_std_rad": spread(absolute),
        "delta_std_rad": spread(delta),
    }


def measure() -> None:
    """Run the expert, half a second per episode, and record the numbers."""
    NUMBERS.write_text(json.dumps(numbers(), indent=None) + "\n", encoding="utf-8")


def draw() -> str:
    """Draw a joint that lags, a gripper that presses, and the spread of targets over the chunk."""
    recorded = json.loads(NUMBERS.read_text())
    seconds = np.arange(len(recorded["command_rad"])) / RATE_HZ
    lag = np.abs(np.subtract(recorded["command_rad"], recorded["measured_rad"]))
    with panels(3) as ((joint, gripper, spread), svg):
        for axes, command, measured in (
            (joint, recorded["command_rad"], recorded["measured_rad"]),
            (gripper, recorded["gripper_command"], recorded["gripper_measured"]),
        ):
            axes.plot(seconds, command, color=ORANGE)
            axes.plot(seconds, measured, color=BLUE)
        joint.set(xlabel="time, s", ylabel="right elbow, rad", xlim=(2.4, 4.0))
        joint.set_title("the arm lags", y=1.02)
        label(joint, 2.45, 0.0, "commanded", ORANGE)
        label(joint, 3.2, 0.45, "measured", BLUE)
        label(joint, 2.85, 0.95, f"by up to {lag.max():.3f} rad")
        gripper.set(xlabel="time, s", ylabel="right gripper, 0 to 1", ylim=(-0.05, 1.19))
        gripper.set_title("the gripper presses", y=1.02)
        label(gripper, 5.0, 0.46, "held by\nthe cube", BLUE)
        label(gripper, 5.0, 0.06, "commanded", ORANGE)
        ahead_s = np.arange(K) / RATE_HZ
        spread.plot(ahead_s, recorded["absolute_std_rad"], color=GREEN)
        spread.plot(ahead_s, recorded["delta_std_rad"], color=FAINT)
        spread.set(xlabel="time in the chunk, s", ylabel="spread of targets, rad", ylim=(0, 0.3))
        spread.set_title("deltas grow", y=1.02)
        label(spread, 0.35, 0.26, "absolute", GREEN)
        label(spread, 0.6, 0.08, "delta to the state", FAINT)
    return svg[0]
