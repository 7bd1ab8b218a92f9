"""JSON that vouches for itself, and JSON from anywhere read without trust.

An object that imitact writes for itself ends with `sha256`, of all its other keys: of their
shortest JSON with sorted keys, so that the layout may change and no value may. A line of a journal
ends with the CRC-32 of all before it. Whatever else a file holds ends in Damaged, in memory that
its size bounds.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from imitact.contract import BadInput, Damaged

KEY = "sha256"

MAX_BYTES = 256 << 20
"""More is no file of imitact's: a hundred thousand episodes take a tenth of it."""

COPY_AGAIN = "Copy it again from where it came."

_LINE = re.compile(rb'(\{.*),"crc32":(\d{1,10})\}', re.DOTALL)


def vouched(value: Mapping[str, Any]) -> dict[str, Any]:
    """With the SHA-256 of its values, as its last key."""
    rest = {name: part for name, part in value.items() if name != KEY}
    # There and back: what JSON makes of a value (a tuple, a number as a key) is what counts.
    plain = json.loads(json.dumps(rest, allow_nan=False))
    return {**plain, KEY: digest(plain)}


def digest(value: Mapping[str, Any]) -> str:
    """SHA-256 of all keys but `sha256`, of plain JSON values."""
    rest = {name: part for name, part in value.items() if name != KEY}
    return hashlib.sha256(msgspec.json.encode(rest, order="sorted")).hexdigest()


def checked(
    value: Mapping[str, Any], file: Path, *, required: bool, advice: str = COPY_AGAIN
) -> dict[str, Any]:
    """The values of an object from `file`, without `sha256`; refuses other than were written.

    required: whether it must vouch for itself; older files do not.
    """
    if KEY not in value and not required:
        return dict(value)
    try:
        is_right = value.get(KEY) == digest(value)
    except (msgspec.MsgspecError, OverflowError, ValueError, RecursionError):
        is_right = False  # values that imitact could not have written
    if not is_right:
        raise Damaged(
            f"{file} is not what was written: its values do not have the SHA-256 that it names. "
            f"{advice}"
        )
    return {name: part for name, part in value.items() if name != KEY}


def read_bytes(file: Path, *, limit: int = MAX_BYTES, advice: str = COPY_AGAIN) -> bytes:
    """All of a file; refuses one that is missing, or larger than anything expected there."""
    try:
        size = file.stat().st_size
        if size > limit:
            raise Damaged(f"{file} has {size:,} bytes; at most {limit:,} are expected. {advice}")
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Damaged(f"{file} is missing. {advice}") from error
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror or error}") from error


def parsed(data: bytes, file: Path, *, advice: str = COPY_AGAIN) -> dict[str, Any]:
    """A JSON object, of UTF-8 and without NaN, as the standard has it; else Damaged."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        raise Damaged(f"{file} is no JSON: {error}. {advice}") from error
    if not isinstance(value, dict):
        raise Damaged(f"{file} holds {type(value).__name__}, expected an object. {advice}")
    return value


def read_object(file: Path, *, limit: int = MAX_BYTES, advice: str = COPY_AGAIN) -> dict[str, Any]:
    """The JSON object in a file."""
    return parsed(read_bytes(file, limit=limit, advice=advice), file, advice=advice)


def line(value: Mapping[str, Any]) -> bytes:
    """A line of a journal for plain JSON values, one at least; its line feed included."""
    data = msgspec.json.encode(value)
    return data[:-1] + b',"crc32":%d}\n' % zlib.crc32(data)


def parse_line(data: bytes, *, required: bool) -> dict[str, Any]:
    """What `line` made, without its checksum.

    required: whether it must have one; lines of older files have none.

    Raises ValueError where it is no JSON object, or not what was written.
    """
    found = _LINE.fullmatch(data)
    if found:
        data = found[1] + b"}"
        if zlib.crc32(data) != int(found[2]):
            raise ValueError("its CRC-32 is not the one that it names")
    try:
        value = msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, OverflowError, RecursionError) as error:
        raise ValueError(f"not a JSON object: {error}") from error
    if not found and (required or "crc32" in value):
        raise ValueError("its CRC-32 is missing")
    return value
