"""Distributed benchmark: what communication between ranks costs on one machine.

    python benchmarks/ranks.py --data runs/demo/data [--presets quick released] [--rounds 2]
        [--out runs/ranks] [--write benchmarks/results/ranks.json]

Three ways to spend the same cores on the same batch, measured in turn:

    threads    one process with a thread per core
    ranks      torchrun with a process of one thread per core (gloo), as in docs/ranks.md
    strangers  as many separate trainings side by side, each on its share of the batch: ranks
               without communication, the upper bound for ranks

`ranks / strangers` is the share that remains after gathering gradients and the statistics of batch
norm; each number is the median of the rounds. Needs an idle machine; about ten minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import studies

WAYS = ("threads", "ranks", "strangers")
WORK: dict[str, dict[str, Any]] = {
    "quick": {"steps": 300, "batch": 16, "options": []},
    "released": {"steps": 6, "batch": 8, "options": ["--model.pretrained-backbone", "none"]},
}


def train(preset: str, data: Path, out: Path, batch: int, steps: int, *more: str) -> list[str]:
    """Return the command line of a training."""
    given = ["imitact", "train", str(data), "--out", str(out), "--preset", preset]
    given += ["--train.steps", str(steps), "--train.batch-size", str(batch)]
    given += ["--train.checkpoint-every", "0", "--train.checkpoint-minutes", "0"]
    given += ["--train.val-every", "0", "--train.log-every", str(steps)]
    given += ["--train.cache-dir", str(out.parents[2] / "cache")]
    return [*given, *WORK[preset]["options"], *more]


def samples_per_s(preset: str, way: str, data: Path, out: Path, cores: int) -> float:
    """Run one way once; return the samples/s of all its processes together."""
    steps, batch = WORK[preset]["steps"], WORK[preset]["batch"]
    shutil.rmtree(out, ignore_errors=True)
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    if way == "threads":
        single = train(preset, data, out / "0", batch, steps, "--train.num-threads", str(cores))
        commands = [(single, None)]
    elif way == "ranks":
        torchrun = ["torch.distributed.run", "--nproc-per-node", str(cores), "-m"]
        commands = [([*torchrun, *train(preset, data, out / "0", batch, steps)], one_thread)]
    else:
        share = batch // cores
        commands = [
            (train(preset, data, out / str(n), share, steps, "--train.seed", str(n)), one_thread)
            for n in range(cores)
        ]
    start = partial(subprocess.Popen, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    running = [start([sys.executable, "-m", *argv], env=env) for argv, env in commands]
    codes = [process.wait() for process in running]
    if any(codes):
        raise SystemExit(f"a training in {out} ended with exit code {max(codes, key=abs)}")
    found = [json.loads(file.read_text()) for file in sorted(out.glob("*/training.json"))]
    return sum(one["samples_per_s"] for one in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--presets", nargs="+", choices=list(WORK), default=list(WORK))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/ranks"))
    parser.add_argument("--write", type=Path, default=Path("benchmarks/results/ranks.json"))
    given = parser.parse_args()
    cores = os.cpu_count() or 1
    rows = studies.rows(given.write)  # presets that are not measured keep their rows
    for preset in given.presets:
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        # The first run also builds the frame cache, which samples_per_s does not count.
        for _ in range(given.rounds):
            for way in WAYS:
                speed = samples_per_s(preset, way, given.data, given.out / preset / way, cores)
                found[way].append(round(speed, 2))
                print(f"{preset}, {way}: {speed:.2f} samples/s", flush=True)
        middle = {way: statistics.median(speeds) for way, speeds in found.items()}
        row = {
            "preset": preset,
            **WORK[preset],
            "cores": cores,
            "samples_per_s": found,
            "ranks_over_strangers": round(middle["ranks"] / middle["strangers"], 3),
            "ranks_over_threads": round(middle["ranks"] / middle["threads"], 3),
        }
        rows = [*(r for r in rows if r["preset"] != preset), row]
        rows.sort(key=lambda r: list(WORK).index(r["preset"]))
        studies.write(given.write, rows)
        print(f"{preset}: communication leaves {row['ranks_over_strangers']:.1%} of the speed")


if __name__ == "__main__":
    main()
