"""zarr v2 reader: arrays stored as a folder, or a zip file, of compressed chunks.

Format: zarr-developers/zarr-specs, docs/v2/v2.0.rst. The format reads a missing chunk as a fill
value; this reader refuses it, because a complete recording has every chunk.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput, DamagedFile, library_words
from imitact.datasets import images
from imitact.datasets.key_selection import vector_width
from imitact.parallel.isolated_process import MAX_ANSWER_BYTES, IsolatedProcess
from imitact.parallel.isolated_worker import CODECS
from imitact.storage.json_file import parse_json_object, read_bytes
from imitact.storage.lfs_pointer import refuse_lfs_pointer, refuse_pointer_bytes
from imitact.storage.zip_file import check_directory

COPY = "Copy the dataset again from its source."
_MAX_JSON_BYTES = 1 << 20
_MAX_ROWS = 100_000_000
_MAX_AXES = 6


class ZarrStore:
    """Files of a zarr dataset, in a folder or in a zip file, by their path within it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._names: frozenset[str] | None = None
        if path.is_file():
            try:
                check_directory(path)
                with zipfile.ZipFile(path) as archive:
                    self._names = frozenset(archive.namelist())
            except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
                refuse_lfs_pointer(path)
                raise DamagedFile(
                    f"{path} is not a readable zip file: {library_words(error)}. {COPY}"
                ) from error

    def has(self, name: str) -> bool:
        return name in self._names if self._names is not None else os.path.lexists(self.path / name)

    def read(self, name: str, limit: int) -> bytes:
        """All bytes of a file; refuses more than `limit`."""
        if self._names is None:
            return read_bytes(self.path / name, limit=limit, advice=COPY)
        try:
            with zipfile.ZipFile(self.path) as archive:
                if archive.getinfo(name).file_size > limit:
                    raise DamagedFile(f"{self.path / name} has more than {limit:,} bytes. {COPY}")
                return archive.read(name)
        except (KeyError, OSError, ValueError, NotImplementedError, EOFError, RuntimeError,
                zipfile.BadZipFile, zipfile.zlib.error) as error:  # fmt: skip  # pyright: ignore
            raise DamagedFile(
                f"{self.path / name} cannot be read: {library_words(error)}. {COPY}"
            ) from error

    def arrays(self, group: str) -> list[str]:
        """Sorted names of the arrays directly in a group."""
        if self._names is not None:
            parts = (n.removeprefix(f"{group}/") for n in self._names if n.startswith(f"{group}/"))
            return sorted(p.removesuffix("/.zarray") for p in parts
                          if p.endswith("/.zarray") and p.count("/") == 1)  # fmt: skip
        return sorted(p.parent.name for p in (self.path / group).glob("*/.zarray"))

    def unread(self, group: str) -> list[str]:
        """Sorted names of what is in a group and no array of it: groups, and other versions'."""
        arrays = {*self.arrays(group)}
        if self._names is not None:
            parts = (n.removeprefix(f"{group}/") for n in self._names if n.startswith(f"{group}/"))
            found = {part.partition("/")[0] for part in parts if "/" in part}
        else:
            found = {p.name for p in (self.path / group).glob("*") if p.is_dir()}
        return sorted(name for name in found - arrays if not name.startswith("."))


@dataclass(frozen=True)
class ZarrArray:
    """Header of one array, from its .zarray, and access to its rows."""

    store: ZarrStore
    name: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    order: str
    codec: dict[str, Any] | None
    separator: str

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def width(self) -> int:
        """Values per tick of an array of vectors; 0 for any other."""
        return vector_width(self.shape)

    @property
    def description(self) -> str:
        """Name, type and shape, for error messages."""
        return f"{self.name} {self.dtype.name}{list(self.shape)}"

    def chunk_names(self) -> Iterator[str]:
        """Paths of all chunks, in order."""
        for at in _grid(self.shape, self.chunks):
            yield f"{self.name}/{self.separator.join(map(str, at))}"

    def rows(self, process: IsolatedProcess, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop`."""
        if (stop - start) * self.row_bytes > MAX_ANSWER_BYTES:
            raise DamagedFile(
                f"{self.store.path}: rows {start} to {stop} of {self.description} exceed "
                f"{MAX_ANSWER_BYTES:,} bytes"
            )
        found = np.empty((stop - start, *self.shape[1:]), self.dtype)
        depth = self.chunks[0]
        for first in range(start // depth, -(-stop // depth)):
            lowest, highest = max(start, first * depth), min(stop, (first + 1) * depth)
            for rest in _grid(self.shape[1:], self.chunks[1:]):
                chunk = self._chunk(process, (first, *rest))
                inside = [slice(lowest - first * depth, highest - first * depth)]
                place = [slice(lowest - start, highest - start)]
                for at, size, edge in zip(rest, self.chunks[1:], self.shape[1:], strict=True):
                    end = min(edge, (at + 1) * size)
                    inside.append(slice(0, end - at * size))
                    place.append(slice(at * size, end))
                found[tuple(place)] = chunk[tuple(inside)]
        return found

    def _chunk(self, process: IsolatedProcess, at: tuple[int, ...]) -> NDArray[Any]:
        name = f"{self.name}/{self.separator.join(map(str, at))}"
        file = self.store.path / name
        if not self.store.has(name):
            raise DamagedFile(f"{file} is missing, a chunk of {self.name}. {COPY}")
        size = math.prod(self.chunks) * self.dtype.itemsize
        data: Any = self.store.read(name, limit=size + (size >> 3) + 4096)
        refuse_pointer_bytes(data, file)
        if self.codec is not None and self.codec.get("id") in images.CODECS:
            return self._image(file, data)
        if self.codec is not None:
            _, data = process.call(file, "decode", data, codec=self.codec, max_bytes=size)
        if len(data) != size:
            raise DamagedFile(f"{file} has {len(data)} bytes, expected {size}. {COPY}")
        order: Any = self.order
        return np.frombuffer(data, self.dtype).reshape(self.chunks, order=order)

    def _image(self, file: Path, data: bytes) -> NDArray[Any]:
        """Decode a chunk that is one compressed frame."""
        sizes = [n for n in self.chunks if n > 1]
        if len(sizes) != 3 or sizes[2] != 3 or self.dtype != np.uint8:
            raise BadInput(
                f"{file}: {self.description} in chunks {list(self.chunks)}; imitact reads "
                "compressed frames of shape (H, W, 3) and type uint8 with one frame per chunk"
            )
        assert self.codec is not None
        decoder = images.CODECS[self.codec["id"]]
        frame = images.decode_with(decoder, data, (sizes[0], sizes[1]), str(file), COPY)
        return frame.reshape(self.chunks)


def _grid(shape: tuple[int, ...], chunks: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield the place of every chunk in the grid of chunks, the last axis fastest.

    itertools.product and numpy.ndindex keep the numbers of each axis: 400 MB for 10 million rows.
    """
    counts = [-(-n // c) for n, c in zip(shape, chunks, strict=True)]
    for number in range(math.prod(counts)):
        at = []
        for count in reversed(counts):
            number, place = divmod(number, count)
            at.append(place)
        yield tuple(reversed(at))


def open_array(store: ZarrStore, name: str) -> ZarrArray:
    """Open an array by name; refuses a .zarray that is invalid or not supported."""
    file = store.path / name / ".zarray"
    if not store.has(f"{name}/.zarray"):
        raise DamagedFile(f"{store.path} has no array {name}. {COPY}")
    about = parse_json_object(store.read(f"{name}/.zarray", _MAX_JSON_BYTES), file, advice=COPY)
    try:
        if about["zarr_format"] != 2:
            raise BadInput(f"{file}: zarr format {about['zarr_format']}; imitact reads format 2")
        if about.get("filters"):
            raise BadInput(f"{file}: it has filters; imitact reads arrays without")
        shape, chunks = _sizes(about["shape"]), _sizes(about["chunks"])
        dtype = np.dtype(str(about["dtype"]))
        codec = about["compressor"]
        separator = str(about.get("dimension_separator", "."))
        if dtype.kind not in "biuf" or dtype.itemsize > 8:
            raise ValueError(f"dtype {about['dtype']!r}")
        if len(shape) != len(chunks) or not 1 <= len(shape) <= _MAX_AXES or min(chunks) < 1:
            raise ValueError(f"shape {shape} in chunks {chunks}")
        if shape[0] > _MAX_ROWS or math.prod(chunks) * dtype.itemsize > MAX_ANSWER_BYTES:
            raise ValueError(f"shape {shape} in chunks {chunks} is too large")
        if math.prod(shape[1:]) * dtype.itemsize > MAX_ANSWER_BYTES:
            raise ValueError(f"a row of shape {shape[1:]}")
        if about["order"] not in ("C", "F") or separator not in (".", "/"):
            raise ValueError(f"order {about['order']!r}, separator {separator!r}")
        if codec is not None and not isinstance(codec, dict):
            raise ValueError(f"compressor {codec!r}")
        known = (None, *CODECS, *images.CODECS)
        if codec is not None and codec.get("id") not in known:
            raise BadInput(
                f'{file}: compressor "{codec.get("id")}"; imitact reads '
                f"{', '.join(known[1:])}. Write the array again with one of these"
            )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DamagedFile(
            f"{file} is not a valid zarr header ({type(error).__name__}: {error}). {COPY}"
        ) from error
    return ZarrArray(store, name, shape, chunks, dtype, about["order"], codec, separator)


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(n) is int and n >= 0 for n in value):
        raise ValueError(f"sizes {value!r}")
    return tuple(value)
