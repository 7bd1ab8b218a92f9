"""The whole state of a training, written atomically and read back exactly.

`checkpoints/step-00001200/` holds `policy/` (a policy directory, ready to be evaluated),
`trainer.safetensors` (every tensor that training goes on from) and `trainer.json` (numbers, the
SHA-256 of each file, and its own). A checkpoint is written under another name, brought to the disk
and renamed; the last two are kept.
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
from imitact.storage.atomic import disk_full_guard, fsync, make_folder
from imitact.storage.json_file import read_json_object

Say = Callable[[str], None]
FORMAT = 1
KEEP = 2
RECORD = "trainer.json"
TENSORS = "trainer.safetensors"
_PREFIX = "step-"


@dataclass(frozen=True)
class Checkpoint:
    """Where a training stands after `step` updates.

    tensors: by name, on the CPU; numbers: whatever JSON holds.
    """

    step: int
    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, Any]


def save(
    folder: Path, state: Checkpoint, save_policy: Callable[[Path], object], *, keep: int = KEEP
) -> Path:
    """Write a checkpoint into `folder` and remove all but the newest `keep`; gives its path.

    save_policy: writes the policy directory to the path that it is given.
    On a full disk nothing that was there is lost.
    """
    final = folder / _name(state.step)
    building = folder / f".building-{final.name}"
    with disk_full_guard(
        final, "the checkpoints before it are untouched; free some space, then resume"
    ):
        try:
            make_folder(folder)
            for left in folder.glob(".building-*"):  # by a process that was killed
                shutil.rmtree(left)
            building.mkdir()
            save_policy(building / "policy")
            save_file(dict(state.tensors), building / TENSORS)
            files = sorted(p for p in building.rglob("*") if p.is_file())
            record = {
                "format": FORMAT,
                "step": state.step,
                "numbers": dict(state.numbers),
                "sha256": {p.relative_to(building).as_posix(): _sha256(p) for p in files},
            }
            record["own_sha256"] = _own_sha256(record)
            (building / RECORD).write_text(json.dumps(record, indent=1, allow_nan=False))
            for path in (*files, building / RECORD, building / "policy", building):
                fsync(path)
            if final.exists():
                shutil.rmtree(final)
            building.rename(final)
            fsync(folder)
        except SafetensorError as error:  # its text tells what the system said, its type does not
            raise BadInput(
                f"cannot write {final}: {error}; the checkpoints before it are untouched"
            ) from error
        finally:
            shutil.rmtree(building, ignore_errors=True)
    for old in list_checkpoints(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, newest first; not looked into."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if p.name.startswith(_PREFIX)), reverse=True)


def load(path: Path) -> Checkpoint:
    """One checkpoint, every file checked against its SHA-256. Damage is named."""
    try:
        record = read_json_object(path / RECORD)
        if record["format"] != FORMAT:
            raise DamagedFile(
                f"{path}: checkpoint format {record['format']}, this imitact ({__version__}) reads "
                f"{FORMAT}; resume with the version of imitact that wrote it"
            )
        if record["own_sha256"] != _own_sha256(record) or path.name != _name(record["step"]):
            raise DamagedFile(
                f"{path / RECORD} is not what was written: its SHA-256 or step differs"
            )
        for name, expected in record["sha256"].items():
            if not (path / name).resolve().is_relative_to(path.resolve()):
                raise DamagedFile(
                    f"{path / RECORD} names {name!r}, which is no file of a checkpoint"
                )
            if _sha256(path / name) != expected:
                raise DamagedFile(f"{path / name} is not what was written: its SHA-256 differs")
        tensors = load_file(path / TENSORS)
        return Checkpoint(int(record["step"]), tensors, record["numbers"])
    except (
        *(OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError),
        *(RecursionError, SafetensorError),
    ) as error:
        raise DamagedFile(f"{path}: cannot be read ({type(error).__name__}: {error})") from error


def load_newest(folder: Path, say: Say) -> tuple[Path, Checkpoint] | None:
    """The newest checkpoint that is whole; None where there was never one.

    A damaged one is said and passed over for the one before; where all are damaged, refused.
    """
    paths = list_checkpoints(folder)
    damage = []
    for path in paths:
        try:
            return path, load(path)
        except DamagedFile as error:
            damage.append(str(error))
            say(f"checkpoint passed over: {error}")
    if damage:
        raise DamagedFile(
            f"no checkpoint in {folder} can be read: {'; '.join(damage)}. "
            "Train anew in another folder."
        )
    return None


def _name(step: int) -> str:
    return f"{_PREFIX}{step:08d}"


def _own_sha256(record: Mapping[str, Any]) -> str:
    """Of all that the record says but this: as JSON with sorted keys."""
    rest = {name: value for name, value in record.items() if name != "own_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
