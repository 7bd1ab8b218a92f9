"""Columns of Parquet files from anywhere, read without trust."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imitact.core.errors import DamagedFile, SpecMismatch
from imitact.datasets.lerobot.checksums import DatasetChecksums

RESTORE = "Copy the dataset again from where it came, or record it anew."

_MARK = b"PAR1"
"""The first and the last four bytes of every Parquet file (the format's own document)."""

_EPISODE = "episode_index"

_CELLS = 8
"""Rows that are read together where a cell is a picture."""

_READ_AHEAD = 1 << 20
"""Bytes of a column that are read from the disk at once where cells are pictures."""

_UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, MemoryError)
"""What pyarrow raises on bytes that are no table: Invalid, NotImplemented, OutOfMemory, ..."""


@contextmanager
def as_promised(file: Path) -> Iterator[None]:
    """Where contents that JSON or Parquet allow and the layout does not (a null, a key too few)
    would be an error of Python's, raise Damaged, naming the file."""
    try:
        yield
    except (
        *(KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError),
        *(RecursionError, pa.ArrowException),
    ) as error:
        told = f"{type(error).__name__}: {error}"
        raise DamagedFile(
            f"{file} does not hold what its layout promises ({told}). {RESTORE}"
        ) from error


def contents(file: Path, digests: DatasetChecksums) -> bytes | Path:
    """The bytes that were written, where that can be told: what is compared is what is read."""
    if digests.knows(file):
        return digests.read(file)
    if not file.is_file():
        raise DamagedFile(f"{file} is missing. {RESTORE}")
    return file


def has_no_footer(file: Path) -> bool:
    """Whether a file begins as a Parquet file does and does not end as one."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        begun = opened.read(len(_MARK)) == _MARK
        opened.seek(max(0, size - len(_MARK)))
        return begun and (size < 12 or opened.read() != _MARK)


def open_parquet(held: bytes | Path, file: Path, **options: Any) -> pq.ParquetFile:
    """The file, its footer read; `held` is what `contents` gave of it."""
    try:
        return pq.ParquetFile(_source(held), **options)
    except _UNREADABLE as error:
        if isinstance(held, Path) and has_no_footer(file):
            raise DamagedFile(
                f"{file} has no footer: its recording was never finished, or it is cut short. "
                "`imitact check DATASET --repair OUT` saves the episodes whose files are whole"
            ) from error
        raise DamagedFile(f"{file} is cut short or no Parquet file: {error}. {RESTORE}") from error


def read_table(
    file: Path,
    names: Sequence[str],
    digests: DatasetChecksums,
    optional: Sequence[str] = (),
    episode: int = -1,
) -> pa.Table:
    """The named columns; with `episode`, of that episode only."""
    held = contents(file, digests)
    with open_parquet(held, file, page_checksum_verification=True) as opened:
        there = opened.schema_arrow.names
        lacking = [name for name in names if name not in there]
        if lacking:
            raise DamagedFile(f"{file} lacks the columns {lacking}; it has {there}. {RESTORE}")
        columns = [*names, *(name for name in optional if name in there)]
        try:
            # Not pyarrow's read_table with filters: where the metadata of a column are damaged its
            # scanner waits for ever, and looking at statistics aborts (apache/paimon#8408). In one
            # thread errors come back, and the columns are small.
            if episode < 0:
                return opened.read(columns, use_threads=False)
            groups, rows = _rows(opened, episode)
            return opened.read_row_groups(groups, columns, use_threads=False).filter(rows)
        except _UNREADABLE as error:
            raise DamagedFile(f"{file} cannot be read: {error}. {RESTORE}") from error


def _rows(opened: pq.ParquetFile, episode: int) -> tuple[list[int], pa.Array]:
    """The row groups with rows of an episode, and which of their rows those are."""
    own = opened.read([_EPISODE], use_threads=False).column(0).to_numpy() == episode
    counts = [opened.metadata.row_group(n).num_rows for n in range(opened.num_row_groups)]
    parts = np.split(own, np.cumsum(counts)[:-1])
    groups = [n for n, part in enumerate(parts) if part.any()]
    return groups, pa.array(np.concatenate([parts[n] for n in groups] or [own[:0]]))


def read_cells(
    file: Path, column: str, rows: Sequence[int], digests: DatasetChecksums
) -> Iterator[Any]:
    """The values of a column at these rows of the file, in this order.

    For cells as large as pictures: only those of one page are in memory, packed and unpacked (in
    files of pyarrow's up to 1024 rows of a group of rows, in LeRobot's an episode). Rows that
    ascend are read in one sweep; each that does not begins another.
    """
    held = contents(file, digests)
    opened = open_parquet(
        held, file, buffer_size=_READ_AHEAD, pre_buffer=False, page_checksum_verification=True
    )
    sizes = [opened.metadata.row_group(g).num_rows for g in range(opened.num_row_groups)]
    starts = np.cumsum([0, *sizes])
    if column not in opened.schema_arrow.names:
        raise DamagedFile(
            f"{file} lacks the column {column!r}; it has {opened.schema_arrow.names}. {RESTORE}"
        )
    at = 0
    try:
        while at < len(rows):
            begun = at
            group = int(np.searchsorted(starts, rows[at], side="right")) - 1
            position = int(starts[group])
            groups = range(group, opened.num_row_groups)
            for batch in opened.iter_batches(_CELLS, groups, [column], use_threads=False):
                cells = batch.column(column)
                while at < len(rows) and position <= rows[at] < position + batch.num_rows:
                    yield cells[rows[at] - position].as_py()
                    at += 1
                position += batch.num_rows
                if at == len(rows) or rows[at] < position:
                    break
            if at == begun:
                raise DamagedFile(
                    f"{file} has no row {rows[at]}, which its footer counts. {RESTORE}"
                )
    except _UNREADABLE as error:
        raise DamagedFile(f"{file}: {column!r} cannot be read: {error}. {RESTORE}") from error


def matrix(column: pa.ChunkedArray, size: int, what: str, file: Path) -> NDArray[np.float32]:
    """A column of vectors (or of numbers, for size 1) as float32 (T, size).

    Other numbers are rounded to float32; what is too large for it becomes infinite.
    """
    count = len(column)
    if column.null_count:
        raise DamagedFile(f"{file}: {what} is empty at some ticks. {RESTORE}")
    flat = column.combine_chunks()
    while isinstance(flat, pa.FixedSizeListArray | pa.ListArray | pa.LargeListArray):
        flat = flat.flatten()
    values = flat.to_numpy(zero_copy_only=False)
    if values.size != count * size:
        raise SpecMismatch(
            f"{file}: {what} has {values.size} values over {count} ticks, "
            f"info.json promises {size} each"
        )
    with np.errstate(over="ignore"):
        return values.reshape(count, size).astype(np.float32)


def _source(held: bytes | Path) -> pa.BufferReader | Path:
    return pa.BufferReader(held) if isinstance(held, bytes) else held
