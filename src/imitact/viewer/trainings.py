"""A training's folder, as what a page shows of it: learning curves and held-out error.

Reads the files as docs/formats.md describes them, those of a training that still runs too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imitact.core.errors import DamagedFile
from imitact.storage.json_file import read_json_object

METRICS = "metrics.jsonl"
POINTS = 4000
"""Of a curve at most; more are averaged over neighbours."""

_CURVES = (
    # key of metrics.jsonl, what it is called, its unit, whether a logarithm helps
    ("loss", "training loss", "normalised", True),
    ("held_out_l1_rad", "held-out L1, z = 0", "rad", True),
    ("l1", "training L1", "normalised", True),
    ("kl", "KL divergence", "nats", True),
    ("grad_norm", "gradient norm before clipping", "", True),
    ("lr", "rate", "1/update", False),
    ("lr_backbone", "rate of the image trunk", "1/update", False),
    ("samples_per_s", "pace", "samples/s", False),
    ("data_wait", "share of time waiting for samples", "", False),
)

_JOINTS = "held_out_l1_per_joint"
_TICKS = "held_out_l1_rad_per_tick"
_MATRIX = "held_out_l1_per_joint_per_tick"


def section(folder: Path) -> dict[str, Any]:
    """What a page shows of a training."""
    lines = list(_lines(folder / METRICS))
    told = _object(folder / "training.json")
    held = _object(folder / "held_out.json")
    spec = _spec(folder)
    validations = [_validation(line) for line in lines if _TICKS in line and _JOINTS in line]
    joints = validations[-1].pop("joints") if validations else []
    for validation in validations[:-1]:
        validation.pop("joints")
    units = dict(zip(spec.get("action_names", ()), spec.get("action_units", ()), strict=False))
    matrix = held.get(_MATRIX) if validations and held.get("step") == _validated(lines) else None
    return {
        "kind": "training",
        "path": str(folder),
        "facts": _facts(lines, told),
        "note": "" if told else "This training is not finished: the numbers up to now.",
        "curves": _curves(lines),
        "validations": validations,
        "joints": joints,
        "units": [str(units.get(name, "unknown")) for name in joints],
        "matrix": _rows(matrix, joints),
        "rate_hz": spec.get("rate_hz"),
    }


def _validated(lines: Sequence[Mapping[str, Any]]) -> int | None:
    """The step of the last validation."""
    return next((line["step"] for line in reversed(lines) if _TICKS in line), None)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of metrics.jsonl; a last line that is not whole is left out."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):
                return  # being written, or torn by a kill
            try:
                value = json.loads(line)
                value["step"] = int(value["step"])
            except (ValueError, TypeError, KeyError) as error:
                raise DamagedFile(
                    f"{path}, line {number} is no line of numbers: {error!r}"
                ) from error
            yield value


def _object(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is none yet."""
    return read_json_object(path) if path.is_file() else {}


def _spec(folder: Path) -> dict[str, Any]:
    """Names and units of the actions, from the policy, or from a checkpoint's; {} before both."""
    found = [folder / "policy", *sorted((folder / "checkpoints").glob("step-*/policy"))[::-1]]
    for policy in found:
        spec = _object(policy / "policy.json").get("spec")
        if isinstance(spec, dict):
            return spec
    return {}


def _curves(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    curves = []
    for key, label, unit, log in _CURVES:
        points = [
            (line["step"], float(line[key]))
            for line in lines
            if isinstance(line.get(key), int | float) and math.isfinite(line[key])
        ]
        if not points or not any(value for _, value in points):
            continue  # a posterior that is off has no KL
        if key == "l1" and all(line.get("l1") == line.get("loss") for line in lines):
            continue  # the same curve as the loss
        if key == "lr_backbone" and all(line.get(key) == line.get("lr") for line in lines):
            continue
        x, y = _thinned(points)
        curves.append({"key": key, "label": label, "unit": unit, "log": log, "x": x, "y": y})
    return curves


def _thinned(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    """At most POINTS of them, each the mean of its neighbours at the last one's step."""
    parts = np.array_split(np.array(points), min(POINTS, len(points)))
    steps = [int(part[-1, 0]) for part in parts]
    return steps, [float(f"{part[:, 1].mean():.6g}") for part in parts]


def _validation(line: Mapping[str, Any]) -> dict[str, Any]:
    joints, ticks = line[_JOINTS], line[_TICKS]
    if not isinstance(joints, dict) or not isinstance(ticks, list):
        raise DamagedFile(
            f"step {line['step']}: a validation of {METRICS} is not what it should be"
        )
    return {
        "step": line["step"],
        "mean": line.get("held_out_l1_rad"),
        "joints": [str(name) for name in joints],
        "per_joint": [float(value) for value in joints.values()],
        "per_tick": [float(value) for value in ticks],
    }


def _rows(matrix: Any, joints: Sequence[str]) -> list[list[float]] | None:
    """Rows in the order of `joints`; None where the training's version did not write them."""
    if not isinstance(matrix, dict) or set(matrix) != set(joints):
        return None
    rows = [[float(value) for value in matrix[name]] for name in joints]
    return rows if rows and rows[0] and len({len(row) for row in rows}) == 1 else None


def _facts(lines: Sequence[Mapping[str, Any]], told: Mapping[str, Any]) -> list[list[str]]:
    facts = []
    last = lines[-1]["step"] if lines else 0
    facts.append(["updates", f"{last:,}"])
    best = [line for line in lines if isinstance(line.get("held_out_l1_rad"), float)]
    if best:
        lowest = min(best, key=lambda line: line["held_out_l1_rad"])
        facts.append(["held-out L1, last", f"{best[-1]['held_out_l1_rad']:.4f} rad"])
        facts.append(
            ["lowest", f"{lowest['held_out_l1_rad']:.4f} rad at update {lowest['step']:,}"]
        )
    if isinstance(told.get("wall_s"), int | float):
        facts.append(["time", f"{told['wall_s'] / 60:.1f} min"])
    if isinstance(told.get("samples_per_s"), int | float):
        facts.append(["pace", f"{told['samples_per_s']:.0f} samples/s"])
    if isinstance(told.get("train_pflop"), int | float):
        facts.append(["computed", f"{told['train_pflop']:.3g} PFLOP"])
    for key in ("precision", "processor"):
        if told.get(key):
            facts.append([key, str(told[key])])
    versions = told.get("versions")
    if isinstance(versions, dict) and versions.get("torch"):
        facts.append(["torch", str(versions["torch"])])
    return facts
