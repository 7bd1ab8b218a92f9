"""Study of fine-tuning: a policy that meets 10 demonstrations of another kind (cube).

    python benchmarks/fine_tune.py [--seeds 0 1 2] [--episodes 100] [--out runs/fine_tune]
        [--write benchmarks/results/fine_tune.json]

For each training seed: `quick` on 50 demonstrations at spread 1; the same policy fine-tuned on 10
at spread 2; `quick` on those 10 alone; and on all 60 together. Each runs on the same seeds, from
1000 on, with the ensemble of `imitact demo`. Each finished row is written at once: interrupted, the
same command continues. The 50 demonstrations are those of `imitact demo`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import studies

import imitact
from imitact.core.cpu import processor_name
from imitact.core.version import __version__
from imitact.envs.registry import RECOMMENDED_MODEL
from imitact.evaluation.confidence_intervals import clopper_pearson

CHUNKING = "ensemble:0.01/10"
TASK = "cube"

WAYS = {
    "old": ("50 at spread 1", ("old",)),
    "fine-tuned": ("the same policy, fine-tuned on 10 at spread 2", ("new",)),
    "new": ("those 10 alone", ("new",)),
    "together": ("all 60", ("old", "new")),
}
"""What each training is called in the table, and which demonstrations it sees."""


def say(line: str) -> None:
    print(line, flush=True)


def demonstrations(out: Path, count: int, spread: float, seeds: tuple[int, int]) -> Path:
    """Return a dataset, recorded as far as it is missing."""
    first, last = seeds
    imitact.record(
        out, env=TASK, episodes=count, spread=spread, first_seed=first, last_seed=last
    )  # fmt: skip
    return out


def row(
    out: Path, data: list[Path], seed: int, given: argparse.Namespace, **start: Any
) -> dict[str, Any]:
    """Train, as far as it is not done, evaluate, and return the numbers."""
    steps = given.fine_steps if start else given.steps
    train = {"steps": steps, "seed": seed, "num_threads": given.threads}
    if start:
        train |= {"lr": given.fine_lr, "lr_backbone": given.fine_lr}
    policy = imitact.train(
        data,
        out=out / "training",
        model=None if start else RECOMMENDED_MODEL[TASK],
        train={**train, "cache_dir": str(given.out / "cache")},
        resume=(out / "training").exists(),
        on_line=say,
        **start,
    )
    found = imitact.evaluate(
        policy, out=out / "evaluation", env=TASK, episodes=given.episodes, chunking=CHUNKING
    )
    cost = json.loads((out / "training" / "training.json").read_text(encoding="utf-8"))
    return {
        "seed": seed,
        "steps": steps,
        "successes": found.successes,
        "episodes": found.episodes,
        "interval": list(found.interval),
        "stages": list(found.reached),
        "mean_jerk_rad_s3": found.mean_jerk_rad_s3,
        "validation_l1_rad": cost["held_out_l1_rad"],
        "trained_s": cost["trained_s"],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table of docs/studies.md."""
    lines = ["| training | success | single trainings | jerk, rad/s³ |", "|---|---|---|---|"]
    for name, (words, _) in WAYS.items():
        ours = [row for row in rows if row["training"] == name]
        if not ours:
            continue
        successes, episodes = (sum(row[key] for row in ours) for key in ("successes", "episodes"))
        low, high = clopper_pearson(successes, episodes)
        each = ", ".join(f"{row['successes'] / row['episodes']:.0%}" for row in ours)
        jerk = sum(row["mean_jerk_rad_s3"] for row in ours) / len(ours)
        success = f"{successes} of {episodes} ({low:.1%} to {high:.1%})"
        lines.append(f"| {words} | {success} | {each} | {jerk:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--demonstrations", type=int, nargs=2, default=[50, 10])
    parser.add_argument("--spreads", type=float, nargs=2, default=[1.0, 2.0])
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--fine-steps", type=int, default=1500)
    parser.add_argument("--fine-lr", type=float, default=1e-4)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/fine_tune"))
    parser.add_argument("--write", type=Path, default=Path("benchmarks/results/fine_tune.json"))
    given = parser.parse_args()
    counts, spreads = given.demonstrations, given.spreads
    data = {
        "old": demonstrations(given.out / "data-old", counts[0], spreads[0], (0, 999)),
        "new": demonstrations(given.out / "data-new", counts[1], spreads[1], (3000, 3999)),
    }
    rows = []
    for seed in given.seeds:
        folder = given.out / f"seed{seed}"
        parent = folder / "old" / "training"
        for name, (_, seen) in WAYS.items():
            start = {"from_policy": parent} if name == "fine-tuned" else {}
            found = row(folder / name, [data[part] for part in seen], seed, given, **start)
            rows.append({"training": name, **found})
            say(f"seed {seed}, {name}: {found['successes']} of {found['episodes']}")
            result = {
                "demonstrations": dict(zip(("old", "new"), counts, strict=True)),
                "spreads": dict(zip(("old", "new"), spreads, strict=True)),
                "fine_lr": given.fine_lr,
                "chunking": CHUNKING,
                "processor": processor_name(),
                "imitact": __version__,
                "rows": rows,
            }
            given.write.parent.mkdir(parents=True, exist_ok=True)
            given.write.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    studies.show(given.write, "fine_tune", table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
