"""Large-preset benchmark: record, train 20 steps, load and evaluate `released` and `paper`.

    python benchmarks/large.py [--out runs/large] [--write benchmarks/results/large.json]

Records two demonstrations of the cube at 480x640, trains `released` and `paper` on them for 20
steps of 8 samples from random weights, and evaluates each policy for one episode; then the same
with the four ALOHA cameras, `released` and batches of 2. The numbers are seconds per step and peak
memory; 20 steps are too few for success.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

STEPS = 20
RUNS = (
    # name, preset, cameras, batch
    ("released", "released", "top", 8),
    ("paper", "paper", "top", 8),
    ("released, four cameras", "released", "aloha4", 2),
)


def imitact(*argv: str) -> float:
    """Run a command line and return its seconds."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "imitact.cli.main", *argv], check=True)
    return time.monotonic() - began


def run(name: str, preset: str, cameras: str, batch: int, out: Path) -> dict[str, object]:
    """Record, train and evaluate one row of RUNS, and return its numbers."""
    data = out / f"data-{cameras}"
    folder = out / f"{preset}-{cameras}"
    record_s = imitact(
        *("record", "--env", "cube", "--episodes", "2", "--cameras", cameras, "--out", str(data))
    )
    imitact(
        *("train", str(data), "--out", str(folder), "--preset", preset),
        *("--model.pretrained-backbone", "none", "--train.steps", str(STEPS)),
        *("--train.batch-size", str(batch)),
    )
    evaluate_s = imitact(
        *("evaluate", str(folder / "policy"), "--env", "cube", "--episodes", "1"),
        *("--chunking", "replay:100", "--out", str(folder / "evaluation")),
    )
    trained = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    return {
        "name": name,
        "preset": preset,
        "cameras": cameras,
        "batch_size": batch,
        "steps": STEPS,
        "samples_per_s": trained["samples_per_s"],
        "train_peak_gb": trained["peak_rss_bytes"] / 1e9,
        "train_pflop": trained["train_pflop"],
        "precision": trained["precision"],
        "processor": trained["processor"],
        "record_s": round(record_s, 1),
        "evaluate_s": round(evaluate_s, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/large"))
    parser.add_argument("--write", type=Path, default=Path("benchmarks/results/large.json"))
    options = parser.parse_args()
    if options.out.exists():
        parser.error(f"{options.out} exists; give a new folder, so that nothing is reused")
    rows = [run(*row, options.out) for row in RUNS]
    options.write.parent.mkdir(parents=True, exist_ok=True)
    options.write.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    for row in rows:
        print(
            f"{row['name']}: {STEPS} steps of {row['batch_size']}, "
            f"{row['samples_per_s']:.2f} samples/s, peak {row['train_peak_gb']:.1f} GB"
        )


if __name__ == "__main__":
    main()
