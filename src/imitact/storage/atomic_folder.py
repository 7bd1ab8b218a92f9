"""Atomic folders: a folder of output appears when all of it is written, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from imitact.core.errors import BadInput
from imitact.storage.atomic import disk_full_guard, fsync, make_folder
from imitact.storage.lock import WRITER, exclusive_writer


def check_output_folder(out: Path, source: Path | None = None, *, option: str = "--out") -> None:
    """Raise BadInput where `out` exists and is not an empty folder, or lies inside `source`.

    `source` is what is read to write it; None where that is no folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} already exists and is not empty; give a new folder with {option}")
    if source is not None and out.resolve().is_relative_to(source.resolve()):
        raise BadInput(
            f"{out} lies inside {source}, which is never altered; give another folder with {option}"
        )


def check_replaceable(folder: Path, names: Collection[str], what: str) -> None:
    """Raise BadInput where replacing `folder` would remove anything but files of these names.

    It need not exist. `what` says what it is, in words: "a policy".
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise BadInput(f"{folder} is a file, and {what} is written as a folder; give another path")
    if others := sorted({path.name for path in folder.iterdir()} - set(names)):
        raise BadInput(
            f'{folder} holds "{others[0]}", which is not part of {what}, and would be removed; '
            "give a new folder"
        )


@contextmanager
def atomic_folder(out: Path, what: str) -> Iterator[Path]:
    """Yield a folder to fill, which becomes `out` when it is complete.

    Only one process builds `out` at a time. After a failure nothing remains; a process that is
    killed leaves no `out`, and the next one removes what it had begun. `out` may exist if it is
    empty. `what` is being done, in words, for the error of a second process: "copy".
    """
    building = out.with_name(f".{out.name}.building")
    make_folder(building.parent)
    if building.is_symlink():
        building.unlink()
    with disk_full_guard(building), exclusive_writer(building, what):
        for leftover in building.iterdir():
            if leftover.name != WRITER:  # that one is ours
                remove_folder(leftover) if leftover.is_dir() else leftover.unlink()
        try:
            yield building
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        (building / WRITER).unlink(missing_ok=True)
        flush_folder(building)
        if out.is_dir():
            out.rmdir()
        os.replace(building, out)
        fsync(out.parent)


@contextmanager
def replaced_folder(
    folder: Path,
    *,
    building: Path | None = None,
    advice: str = "free some space and run the same command again",
) -> Iterator[Path]:
    """Yield an empty folder to fill, which takes the place of `folder` when it is complete.

    A `folder` that exists is untouched until then, and after any failure. A process that is killed
    leaves the old folder or the new one, which `whole_folder` finds. `building` is the temporary
    folder, on the same disk; one that a killed process left is removed. `advice` says what to do
    where the disk is full.
    """
    building = building or folder.with_name(f".{folder.name}.saving")
    with disk_full_guard(folder, advice):
        try:
            make_folder(building.parent)
            remove_folder(building)
            building.mkdir()
            yield building
            flush_folder(building)
            replace_folder(building, folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def replace_folder(fresh: Path, folder: Path) -> None:
    """Put the finished, flushed folder `fresh` in the place of `folder`, which may exist.

    This takes two renames. A process that is killed between them leaves no `folder`, and the old
    one beside it, where `whole_folder` finds it.
    """
    previous = _previous(folder)
    if folder.exists():
        remove_folder(previous)
        os.rename(folder, previous)
    try:
        os.rename(fresh, folder)
    except OSError:
        if previous.exists():
            os.rename(previous, folder)
        raise
    fsync(folder.parent)
    remove_folder(previous)


def whole_folder(folder: Path) -> Path:
    """Return the folder itself, or the old one that a killed `replace_folder` left beside it."""
    previous = _previous(folder)
    return previous if not folder.exists() and previous.is_dir() else folder


def remove_folder(folder: Path) -> None:
    """Remove a folder with all that is in it, if it exists; of a link, the link alone."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def flush_folder(folder: Path) -> None:
    """Flush every file and folder within `folder`, and itself, to the disk."""
    for path in (*folder.rglob("*"), folder):
        if not path.is_symlink():
            fsync(path)


def _previous(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.previous")
