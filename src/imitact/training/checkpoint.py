"""Training checkpoints: the whole state of a training, written atomically and read back exactly.

`checkpoints/step-00001200/` holds `policy/` (a policy folder, ready to be evaluated),
`trainer.safetensors` (all tensors that training continues from) and `trainer.json` (numbers, the
SHA-256 of each file, and its own). The last few checkpoints are kept, and the best one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from imitact.core.errors import BadInput, DamagedFile
from imitact.core.version import __version__
from imitact.storage.atomic_folder import replaced_folder
from imitact.storage.checksum import file_sha256
from imitact.storage.json_file import read_json_object

FORMAT = 1
RECORD = "trainer.json"
TENSORS = "trainer.safetensors"
_PREFIX = "step-"
_BUILDING = ".building-"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training after `step` steps: tensors on the CPU, and JSON values, by name."""

    step: int
    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, Any]


def save(
    folder: Path,
    state: Checkpoint,
    save_policy: Callable[[Path], object],
    *,
    keep: int = 2,
    best_step: int | None = None,
) -> Path:
    """Write a checkpoint into `folder` and return its path.

    The checkpoint of `best_step` stays, and of the others the newest `keep`. `save_policy` writes
    the policy folder to the path it is given. If the disk is full (DiskFull), the existing
    checkpoints are intact.
    """
    final = checkpoint_path(folder, state.step)
    for leftover in folder.glob(f"{_BUILDING}*"):  # of a killed process
        shutil.rmtree(leftover)
    intact = "the checkpoints before it are untouched"
    with replaced_folder(
        final,
        building=folder / f"{_BUILDING}{final.name}",
        advice=f"{intact}; free some space, then resume",
    ) as building:
        try:
            save_policy(building / "policy")
            save_file(dict(state.tensors), building / TENSORS)
        except SafetensorError as error:  # only its text contains the system's error
            raise BadInput(f"cannot write {final}: {error}; {intact}") from error
        files = sorted(p for p in building.rglob("*") if p.is_file())
        record = {
            "format": FORMAT,
            "step": state.step,
            "numbers": dict(state.numbers),
            "sha256": {p.relative_to(building).as_posix(): file_sha256(p) for p in files},
        }
        record["own_sha256"] = _own_sha256(record)
        (building / RECORD).write_text(json.dumps(record, indent=1, allow_nan=False))
    best = None if best_step is None else checkpoint_path(folder, best_step)
    for old in [path for path in list_checkpoints(folder) if path != best][keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the paths of the checkpoints in `folder`, newest first, without reading them."""
    return sorted(folder.glob(f"{_PREFIX}*"), reverse=True)


def load(path: Path) -> Checkpoint:
    """Read one checkpoint and verify every file; raise DamagedFile for a difference."""
    try:
        record = read_json_object(path / RECORD)
        if record["format"] != FORMAT:
            raise DamagedFile(
                f"{path}: checkpoint format {record['format']}, this imitact ({__version__}) reads "
                f"{FORMAT}; resume with the version of imitact that wrote it"
            )
        if record["own_sha256"] != _own_sha256(record) or path != checkpoint_path(
            path.parent, record["step"]
        ):
            raise DamagedFile(
                f"{path / RECORD} is not what was written: its SHA-256 or step differs"
            )
        for name, expected in record["sha256"].items():
            if not (path / name).resolve().is_relative_to(path.resolve()):
                raise DamagedFile(f'{path / RECORD} names a file outside the checkpoint, "{name}"')
            if file_sha256(path / name) != expected:
                raise DamagedFile(f"{path / name} is not what was written: its SHA-256 differs")
        tensors = load_file(path / TENSORS)
        return Checkpoint(int(record["step"]), tensors, record["numbers"])
    except (
        *(OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError),
        *(RuntimeError, SafetensorError),  # RuntimeError: a link to itself
    ) as error:
        raise DamagedFile(f"{path}: cannot be read ({type(error).__name__}: {error})") from error


def load_newest(folder: Path, log: Callable[[str], None]) -> tuple[Path, Checkpoint] | None:
    """Return the path and state of the newest undamaged checkpoint; None if there are none at all.

    Damaged ones are skipped and logged; DamagedFile if all are.
    """
    damage = []
    for path in list_checkpoints(folder):
        try:
            return path, load(path)
        except DamagedFile as error:
            damage.append(str(error))
            log(f"damaged checkpoint skipped: {error}")
    if damage:
        raise DamagedFile(
            f"no checkpoint in {folder} can be read: {'; '.join(damage)}. "
            "Start a new training in another folder."
        )
    return None


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return where `folder` has the checkpoint of a step."""
    return folder / f"{_PREFIX}{step:08d}"


def _own_sha256(record: Mapping[str, Any]) -> str:
    """Checksum of the other keys of trainer.json: of their JSON with sorted keys."""
    rest = {name: value for name, value in record.items() if name != "own_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
