"""Safety cost benchmark: CPU time of the safety filter a tick, for ALOHA's 14 joints.

    python benchmarks/safety_cost.py --out benchmarks/results/safety_cost.json

Times are of the thread's CPU clock, so that other processes count little. `passing` is a legal
stream with readings and the health of 18 servos; `catching up` has all 14 joints in recovery;
`collisions` adds the check of contacts between ALOHA's arms.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from imitact.control.collision import CollisionCheck
from imitact.control.contract import Ages
from imitact.control.safety_filter import SafetyFilter, Stage
from imitact.core.aloha_joints import ALOHA_JOINTS
from imitact.core.cpu import available_cores, processor_name
from imitact.core.joint_limits import JointLimits
from imitact.core.robot import ServoHealth
from imitact.robots.aloha_hardware import BASES
from tests.support.safety import RATE_HZ, aloha_limits, reading

START = np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.5] * 2)
FRESH = Ages(0.01, {"top": 0.02})


def passing(ticks: int) -> np.ndarray:
    """Return a legal stream about the start pose, (T, 14), that crosses the grippers' ends."""
    along = np.arange(ticks)[:, None] / RATE_HZ
    swing = np.full(14, 0.1)
    swing[[6, 13]] = 0.5
    return START + swing * np.sin(2 * along)


def jumping(ticks: int) -> np.ndarray:
    """Return poses that jump every half a second, (T, 14)."""
    rng = np.random.default_rng(0)
    jumps = rng.uniform(-0.4, 0.4, (ticks // 25 + 1, 14))
    return START + np.repeat(jumps, 25, axis=0)[:ticks]


def measure(safety: SafetyFilter, stream: Iterable[np.ndarray], stage: Stage) -> dict[str, Any]:
    """Return percentiles of the CPU time of the ticks with this verdict, in microseconds."""
    health = {name: ServoHealth(0.0, 40.0, 12.0, 0.2) for name in ALOHA_JOINTS}
    health |= {f"{name}_shadow": ServoHealth(0.0, 40.0, 12.0, 0.2) for name in ALOHA_JOINTS[:4]}
    times_s = []
    safety.begin(START)
    gc.collect()
    gc.freeze()
    for row in stream:
        measured = reading(safety.command)
        began_s = time.thread_time()
        verdict = safety.check(row, measured, FRESH, health)
        took_s = time.thread_time() - began_s
        if verdict.stage is stage:
            times_s.append(took_s)
    shown = {f"p{p}": round(float(np.percentile(times_s, p)) * 1e6, 1) for p in (50, 90, 99)}
    return {"ticks": len(times_s), **shown, "max": round(max(times_s) * 1e6, 1)}


def main(ticks: int, out: Path) -> None:
    limits: JointLimits = aloha_limits()
    plain = SafetyFilter(limits, RATE_HZ)
    checked = SafetyFilter(limits, RATE_HZ, collisions=CollisionCheck(BASES))
    result = {
        "processor": processor_name(),
        "cores": available_cores(),
        "microseconds": {
            "passing": measure(plain, passing(ticks), Stage.PASSED),
            "catching up": measure(plain, jumping(ticks), Stage.MOTION),
            "passing, with collisions": measure(checked, passing(ticks), Stage.PASSED),
        },
    }
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ticks", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/safety_cost.json"))
    given = parser.parse_args()
    main(given.ticks, given.out)
