"""Folder locks: one process writes to a folder, a second one is refused at once."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imitact.core.errors import BadInput
from imitact.storage.atomic import make_folder

WRITER = ".writer"
"""In a folder that a process writes to: its id, and what it does."""


@contextmanager
def exclusive_writer(folder: Path, what: str) -> Iterator[None]:
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


@contextmanager
def shared_build_lock(path: Path) -> Iterator[None]:
    """Let one process at a time build what several may want; the others wait, then find it built.

    Args:
        path: the lock file, created if it is missing; its folder must exist.
    """
    with path.open("ab") as file:
        if os.name == "nt":
            yield  # no such lock there: two processes may build the same thing twice
            return
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)
        yield
