"""Demos that differ in one thing, trained with several seeds: what the studies have in common.

Each variant and seed is an `imitact demo` of its own, in a folder of its own, so that an
interrupted study goes on, and so that every row can be made again by that command. Variants that
differ in training only share one set of demonstrations.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imitact.evaluate.interval import wilson
from imitact.verbs import demo

TASKS = ("cube", "insertion")


def trained(
    out: Path,
    data: Path,
    seed: int,
    *,
    task: str,
    model: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Run (or go on with) one demo; gives its figures. `model` and `train` change the preset's."""
    usual = demo.with_preset(None, task)
    chosen = dataclasses.replace(
        usual,
        model=dataclasses.replace(usual.model, **(model or {})),
        train=dataclasses.replace(usual.train, seed=seed, **(train or {})),
        out=out,
        data=data,
        compared_episodes=0,
        registered_episodes=0,
        videos=0,
        **settings,
    )
    file = out / demo.NUMBERS
    if not file.exists():
        demo.run(chosen)
    told = json.loads(file.read_text(encoding="utf-8"))
    evaluation = json.loads((out / "evaluation/evaluation.json").read_text(encoding="utf-8"))
    reached = [row["highest_stage"] for row in evaluation["rows"] if not row["success"]]
    return {
        "task": task,
        "seed": seed,
        "successes": told["successes"],
        "episodes": told["episodes"],
        "steps": chosen.train.steps,
        "failures_by_stage": {str(stage): reached.count(stage) for stage in sorted(set(reached))},
        "held_out_l1_rad": told["training"]["held_out_l1_rad"],
    }


def together(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All seeds of a variant: their successes added, with Wilson's interval, and each one's rate.

    The interval counts episodes as if they were independent; that trainings differ shows in the
    seeds' own rates.
    """
    good = sum(row["successes"] for row in rows)
    count = sum(row["episodes"] for row in rows)
    return {
        "successes": good,
        "episodes": count,
        "interval": list(wilson(good, count)),
        "seeds": {str(row["seed"]): row["successes"] / row["episodes"] for row in rows},
        "trainings": list(rows),
    }


def write(path: Path, told: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
