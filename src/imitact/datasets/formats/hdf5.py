"""HDF5 reader: arrays by path, their shapes, and blocks of their rows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import DamagedFile
from imitact.core.words import counted
from imitact.datasets.key_selection import vector_width
from imitact.datasets.read_config import MAX_EPISODE_TICKS
from imitact.parallel.isolated_process import MAX_ANSWER_BYTES, IsolatedProcess

COPY = "Copy the file again from its source, or record it again."


@dataclass(frozen=True)
class Hdf5Array:
    """Header of one array in an HDF5 file.

    Attributes:
        path: path within the file, "/observations/qpos".
        shape: sizes; the first is the number of rows.
        dtype: NumPy type string, "<f4".
        kind: "plain" for numbers or byte strings of one length, "bytes" for rows of differing
            length, "text" for text, "other" for anything else.
        chunk_rows: rows that are compressed together; 1 where the array is not chunked.
        is_complete: whether every row was written; HDF5 reads missing rows as zeros.
        is_local: whether the values are in this file, not behind a link to another.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    kind: str
    chunk_rows: int
    is_complete: bool
    is_local: bool

    @property
    def is_numeric(self) -> bool:
        """Whether the values are integers, floats or booleans."""
        return self.kind == "plain" and self.dtype[1:2] in "biuf"

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of a "plain" array."""
        return int(np.prod(self.shape[1:], dtype=object)) * np.dtype(self.dtype).itemsize

    @property
    def width(self) -> int:
        """Values per tick of an array of vectors; 0 for any other."""
        return vector_width(self.shape)

    @property
    def description(self) -> str:
        """Path, type and shape, for error messages."""
        return f"{self.path} {self.dtype.strip('<|=>')}{list(self.shape)}"


class Hdf5Reader:
    """Reads HDF5 files in a separate process, because HDF5 crashes on some damaged files."""

    def __init__(self, process: IsolatedProcess | None = None) -> None:
        self._process = process or IsolatedProcess()

    def arrays(self, file: Path) -> dict[str, Hdf5Array]:
        """Headers of all arrays by path, sorted by path."""
        head, _ = self._process.call(file, "tree", file=str(file.absolute()))
        try:
            found = [
                Hdf5Array(
                    str(a["path"]), tuple(map(int, a["shape"])), str(a["dtype"]), str(a["kind"]),
                    int(a["chunk_rows"]), bool(a["whole"]), bool(a["here"]),
                )
                for a in head["arrays"]
            ]  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedFile(f"{file} cannot be read ({error}). {COPY}") from error
        return {array.path: array for array in sorted(found, key=lambda a: a.path)}

    def has_array(self, file: Path, path: str) -> bool:
        """Whether a group has an array within one of its groups; "/data" for "/data/demo_0/a"."""
        head, _ = self._process.call(file, "has_array", file=str(file.absolute()), path=path)
        return bool(head["found"])

    def attributes(self, file: Path, path: str = "") -> dict[str, Any]:
        """Attributes of a group that are numbers, booleans or text."""
        head, _ = self._process.call(file, "attributes", file=str(file.absolute()), path=path)
        return dict(head["attributes"])

    def rows(self, file: Path, array: Hdf5Array, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop` of a "plain" array."""
        head, body = self._read(file, array, start, stop)
        try:
            values = np.frombuffer(body, np.dtype(head["dtype"])).reshape(head["shape"])
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedFile(f"{file}: {array.path} cannot be read ({error}). {COPY}") from error
        _check_count(file, array, len(values), start, stop, values.shape[1:] == array.shape[1:])
        return values

    def byte_rows(self, file: Path, array: Hdf5Array, start: int, stop: int) -> list[bytes]:
        """Rows `start` to `stop` of an array whose rows are byte strings."""
        if array.kind == "plain":
            return [row.tobytes() for row in self.rows(file, array, start, stop)]
        head, body = self._read(file, array, start, stop)
        data, cells, at = bytes(body), [], 0
        for length in head.get("lengths", ()):
            cells.append(data[at : at + length])
            at += length
        _check_count(file, array, len(cells), start, stop)
        return cells

    def values(self, file: Path, array: Hdf5Array) -> NDArray[Any]:
        """All rows of a numeric array, (T, ...); refuses more bytes than one answer may hold."""
        if not array.is_numeric or array.row_bytes * array.shape[0] > MAX_ANSWER_BYTES:
            raise DamagedFile(
                f"{file}: {array.description}; expected numbers, at most {MAX_ANSWER_BYTES:,} bytes"
            )
        return self.rows(file, array, 0, array.shape[0])

    def _read(self, file: Path, array: Hdf5Array, start: int, stop: int) -> tuple[Any, Any]:
        return self._process.call(
            file, "rows", file=str(file.absolute()), path=array.path, start=start, stop=stop
        )


def _check_count(
    file: Path, array: Hdf5Array, count: int, start: int, stop: int, same_shape: bool = True
) -> None:
    if count != stop - start or not same_shape:
        raise DamagedFile(
            f"{file}: {array.path} gave {counted(count, 'row')} for rows {start} to {stop}. {COPY}"
        )


def check_readable(file: Path, array: Hdf5Array) -> Hdf5Array:
    """Return the array; refuse a linked, empty, oversized or incompletely written one."""
    where = f"{file}: {array.path}"
    if not array.is_local:
        raise DamagedFile(
            f"{where} is a link to another file, and imitact follows none; copy the values into "
            "this file with h5repack"
        )
    if not array.shape or not 1 <= array.shape[0] <= MAX_EPISODE_TICKS:
        raise DamagedFile(
            f"{where} has shape {array.shape}; expected 1 to {MAX_EPISODE_TICKS:,} rows. {COPY}"
        )
    if not array.is_complete:
        raise DamagedFile(f"{where} is incomplete: some of its rows were never written. {COPY}")
    return array


def natural_sort_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that orders the numbers within names by value: episode_2 before episode_10."""
    parts = re.split(r"([0-9]+)", name)
    return [(1, int(p), "") if i % 2 else (0, 0, p) for i, p in enumerate(parts)]
