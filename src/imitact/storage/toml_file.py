"""Untrusted TOML files: read with checks of size, encoding and depth; errors name the file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from imitact.core.errors import BadInput
from imitact.storage.regular_file import read_limited

MAX_BYTES = 1_000_000

_MARK = b"\xef\xbb\xbf"
"""What some editors on Windows write at the begin of UTF-8 text."""


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Return the values of a TOML file of at most `MAX_BYTES`.

    Args:
        path: of the file.
        what: what it should be, for messages: "robot.toml".

    Raises:
        BadInput: it is missing, no regular file, too large, not UTF-8, or no TOML.
    """
    data = read_limited(path, MAX_BYTES, advice=f"Give the path of a {what}.")
    return parse_toml(data, str(path))


def parse_toml(text: bytes | str, where: str) -> dict[str, Any]:
    """Return the values of a TOML text.

    Raises:
        BadInput: it is not UTF-8, or no TOML; the message begins with `where`.
    """
    if isinstance(text, bytes):
        text = _decoded(text.removeprefix(_MARK), where)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise BadInput(f"{where} is no TOML: its lists or tables are nested too deep") from None
    except ValueError as error:  # of the syntax; Python reads whole numbers of 4300 digits at most
        raise BadInput(f"{where} is no TOML: {error}") from None


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInput(
            f"{where} is not UTF-8 text: line {line} has the byte {data[error.start]:#04x}; save "
            "it as UTF-8"
        ) from None
