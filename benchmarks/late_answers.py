"""Late answers: success through the control loop beside that of `imitact evaluate --delay-ticks`.

    python benchmarks/late_answers.py POLICY [--episodes 100] [--delays 0 15] [--workers 2]
        [--chunking replay:50] [--write benchmarks/results/late_answers.json]

Every episode of every row has the same seeds. "evaluate" is the rollout that `imitact evaluate` and
`imitact tune` count, with a simulated delay. "loop" is the same policy through the control loop on
a virtual clock: first with answers that take 0 to 15 ticks, drawn for each query, then with each of
the delays. The loop is told no delay: it measures the answer times and asks accordingly.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from imitact.control.async_inference import DelayedInference
from imitact.control.contract import Hold
from imitact.control.control_loop import ControlLoop
from imitact.control.sources import PolicySource
from imitact.core.answer_delay import delayed_by
from imitact.core.clock import VirtualClock
from imitact.core.execution import parse
from imitact.core.rollout import rollout
from imitact.core.types import Policy
from imitact.deploy.load_policy import load_policy
from imitact.envs.registry import make_env
from imitact.evaluation.confidence_intervals import clopper_pearson
from imitact.robots.simulated import SimulatedRobot

DRAWN = range(16)
FIRST_SEED = 1000


class Unfiltered:
    """In the place of the safety filter, so that only lateness differs from an evaluation."""

    stage, joint, words, should_park, rests = 0, "", "", False, True

    def begin(self, command: Any) -> None:
        self.action, self.held = command, False

    def resume(self) -> None: ...

    def check(self, asked: Any, *_: Any) -> Unfiltered:
        self.held = asked is None
        self.action = self.action if asked is None else asked
        return self


@cache
def _policy(path: Path) -> Policy:
    import torch

    torch.set_num_threads(1)
    return load_policy(path)


def evaluated(path: Path, chunking: str, delay: int, seed: int) -> tuple[bool, int]:
    """Return whether a rollout with a simulated delay succeeds, and its queries."""
    env = make_env("cube")
    try:
        ticks = list(rollout(_policy(path), env, seed=seed, chunking=parse(chunking, delay)))
    finally:
        env.close()
    return any(tick.success for tick in ticks), sum(tick.chunk is not None for tick in ticks)


def through_the_loop(
    path: Path, chunking: str, delays: tuple[int, ...], seed: int
) -> tuple[bool, int, int]:
    """Return whether an episode through the control loop succeeds, its queries, its late ticks."""
    env, clock = make_env("cube"), VirtualClock()
    robot, rate_hz = SimulatedRobot(env, clock, seed=seed), env.spec.rate_hz
    inference = DelayedInference(_policy(path), delayed_by(delays, seed), rate_hz, seed)
    source = PolicySource(
        inference, parse(chunking), rate_hz, tuple(camera.name for camera in env.spec.cameras)
    )
    records = []
    loop = ControlLoop(robot, source, Unfiltered(), clock, rate_hz, records.append)
    reading = robot.reading()
    assert reading is not None
    try:
        # One tick more: the step of the last command is taken before the tick after it.
        outcome = loop.run(reading.values, env.step_cap + 1)
    finally:
        env.close()
    assert not outcome.faults, outcome.faults
    assert robot.error is None, robot.error
    late = outcome.holds.get(Hold.ANSWER_LATE, 0)
    return robot.outcome.success, sum(record.query for record in records), late


def _one(job: tuple[str, Path, str, tuple[int, ...], int]) -> tuple[bool, int, int]:
    way, path, chunking, delays, seed = job
    if way == "evaluate":
        return *evaluated(path, chunking, delays[0], seed), 0
    return through_the_loop(path, chunking, delays, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("policy", type=Path)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--delays", type=int, nargs="*", default=[0, 15])
    parser.add_argument("--chunking", default="replay:50")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    seeds = range(FIRST_SEED, FIRST_SEED + options.episodes)
    ways = [("loop", tuple(DRAWN))]
    ways += [(way, (delay,)) for delay in options.delays for way in ("evaluate", "loop")]
    rows = []
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        for way, delays in ways:
            jobs = [(way, options.policy, options.chunking, delays, seed) for seed in seeds]
            found = np.array(list(pool.map(_one, jobs)), np.int64)
            successes = int(found[:, 0].sum())
            row = {
                "way": way,
                "delay_ticks": f"{delays[0]}" if len(delays) == 1 else f"0 to {max(DRAWN)}",
                "successes": successes,
                "episodes": len(seeds),
                "interval": [round(bound, 3) for bound in clopper_pearson(successes, len(seeds))],
                "queries per episode": round(float(found[:, 1].mean()), 2),
                "late ticks per episode": round(float(found[:, 2].mean()), 2),
                "failed seeds": [s for s, ok in zip(seeds, found[:, 0], strict=True) if not ok],
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
            if options.write:
                result = {"chunking": options.chunking, "rows": rows}
                options.write.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
