"""Parquet files of untrusted origin: columns are read in bounded memory, damage names the file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imitact.core.errors import DamagedFile, SpecMismatch, library_words
from imitact.core.types import ExtraColumn
from imitact.datasets.lerobot.checksums import DatasetChecksums
from imitact.datasets.lerobot.layout import MAX_EPISODES, RESTORE, layout_errors_as_damage
from imitact.storage.lfs_pointer import refuse_lfs_pointer
from imitact.storage.regular_file import check_regular

_MAGIC = b"PAR1"
"""First and last four bytes of every Parquet file (apache/parquet-format, README.md)."""

_EPISODE = "episode_index"

_MAX_ROWS = 10_000_000
"""Rows of a file; more are taken for damage. It is 55 hours at 50 Hz."""

_MAX_BYTES = 128 << 20
"""Bytes of the row groups that are read, as the footer promises them; decoded and converted, they
take up to four times as much."""

_MAX_FACTOR = 32
"""How many times as large as their file they may be, where they are larger."""

_MAX_TEXT_BYTES = 64 << 20
"""Texts of all rows of a file."""

_ROWS_AT_ONCE = 1024

_IMAGE_ROWS = 8
"""Rows per batch of a column of images."""

_IMAGE_BUFFER_BYTES = 1 << 20
"""Read buffer for a column of images."""

_UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, MemoryError)
"""What pyarrow raises on bytes that are not a table: Invalid, NotImplemented, OutOfMemory, ..."""


def has_no_footer(file: Path) -> bool:
    """Whether a file begins as a Parquet file does but does not end as one."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        begun = opened.read(len(_MAGIC)) == _MAGIC
        opened.seek(max(0, size - len(_MAGIC)))
        return begun and (size < 12 or opened.read() != _MAGIC)


def open_parquet(file: Path, checksums: DatasetChecksums, **options: Any) -> pq.ParquetFile:
    """Open a Parquet file and read its footer; `options` are those of pyarrow's ParquetFile.

    A file with a checksum is read as a whole, so that what was verified is what is read.
    """
    has_checksum = checksums.has(file)
    if not has_checksum:
        check_regular(file, advice=RESTORE)
    source = pa.BufferReader(checksums.read(file)) if has_checksum else file
    try:
        opened = pq.ParquetFile(source, page_checksum_verification=True, **options)
    except _UNREADABLE as error:
        refuse_lfs_pointer(file)
        if not has_checksum and has_no_footer(file):
            raise DamagedFile(
                f"{file} has no footer: its recording was never finished, or it is cut short. "
                "`imitact check DATASET --fix OUT` recovers the episodes whose files are whole"
            ) from error
        raise DamagedFile(
            f"{file} is cut short or not a Parquet file: {library_words(error)}. {RESTORE}"
        ) from error

    if opened.metadata.num_rows > _MAX_ROWS:
        raise DamagedFile(
            f"{file} promises {opened.metadata.num_rows:,} rows, expected at most {_MAX_ROWS:,}. "
            f"{RESTORE}"
        )
    return opened


def read_rows(
    file: Path,
    names: Sequence[str],
    checksums: DatasetChecksums,
    optional: Sequence[str] = (),
    max_rows: int = _MAX_ROWS,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file of numbers and texts, such as the metadata of episodes.

    Refuses more than `max_rows` rows, and texts that are too long. A text of which thousands of
    rows are references to one place in the file is measured before it is multiplied.
    """
    with open_parquet(file, checksums) as opened:
        stored, rows = opened.schema_arrow.names, opened.metadata.num_rows
        check_columns(file, names, stored)
        texts = [
            column.path
            for column in map(opened.schema.column, range(len(opened.schema)))
            if column.physical_type == "BYTE_ARRAY"
        ]
    if rows > max_rows:
        raise DamagedFile(
            f"{file} promises {rows:,} rows, expected at most {max_rows:,}. {RESTORE}"
        )
    columns = [*names, *(name for name in optional if name in stored)]
    length = 0
    with open_parquet(file, checksums, read_dictionary=texts) as opened:
        _check_promise(file, opened, range(opened.num_row_groups))
        try:
            for batch in opened.iter_batches(_ROWS_AT_ONCE, columns=columns, use_threads=False):
                length += sum(map(_text_bytes, batch.columns))
                if length > _MAX_TEXT_BYTES:
                    raise DamagedFile(
                        f"{file} has more than {_MAX_TEXT_BYTES:,} bytes of text. {RESTORE}"
                    )
                yield from batch.to_pylist()
        except _UNREADABLE as error:
            raise DamagedFile(
                f"{file} cannot be read: {library_words(error)}. {RESTORE}"
            ) from error


def _text_bytes(column: pa.Array) -> int:
    """Return the bytes of all texts of a column, without making them."""
    while isinstance(column, pa.FixedSizeListArray | pa.ListArray | pa.LargeListArray):
        column = column.flatten()
    if isinstance(column, pa.DictionaryArray):
        lengths = pc.binary_length(column.dictionary)  # pyright: ignore[reportAttributeAccessIssue]
        chosen = pc.cast(lengths.take(column.indices), pa.int64())
        return pc.sum(chosen).as_py() or 0  # pyright: ignore[reportAttributeAccessIssue]
    return 0


def _check_promise(file: Path, opened: pq.ParquetFile, groups: Iterable[int]) -> None:
    """Refuse row groups whose footer promises more bytes than the file can be meant to hold.

    Only what the footer says of whole row groups is used: on damaged metadata of a column,
    pyarrow's accessors of it abort the process (apache/paimon#8408).
    """
    promised = sum(opened.metadata.row_group(group).total_byte_size for group in groups)
    stored = file.stat().st_size
    if promised > max(_MAX_BYTES, _MAX_FACTOR * stored):
        raise DamagedFile(f"{file} promises {promised:,} bytes, stored in {stored:,}. {RESTORE}")


def read_table(
    file: Path,
    names: Sequence[str] | None,
    checksums: DatasetChecksums,
    optional: Sequence[str] = (),
    episode: int = -1,
) -> pa.Table:
    """Read columns of a Parquet file: those of `names` (None: all), and of `optional` that exist.

    Only the rows of `episode` are read; -1 reads all.
    """
    with open_parquet(file, checksums) as opened:
        stored = opened.schema_arrow.names
        columns = None
        if names is not None:
            check_columns(file, names, stored)
            columns = [*names, *(name for name in optional if name in stored)]
        try:
            # Not pyarrow's read_table with filters: with damaged column metadata its scanner
            # hangs, and reading statistics aborts (apache/paimon#8408). In one thread errors come
            # back, and the columns are small.
            groups: Sequence[int] = range(opened.num_row_groups)
            rows = None
            if episode >= 0:
                groups, rows = _episode_rows(opened, episode)
            if columns is not None:
                _check_promise(file, opened, groups)
            if rows is None:
                return opened.read(columns, use_threads=False)
            return opened.read_row_groups(groups, columns, use_threads=False).filter(rows)
        except _UNREADABLE as error:
            raise DamagedFile(
                f"{file} cannot be read: {library_words(error)}. {RESTORE}"
            ) from error


def check_columns(file: Path, names: Sequence[str], stored: Sequence[str]) -> None:
    """Raise DamagedFile where columns are not among those stored in a file."""
    if lacking := [name for name in names if name not in stored]:
        raise DamagedFile(
            f"{file} lacks the columns {', '.join(lacking)}; it has {', '.join(stored)}. {RESTORE}"
        )


def _episode_rows(opened: pq.ParquetFile, episode: int) -> tuple[list[int], pa.Array]:
    """Return the row groups that hold rows of an episode, and a mask of those rows in them."""
    own = opened.read([_EPISODE], use_threads=False).column(0).to_numpy() == episode
    counts = [opened.metadata.row_group(n).num_rows for n in range(opened.num_row_groups)]
    parts = np.split(own, np.cumsum(counts)[:-1])
    groups = [n for n, part in enumerate(parts) if part.any()]
    return groups, pa.array(np.concatenate([parts[n] for n in groups] or [own[:0]]))


def read_cells(
    file: Path,
    column: str,
    rows: Sequence[int],
    checksums: DatasetChecksums,
    convert: Callable[[Any], Any] = lambda cell: cell.as_py(),
) -> Iterator[Any]:
    """Yield the values of a column at the given rows of the file, in the given order.

    `convert` makes a value of what pyarrow reads.

    For cells as large as images: only one page is in memory, compressed and decompressed (up to
    1024 rows of a row group in pyarrow's files, an episode in LeRobot's). Ascending rows are read
    in one sweep; each row that is not ascending starts another.
    """
    opened = open_parquet(file, checksums, buffer_size=_IMAGE_BUFFER_BYTES, pre_buffer=False)
    sizes = [opened.metadata.row_group(g).num_rows for g in range(opened.num_row_groups)]
    starts = np.cumsum([0, *sizes])
    check_columns(file, [column], opened.schema_arrow.names)
    at = 0
    groups = {int(np.searchsorted(starts, row, side="right")) - 1 for row in rows}
    groups &= {*range(opened.num_row_groups)}
    for group in groups:
        _check_promise(file, opened, [group])
    try:
        while at < len(rows):
            sweep_start = at
            group = int(np.searchsorted(starts, rows[at], side="right")) - 1
            position = int(starts[group])
            groups = range(group, opened.num_row_groups)
            for batch in opened.iter_batches(_IMAGE_ROWS, groups, [column], use_threads=False):
                cells = batch.column(column)
                while at < len(rows) and position <= rows[at] < position + batch.num_rows:
                    yield convert(cells[rows[at] - position])
                    at += 1
                position += batch.num_rows
                if at == len(rows) or rows[at] < position:
                    break
            if at == sweep_start:
                raise DamagedFile(
                    f"{file} has no row {rows[at]}, which its footer counts. {RESTORE}"
                )
    except _UNREADABLE as error:
        raise DamagedFile(
            f"{file}: {column} cannot be read: {library_words(error)}. {RESTORE}"
        ) from error


def cell_values(cell: Any) -> NDArray[Any]:
    """Return all numbers of one value of a column of (nested) vectors, (N,); none where it is
    empty."""
    values = cell.values if cell.is_valid else pa.array([], pa.uint8())
    while isinstance(values, pa.FixedSizeListArray | pa.ListArray | pa.LargeListArray):
        values = values.flatten()
    return values.to_numpy(zero_copy_only=False)


def read_task_texts(file: Path, checksums: DatasetChecksums) -> dict[int, str]:
    """Read `meta/tasks.parquet`: task descriptions by number; empty where the file is missing."""
    if not file.is_file():
        return {}
    texts: dict[int, str] = {}
    with layout_errors_as_damage(file):
        for row in read_rows(file, ["task_index"], checksums, _TASK_COLUMNS, MAX_EPISODES):
            held = [row[name] for name in _TASK_COLUMNS if name in row]
            if held:
                texts[int(row["task_index"])] = str(held[0])
    return texts


_TASK_COLUMNS = ("task", "__index_level_0__")
"""Columns that may hold the texts: they are the index of a pandas table, which may be unnamed."""


def flat_values(column: pa.ChunkedArray) -> pa.Array:
    """Return the values of a column of numbers or (nested) vectors as one array."""
    flat = column.combine_chunks()
    while isinstance(flat, pa.FixedSizeListArray | pa.ListArray | pa.LargeListArray):
        flat = flat.flatten()
    return flat


def vectors(column: pa.ChunkedArray, size: int, name: str, file: Path) -> NDArray[np.float32]:
    """Return a column of vectors (or of numbers, for size 1) as (T, size).

    Other numbers are rounded to float32; those too large for it become infinite.
    """
    count = len(column)
    if column.null_count:
        raise DamagedFile(f"{file}: {name} is empty at some ticks. {RESTORE}")
    values = flat_values(column).to_numpy(zero_copy_only=False)
    if values.size != count * size:
        raise SpecMismatch(
            f"{file}: {name} has {values.size} values over {count} ticks, "
            f"info.json declares {size} per tick"
        )
    with np.errstate(over="ignore"):
        return values.reshape(count, size).astype(np.float32)


def extra_values(column: pa.ChunkedArray, about: ExtraColumn, where: str) -> NDArray[Any]:
    """Return an extra column of an episode as (T,) or (T, width), in its own type."""
    length = len(column)
    values = flat_values(column).to_numpy(zero_copy_only=False)
    if values.size != length * (about.width or 1):
        raise DamagedFile(f"{where} has {values.size} values over {length} ticks. {RESTORE}")
    shape = (length,) if about.width is None else (length, about.width)
    return values.reshape(shape).astype(about.dtype)
