"""Training section: learning curves and validation errors of a training for the page.

Reads the files as docs/formats.md describes them, also those of a training that still runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imitact.core.errors import DamagedFile
from imitact.core.types import UNKNOWN_UNIT
from imitact.storage.json_file import read_json_object
from imitact.storage.regular_file import open_regular
from imitact.training.metrics import l1_unit

METRICS = "metrics.jsonl"
MAX_POINTS = 4000
"""Points of a curve in a page; more are averaged over neighbours."""

_CURVES = (
    # key of metrics.jsonl, label, unit (None: that of the actions), whether a logarithmic axis
    # helps
    ("loss", "training loss", "normalised", True),
    ("held_out_l1_rad", "validation L1, z = 0", None, True),
    ("l1", "training L1", "normalised", True),
    ("kl", "KL divergence", "nats", True),
    ("grad_norm", "gradient norm before clipping", "", True),
    ("lr", "learning rate", "", False),
    ("lr_backbone", "learning rate of the backbone", "", False),
    ("samples_per_s", "throughput", "samples/s", False),
    ("data_wait", "share of time spent waiting for data", "", False),
)

_JOINTS = "held_out_l1_per_joint"
_TICKS = "held_out_l1_rad_per_tick"
_MATRIX = "held_out_l1_per_joint_per_tick"


def training_section(folder: Path) -> dict[str, Any]:
    """Return the section of a training."""
    lines = list(_lines(folder / METRICS))
    summary = _object(folder / "training.json")
    last_validation = _object(folder / "held_out.json")
    spec = _spec(folder)
    validated = [line for line in lines if _TICKS in line and _JOINTS in line]
    validations = [_validation(line) for line in validated]
    joints = [str(name) for name in validated[-1][_JOINTS]] if validated else []
    names, all_units = spec.get("action_names", ()), spec.get("action_units", ())
    units, unit = dict(zip(names, all_units, strict=False)), l1_unit(all_units)
    planned = _planned_steps(folder, lines)
    left = (
        f"{lines[-1]['step'] if lines else 0:,} of {planned:,} steps" if planned else "unfinished"
    )
    is_current = bool(validations) and last_validation.get("step") == validations[-1]["step"]
    return {
        "kind": "training",
        "path": str(folder),
        "badge": "" if summary else left,
        "facts": _facts(lines, summary, unit, planned),
        "note": "" if summary else "This training is not finished; these are its numbers so far.",
        "unit": unit,
        "curves": _curves(lines, unit),
        "validations": validations,
        "joints": joints,
        "units": [str(units.get(name, UNKNOWN_UNIT)) for name in joints],
        "matrix": _matrix_rows(last_validation.get(_MATRIX), joints) if is_current else None,
        "rate_hz": spec.get("rate_hz"),
    }


_MAX_LINE_BYTES = 16 << 20


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of metrics.jsonl; an incomplete last line is left out."""
    with open_regular(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE_BYTES), b""), 1):
            if not line.endswith(b"\n"):
                return  # being written, or cut off when the process was killed
            try:
                value = json.loads(line)
                value["step"] = int(value["step"])
            except (ValueError, TypeError, KeyError) as error:
                raise DamagedFile(
                    f"{path}, line {number} is not a line of metrics: {error!r}"
                ) from error
            yield value


def _object(path: Path) -> dict[str, Any]:
    """Read a JSON object; {} where the file does not exist yet."""
    return read_json_object(path) if path.is_file() else {}


def _spec(folder: Path) -> dict[str, Any]:
    """Return the Spec of the policy, or of the newest checkpoint; {} before both."""
    found = [folder / "policy", *sorted((folder / "checkpoints").glob("step-*/policy"))[::-1]]
    for policy in found:
        spec = _object(policy / "policy.json").get("spec")
        if isinstance(spec, dict):
            return spec
    return {}


def _planned_steps(folder: Path, lines: Sequence[Mapping[str, Any]]) -> int | None:
    """Steps that the training is to have: of its last line, else of its newest checkpoint."""
    for line in reversed(lines):
        if isinstance(line.get("steps"), int):
            return line["steps"]
    for record in sorted((folder / "checkpoints").glob("step-*/trainer.json"))[::-1]:
        settings = _object(record).get("numbers", {}).get("settings", {})
        steps = settings.get("train", settings).get("steps")
        return steps if isinstance(steps, int) else None
    return None


def _curves(lines: Sequence[Mapping[str, Any]], action_unit: str) -> list[dict[str, Any]]:
    curves = []
    for key, label, own_unit, log in _CURVES:
        unit = action_unit if own_unit is None else own_unit
        points = [
            (line["step"], float(line[key]))
            for line in lines
            if isinstance(line.get(key), int | float) and math.isfinite(line[key])
        ]
        if not points or not any(value for _, value in points):
            continue  # the KL divergence is 0 where the VAE is off
        other = {"l1": "loss", "lr_backbone": "lr"}.get(key)
        if other and all(line.get(key) == line.get(other) for line in lines):
            continue  # the same curve
        x, y = _thinned(points)
        curves.append({"key": key, "label": label, "unit": unit, "log": log, "x": x, "y": y})
    return curves


def _thinned(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    """Return at most MAX_POINTS points: means of neighbours at the last step of each."""
    groups = np.array_split(np.array(points), min(MAX_POINTS, len(points)))
    steps = [int(group[-1, 0]) for group in groups]
    return steps, [float(f"{group[:, 1].mean():.6g}") for group in groups]


def _validation(line: Mapping[str, Any]) -> dict[str, Any]:
    joints, ticks = line[_JOINTS], line[_TICKS]
    if not isinstance(joints, dict) or not isinstance(ticks, list):
        raise DamagedFile(
            f"step {line['step']} of {METRICS}: expected {_JOINTS} as an object and {_TICKS} as a "
            "list"
        )
    return {
        "step": line["step"],
        "mean": line.get("held_out_l1_rad"),
        "per_joint": [float(value) for value in joints.values()],
        "per_tick": [float(value) for value in ticks],
    }


def _matrix_rows(matrix: Any, joints: Sequence[str]) -> list[list[float]] | None:
    """Return one row per joint; None where the training's version did not write them."""
    if not isinstance(matrix, dict) or set(matrix) != set(joints):
        return None
    rows = [[float(value) for value in matrix[name]] for name in joints]
    return rows if rows and rows[0] and len({len(row) for row in rows}) == 1 else None


def _facts(
    lines: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], unit: str, planned: int | None
) -> list[list[str]]:
    done = lines[-1]["step"] if lines else 0
    of = f" of {planned:,}" if planned and not summary else ""
    facts = [["steps", f"{done:,}{of}"]]
    validated = [line for line in lines if isinstance(line.get("held_out_l1_rad"), float)]
    if validated:
        lowest = min(validated, key=lambda line: line["held_out_l1_rad"])
        facts.append(
            ["validation L1, last", f"{validated[-1]['held_out_l1_rad']:.4f} {unit}".rstrip()]
        )
        value = f"{lowest['held_out_l1_rad']:.4f} {unit}".rstrip()
        facts.append(["lowest", f"{value} at step {lowest['step']:,}"])
    if isinstance(summary.get("wall_s"), int | float):
        facts.append(["time", f"{summary['wall_s'] / 60:.1f} min"])
    if isinstance(summary.get("samples_per_s"), int | float):
        facts.append(["throughput", f"{summary['samples_per_s']:.0f} samples/s"])
    if isinstance(summary.get("train_pflop"), int | float):
        facts.append(["computation", f"{summary['train_pflop']:.3g} PFLOP"])
    for key in ("precision", "processor"):
        if summary.get(key):
            facts.append([key, str(summary[key])])
    versions = summary.get("versions")
    if isinstance(versions, dict) and versions.get("torch"):
        facts.append(["torch", str(versions["torch"])])
    return facts
