"""Safetensors files: tensors by name, read without trust."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
from torch import Tensor

from imitact.core.errors import DamagedFile
from imitact.storage.json_file import read_bytes
from imitact.storage.lfs_pointer import refuse_pointer_bytes

_MAX_HEADER_BYTES = 4 << 20
MAX_FILE_BYTES = 1 << 30
"""The released ACT, with 84 million weights, takes a third of it."""


def read_safetensors(file: Path, *, limit: int = MAX_FILE_BYTES) -> dict[str, Tensor]:
    """Return the tensors of a file of at most `limit` bytes, as views of its bytes."""
    return parse_safetensors(read_bytes(file, limit=limit), file)


def parse_safetensors(data: bytes, file: Path) -> dict[str, Tensor]:
    """Return the tensors in the bytes of a safetensors file; anything else is a `DamagedFile`."""
    refuse_pointer_bytes(data, file)
    header = int.from_bytes(data[:8], "little")
    if len(data) < 8 or header > min(_MAX_HEADER_BYTES, len(data) - 8):
        raise DamagedFile(f"{file} is not a safetensors file (its header has {header} bytes)")
    try:
        return safetensors.torch.load(data)
    except Exception as error:  # the reader raises various types on damaged bytes
        raise DamagedFile(f"{file} cannot be read as safetensors: {error}") from error
