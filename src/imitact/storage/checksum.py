"""Checksums: the SHA-256 of files, and JSON objects that carry that of their own values.

An object that imitact writes for itself ends with the key `sha256`: the SHA-256 of its other keys,
taken over their shortest JSON with sorted keys. So the layout of the file may change, and no value
may.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from imitact.core.errors import DamagedFile
from imitact.storage.regular_file import COPY_AGAIN, open_regular

CHECKSUM_KEY = "sha256"


def with_checksum(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as plain JSON, with their SHA-256 as the last key.

    Any `sha256` that `value` has is replaced.
    """
    rest = {name: part for name, part in value.items() if name != CHECKSUM_KEY}
    # To JSON and back: a tuple counts as the list, and a numeric key as the text, that it becomes.
    plain = json.loads(json.dumps(rest, allow_nan=False))
    return {**plain, CHECKSUM_KEY: json_sha256(plain)}


def json_sha256(value: Mapping[str, Any]) -> str:
    """Return the SHA-256 of plain JSON values, without the key `sha256`."""
    rest = {name: part for name, part in value.items() if name != CHECKSUM_KEY}
    return bytes_sha256(msgspec.json.encode(rest, order="sorted"))


def verified(
    value: Mapping[str, Any], file: Path, *, required: bool, advice: str = COPY_AGAIN
) -> dict[str, Any]:
    """Return the values of an object that `with_checksum` made, without its checksum.

    Raises DamagedFile, which names `file` and ends with the advice, for values that do not have
    this checksum, and for none where it is `required`; older files have none.
    """
    if CHECKSUM_KEY not in value and not required:
        return dict(value)
    try:
        is_right = value.get(CHECKSUM_KEY) == json_sha256(value)
    except (msgspec.MsgspecError, OverflowError, ValueError, RecursionError):
        is_right = False  # values that imitact could not have written
    if not is_right:
        raise DamagedFile(
            f"{file} is not what was written: its values do not have the SHA-256 that it gives. "
            f"{advice}"
        )
    return {name: part for name, part in value.items() if name != CHECKSUM_KEY}


def bytes_sha256(data: bytes | memoryview) -> str:
    """Return the SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(file: Path, *, advice: str = COPY_AGAIN) -> str:
    """Return the SHA-256 of a file, which is read in blocks."""
    with open_regular(file, advice=advice) as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
