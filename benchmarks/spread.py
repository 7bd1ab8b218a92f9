"""Study of variation: success of expert and policy over the spread of the demonstrations.

    python benchmarks/spread.py [--tasks cube insertion] [--spreads 0 1 2] [--seeds 0 1 2]
        [--episodes 100] [--expert-episodes 200] [--out runs/spread]
        [--write benchmarks/results/spread.json] [--figure docs/images/spread.svg]

At each spread the scripted expert runs on seeds 0 to 199; then 50 demonstrations are recorded, and
`quick` is trained on them once per training seed and evaluated on seeds from 1000 on, all as in
`imitact demo`. At the default spread the demo's published results are taken. Each finished row is
written at once: interrupted, the same command continues. At the end the table and the figure of
docs/studies.md are written. It takes about three hours on 2 cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
from functools import partial
from pathlib import Path
from typing import Any

import expert
import studies

from imitact.core.cpu import available_cores
from imitact.evaluation.confidence_intervals import clopper_pearson

SIDES = {"expert": "#2a6f97", "policy": "#e07a5f"}


def experts(task: str, spread: float, episodes: int) -> dict[str, Any]:
    """Return how often the expert itself succeeds."""
    with multiprocessing.get_context("spawn").Pool(available_cores()) as pool:
        run = partial(expert.attempt, task=task, spread=spread)
        good = sum(attempt.success for attempt in pool.imap(run, range(episodes), chunksize=5))
    return {
        "successes": good,
        "episodes": episodes,
        "interval": list(clopper_pearson(good, episodes)),
    }


def find(rows: list[dict[str, Any]], task: str, spread: float) -> dict[str, Any]:
    """Return the row of a task and spread, added if there is none."""
    for row in rows:
        if (row["task"], row["spread"]) == (task, spread):
            return row
    rows.append(row := {"task": task, "spread": spread})
    return row


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw success over spread, a panel per task: 95 % intervals, and a dot per training seed."""
    width, height, left, top, base = 330, 240, 44, 30, 190
    tasks = [task for task in studies.TASKS if any(row["task"] == task for row in rows)]
    parts = []
    for panel, task in enumerate(tasks):
        x0 = panel * width + left
        chosen = [row for row in rows if row["task"] == task]
        step = (width - left - 16) / max(1, len(chosen))
        parts.append(f'<text x="{x0}" y="16" font-weight="bold">{task}</text>')
        for percent in (0, 25, 50, 75, 100):
            y = base - (base - top) * percent / 100
            parts.append(
                f'<line x1="{x0}" x2="{x0 + width - left - 16}" y1="{y}" y2="{y}" '
                f'stroke="#8886"/><text x="{x0 - 6}" y="{y + 4}" text-anchor="end">{percent}</text>'
            )
        for n, row in enumerate(chosen):
            middle = x0 + (n + 0.5) * step
            parts.append(
                f'<text x="{middle:.1f}" y="{base + 16}" text-anchor="middle">'
                f"spread {row['spread']:g}</text>"
            )
            for k, (side, colour) in enumerate(SIDES.items()):
                if not (found := row.get(side)):
                    continue
                x = middle + (k - 0.5) * step * 0.35
                low, high = (base - (base - top) * v for v in found["interval"])
                y = base - (base - top) * found["successes"] / found["episodes"]
                parts.append(
                    f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" '
                    f'stroke="{colour}" stroke-width="2"/>'
                    f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}"/>'
                )
                for rate in found.get("seeds", {}).values():
                    y = base - (base - top) * rate
                    parts.append(f'<circle cx="{x + 9:.1f}" cy="{y:.1f}" r="2.2" fill="{colour}"/>')
    for k, (side, colour) in enumerate(SIDES.items()):
        x = left + 120 * k
        parts.append(
            f'<circle cx="{x + 5}" cy="{height - 12}" r="4.5" fill="{colour}"/>'
            f'<text x="{x + 16}" y="{height - 8}">{side}</text>'
        )
    parts.append(
        f'<text x="{left + 240}" y="{height - 8}">% success, 95 % interval; '
        "small dots: single trainings</text>"
    )
    size = f'width="{len(tasks) * width}" height="{height}"'
    box = f'viewBox="0 0 {len(tasks) * width} {height}"'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {box} font-family="sans-serif" '
        f'font-size="11"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n',
        encoding="utf-8",
    )


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table of docs/studies.md."""
    lines = ["| task | spread | expert | policy | single trainings |", "|---|---|---|---|---|"]
    for row in rows:
        cells = []
        for side in SIDES:
            found = row.get(side)
            low, high = found["interval"] if found else (0, 0)
            cells.append(
                f"{found['successes']} of {found['episodes']} ({low:.1%} to {high:.1%})"
                if found
                else "not run"
            )
        seeds = row.get("policy", {}).get("seeds", {})
        each = ", ".join(f"{rate:.0%}" for rate in seeds.values())
        lines.append(f"| {row['task']} | {row['spread']:g} | {' | '.join(cells)} | {each} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=studies.TASKS, default=studies.TASKS)
    parser.add_argument("--spreads", type=float, nargs="+", default=[0.0, 1.0, 2.0])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--expert-episodes", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("runs/spread"))
    parser.add_argument("--write", type=Path, default=Path("benchmarks/results/spread.json"))
    parser.add_argument("--figure", type=Path, default=Path("docs/images/spread.svg"))
    given = parser.parse_args()
    rows = studies.rows(given.write)
    wanted = [(task, spread) for task in given.tasks for spread in given.spreads]
    for task, spread in wanted:
        row = find(rows, task, spread)
        if row.get("expert", {}).get("episodes") != given.expert_episodes:
            row["expert"] = experts(task, spread, given.expert_episodes)
            studies.write(given.write, rows)
    variants = [
        studies.Variant(
            given.out / f"{task}-{spread:g}",
            given.out / f"{task}-{spread:g}-data",
            task,
            settings={"spread": spread, "episodes": given.episodes},
        )
        for task, spread in wanted
    ]
    if given.seeds:
        trained = studies.trained(variants, given.seeds)
        for (task, spread), found in zip(wanted, trained, strict=True):
            find(rows, task, spread)["policy"] = studies.together(found)
            studies.write(given.write, rows)
    rows.sort(key=lambda r: (studies.TASKS.index(r["task"]), r["spread"]))
    studies.write(given.write, rows)
    draw(rows, given.figure)
    studies.show(given.write, "spread", table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
