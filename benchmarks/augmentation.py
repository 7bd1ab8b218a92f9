"""Study of augmentation: success with one kind of change to the training frames at a time.

    python benchmarks/augmentation.py [--tasks cube insertion] [--variants none shift ...]
        [--seeds 0 1 2] [--episodes 100] [--data DIR DIR] [--out runs/augmentation]
        [--write benchmarks/results/augmentation.json]

Every variant is `imitact demo` with the preset `quick` on the same demonstrations, and differs
only in the augmentation of its training frames. The preset's own variant takes the published
results of the demo. Each finished row is written at once: interrupted, the same command continues.
At the end the table of docs/studies.md is written.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import studies

_STILL: dict[str, Any] = {"random_shift": 0, "shift_as_input": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "none": _STILL,
    # The demo's own: 6 of 120 pixels; for the insertion 8 of 150, and the shift as an input.
    "shift": {},
    "crop": {**_STILL, "random_crop": 0.1},
    "jitter": {**_STILL, "color_jitter": 0.2},
}
"""Name of a variant to the model settings that differ from the preset's."""


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table of docs/studies.md."""
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
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=studies.TASKS, default=studies.TASKS)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("runs/augmentation"))
    parser.add_argument("--write", type=Path, default=Path("benchmarks/results/augmentation.json"))
    parser.add_argument("--data", type=Path, nargs="+", help="demonstrations, a folder per task")
    given = parser.parse_args()
    rows = studies.rows(given.write)
    if given.data and len(given.data) != len(given.tasks):
        parser.error(f"--data has {len(given.data)} folders for {len(given.tasks)} tasks")
    recorded = given.data or [given.out / f"{task}-data" for task in given.tasks]
    data = dict(zip(given.tasks, recorded, strict=True))
    wanted = [(task, variant) for variant in given.variants for task in given.tasks]
    variants = [
        studies.Variant(
            given.out / f"{task}-{variant}",
            data[task],
            task,
            model=VARIANTS[variant],
            settings={"episodes": given.episodes},
        )
        for task, variant in wanted
    ]
    order = list(VARIANTS)
    for (task, variant), found in zip(wanted, studies.trained(variants, given.seeds), strict=True):
        row = {"task": task, "variant": variant, "changes": VARIANTS[variant]}
        rows = [r for r in rows if (r["task"], r["variant"]) != (task, variant)]
        rows.append({**row, **studies.together(found)})
        rows.sort(key=lambda r: (studies.TASKS.index(r["task"]), order.index(r["variant"])))
        studies.write(given.write, rows)
    studies.show(given.write, "augmentation", table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
