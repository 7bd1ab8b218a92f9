"""Atomic folders: a folder of output appears when all of it is written, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imitact.core.errors import BadInput
from imitact.storage.atomic import disk_full_guard, fsync, make_folder
from imitact.storage.lock import WRITER, exclusive_writer


def check_output_folder(out: Path, source: Path) -> None:
    """Raise BadInput where a copy of `source` cannot be made in `out`: it is there and not empty,
    or lies in what is copied."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} is there and not empty; give a new folder for the copy")
    if out.resolve().is_relative_to(source.resolve()):
        raise BadInput(f"{out} lies in {source}, which is never altered; give another folder")


@contextmanager
def atomic_folder(out: Path, what: str) -> Iterator[Path]:
    """A folder to fill; it appears as `out`, which is empty or not there, when all of it is done.

    what: who fills it, in words: "copy". Killed or failed, it leaves no `out`; what was begun is
    thrown away by the next.
    """
    building = out.with_name(f".{out.name}.building")
    make_folder(building.parent)
    with disk_full_guard(building), exclusive_writer(building, what):
        for leftover in building.iterdir():
            if leftover.name != WRITER:  # ours
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        yield building
        (building / WRITER).unlink(missing_ok=True)
        if out.is_dir():
            out.rmdir()
        os.replace(building, out)
        fsync(out.parent)


def replace_folder(fresh: Path, folder: Path) -> None:
    """Put the finished folder `fresh` where `folder` is, whether or not that exists.

    Two renames do it. A process killed between them leaves no `folder`, and the old one beside it,
    where `whole_folder` finds it.
    """
    previous = _previous(folder)
    if folder.exists():
        if previous.exists():
            shutil.rmtree(previous)
        os.rename(folder, previous)
    try:
        os.rename(fresh, folder)
    except OSError:
        if previous.exists():
            os.rename(previous, folder)
        raise
    fsync(folder.parent)
    if previous.exists():
        shutil.rmtree(previous)


def whole_folder(folder: Path) -> Path:
    """The folder itself, or the old one that a killed `replace_folder` left beside it."""
    previous = _previous(folder)
    return previous if not folder.exists() and previous.is_dir() else folder


def _previous(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.previous")
