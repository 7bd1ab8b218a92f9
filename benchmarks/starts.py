"""Study of starts: even against random starts of demonstrations, and the temporal ensemble (cube).

    python benchmarks/starts.py --even DIR DIR ... --random DIR DIR ...
        [--episodes 100] [--out runs/starts] [--write benchmarks/results/starts.json]

Each DIR is the folder of a policy: for `--even` those of `make demo` (training seeds 0, 1, ...),
for `--random` those of `make demo DEMO_OUT=runs/random ARGS="--starts random"` with the same
training seeds. Every policy runs on the same seeds, from 1000 on, with replayed chunks and with the
ensemble. Interrupted, the same command continues.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from imitact.cli import evaluate
from imitact.cli.evaluate import Evaluate
from imitact.evaluation import report
from imitact.evaluation.results import Evaluation

CHUNKINGS = ("replay:50", "ensemble:0.01/10")


def row(
    starts: str, number: int, policy: Path, chunking: str, found: Evaluation
) -> dict[str, object]:
    """Return the numbers of one evaluation."""
    training = json.loads((policy.parent / "training.json").read_text(encoding="utf-8"))
    return {
        "starts": starts,
        "policy": number,
        "train_steps": training["steps"],
        "chunking": chunking,
        "successes": found.successes,
        "episodes": found.episodes,
        "interval": list(found.interval),
        "stages": list(found.reached),
        "mean_jerk_rad_s3": found.mean_jerk_rad_s3,
        "step_cap": found.step_cap,
        "seeds": [found.seeds[0], found.seeds[-1]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--even", type=Path, nargs="+", required=True)
    parser.add_argument("--random", type=Path, nargs="+", required=True)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("runs/starts"))
    parser.add_argument("--write", type=Path, default=Path("benchmarks/results/starts.json"))
    options = parser.parse_args()
    rows = []
    for starts, policies in (("even", options.even), ("random", options.random)):
        for number, policy in enumerate(policies):
            for chunking in CHUNKINGS:
                folder = f"{starts}-{number}-{chunking.replace(':', '-').replace('/', '-')}"
                found = evaluate.count(
                    Evaluate(
                        policy=(policy,),
                        out=options.out / folder,
                        episodes=options.episodes,
                        chunking=chunking,
                    )
                )[""]
                rows.append(row(starts, number, policy, chunking, found))
                print(
                    f"{starts} starts, policy {number}, {chunking}: {report.summary_line(found)}",
                    flush=True,
                )
    options.write.parent.mkdir(parents=True, exist_ok=True)
    options.write.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
