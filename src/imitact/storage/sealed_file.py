"""Sealed file: one file that ends with the SHA-256 of everything before it.

    parts | metadata, JSON | footer

The footer is 96 ASCII characters: the offset of the metadata and its length in bytes (16 decimal
digits each), then the SHA-256 of everything before it (64 hexadecimal digits). So a reader finds
the rest from the end, and no byte can change unseen. In an ONNX file, metadata and footer stand in
`metadata_props`, whose last bytes are the file's last, so that any reader of ONNX opens it.
"""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imitact.core.errors import BadInput, DamagedFile
from imitact.storage.checksum import bytes_sha256
from imitact.storage.json_file import parse_json_object
from imitact.storage.lfs_pointer import refuse_lfs_pointer
from imitact.storage.regular_file import COPY_AGAIN, open_regular

FOOTER_BYTES = 96
_SHA256_BYTES = 64

_FOOTER = re.compile(rb"(\d{16})(\d{16})([0-9a-f]{64})")


def seal(parts: bytes, about: Mapping[str, Any]) -> bytes:
    """Return the bytes of a sealed file of these parts and this metadata."""
    text = json.dumps(about, ensure_ascii=False, allow_nan=False).encode()
    return with_footer(parts + text, len(parts), len(text))


def with_footer(data: bytes, at: int, size: int) -> bytes:
    """Return `data`, whose metadata are `size` bytes from byte `at`, followed by its footer."""
    data += f"{at:016d}{size:016d}".encode()
    return data + bytes_sha256(data).encode()


@dataclass(frozen=True)
class SealedFile:
    """A verified sealed file: all of it, mapped into memory; its metadata; its SHA-256."""

    data: memoryview
    about: Mapping[str, Any]
    sha256: str

    def part(self, name: str) -> memoryview:
        """Return the bytes from first to end, as about["parts"][name] = [first, end] has it."""
        first, end = self.about["parts"][name]
        return self.data[first:end]


def unseal(path: Path) -> SealedFile:
    """Open a file that `seal` made; DamagedFile where it is truncated or altered."""
    if not path.exists():
        raise BadInput(f"{path}: no such file; an exported policy is one file of imitact export")
    try:
        with open_regular(path) as file:
            # A private copy, page by page, of what is written to: OpenVINO takes no memory that it
            # could not write to, and writes to none. A file of no bytes cannot be mapped.
            size = os.fstat(file.fileno()).st_size
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if size else b""
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    data = memoryview(mapped)
    found = _FOOTER.fullmatch(data[-FOOTER_BYTES:]) if len(data) >= FOOTER_BYTES else None
    if found is None:
        refuse_lfs_pointer(path)
        raise DamagedFile(
            f"{path} ({len(data)} bytes) does not end as an exported policy does: it is truncated, "
            "or was not written by imitact export. Copy it again, or give a policy's folder"
        )
    at, size, sha256 = int(found[1]), int(found[2]), found[3].decode()
    if bytes_sha256(data[:-_SHA256_BYTES]) != sha256:
        raise DamagedFile(
            f"{path} is not the file that was exported: its SHA-256 is not the one that it ends "
            f"with. {COPY_AGAIN}"
        )
    about = parse_json_object(data[at : at + size], f"{path}: its metadata")
    return SealedFile(data, about, sha256)
