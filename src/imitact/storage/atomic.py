"""Atomic file writes: a file is there whole or not at all, whatever ends the process.

A file is written under a temporary name, flushed to the disk, then renamed over its place. A rename
is atomic, so a reader sees the old file or the new one. The folder is flushed too, because a power
cut could otherwise undo the rename after its success was reported.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imitact.core.errors import DiskFull
from imitact.storage.regular_file import create_file

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def disk_full_guard(
    path: Path, advice: str = "free some space and run the same command again"
) -> Iterator[None]:
    """Turn "no space left", "quota exceeded" and "file too large" into DiskFull.

    The whole chain of causes is searched, because libraries wrap the system's error. The message
    names `path` and ends with the advice.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskFull) or not _is_disk_full(error):
            raise
        folder = next(parent for parent in (path, *path.parents) if parent.is_dir())
        free = shutil.disk_usage(folder).free
        raise DiskFull(
            f"no room left while writing {path}: {free:,} bytes are free; {advice}"
        ) from error


def _is_disk_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        # safetensors has the system's error number in its message only.
        if any(f"(os error {number})" in str(error) for number in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def fsync(path: Path) -> None:
    """Flush a file or a folder to the disk; of a folder, the names in it."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders and needs no such flush
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Create a folder and its parents, each flushed into the one above."""
    missing = [p for p in (path, *path.parents) if not p.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        fsync(folder.parent)


def move_into_place(staged: Path, path: Path) -> None:
    """Move a finished, flushed file to `path`, replacing any file there.

    A link at `path` is replaced itself; what it leads to stays as it is.
    """
    make_folder(path.parent)
    os.replace(staged, path)
    fsync(path.parent)


def write_atomically(
    path: Path, write: Callable[[Path], object], staging: Path | None = None
) -> None:
    """Let `write` fill a temporary file, whose path it is given, then move that to `path`.

    The temporary file is in `staging`, a folder on the same disk, else in the folder of `path`.
    Missing folders are created.
    """
    staging = staging or path.parent
    # With its folder's name, so that files of one name may be staged in one folder.
    temporary = staging / f".{path.parent.name}.{path.name}.part"
    with disk_full_guard(path):
        try:
            make_folder(staging)
            temporary.unlink(missing_ok=True)  # a killed process's, or a link
            write(temporary)
            fsync(temporary)
            move_into_place(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes, staging: Path | None = None) -> None:
    """Write a file of these bytes atomically."""

    def write(temporary: Path) -> None:
        with create_file(temporary) as file:
            file.write(data)

    write_atomically(path, write, staging)


def json_bytes(value: Any) -> bytes:
    """Return what `write_json` writes; equal values give equal bytes.

    A path with bytes that are no UTF-8 has surrogates, which are written as JSON's escapes.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode(errors="backslashreplace")


def write_json(path: Path, value: Any, staging: Path | None = None) -> None:
    """Write a JSON file atomically; equal values give equal bytes."""
    write_bytes(path, json_bytes(value), staging)
