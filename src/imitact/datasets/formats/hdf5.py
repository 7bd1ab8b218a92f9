"""An HDF5 file as arrays by path: their shapes, and their rows when asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import DamagedFile
from imitact.parallel.isolated_process import MAX_ANSWER_BYTES, IsolatedProcess

MOST_TICKS = 10_000_000
"""An array of more rows is a mistake: 55 hours at 50 Hz."""

_COPY = "Copy the file again from where it came, or record it anew."


@dataclass(frozen=True)
class Array:
    """An array of a file.

    kind:       "plain": numbers, or texts of one length; "bytes": rows of any number of bytes;
                "text": texts; "other": anything else.
    chunk_rows: rows that are packed together.
    whole:      whether all of it was written; what was not reads as zeros.
    here:       whether its numbers lie in this file.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    kind: str
    chunk_rows: int
    whole: bool
    here: bool

    @property
    def is_numbers(self) -> bool:
        """Integers, floats or truths."""
        return self.kind == "plain" and self.dtype[1:2] in "biuf"

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of an array of one length."""
        return int(np.prod(self.shape[1:], dtype=object)) * np.dtype(self.dtype).itemsize

    @property
    def told(self) -> str:
        """Its path, type and shape, for an error that lists what there is."""
        return f"{self.path} {self.dtype.strip('<|=>')}{list(self.shape)}"


class Hdf5:
    """HDF5 files, read in a process apart."""

    def __init__(self) -> None:
        self._apart = IsolatedProcess()

    def arrays(self, file: Path) -> dict[str, Array]:
        """Every array of a file by its path ("/observations/qpos"), in the order of the names."""
        head, _ = self._apart.ask(file, "tree", file=str(file.absolute()))
        try:
            found = [
                Array(
                    str(a["path"]), tuple(map(int, a["shape"])), str(a["dtype"]), str(a["kind"]),
                    int(a["chunk_rows"]), bool(a["whole"]), bool(a["here"]),
                )
                for a in head["arrays"]
            ]  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedFile(f"{file} cannot be read ({error}). {_COPY}") from error
        return {array.path: array for array in sorted(found, key=lambda a: a.path)}

    def attributes(self, file: Path, path: str = "") -> dict[str, Any]:
        """The numbers, truths and texts among the attributes of a group."""
        head, _ = self._apart.ask(file, "attributes", file=str(file.absolute()), path=path)
        return dict(head["attributes"])

    def checked(self, file: Path, array: Array) -> Array:
        """An array that can be used; refuses one that was not written to its end."""
        where = f"{file}: {array.path}"
        if not array.here:
            raise DamagedFile(
                f"{where} points to another file, which imitact does not follow; copy the numbers "
                "into this one (h5repack does)"
            )
        if not array.shape or not 1 <= array.shape[0] <= MOST_TICKS:
            raise DamagedFile(
                f"{where} has shape {array.shape}; expected 1 to {MOST_TICKS:,} rows. {_COPY}"
            )
        if not array.whole:
            raise DamagedFile(
                f"{where} was not written to its end: some of its rows are not in the file. {_COPY}"
            )
        return array

    def rows(self, file: Path, array: Array, start: int, stop: int) -> NDArray[Any]:
        """Rows start to stop of an array of numbers, or of texts of one length."""
        head, body = self._apart.ask(
            file, "rows", file=str(file.absolute()), path=array.path, start=start, stop=stop
        )
        try:
            dtype = np.dtype(head["dtype"])
            values = np.frombuffer(body, dtype).reshape(head["shape"])
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedFile(f"{file}: {array.path} cannot be read ({error}). {_COPY}") from error
        if len(values) != stop - start or values.shape[1:] != array.shape[1:]:
            raise DamagedFile(
                f"{file}: {array.path} gave {len(values)} rows of {start} to {stop}. {_COPY}"
            )
        return values

    def cells(self, file: Path, array: Array, start: int, stop: int) -> list[bytes]:
        """Rows start to stop of an array whose rows are so many bytes each."""
        if array.kind == "plain":
            return [row.tobytes() for row in self.rows(file, array, start, stop)]
        head, body = self._apart.ask(
            file, "rows", file=str(file.absolute()), path=array.path, start=start, stop=stop
        )
        data, cells, at = bytes(body), [], 0
        for length in head.get("lengths", ()):
            cells.append(data[at : at + length])
            at += length
        if len(cells) != stop - start:
            raise DamagedFile(
                f"{file}: {array.path} gave {len(cells)} rows of {start} to {stop}. {_COPY}"
            )
        return cells

    def numbers(self, file: Path, array: Array) -> NDArray[Any]:
        """All of an array of numbers, (T, ...); refuses more than memory should hold."""
        if not array.is_numbers or array.row_bytes * array.shape[0] > MAX_ANSWER_BYTES:
            raise DamagedFile(
                f"{file}: {array.told}; expected numbers, at most {MAX_ANSWER_BYTES:,} bytes"
            )
        return self.rows(file, array, 0, array.shape[0])
