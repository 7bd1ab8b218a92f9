"""Study of seams and delays: success and jerk of replayed, joined and averaged chunks.

    python benchmarks/delay.py --cube POLICY POLICY POLICY [--insertion POLICY POLICY POLICY]
        [--delays 0 5 10 20 3..9] [--chunkings replay:25 replay:25~10 ensemble:0.01/5]
        [--episodes 100] [--workers 2] [--write benchmarks/results/delay.json]
        [--draw docs/images/delay.svg]

Each POLICY is one training of the task. Every row has the same seeds, from 1000 on, and an episode
ends at its first success or at the step cap, as in `imitact evaluate`. "Around a switch" are the
third differences of the commands from four ticks before to one after the tick at which a new chunk
takes over, or at which an average gets a new member; the others are "elsewhere".
Each finished row is written at once: interrupted, the same command continues. With no policy the
figure is drawn, and the table printed, of the rows that are there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import studies
from numpy.typing import NDArray

from imitact.core.answer_delay import episode_delays
from imitact.core.execution import Execution
from imitact.core.rollout import rollout
from imitact.core.types import Env, Policy
from imitact.deploy.load_policy import load_policy
from imitact.envs.registry import make_env
from imitact.evaluation.confidence_intervals import clopper_pearson, paired
from imitact.evaluation.results import jerk

CHUNKINGS = ("replay:25", "replay:25~10", "ensemble:0.01/5")
DELAYS = (0, 5, 10, 20, "3..9")
"""Ticks from a query to its answer; 3..9 draws one of 3 to 9 for each."""
FIRST_SEED = 1000
BEFORE, AFTER = 4, 1
"""Third differences around a switch: that of tick t is made of the commands of t to t + 3."""


@cache
def _parts(task: str, path: Path) -> tuple[Policy, Env]:
    import torch

    torch.set_num_threads(1)
    return load_policy(path), make_env(task)


def jerks(
    actions: NDArray[np.float64], arrivals: Sequence[int], rate_hz: float
) -> tuple[float, float]:
    """Return the mean jerk around the switches and elsewhere, rad/s³; NaN where there is none.

    Args:
        actions: (T, A), rad.
        arrivals: ticks at which a chunk arrives. The first takes over from nothing: what comes
            before it, and the step from the measured joints to it, is neither.
        rate_hz: ticks per second.
    """
    first, *switches = arrivals
    third = np.abs(np.diff(actions, n=3, axis=0)).mean(axis=1) * rate_hz**3
    near = np.zeros(len(third), dtype=bool)
    for switch in switches:
        near[max(0, switch - BEFORE) : max(0, switch + AFTER)] = True
    third, near = third[first:], near[first:]
    found = [third[mask].mean() if mask.any() else np.nan for mask in (near, ~near)]
    return float(found[0]), float(found[1])


def _episode(job: tuple[str, Path, str, int | str, int]) -> tuple[float, ...]:
    """Return success, queries, jerk around switches, elsewhere and over all, first success."""
    task, path, chunking, delay, seed = job
    policy, env = _parts(task, path)
    execution = Execution(chunking, delay)
    ticks = list(rollout(policy, env, seed=seed, chunking=execution, stop_on_success=True))
    asked = [tick.index for tick in ticks if tick.chunk is not None]
    delays = episode_delays(delay, seed)
    arrivals = [tick + late for tick, late in zip(asked, delays, strict=False)]
    joints = [at for at, unit in enumerate(env.spec.action_units) if unit == "rad"]
    actions = np.stack([tick.action for tick in ticks])[:, joints]
    near, far = jerks(actions, arrivals, env.spec.rate_hz)
    total = jerk(np.stack([tick.action for tick in ticks]), env.spec)
    assert total is not None
    won = [tick.index for tick in ticks if tick.success]
    first = float(won[0]) if won else np.nan
    return float(bool(won)), float(len(asked)), near, far, total, first


def run(pool: ProcessPoolExecutor, job: dict[str, Any], path: Path, seeds: range) -> dict[str, Any]:
    """Run the episodes of one row and return its numbers."""
    jobs = [(job["task"], path, job["chunking"], job["delay_ticks"], seed) for seed in seeds]
    found = np.array(list(pool.map(_episode, jobs)))
    successes = int(found[:, 0].sum())
    return {
        **job,
        "successes": successes,
        "episodes": len(seeds),
        "queries": round(float(found[:, 1].mean()), 1),
        "jerk_around_switches": round(float(np.nanmean(found[:, 2])), 1),
        "jerk_elsewhere": round(float(np.nanmean(found[:, 3])), 1),
        "jerk": round(float(found[:, 4].mean()), 1),
        "first_success_tick": round(float(np.nanmean(found[:, 5])), 1) if successes else None,
        "failed_seeds": [seed for seed, ok in zip(seeds, found[:, 0], strict=True) if not ok],
    }


def _task_delays(rows: Sequence[dict[str, Any]]) -> list[tuple[str, int | str]]:
    """Return each task and delay once, in order, drawn delays last."""
    found = {(row["task"], row["delay_ticks"]) for row in rows}
    return sorted(found, key=lambda each: (each[0], isinstance(each[1], str), f"{each[1]:>9}"))


def pooled(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one line for each task, delay and chunking, over its policies."""
    keys = _task_delays(rows)
    lines = []
    for task, delay in keys:
        ours = [row for row in rows if (row["task"], row["delay_ticks"]) == (task, delay)]
        for chunking in dict.fromkeys(row["chunking"] for row in ours):
            of = [row for row in ours if row["chunking"] == chunking]
            count, episodes = (sum(row[key] for row in of) for key in ("successes", "episodes"))
            names = ("queries", "jerk_around_switches", "jerk_elsewhere", "jerk")
            lines.append(
                {
                    "task": task,
                    "delay_ticks": delay,
                    "chunking": chunking,
                    "single": [row["successes"] for row in of],
                    "successes": count,
                    "episodes": episodes,
                    "interval": [round(bound, 3) for bound in clopper_pearson(count, episodes)],
                    **{name: round(float(np.mean([row[name] for row in of])), 1) for name in names},
                }
            )
    return lines


def against(rows: Sequence[dict[str, Any]], one: str, other: str) -> list[dict[str, Any]]:
    """Return the paired difference of two chunkings' successes at each task and delay."""
    found = []
    for task, delay in _task_delays(rows):
        pairs: tuple[list[bool], list[bool]] = ([], [])
        for policy in sorted({row["policy"] for row in rows if row["task"] == task}):
            both = [
                next(
                    (
                        row for row in rows
                        if (row["task"], row["delay_ticks"], row["policy"], row["chunking"])
                        == (task, delay, policy, chunking)
                    ),
                    None,
                )
                for chunking in (one, other)
            ]  # fmt: skip
            if both[0] is None or both[1] is None:
                continue
            for side, row in zip(pairs, both, strict=True):
                failed = set(row["failed_seeds"])
                seeds = range(FIRST_SEED, FIRST_SEED + row["episodes"])
                side.extend(seed not in failed for seed in seeds)
        if pairs[0]:
            difference = paired(*pairs)
            low, high = difference.interval
            found.append(
                {
                    "task": task, "delay_ticks": delay, "a": one, "b": other,
                    "pairs": len(pairs[0]),
                    "a_minus_b": round(float(np.mean(pairs[0]) - np.mean(pairs[1])), 4),
                    "interval": [round(low, 4), round(high, 4)],
                }
            )  # fmt: skip
    return found


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Return the table of docs/studies.md."""
    head = (
        "| task | delay, ticks | execution | success | single trainings | queries an episode "
        "| jerk around a switch | elsewhere |"
    )
    rows = [
        f"| {line['task']} | {line['delay_ticks']} | `{line['chunking']}` "
        f"| {line['successes']} of {line['episodes']} "
        f"({100 * line['interval'][0]:.1f}% to {100 * line['interval'][1]:.1f}%) "
        f"| {', '.join(map(str, line['single']))} "
        f"| {line['queries']:.0f} | {line['jerk_around_switches']:,.0f} "
        f"| {line['jerk_elsewhere']:,.0f} |"
        for line in lines
    ]
    return "\n".join([head, "|---" * 8 + "|", *rows])


def draw(lines: Sequence[dict[str, Any]], out: Path) -> None:
    """Draw success, and jerk around switches and elsewhere, over the delay, for `CHUNKINGS`."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(line["task"] for line in lines))
    colours = ("#7a8ca3", "#c8553d", "#2a6f97", "#6a994e")
    figure = Figure(figsize=(7.2, 2.6 * len(tasks)), layout="constrained")
    axes = figure.subplots(len(tasks), 2, squeeze=False)
    for (left, right), task in zip(axes, tasks, strict=True):
        for chunking, colour in zip(CHUNKINGS, colours, strict=False):
            of = [
                li for li in lines
                if (li["task"], li["chunking"]) == (task, chunking)
                and not isinstance(li["delay_ticks"], str)
            ]  # fmt: skip
            if not of:
                continue
            delays = [line["delay_ticks"] for line in of]
            rates = np.array([100 * line["successes"] / line["episodes"] for line in of])
            bounds = 100 * np.array([line["interval"] for line in of]).reshape(-1, 2)
            bars = np.abs(bounds.T - rates)
            left.errorbar(
                delays, rates, bars, color=colour, marker="o", ms=3, capsize=2, lw=1, label=chunking
            )
            for name, style in (("jerk_around_switches", "-"), ("jerk_elsewhere", ":")):
                values = [line[name] for line in of]
                right.plot(delays, values, style, color=colour, marker="o", ms=3, lw=1)
        left.set_ylabel(f"{task}: success, %", fontsize=8)
        right.set_ylabel("jerk, rad/s³ (dotted: elsewhere)", fontsize=8)
        right.set_ylim(bottom=0)
        for panel in (left, right):
            panel.set_xlabel("delay, ticks of 20 ms", fontsize=8)
            panel.tick_params(labelsize=7)
            panel.grid(linewidth=0.4, alpha=0.6)
    axes[0][0].legend(fontsize=7, frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "imitact"}):
        figure.savefig(out, metadata={"Date": None})


def _delay(word: str) -> int | str:
    return word if ".." in word else int(word)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--cube", type=Path, nargs="*", default=[])
    parser.add_argument("--insertion", type=Path, nargs="*", default=[])
    parser.add_argument("--delays", type=_delay, nargs="+", default=list(DELAYS))
    parser.add_argument("--chunkings", nargs="+", default=list(CHUNKINGS))
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--write", type=Path, default=Path("benchmarks/results/delay.json"))
    parser.add_argument("--draw", type=Path)
    options = parser.parse_args()
    stored = json.loads(options.write.read_text()) if options.write.exists() else {}
    rows: list[dict[str, Any]] = stored.get("rows", [])
    seeds = range(FIRST_SEED, FIRST_SEED + options.episodes)
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        for task in ("cube", "insertion"):
            for number, path in enumerate(getattr(options, task)):
                for delay in options.delays:
                    for chunking in options.chunkings:
                        job = {
                            "task": task, "policy": number, "delay_ticks": delay,
                            "chunking": chunking,
                        }  # fmt: skip
                        same = [row for row in rows if job.items() <= row.items()]
                        if any(row["episodes"] == len(seeds) for row in same):
                            continue
                        rows = [row for row in rows if row not in same]
                        rows.append(run(pool, job, path, seeds))
                        print(json.dumps(rows[-1]), flush=True)
                        write(options.write, rows)
    print(table(pooled(rows)))
    studies.show(options.write, "delay", table(pooled(rows)))
    for line in write(options.write, rows)["differences"]:
        print(json.dumps(line))
    if options.draw:
        draw(pooled(rows), options.draw)


def write(path: Path, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Write the rows and what follows from them, and return it."""
    chunkings = list(dict.fromkeys(row["chunking"] for row in rows))
    differences = [
        difference
        for other in chunkings
        if other != CHUNKINGS[1]
        for difference in against(rows, CHUNKINGS[1], other)
    ]
    result = {
        "seeds": f"from {FIRST_SEED}",
        "differences": differences,
        "pooled": pooled(rows),
        "rows": list(rows),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    main()
