"""Regular files: opened without waiting and without side effects, and read up to a limit.

A folder from elsewhere may hold a pipe, a device, or a link to one, where a file is expected:
opening a pipe waits for a writer, and reading /dev/zero never ends.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader, BufferedWriter
from pathlib import Path

from imitact.core.errors import BadInput, DamagedFile

COPY_AGAIN = "Copy it again from where it came."

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

_FLAGS = {name: getattr(os, name, 0) for name in
          ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY", "O_NOFOLLOW")}  # fmt: skip


def open_regular(file: Path, *, advice: str = COPY_AGAIN) -> BufferedReader:
    """Open a regular file, or a link to one, for reading.

    Raises:
        DamagedFile: it is missing, or something else: a folder, pipe, socket or device. The message
            ends with the advice.
        BadInput: the system refuses to open it.
    """
    try:
        handle = os.open(file, os.O_RDONLY | _flags("O_NONBLOCK", "O_NOCTTY"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedFile(f"{file} is missing. {advice}") from error
    except OSError as error:
        if error.errno == errno.ENXIO or file.is_dir():  # of a socket; Windows opens no folder
            raise DamagedFile(_not_regular(file, os.stat(file).st_mode, advice)) from error
        raise BadInput(f"{file} cannot be read: {error.strerror or error}") from error
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise DamagedFile(_not_regular(file, mode, advice))
    return os.fdopen(handle, "rb")


def check_regular(file: Path, *, advice: str = COPY_AGAIN) -> None:
    """Refuse what `open_regular` refuses, for a library that opens the file by its path."""
    open_regular(file, advice=advice).close()


def read_limited(file: Path, limit: int | None, *, advice: str = COPY_AGAIN) -> bytes:
    """Return all bytes of a regular file of at most `limit` bytes; None allows any size.

    Raises:
        DamagedFile: it is missing, no regular file, larger, or grows while it is read.
        BadInput: the system refuses to read it.
    """
    with open_regular(file, advice=advice) as opened:
        size = os.fstat(opened.fileno()).st_size
        if limit is not None and size > limit:
            raise DamagedFile(f"{file} has {size:,} bytes, expected at most {limit:,}. {advice}")
        try:
            data = opened.read(size + 1)
        except OSError as error:
            raise BadInput(f"{file} cannot be read: {error.strerror or error}") from error
    if len(data) > size:
        raise DamagedFile(f"{file} has more than the {size:,} bytes that it is said to have")
    return data


def open_to_append(file: Path) -> int:
    """Open a regular file for appending, or create it; return its handle.

    BadInput where it is a link, which is never written through, or no regular file.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    try:
        handle = os.open(file, flags | _flags("O_NONBLOCK", "O_NOCTTY", "O_NOFOLLOW"), 0o666)
    except OSError as error:
        if file.is_symlink() or error.errno in (errno.ENXIO, errno.EISDIR):
            raise BadInput(_not_writable(file)) from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise BadInput(_not_writable(file))
    return handle


def create_file(file: Path) -> BufferedWriter:
    """Create a file for writing, in the place of a link or file of that name."""
    file.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    return os.fdopen(os.open(file, flags | _flags("O_NOFOLLOW"), 0o666), "wb")


def _flags(*names: str) -> int:
    found = _FLAGS["O_CLOEXEC"] | _FLAGS["O_BINARY"]
    for name in names:
        found |= _FLAGS[name]
    return found


def _not_regular(file: Path, mode: int, advice: str) -> str:
    kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
    where = f" (a link to {os.path.realpath(file)})" if file.is_symlink() else ""
    return f"{file}{where} is {kind}, expected a file. {advice}"


def _not_writable(file: Path) -> str:
    what = f"a link to {os.path.realpath(file)}" if file.is_symlink() else "no regular file"
    return f"{file} is {what}, through which nothing is written; remove it, or give another folder"
