"""JSON files read without trust: size, encoding and type are checked, and damage is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from imitact.core.errors import BadInput, DamagedFile

MAX_BYTES = 256 << 20
"""More is no file of imitact's: a hundred thousand episodes take a tenth of it."""


COPY_AGAIN = "Copy it again from where it came."


def read_bytes(file: Path, *, limit: int = MAX_BYTES, advice: str = COPY_AGAIN) -> bytes:
    """All of a file; refuses one that is missing, or larger than anything expected there."""
    try:
        size = file.stat().st_size
        if size > limit:
            raise DamagedFile(
                f"{file} has {size:,} bytes; at most {limit:,} are expected. {advice}"
            )
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedFile(f"{file} is missing. {advice}") from error
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror or error}") from error


def parse_json_object(data: bytes, file: Path, *, advice: str = COPY_AGAIN) -> dict[str, Any]:
    """A JSON object, of UTF-8 and without NaN, as the standard has it; else DamagedFile."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        raise DamagedFile(f"{file} is no JSON: {error}. {advice}") from error
    if not isinstance(value, dict):
        raise DamagedFile(f"{file} holds {type(value).__name__}, expected an object. {advice}")
    return value


def read_json_object(
    file: Path, *, limit: int = MAX_BYTES, advice: str = COPY_AGAIN
) -> dict[str, Any]:
    """The JSON object in a file."""
    return parse_json_object(read_bytes(file, limit=limit, advice=advice), file, advice=advice)
