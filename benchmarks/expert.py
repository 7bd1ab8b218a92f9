"""Expert benchmark: how often a scripted expert succeeds, when, how fast and how tightly it grips.

    python benchmarks/expert.py --task cube --episodes 500 --out benchmarks/results/expert.json

Seeds run in spawned processes without rendering; the numbers do not depend on how many.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from imitact.core.aloha_joints import ALOHA_JOINTS, ALOHA_RATE_HZ
from imitact.core.cpu import available_cores, processor_name
from imitact.core.types import Policy, StepResult
from imitact.envs.aloha import AlohaEnv
from imitact.envs.experts.kinematics import SPEED_LIMIT
from imitact.envs.experts.registry import EXPERTS, make_expert
from imitact.recording.recorder import HOLD_TICKS

ARM = [at for at, name in enumerate(ALOHA_JOINTS) if not name.endswith("gripper")]
GRIPPERS = {"left": 6, "right": 13}

EVENTS = {
    "cube": {"lift": 2, "transfer": 4},
    "insertion": {"lift": 2, "contact": 3, "insertion": 4},
}
"""Task to the events that are timed, each with the stage that it reaches."""


@dataclass(frozen=True)
class Attempt:
    """One episode of the expert.

    Attributes:
        seed: seed of the episode.
        success: whether success held over the last ticks, as for a recording.
        highest_stage: highest stage that was reached.
        first_ticks: first tick of each event, from 0; -1 where it did not happen.
        still_from_tick: tick after the last movement of a command.
        commanded_rad_s: largest speed of a commanded arm joint, rad/s.
        measured_rad_s: largest speed of a measured arm joint, rad/s.
        tightest_opening: smallest opening of each gripper from the first lift on, 0 (closed) to 1
            (open); 0.025 is a millimetre between the fingers. The held object stops the fingers
            unless they sink into it.
    """

    seed: int
    success: bool
    highest_stage: int
    first_ticks: Mapping[str, int]
    still_from_tick: int
    commanded_rad_s: float
    measured_rad_s: float
    tightest_opening: Mapping[str, float]


def attempt(seed: int, task: str, spread: float) -> Attempt:
    """Run the expert on one seed, to the step cap."""
    env, expert = _env(task), _expert(task, spread)
    observation = env.reset(seed)
    expert.reset(seed)
    results: list[StepResult] = []
    states, actions = [observation.state], []
    for _ in range(env.step_cap):
        actions.append(expert.chunk(observation)[0])
        results.append(env.step(actions[-1]))
        observation = results[-1].observation
        states.append(observation.state)
    rewards = np.array([result.reward for result in results])
    moved = np.abs(np.diff(actions, axis=0)).max(axis=1) > 0
    held = np.array(states[_first(rewards >= EVENTS[task]["lift"]) :])
    return Attempt(
        seed=seed,
        success=all(result.success for result in results[-HOLD_TICKS:]),
        highest_stage=int(rewards.max()),
        first_ticks={name: _first(rewards >= stage) for name, stage in EVENTS[task].items()},
        still_from_tick=int(np.flatnonzero(moved)[-1]) + 1,
        commanded_rad_s=_fastest(np.array(actions)),
        measured_rad_s=_fastest(np.array(states)),
        tightest_opening={side: float(held[:, at].min()) for side, at in GRIPPERS.items()},
    )


@cache
def _env(task: str) -> AlohaEnv:
    """Return the environment of this process; loading the scene takes as long as an episode."""
    return AlohaEnv(task, cameras=())


@cache
def _expert(task: str, spread: float) -> Policy:
    return make_expert(task, spread)


def _first(reached: np.ndarray) -> int:
    return int(reached.argmax()) if reached.any() else -1


def _fastest(joints: np.ndarray) -> float:
    return float(np.abs(np.diff(joints[:, ARM], axis=0)).max() * ALOHA_RATE_HZ)


def _spread_of(ticks: list[int]) -> dict[str, float]:
    reached = np.array([tick for tick in ticks if tick >= 0], np.float64)
    if not reached.size:
        return {"mean": float("nan"), "std": float("nan"), "min": -1, "max": -1}
    return {
        "mean": round(float(reached.mean()), 2),
        "std": round(float(reached.std(ddof=1)) if reached.size > 1 else 0.0, 2),
        "min": int(reached.min()),
        "max": int(reached.max()),
    }


def summary(task: str, attempts: list[Attempt]) -> dict[str, object]:
    """Return the numbers over all attempts, failed ones included."""
    failed = [a for a in attempts if not a.success]
    return {
        "task": task,
        "successes": len(attempts) - len(failed),
        "episodes": len(attempts),
        "failed_seeds": [a.seed for a in failed],
        "failed_stages": [a.highest_stage for a in failed],
        **{
            f"first_{name}_tick": _spread_of([a.first_ticks[name] for a in attempts])
            for name in EVENTS[task]
        },
        "still_from_tick": _spread_of([a.still_from_tick for a in attempts]),
        "max_commanded_rad_s": round(max(a.commanded_rad_s for a in attempts), 3),
        "max_measured_rad_s": round(max(a.measured_rad_s for a in attempts), 3),
        "limit_rad_s": round(SPEED_LIMIT, 3),
        "tightest_opening": {
            side: round(min(a.tightest_opening[side] for a in attempts), 3) for side in GRIPPERS
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--task", choices=[*EXPERTS], default="cube")
    parser.add_argument("--episodes", type=int, default=500, help="episodes, from seed 0 on")
    parser.add_argument("--spread", type=float, default=1.0, help="variation, 0 to 2")
    parser.add_argument("--workers", type=int, default=available_cores(), help="processes")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()

    began = time.perf_counter()
    attempts: list[Attempt] = []
    with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
        run = partial(attempt, task=args.task, spread=args.spread)
        for done in pool.imap(run, range(args.episodes), chunksize=5):
            attempts.append(done)
            if len(attempts) % 50 == 0:
                good = sum(a.success for a in attempts)
                print(f"{good} of {len(attempts)} succeeded", flush=True)
    figures = {
        **summary(args.task, attempts),
        "spread": args.spread,
        "seeds": [0, args.episodes - 1],
        "step_cap": _env(args.task).step_cap,
        "wall_s": round(time.perf_counter() - began, 1),
        "workers": args.workers,
        "versions": {name: version(name) for name in ("mujoco", "gym-aloha", "mink", "numpy")},
        "processor": processor_name(),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
