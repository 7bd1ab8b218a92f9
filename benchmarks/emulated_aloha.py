"""Emulated ALOHA: equal to AlohaEnv under the same actions, teleoperated by a hand, its pictures.

    python benchmarks/emulated_aloha.py [--seeds 20] [--write FILE.json]

On a virtual clock, so that a busy computer changes nothing but the times of the pictures:

- replay: the expert's actions as rounded goals of the followers' servos, beside AlohaEnv: the
  largest and the mean difference of the arms' joints, and successes of both;
- teleoperation: a hand moves the limp leaders along the same actions; every 20 ms their registers
  are read, and the followers' goals are written: successes, and where the leader's registers are
  off the actions, in ticks of its encoder;
- pictures: CPU time of one frame of the camera "top", and its mean difference from AlohaEnv.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from imitact.envs.aloha import TASKS, AlohaEnv
from imitact.robots.aloha_gripper import LINKAGES, VARIANTS, GripperScale
from imitact.robots.aloha_hardware import JOINT_SERVOS
from imitact.robots.emulation.hand import expert_trajectory
from imitact.robots.emulation.physics import SERVO_JOINT, SERVOS, AlohaPhysics, ticks_of
from imitact.robots.emulation.pictures import ScenePictures
from imitact.robots.emulation.world import BenchWorld, leader_gripper

SIDES = ("left", "right")
PERIOD_S = 0.02
SIZES = ((480, 640), (240, 320), (120, 160))
FRAMES = 30
FOLLOWER = GripperScale(*VARIANTS["aloha"].follower_rad, LINKAGES["vx300s"], "fingers")
ARMS = [*range(6), *range(8, 14)]


def follower_ticks(action: np.ndarray) -> np.ndarray:
    """Return the rounded goals of one follower's seven joints for its part of an action."""
    return ticks_of([*action[:6], FOLLOWER.angle_from_command(float(action[6]))]).round()


def replay(task: str, seed: int, actions: np.ndarray) -> tuple[bool, bool, float, float]:
    """Return success in AlohaEnv and on the servos, largest and root mean square difference."""
    env, physics = AlohaEnv(task, ()), AlohaPhysics(task, seed)
    env.reset(seed)
    physics.advance(0.0)
    best = [0, 0]
    apart = []
    for tick in range(env.step_cap):
        action = actions[min(tick, len(actions) - 1)]
        result = env.step(action)
        for side, arm in enumerate(physics.arms):
            goals = follower_ticks(action[7 * side : 7 * side + 7])[SERVO_JOINT]
            arm.advance(PERIOD_S * tick, goals.tolist(), [1.0] * SERVOS)
        physics.advance(PERIOD_S * (tick + 1))
        best = [max(best[0], int(result.reward)), max(best[1], physics.scene.reward())]
        apart.append((physics.qpos - result.observation.privileged.qpos)[ARMS])
    differences = np.abs(apart)
    rms = float(np.sqrt(np.square(differences).mean()))
    return best[0] == 4, best[1] == 4, float(differences.max()), rms


def teleoperate(task: str, seed: int, actions: np.ndarray) -> tuple[bool, float]:
    """Return success, and the largest difference of the leaders' registers, in encoder ticks."""
    world = BenchWorld("aloha", task=task, seed=seed)
    leaders = [world.bus(f"leader_{side}") for side in SIDES]
    followers = [world.bus(f"follower_{side}") for side in SIDES]
    world.advance(0.0)
    world.hand(actions[0], 50.0)
    tick = 0
    while world.truth().hand != "holding":
        tick += 1
        world.advance(PERIOD_S * tick)
    for bus in followers:
        bus.set_register(9, "operating_mode", 5)
        bus.set_register(9, "goal_current", 200)
        for servo in range(1, 10):
            bus.set_register(servo, "torque_enable", 1)
    world.reset(seed, goals=True)
    world.hand(actions, 50.0)
    scale, off, after = leader_gripper("fingers"), 0.0, 0
    while after < 60:
        tick += 1
        world.advance(PERIOD_S * tick)
        truth = world.truth()
        after += truth.hand == "holding"
        for number, (leader, follower) in enumerate(zip(leaders, followers, strict=True)):
            ticks = [leader.get_register(servo, "present_position") for servo in JOINT_SERVOS]
            wanted = actions[round(truth.hand_row), 7 * number : 7 * number + 7].copy()
            wanted[6] = scale.angle_from_command(float(wanted[6]))
            off = max(off, float(np.abs(ticks - ticks_of(wanted)).max()))
            angles = (np.array(ticks) - 2048) * 2 * np.pi / 4096
            action = np.append(angles[:6], scale.command_from_angle(float(angles[6])))
            for servo, goal in zip(JOINT_SERVOS, follower_ticks(action), strict=True):
                low = follower.get_register(servo, "min_position_limit")
                high = follower.get_register(servo, "max_position_limit")
                for one in {2: (2, 3), 4: (4, 5)}.get(servo, (servo,)):
                    follower.set_register(one, "goal_position", int(np.clip(goal, low, high)))
        world.advance(PERIOD_S * tick)
    return world.truth().best_reward == 4, off


def pictures(height: int, width: int, *, exact: bool) -> dict[str, object]:
    """Return CPU time of a frame, and how far it is from AlohaEnv's."""
    drawer = ScenePictures("cube", height, width, exact=exact)
    env = AlohaEnv("cube", ("top",), height, width)
    observation = env.reset(0)
    pose = observation.privileged.qpos
    apart = np.abs(drawer.draw(pose, "top").astype(int) - observation.frames["top"]).mean()
    cpu_s = []
    for number in range(FRAMES):
        pose[0], pose[8] = 0.01 * number, -0.01 * number
        begin_s = time.process_time()
        drawer.draw(pose, "top")
        cpu_s.append(time.process_time() - begin_s)
    drawer.close()
    env.close()
    return {
        "height": height,
        "width": width,
        "exact": exact,
        "cpu_ms": round(1000 * float(np.median(cpu_s)), 1),
        "least_cpu_ms": round(1000 * min(cpu_s), 1),
        "mean_difference": round(float(apart), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    found: dict[str, object] = {"seeds": options.seeds}
    for task in TASKS:
        replays, led = [], []
        for seed in range(options.seeds):
            actions = expert_trajectory(task, seed)
            replays.append(replay(task, seed, actions))
            led.append(teleoperate(task, seed, actions))
        in_env, on_servos, largest, rms = zip(*replays, strict=True)
        found[task] = {
            "successes_env": sum(in_env),
            "successes_servos": sum(on_servos),
            "largest_difference_rad": round(max(largest), 4),
            "rms_difference_rad": round(float(np.mean(rms)), 5),
            "successes_teleoperated": sum(success for success, _ in led),
            "leader_off_ticks": round(max(off for _, off in led), 2),
        }
        print(task, found[task], flush=True)
    rows = [pictures(*size, exact=exact) for size in SIZES for exact in (False, True)]
    for row in rows:
        print(row, flush=True)
    found["pictures"] = rows
    if options.write is not None:
        options.write.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
