"""Zip files: what their members promise, checked before any of them is read."""

from __future__ import annotations

import os
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from imitact.core.errors import DamagedFile
from imitact.storage.regular_file import COPY_AGAIN, open_regular

MAX_DIRECTORY_BYTES = 96 << 20
"""Of the list of members, about a million; each takes some 600 bytes of memory."""

_MAX_END_BYTES = (1 << 16) + 22 + 56 + 20
"""The end of a zip file: a comment of up to 65,535 bytes, and three records before it."""


def check_directory(file: Path) -> None:
    """Raise DamagedFile for a zip file whose list of members is too long, before it is read.

    APPNOTE 6.3.10, sections 4.3.14 to 4.3.16: its size is at the end of the file; where that has
    no room for it, it is in front of that, with 64 bits.
    """
    with open_regular(file) as opened:
        opened.seek(max(0, os.fstat(opened.fileno()).st_size - _MAX_END_BYTES))
        end = opened.read(_MAX_END_BYTES)
    at, wide = end.rfind(b"PK\x05\x06"), end.rfind(b"PK\x06\x06")
    size = int.from_bytes(end[at + 12 : at + 16], "little") if at >= 0 else 0
    if wide >= 0:
        own = int.from_bytes(end[wide + 40 : wide + 48], "little")
        size = own if size == 2**32 - 1 else max(size, own)
    if size > MAX_DIRECTORY_BYTES:
        raise DamagedFile(
            f"{file} lists its members in {size:,} bytes, expected at most "
            f"{MAX_DIRECTORY_BYTES:,}; unpack it, and give the folder"
        )


def check_stored(file: Path, *, advice: str = COPY_AGAIN) -> None:
    """Raise DamagedFile for a zip file whose members are larger than it, as compressed ones are.

    For files whose writer compresses nothing: NumPy's .npz, torch's checkpoints.
    """
    check_directory(file)
    try:
        with open_regular(file, advice=advice) as opened, ZipFile(opened) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except (OSError, ValueError, NotImplementedError, BadZipFile) as error:
        raise DamagedFile(f"{file} is not a readable zip file: {error}. {advice}") from error
    if size > file.stat().st_size:
        raise DamagedFile(f"{file} holds members of {size:,} bytes, more than it has. {advice}")
