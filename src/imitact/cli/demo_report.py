"""Report of a demo: its numbers as JSON (demo.json), and what is printed of them."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imitact.cli import record
from imitact.cli.console import print_result
from imitact.cli.demo_options import Demo
from imitact.core.cpu import available_cores
from imitact.core.types import Dataset
from imitact.core.version import __version__
from imitact.envs import gym_aloha_reference
from imitact.evaluation import report
from imitact.evaluation.results import Evaluation, describe_seeds
from imitact.recording.manifest import RecordingReport
from imitact.storage.checksum import verified
from imitact.storage.json_file import read_json_object
from imitact.training.metrics import format_duration

DEMO_JSON = "demo.json"
_PACKAGES = ("torch", "numpy", "mujoco", "dm_control", "gym-aloha", "mink", "av", "pyarrow")
"""Packages whose version the success rate depends on."""


def demo_numbers(
    settings: Demo,
    *,
    training: Path,
    wall_s: Mapping[str, float],
    data: RecordingReport | Dataset,
    evaluation: Evaluation,
    compared: Evaluation | None,
    reference: Evaluation | None,
    differences: list[str],
) -> dict[str, Any]:
    """Return all numbers of a demo as plain JSON.

    Args:
        settings: the demo's options.
        training: folder of the training.
        wall_s: seconds that each phase took.
        data: what was recorded, or the dataset that was given.
        evaluation: gives the success rate.
        compared: with other chunking on some of its seeds.
        reference: through the registered gym environment.
        differences: seeds on which the rewards of `reference` differ.
    """
    path = training / "training.json"
    trained = verified(read_json_object(path), path, required=False)
    seconds = {name: round(s, 1) for name, s in {"setup": settings.setup_s, **wall_s}.items()}
    names = (
        "steps", "samples", "samples_per_s", "data_wait", "held_out_l1_rad", "precision",
        "precision_reason", "threads", "peak_rss_bytes",
    )  # fmt: skip
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "task": settings.task,
        **_headline(evaluation),
        "wall_s": {**seconds, "total": round(sum(seconds.values()), 1)},
        "train_pflop": trained["train_pflop"],
        "versions": {"imitact": __version__, "python": platform.python_version(), **versions},
        "processor": f"{trained['processor']}, {available_cores()} cores",
        "training": {
            "preset": settings.preset,
            "seed": settings.train.seed,
            **{name: trained.get(name) for name in names},
        },
        "demonstrations": _demonstrations(settings, data),
        "compared": _headline(compared) if compared else None,
        "registered": {
            "env": gym_aloha_reference.GYM_IDS[settings.task],
            "seeds": list(reference.seeds),
            "same_rewards": not differences,
            "differences": differences,
        }
        if reference
        else None,
    }


def _headline(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "successes": evaluation.successes,
        "episodes": evaluation.episodes,
        "interval": list(evaluation.interval),
        "step_cap": evaluation.step_cap,
        "seeds": list(evaluation.seeds),
        "chunking": evaluation.execution.chunking,
    }


def _demonstrations(settings: Demo, data: RecordingReport | Dataset) -> dict[str, Any]:
    if not isinstance(data, RecordingReport):
        return {"saved": len(data.lengths), "fingerprint": data.fingerprint}
    ticks_of = {words: data.first_ticks(stage) for stage, words in enumerate(data.stages) if stage}
    return {
        "saved": data.saved,
        "failed_seeds": [failure.seed for failure in data.failures],
        "spread": settings.spread,
        "starts": settings.starts,
        "seeds": [d.seed for d in data.demonstrations],
        "deviations": data.deviations(),
        "first_ticks": {
            words: {"mean": float(ticks.mean()), "deviation": float(ticks.std())}
            for words, ticks in ticks_of.items()
            if len(ticks)
        },
    }


def demonstration_lines(data: RecordingReport | Dataset, path: Path) -> list[str]:
    """Return what is printed of the demonstrations."""
    if isinstance(data, RecordingReport):
        return record.lines(data)
    return [f"demonstrations: {len(data.lengths)} in {path}"]


def print_demo(
    settings: Demo,
    numbers: Mapping[str, Any],
    demonstrations: list[str],
    evaluation: Evaluation,
    compared: Evaluation | None,
) -> None:
    """Print the result of a demo, from what `demo_numbers` and `demonstration_lines` returned."""
    out = settings.out
    print_result("", *demonstrations)
    if compared:
        table = report.table([evaluation.only(compared.seeds), compared])
        print_result("", *table.splitlines())
    print_result("", f"success: {report.summary_line(evaluation)}")
    if (reference := numbers["registered"]) is not None:
        same = "the same rewards, tick for tick" if reference["same_rewards"] else "other rewards"
        seeds = describe_seeds(reference["seeds"])
        print_result(f"{reference['env']}, made by gymnasium, gave {same} ({seeds})")
    wall_s = dict(numbers["wall_s"])
    total = format_duration(wall_s.pop("total"))
    parts = ", ".join(f"{name} {format_duration(seconds)}" for name, seconds in wall_s.items())
    print_result(f"time:    {total} in all ({parts}); trained {numbers['train_pflop']:.2f} PFLOP")
    if videos := sorted((out / "evaluation" / "videos").glob("*.mp4")):
        print_result(f"videos:  {', '.join(map(str, videos))}")
    print_result(f"numbers: {out / DEMO_JSON}")
    print_result(f"policy:  {out / 'training' / 'policy'}")
