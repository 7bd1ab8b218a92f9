"""JSON that vouches for itself, and JSON from anywhere read without trust.

An object that imitact writes for itself ends with `sha256`, of all its other keys: of their
shortest JSON with sorted keys, so that the layout may change and no value may. A line of a journal
ends with the CRC-32 of all before it. Whatever else a file holds ends in Damaged, in memory that
its size bounds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from imitact.core.errors import DamagedFile
from imitact.storage.json_file import COPY_AGAIN

CHECKSUM_KEY = "sha256"


def with_checksum(value: Mapping[str, Any]) -> dict[str, Any]:
    """With the SHA-256 of its values, as its last key."""
    rest = {name: part for name, part in value.items() if name != CHECKSUM_KEY}
    # There and back: what JSON makes of a value (a tuple, a number as a key) is what counts.
    plain = json.loads(json.dumps(rest, allow_nan=False))
    return {**plain, CHECKSUM_KEY: json_sha256(plain)}


def json_sha256(value: Mapping[str, Any]) -> str:
    """SHA-256 of all keys but `sha256`, of plain JSON values."""
    rest = {name: part for name, part in value.items() if name != CHECKSUM_KEY}
    return hashlib.sha256(msgspec.json.encode(rest, order="sorted")).hexdigest()


def verified(
    value: Mapping[str, Any], file: Path, *, required: bool, advice: str = COPY_AGAIN
) -> dict[str, Any]:
    """The values of an object from `file`, without `sha256`; refuses other than were written.

    required: whether it must vouch for itself; older files do not.
    """
    if CHECKSUM_KEY not in value and not required:
        return dict(value)
    try:
        is_right = value.get(CHECKSUM_KEY) == json_sha256(value)
    except (msgspec.MsgspecError, OverflowError, ValueError, RecursionError):
        is_right = False  # values that imitact could not have written
    if not is_right:
        raise DamagedFile(
            f"{file} is not what was written: its values do not have the SHA-256 that it names. "
            f"{advice}"
        )
    return {name: part for name, part in value.items() if name != CHECKSUM_KEY}


def file_sha256(file: Path, *, advice: str = COPY_AGAIN) -> str:
    """Of a file's bytes, block by block."""
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise DamagedFile(f"{file} is missing. {advice}") from error
