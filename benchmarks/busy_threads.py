"""Study of threads on a busy machine: how fast `quick` trains beside other processes.

    python benchmarks/busy_threads.py [--rounds 3] [--steps 30]
        [--write benchmarks/results/busy_threads.json]

Ways to use the cores train in turn, beside 0, 1 and 2 processes that compute without end, in
several rounds, so that they meet the same machine. All are started before, and wait until it is
their turn. Compare within a round: what else runs on the machine is in none of the numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from imitact.core.cpu import OtherProcesses, available_cores, processor_name

CORES = available_cores()
BATCH = 16

WAYS: dict[str, dict[str, Any]] = {
    "threads": {"threads": CORES},
    "threads, passive waiting": {"threads": CORES, "env": {"OMP_WAIT_POLICY": "passive"}},
    "threads, no spinning": {"threads": CORES, "env": {"GOMP_SPINCOUNT": "0"}},
    "one thread": {"threads": 1},
    "ranks of one thread": {"threads": 1, "ranks": CORES},
    "ranks of one thread, group norm": {"threads": 1, "ranks": CORES, "norm": "group"},
    "adapted": {"threads": 0},
}
"""Each way by name: threads of a process (0: as `--train.num-threads 0` has them), environment
variables, and number of processes that average their gradients once a step."""


def worker(way: dict[str, Any]) -> None:
    """Train for as many steps as each line of stdin says, and answer with the seconds."""
    import imitact_side
    import numpy as np

    from imitact.training import device
    from imitact.training.config import PRESETS
    from imitact.training.distributed import join_ranks
    from imitact.training.optimizer_step import Updater
    from imitact.training.sampler import GlobalBatch
    from imitact.training.thread_count import ThreadCount

    with join_ranks() as ranks:
        chosen = device.choose_device("auto", "cpu", way["threads"], ranks)
        chosen.seed(0)
        model = {"backbone_norm": way.get("norm", "batch"), "pretrained_backbone": ""}
        work = {"preset": "quick", "cameras": 1, "height": 480, "width": 640, "model": model}
        policy = imitact_side.policy(work)
        stepper = Updater(policy, PRESETS["quick"][1], chosen)
        share = BATCH // ranks.count
        given = imitact_side.batch(policy, share)
        if ranks.count > 1:
            zeros = np.zeros(BATCH, dtype=np.int64)
            whole = GlobalBatch(ranks.rank * share, BATCH * policy.config.chunk_size, zeros, zeros)
            given = replace(given, whole=whole)
        others = OtherProcesses()
        step, threads = 0, ThreadCount(chosen, way["threads"], others=others)
        for line in sys.stdin:
            others.cores()  # from now on, not while others had their turn
            began = time.perf_counter()
            for _ in range(int(line)):
                stepper.update(step, given)
                threads.look()
                step += 1
            print(time.perf_counter() - began, flush=True)


class Trainer:
    """The processes of one way."""

    def __init__(self, way: dict[str, Any]) -> None:
        count = way.get("ranks", 1)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._processes = []
        for rank in range(count):
            env = {**os.environ, **way.get("env", {})}
            env.pop("OMP_NUM_THREADS", None)
            if count > 1:
                env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
                env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, __file__, "--way", json.dumps(way)],
                    env=env,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )

    def samples_per_s(self, steps: int) -> float:
        """Train for some steps and return the speed."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{steps}\n")
            process.stdin.flush()
        outputs = [process.stdout for process in self._processes]
        return steps * BATCH / max(float(out.readline()) for out in outputs if out is not None)

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--write", type=Path, default=Path("benchmarks/results/busy_threads.json"))
    parser.add_argument("--way", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        worker(given.way)
        return
    trainers = {name: Trainer(WAYS[name]) for name in given.ways}
    rows = []
    try:
        for trainer in trainers.values():
            trainer.samples_per_s(3)
        for busy in given.busy:
            spinning = [
                subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)
            ]
            try:
                speeds: dict[str, list[float]] = {name: [] for name in trainers}
                loads = []
                for _ in range(given.rounds):
                    for name, trainer in trainers.items():
                        speeds[name].append(round(trainer.samples_per_s(given.steps), 1))
                    loads.append(os.getloadavg()[0])
            finally:
                for process in spinning:
                    process.kill()
                    process.wait()
            rows.append(
                {"busy": busy, "steps": given.steps, "load": loads, "samples_per_s": speeds}
            )
            result = {"processor": processor_name(), "cores": CORES, "rows": rows}
            given.write.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            for name, found in speeds.items():
                print(f"beside {busy}: {name}: {statistics.median(found):.0f} samples/s {found}",
                      flush=True)  # fmt: skip
    finally:
        for trainer in trainers.values():
            trainer.close()


if __name__ == "__main__":
    main()
