"""Safety episodes benchmark: whether all demonstrations of the experts pass the filter to the bit.

    python benchmarks/safety_episodes.py --out benchmarks/results/safety_episodes.json

300 episodes: cube and insertion, spread 0, 1 and 2, 50 seeds each. The limits are those of each
task's own episodes, times 1.5, as training keeps them in policy.json; once as they are, and once
cut by the range of ALOHA's joints, with the check of self-collisions. The state is measured in the
simulation, so that lag and stall are judged as well. Nothing is rendered. Each episode begins at
rest at its first action.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.control.collision import CollisionCheck
from imitact.control.contract import Ages
from imitact.control.safety_filter import SafetyFilter
from imitact.core.aloha_joints import ALOHA_JOINTS, ALOHA_RATE_HZ, ALOHA_UNITS
from imitact.core.joint_limits import DemonstratedLimits, JointLimits
from imitact.envs.aloha import AlohaEnv
from imitact.envs.experts.registry import EXPERTS, make_expert
from imitact.robots.aloha_hardware import BASES, robot_limits
from imitact.robots.config import ArmConfig, RobotConfig
from tests.support.safety import reading

SPREADS = (0.0, 1.0, 2.0)
FRESH = Ages(0.01, {})
Rows = NDArray[np.float64]


def episode(env: AlohaEnv, spread: float, seed: int) -> tuple[Rows, Rows]:
    """Return the expert's actions of an episode and the states that it saw, each (T, 14)."""
    expert = make_expert(env.task, spread)
    expert.reset(seed)
    observation = env.reset(seed)
    actions, states = [], []
    for _ in range(env.step_cap):
        states.append(observation.state)
        actions.append(expert.chunk(observation)[0])
        observation = env.step(actions[-1]).observation
    return np.array(actions, np.float64), np.array(states, np.float64)


def replay(
    limits: JointLimits,
    episodes: list[tuple[Rows, Rows]],
    collisions: CollisionCheck | None = None,
) -> dict[str, Any]:
    """Return how many episodes come out of the filter to the bit, and what acted on the others."""
    stages: Counter[str] = Counter()
    identical, worst = 0, 0.0
    safety = SafetyFilter(limits, ALOHA_RATE_HZ, collisions=collisions)
    for actions, states in episodes:
        safety.begin(actions[0])
        sent = []
        for asked, state in zip(actions, states, strict=True):
            verdict = safety.check(asked, reading(state), FRESH, {})
            sent.append(verdict.action)
            stages[verdict.stage.name] += 1
        identical += np.array_equal(sent, actions)
        worst = max(worst, float(np.abs(sent - actions).max()))
    return {"identical": identical, "largest_change": worst, "ticks_by_stage": dict(stages)}


def main(seeds: int, out: Path) -> None:
    arms = {side: ArmConfig(f"sim:{side}", "vx300s") for side in ("left", "right")}
    own = robot_limits(RobotConfig(kind="aloha", arms=arms))
    result: dict[str, Any] = {"seeds": seeds, "spreads": SPREADS, "tasks": {}}
    for task in EXPERTS:
        env = AlohaEnv(task)
        episodes = [episode(env, spread, seed) for spread in SPREADS for seed in range(seeds)]
        learned = DemonstratedLimits(ALOHA_JOINTS, ALOHA_UNITS, ALOHA_RATE_HZ)
        for actions, states in episodes:
            learned.add(actions, states)
        limits = learned.limits()
        gap = np.max([np.abs(actions - states).max(0) for actions, states in episodes], axis=0)
        result["tasks"][task] = {
            "episodes": len(episodes),
            "demonstrated": replay(limits, episodes),
            "cut_by_the_robot": replay(limits.cut(own), episodes, CollisionCheck(BASES)),
            "largest_distance_from_state": dict(
                zip(ALOHA_JOINTS, gap.round(3).tolist(), strict=True)
            ),
            "limits": limits.to_json(),
        }
        print(task, json.dumps({k: v for k, v in result["tasks"][task].items() if k != "limits"}))
    out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/safety_episodes.json"))
    given = parser.parse_args()
    main(given.seeds, given.out)
