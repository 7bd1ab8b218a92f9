"""Safety hours benchmark: hostile streams for thousands of hours, none beyond a limit.

    nice -n 15 python benchmarks/safety_hours.py --hours 10000 --filter-ticks 1000000

The law of `control/motion_limits.py` runs on 2,000 robots as one array: legal steps pass, others
brake. The whole filter, with ruckig, runs on one robot at a time. Both get the streams of
`HostileStream`: anywhere, noise, NaN, limit to limit, 1000 rad off, run-aways, drifts over the
edge, infinities, full jerk both ways, seams. Every block has a seed of its own and limits drawn
from it (velocity, acceleration and jerk over four decades). Shares of the limits are computed from
the commanded positions alone.

The results are written after every block, and the same command goes on from there; so it may be
interrupted at any time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from imitact.control.contract import Ages
from imitact.control.motion_limits import MotionLimits
from imitact.control.safety_filter import ALL_STAGES, SafetyFilter, Stage
from imitact.core.cpu import processor_name
from imitact.core.joint_limits import JointLimits
from tests.support.safety import RATE_HZ, HostileStream, Shares, aloha_limits

ROBOTS = 2000
LAW_TICKS = 1200
"""Ticks of a block of the law; times the robots, 13.3 h."""

FILTER_TICKS = 5000
"""Ticks of a block of the filter."""

FRESH = Ages(0.0, {})


def drawn_limits(rng: np.random.Generator) -> JointLimits:
    """Return limits of 14 joints; every other draw is ALOHA's."""
    limits = aloha_limits()
    if rng.random() < 0.5:
        return limits
    velocity = 10 ** rng.uniform(-1, 1.5, 14)
    acceleration = velocity * 10 ** rng.uniform(0, 2, 14)
    jerk = acceleration * 10 ** rng.uniform(0, 2.5, 14)
    half = 10 ** rng.uniform(-1.5, 1, 14)
    return replace(
        limits,
        lower=-half,
        upper=half,
        velocity=velocity,
        acceleration=acceleration,
        jerk=jerk,
    )


def law_block(seed: int) -> Shares:
    """Run the law on all robots for a block; return what they did."""
    rng = np.random.default_rng([0, seed])
    law = MotionLimits(drawn_limits(rng), RATE_HZ)
    motion = law.begin(np.tile((law.lower + law.upper) / 2, (ROBOTS, 1)))
    stream, shares = HostileStream(law, rng, motion.position.shape), Shares(law, motion.position)
    for tick in range(LAW_TICKS):
        motion, _, _ = law.follow(motion, stream.asked(tick, motion))
        shares.add(motion.position)
    return shares


def filter_block(seed: int, stages: Counter[str]) -> Shares:
    """Run the filter on one robot for a block; return what it did, and count the stages."""
    rng = np.random.default_rng([1, seed])
    limits = drawn_limits(rng)
    safety = SafetyFilter(limits, RATE_HZ, stages=ALL_STAGES - {Stage.PLAUSIBLE})
    law = MotionLimits(limits, RATE_HZ)
    start = (limits.lower + limits.upper) / 2
    safety.begin(start)
    stream, shares = HostileStream(law, rng, start.shape, each_ticks=47), Shares(law, start)
    for tick in range(FILTER_TICKS):
        verdict = safety.check(stream.asked(tick, safety.motion), None, FRESH, {})
        shares.add(verdict.action)
        stages[verdict.stage.name] += 1
    return shares


def took(result: dict[str, Any], shares: Shares, began_s: float) -> None:
    """Add a block to a part of the results."""
    result["blocks"] += 1
    for name in ("velocity", "acceleration", "jerk"):
        result["largest_share"][name] = max(result["largest_share"][name], getattr(shares, name))
    result["largest_beyond_range"] = max(result["largest_beyond_range"], shares.beyond)
    result["cpu_s"] = round(result["cpu_s"] + time.process_time() - began_s, 1)


def empty() -> dict[str, Any]:
    return {
        "blocks": 0,
        "largest_share": {"velocity": 0.0, "acceleration": 0.0, "jerk": 0.0},
        "largest_beyond_range": -1e9,
        "cpu_s": 0.0,
    }


def main(hours: float, filter_ticks: int, out: Path) -> None:
    result: dict[str, Any] = {"law": empty(), "filter": empty()}
    if out.is_file():
        result = json.loads(out.read_text())
    result["processor"] = processor_name()
    law, whole = result["law"], result["filter"]
    stages = Counter(whole.get("ticks_by_stage", {}))
    per_block_h = ROBOTS * LAW_TICKS / RATE_HZ / 3600
    law["robots"], law["joints"] = ROBOTS, 14
    while True:
        begun_s = time.process_time()
        ahead = law["blocks"] * per_block_h / hours > whole["blocks"] * FILTER_TICKS / filter_ticks
        if whole["blocks"] * FILTER_TICKS < filter_ticks and ahead:
            took(whole, filter_block(whole["blocks"], stages), begun_s)
        elif law["blocks"] * per_block_h < hours:
            took(law, law_block(law["blocks"]), begun_s)
        elif whole["blocks"] * FILTER_TICKS < filter_ticks:
            took(whole, filter_block(whole["blocks"], stages), begun_s)
        else:
            break
        law["hours"] = round(law["blocks"] * per_block_h, 1)
        whole["ticks"] = whole["blocks"] * FILTER_TICKS
        whole["ticks_by_stage"] = dict(stages)
        fresh = out.with_suffix(".fresh")
        fresh.write_text(json.dumps(result, indent=2) + "\n")
        fresh.replace(out)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hours", type=float, default=10_000)
    parser.add_argument("--filter-ticks", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/safety_hours.json"))
    given = parser.parse_args()
    main(given.hours, given.filter_ticks, given.out)
