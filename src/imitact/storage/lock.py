"""Folder locks: one process writes to a folder, and a second one is refused at once."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from imitact.core.errors import BadInput
from imitact.storage.atomic import make_folder
from imitact.storage.regular_file import create_file, open_to_append, read_limited

WRITER = ".writer"
"""The file, in a locked folder, with the id of the process that writes and what it does."""


_MAX_SIGNATURE_BYTES = 1000


@contextmanager
def exclusive_writer(folder: Path, what: str) -> Iterator[None]:
    """Let one process at a time write to `folder`, which is created; refuse a second one.

    The lock ends with the process, however it ends. `folder/.writer` only tells a second process
    the id of the one that holds the lock and what it does (`what`, in words: "recording"), for its
    BadInput; a stale one left by a killed process has no effect.
    """
    make_folder(folder)
    if find_spec("fcntl") is None:
        yield  # Windows has no such lock: there, users must avoid two writers themselves
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            other, process = _holder(folder, what)
            raise BadInput(
                f"another {other} is writing to {folder}{process}; wait for it, or stop it"
            ) from error
        # Suppressed: a full disk does not prevent the work.
        with contextlib.suppress(OSError), create_file(folder / WRITER) as signature:
            signature.write(f"{os.getpid()} {what}\n".encode())
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                (folder / WRITER).unlink()
    finally:
        os.close(handle)


def _holder(folder: Path, what: str) -> tuple[str, str]:
    """Return what the process that holds a folder does, and its id in words.

    Where that is unknown: `what` and "".
    """
    for wait_s in (0.0, 0.05, 0.1, 0.2, 0.4):  # it may hold the lock and be about to sign
        time.sleep(wait_s)
        with contextlib.suppress(OSError, ValueError, OverflowError, BadInput):
            signature = read_limited(folder / WRITER, _MAX_SIGNATURE_BYTES)
            number, _, other = signature.decode().partition(" ")
            if int(number) < 1:
                continue  # not a process id: `kill` takes 0 and below for groups of processes
            with contextlib.suppress(PermissionError):  # it exists, and belongs to another user
                os.kill(int(number), 0)  # raises for a stale signature of a process that ended
            return other.strip() or what, f" (process {int(number)})"
    return what, ""


@contextmanager
def shared_build_lock(path: Path) -> Iterator[None]:
    """Let one process at a time build what several need; the others wait, then find it built.

    The lock file `path` is created if it is missing; its folder must exist.
    """
    with os.fdopen(open_to_append(path), "ab") as file:
        if find_spec("fcntl") is None:
            yield  # Windows has no such lock: two processes may build the same thing twice
            return
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)
        yield
