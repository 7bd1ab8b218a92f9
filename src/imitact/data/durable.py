"""Files that are there whole or not at all, whatever kills the process.

A file is written under another name, flushed to the disk, then renamed over its place: a rename
is atomic, so a reader sees the old file or the new one. The folder is flushed too, else a power
cut could undo the rename after its success was reported.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imitact.contract import BadInput

WRITER = ".writer"
"""In a folder that a process writes to: its id, and what it does."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class DiskFull(BadInput):
    """There is no room left to write what must be written."""


@contextmanager
def room_for(
    path: Path, advice: str = "free some and run the same command again"
) -> Iterator[None]:
    """Turn "no space left", "quota exceeded" and "file too large" into one DiskFull.

    Whatever raised it may wrap the system's error: the whole chain of causes is looked at.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskFull) or not _is_full(error):
            raise
        raise DiskFull(
            f"no room left while writing {path}: {_free_bytes(path):,} bytes are free; {advice}"
        ) from error


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def _free_bytes(path: Path) -> int:
    for folder in (path, *path.parents):
        if folder.is_dir():
            return shutil.disk_usage(folder).free
    return 0


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
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
        sync(folder.parent)


@contextmanager
def alone(folder: Path, what: str) -> Iterator[None]:
    """Let one process write to `folder`, which is created; a second one is refused at once.

    what: who writes, in words: "recording". The lock ends with the process, however it ends.

    While it is held, `folder/.writer` tells others who it is. One that a killed process left means
    nothing, and goes with the next.
    """
    make_folder(folder)
    if os.name == "nt":
        yield  # no such lock on folders there: two writers in one folder are the user's care
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            other, process = _writer_of(folder, what)
            raise BadInput(
                f"another {other} is writing to {folder}{process}; wait for it, or stop it"
            ) from error
        with _signed(folder / WRITER, what):
            yield
    finally:
        os.close(handle)


@contextmanager
def _signed(path: Path, what: str) -> Iterator[None]:
    """Say who writes; on a full disk nobody is told, and nothing else is lost by it."""
    with contextlib.suppress(OSError):
        path.write_text(f"{os.getpid()} {what}\n", encoding="utf-8")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def _writer_of(folder: Path, what: str) -> tuple[str, str]:
    """What the process that holds a folder does, and its id in words; `what` and "" if unknown."""
    for wait_s in (0.0, 0.05, 0.1, 0.2, 0.4):  # it may have the lock and be about to sign
        time.sleep(wait_s)
        with contextlib.suppress(OSError, ValueError, OverflowError):
            number, _, other = (folder / WRITER).read_text(encoding="utf-8").partition(" ")
            if int(number) < 1:
                continue  # no process, but to `kill` many
            with contextlib.suppress(PermissionError):  # it is there, and somebody else's
                os.kill(int(number), 0)  # one that is no more signed before the one that holds it
            return other.strip() or what, f" (process {int(number)})"
    return what, ""


def append(handle: int, data: bytes) -> None:
    """Write all of `data` at the end of an open file, or nothing of it."""
    size = os.fstat(handle).st_size
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(handle, left) :]
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(handle, size)
        raise


def put(staged: Path, path: Path) -> None:
    """Move a finished, flushed file to its place, over whatever is there."""
    make_folder(path.parent)
    os.replace(staged, path)
    sync(path.parent)


def write_whole(path: Path, write: Callable[[Path], object], staging: Path) -> None:
    """Let `write` fill a file in `staging` (on the same disk), then put it at `path`."""
    temporary = staging / f"{path.name}.part"
    with room_for(path):
        try:
            write(temporary)
            sync(temporary)
            put(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes, staging: Path) -> None:
    """Write bytes whole."""
    write_whole(path, lambda p: p.write_bytes(data), staging)


def json_bytes(value: Any) -> bytes:
    """As `write_json` writes it; equal values give equal bytes."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_json(path: Path, value: Any, staging: Path) -> None:
    """Write JSON whole; equal values give equal bytes."""
    write_bytes(path, json_bytes(value), staging)


def refuse_out(out: Path, source: Path) -> None:
    """Raise BadInput where a copy of `source` cannot be made in `out`: it is there and not empty,
    or lies in what is copied."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} is there and not empty; give a new folder for the copy")
    if out.resolve().is_relative_to(source.resolve()):
        raise BadInput(f"{out} lies in {source}, which is never altered; give another folder")


@contextmanager
def new_folder(out: Path, what: str) -> Iterator[Path]:
    """A folder to fill; it appears as `out`, which is empty or not there, when all of it is done.

    what: who fills it, in words: "copy". Killed or failed, it leaves no `out`; what was begun is
    thrown away by the next.
    """
    building = out.with_name(f".{out.name}.building")
    make_folder(building.parent)
    with room_for(building), alone(building, what):
        for leftover in building.iterdir():
            if leftover.name != WRITER:  # ours
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        yield building
        (building / WRITER).unlink(missing_ok=True)
        if out.is_dir():
            out.rmdir()
        os.replace(building, out)
        sync(out.parent)
