"""One file whose last bytes vouch for all the others.

    parts | what there is to know of them, JSON | footer

The footer is 96 ASCII characters: where the JSON begins and its length in bytes (16 decimal digits
each), and the SHA-256 of everything before it (64 hexadecimal digits). So one look at the
end finds the rest, and no byte can change unseen. In an ONNX file both stand in `metadata_props`,
whose last bytes are the file's last, so that any reader of ONNX opens it as it is.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from imitact.core.errors import BadInput, DamagedFile

FOOTER_BYTES = 96
_DIGEST_BYTES = 64

_FOOTER = re.compile(rb"(\d{16})(\d{16})([0-9a-f]{64})")


def seal(parts: bytes, about: Mapping[str, Any]) -> bytes:
    """Parts and what there is to know of them, as one file's bytes."""
    text = json.dumps(about, ensure_ascii=False, allow_nan=False).encode()
    return with_footer(parts + text, len(parts), len(text))


def with_footer(data: bytes, at: int, size: int) -> bytes:
    """`data`, in which the JSON is `size` bytes from byte `at`, with its footer."""
    data += f"{at:016d}{size:016d}".encode()
    return data + hashlib.sha256(data).hexdigest().encode()


@dataclass(frozen=True)
class SealedFile:
    """A file that was opened and found whole.

    data:   all of it, mapped, not copied.
    about:  the JSON object.
    sha256: of everything before it; tells files apart.
    """

    data: memoryview
    about: Mapping[str, Any]
    sha256: str

    def part(self, name: str) -> memoryview:
        """The bytes that about["parts"][name] spans, as [first, last + 1]."""
        first, end = self.about["parts"][name]
        return self.data[first:end]


def unseal(path: Path) -> SealedFile:
    """Open a file that `seal` made. Refuses one that is missing, cut short or altered."""
    data = _mapped(path)
    found = _FOOTER.fullmatch(data[-FOOTER_BYTES:]) if len(data) >= FOOTER_BYTES else None
    if found is None:
        raise DamagedFile(
            f"{path} ({len(data)} bytes) does not end as an exported policy does: it is truncated "
            "or was not written by imitact export; copy it again, or give a policy's folder"
        )
    at, size, digest = int(found[1]), int(found[2]), found[3].decode()
    if hashlib.sha256(data[:-_DIGEST_BYTES]).hexdigest() != digest:
        raise DamagedFile(
            f"{path} is not the file that was exported (its SHA-256 differs from the one that it "
            "ends with); copy it again"
        )
    try:
        about = msgspec.json.decode(data[at : at + size])
    except (msgspec.DecodeError, ValueError, RecursionError, OverflowError) as error:
        raise DamagedFile(f"{path}: what it says of itself is not JSON ({error})") from error
    if not isinstance(about, dict):
        raise DamagedFile(
            f"{path}: what it says of itself is {type(about).__name__}, not an object"
        )
    return SealedFile(data, about, digest)


def _mapped(path: Path) -> memoryview:
    if not path.is_file():
        raise BadInput(f"{path}: no such file; an exported policy is one file of imitact export")
    try:
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                return memoryview(b"")
            # A private copy, page by page, of what is written to: OpenVINO takes no memory that it
            # could not write to, and writes to none.
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
