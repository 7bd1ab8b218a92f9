"""Untrusted JSON files: read with checks of size, encoding and type; damage is reported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from imitact.core.errors import DamagedFile, ImitactError, library_words
from imitact.core.version import __version__
from imitact.storage.lfs_pointer import refuse_pointer_bytes
from imitact.storage.regular_file import COPY_AGAIN as COPY_AGAIN
from imitact.storage.regular_file import read_limited

MAX_BYTES = 64 << 20
"""Larger files are refused unread; the metadata of a hundred thousand episodes take half of it."""

_MAX_MEMORY_BYTES = 700 << 20
"""What the values of one file may take in memory."""

_VALUE_BYTES = {b"{": 140, b"[": 75, b",": 55, b":": 90}
"""Memory that an object, a list, a value of either and a key take at most, besides their text."""


def read_bytes(file: Path, *, limit: int | None = MAX_BYTES, advice: str = COPY_AGAIN) -> bytes:
    """Return all bytes of a file; BadInput where the system refuses to read it.

    DamagedFile, which ends with the advice, where the file is missing, no regular file, or larger
    than `limit` bytes; None allows any size.
    """
    return read_limited(file, limit, advice=advice)


def check_json_memory(
    data: bytes | memoryview, file: Path | str, *, advice: str = COPY_AGAIN
) -> None:
    """Raise DamagedFile for JSON whose values could take more than 700 MiB of memory.

    Values of three bytes ("[],") take twenty times as many in memory, so it is estimated from the
    number of brackets, commas and colons, those in texts included.
    """
    text = bytes(data)
    estimate = 4 * len(text) if b"\\u" in text or not text.isascii() else len(text)
    estimate += sum(size * text.count(sign) for sign, size in _VALUE_BYTES.items())
    if estimate > _MAX_MEMORY_BYTES:
        raise DamagedFile(
            f"{file} would take up to {estimate >> 20:,} MiB of memory, expected at most "
            f"{_MAX_MEMORY_BYTES >> 20}. {advice}"
        )


def parse_json_object(
    data: bytes | memoryview, file: Path | str, *, advice: str = COPY_AGAIN
) -> dict[str, Any]:
    """Return the JSON object that `data` is: UTF-8, without NaN and infinity.

    DamagedFile, which names `file` and ends with the advice, where it is not JSON or not an object.
    """
    check_json_memory(data, file, advice=advice)
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        refuse_pointer_bytes(data, file)
        raise DamagedFile(f"{file} is not JSON: {library_words(error)}. {advice}") from error
    if not isinstance(value, dict):
        raise DamagedFile(f"{file} holds {type(value).__name__}, expected an object. {advice}")
    return value


def read_json_object(
    file: Path, *, limit: int | None = MAX_BYTES, advice: str = COPY_AGAIN
) -> dict[str, Any]:
    """Return the JSON object in a file; arguments and errors as of the two functions above."""
    return parse_json_object(read_bytes(file, limit=limit, advice=advice), file, advice=advice)


def check_format(values: Mapping[str, Any], *known: int) -> int:
    """Return the format number in the values of a file; refuse all but the known ones."""
    found = values.get("format")
    if found in known and not isinstance(found, bool):
        return found
    version = values.get("imitact")
    by = f", written by imitact {version}" if isinstance(version, str) else ""
    reads = " and ".join(filter(None, (", ".join(map(str, known[:-1])), str(known[-1]))))
    raise DamagedFile(
        f"format is {found!r}{by}, this imitact ({__version__}) reads {reads}; use the version of "
        "imitact that wrote it"
    )


@contextmanager
def naming_file(file: Path | str, *others: Path) -> Iterator[None]:
    """Turn refusals of values read from `file` (or a field: "FILE: NAME") into DamagedFile.

    Errors that name it, or one of `others`, are raised unchanged.
    """
    try:
        yield
    except (ImitactError, msgspec.ValidationError) as error:
        if any(str(path) in str(error) for path in (file, *others)):
            raise
        raise DamagedFile(f"{file}: {error}") from error
