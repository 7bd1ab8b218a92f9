"""What changing the frames in training does to success, one change at a time.

    python benchmarks/augmentation.py [--tasks cube insertion] [--variants none shift ...]
        [--seeds 0 1 2] [--episodes 100] [--out runs/augmentation]
        [--write benchmarks/results/augmentation.json]

Every variant is `imitact demo` with the preset `quick`, on the same demonstrations, and differs
from the first in what it does to the frames while training; the preset's own is the demo as it
stands among the results. A row is written when it is known: interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import studies

VARIANTS: dict[str, dict[str, Any]] = {
    "none": {"shift": 0},
    "shift": {},  # 6 pixels of 120, the preset's own
    "crop": {"shift": 0, "random_crop": 0.1},
    "jitter": {"shift": 0, "color_jitter": 0.2},
    "shift and jitter": {"color_jitter": 0.2},
}
"""Name to what differs from the preset's model."""


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| task | frames | success | single trainings |", "|---|---|---|---|"]
    for row in rows:
        low, high = row["interval"]
        each = ", ".join(f"{rate:.0%}" for rate in row["seeds"].values())
        lines.append(
            f"| {row['task']} | {row['variant']} | {row['successes']} of {row['episodes']} "
            f"({low:.1%} to {high:.1%}) | {each} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=studies.TASKS, default=studies.TASKS)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("runs/augmentation"))
    parser.add_argument("--write", type=Path, default=Path("benchmarks/results/augmentation.json"))
    parser.add_argument("--data", type=Path, help="demonstrations that are there already")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if given.write.exists():
        rows = json.loads(given.write.read_text(encoding="utf-8"))["rows"]
    for task in given.tasks:
        for variant in given.variants:
            name = f"{task}-{variant.replace(' ', '-')}"
            found = studies.trained(
                studies.Variant(
                    given.out / name,
                    given.data or given.out / f"{task}-data",
                    task,
                    model=VARIANTS[variant],
                    settings={"episodes": given.episodes},
                ),
                given.seeds,
            )
            row = {"task": task, "variant": variant, "changes": VARIANTS[variant]}
            rows = [r for r in rows if (r["task"], r["variant"]) != (task, variant)]
            rows.append({**row, **studies.together(found)})
            studies.write(given.write, {"rows": rows})
    print(table(rows))


if __name__ == "__main__":
    main()
