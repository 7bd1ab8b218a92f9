"""Parquet files of untrusted origin: columns are read in bounded memory, damage names the file."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imitact.core.errors import DamagedFile, SpecMismatch, library_words
from imitact.core.types import ExtraColumn
from imitact.core.words import counted
from imitact.datasets.lerobot.checksums import DatasetChecksums
from imitact.datasets.lerobot.layout import MAX_EPISODES, RESTORE, layout_errors_as_damage
from imitact.datasets.lerobot.parquet_pages import PageGuard, max_unpacked_bytes
from imitact.storage.lfs_pointer import refuse_lfs_pointer
from imitact.storage.regular_file import check_regular, open_regular

_MAGIC = b"PAR1"
"""First and last four bytes of every Parquet file (apache/parquet-format, README.md)."""

_EPISODE = "episode_index"

_MAX_ROWS = 10_000_000
"""Rows of a file; more are taken for damage. It is 55 hours at 50 Hz."""

_MAX_TEXT_BYTES = 64 << 20
"""Texts and list items of all rows of a file of metadata."""

_MAX_FIXED_BYTES = 64
"""Bytes of a value of a fixed length; numbers have at most 16."""

_ROWS_AT_ONCE = 1024

_IMAGE_ROWS = 4
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


def open_parquet(file: Path, checksums: DatasetChecksums) -> pq.ParquetFile:
    """Open a Parquet file and read its footer; columns are read by the functions below.

    A file with a checksum is read as a whole, so that what was verified is what is read.
    """
    if checksums.has(file):
        return _with_footer(file, pa.BufferReader(checksums.read(file)))
    check_regular(file, advice=RESTORE)
    return _with_footer(file, file)


def _with_footer(file: Path, source: Any, **options: Any) -> pq.ParquetFile:
    try:
        opened = pq.ParquetFile(source, page_checksum_verification=True, **options)
    except _UNREADABLE as error:
        refuse_lfs_pointer(file)
        if not isinstance(source, pa.BufferReader) and has_no_footer(file):
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


class _Footer:
    """What is known of a file once its footer was read.

    Attributes:
        metadata: the footer, which pyarrow need not read again.
        names: its columns.
        leaves: path, physical type and bytes of a value (of a fixed length) of what they consist
            of.
        rows: rows of each row group.
        episodes: the number of the episode of each row, once it was read.
    """

    def __init__(self, opened: pq.ParquetFile) -> None:
        self.metadata = opened.metadata
        self.names = opened.schema_arrow.names
        schema = opened.schema
        columns = (schema.column(number) for number in range(len(schema)))
        self.leaves = [(c.path, c.physical_type, c.length) for c in columns]
        groups = range(opened.num_row_groups)
        self.rows = [opened.metadata.row_group(group).num_rows for group in groups]
        self.episodes: Any = None


_footers: dict[tuple[Any, ...], _Footer] = {}
"""Those of the last files; each episode of a file reads it again."""

_MAX_FOOTERS = 2


@contextmanager
def _opened(
    file: Path,
    names: Sequence[str] | None,
    checksums: DatasetChecksums,
    optional: Sequence[str] = (),
    buffer_size: int = 0,
) -> Iterator[tuple[pq.ParquetFile, PageGuard, _Footer, list[str] | None]]:
    """Open a Parquet file to read columns in bounded memory.

    Yields the file, its guard, its footer, and the columns: `names` (None: all) and those of
    `optional` that exist. Texts come as references to the distinct ones, without a buffer:
    thousands of rows may hold one long text.
    """
    if checksums.has(file):
        source, status = io.BytesIO(checksums.read(file)), None
        size = source.getbuffer().nbytes
    else:
        source = open_regular(file, advice=RESTORE)
        status = os.fstat(source.fileno())
        size = status.st_size
    key = status and (file, size, status.st_mtime_ns, status.st_ino, status.st_dev)
    options = {"buffer_size": buffer_size}
    with PageGuard(source, size, in_blocks=buffer_size > 0) as guard:
        footer, opened = _footers.get(key) if key else None, None
        if footer is None:
            opened = _with_footer(file, guard, **options)
            footer = _Footer(opened)
        if key:
            _footers.pop(key, None)
            while len(_footers) >= _MAX_FOOTERS:
                _footers.pop(next(iter(_footers)), None)
            _footers[key] = footer
        columns, leaves = None, footer.leaves
        if names is not None:
            check_columns(file, names, footer.names)
            columns = [*names, *(name for name in optional if name in footer.names)]
            leaves = [leaf for leaf in leaves if _is_part(leaf[0], columns)]
        for path, _, length in leaves:
            if length > _MAX_FIXED_BYTES:
                raise DamagedFile(
                    f"{file}: {path} has values of {length:,} bytes, expected at most "
                    f"{_MAX_FIXED_BYTES}. {RESTORE}"
                )
        texts = [path for path, kind, _ in leaves if kind == "BYTE_ARRAY" and not buffer_size]
        if opened is None or texts:
            options |= {"read_dictionary": texts, "metadata": footer.metadata}
            opened = _with_footer(file, guard, **options)
        try:
            yield opened, guard, footer, columns
        except _UNREADABLE as error:
            what = f"{file}: {', '.join(names)}" if buffer_size and names else f"{file}"
            raise DamagedFile(
                f"{what} cannot be read: {library_words(error)}. {RESTORE}"
            ) from error


def _is_part(path: str, names: Sequence[str]) -> bool:
    """Whether a leaf of the schema belongs to one of the columns."""
    return any(path == name or path.startswith(f"{name}.") for name in names)


def read_rows(
    file: Path,
    names: Sequence[str],
    checksums: DatasetChecksums,
    optional: Sequence[str] = (),
    max_rows: int = _MAX_ROWS,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file of numbers and texts, such as the metadata of episodes.

    Refuses more than `max_rows` rows, and texts or lists that are too long.
    """
    with _opened(file, names, checksums, optional) as (opened, guard, footer, columns):
        if footer.metadata.num_rows > max_rows:
            raise DamagedFile(
                f"{file} promises {footer.metadata.num_rows:,} rows, expected at most "
                f"{max_rows:,}. {RESTORE}"
            )
        guard.begin()
        length = 0
        for batch in opened.iter_batches(_ROWS_AT_ONCE, columns=columns, use_threads=False):
            length += sum(map(_unpacked_bytes, batch.columns))
            if length > _MAX_TEXT_BYTES:
                raise DamagedFile(
                    f"{file} has more than {_MAX_TEXT_BYTES:,} bytes of text. {RESTORE}"
                )
            yield from batch.to_pylist()


def _unpacked_bytes(column: pa.Array) -> int:
    """Return the bytes of all texts and list items of a column, without making the texts."""
    if isinstance(column, pa.StructArray):
        return sum(map(_unpacked_bytes, column.flatten()))
    if isinstance(column, pa.FixedSizeListArray | pa.ListArray | pa.LargeListArray):
        values = column.flatten()
        return 8 * len(values) + _unpacked_bytes(values)
    if isinstance(column, pa.DictionaryArray):
        lengths = pc.binary_length(column.dictionary)  # pyright: ignore[reportAttributeAccessIssue]
        chosen = pc.cast(lengths.take(column.indices), pa.int64())
        return pc.sum(chosen).as_py() or 0  # pyright: ignore[reportAttributeAccessIssue]
    return 0


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
    with _opened(file, names, checksums, optional) as (opened, guard, footer, columns):
        # Not pyarrow's read_table with filters: with damaged column metadata its scanner hangs,
        # and reading statistics aborts (apache/paimon#8408). In one thread errors come back, and
        # the columns are small.
        guard.begin()
        if episode < 0:
            return _with_texts(opened.read(columns, use_threads=False), file)
        if len(footer.rows) == 1 and (columns is None or _EPISODE in columns):
            table = opened.read(columns, use_threads=False)
            own = pc.equal(table[_EPISODE], episode)  # pyright: ignore[reportAttributeAccessIssue]
            return _with_texts(table.filter(own), file)
        if footer.episodes is None:
            column = opened.read([_EPISODE], use_threads=False).column(0)
            footer.episodes = column.to_numpy()
            guard.begin()
        groups, rows = _episode_rows(footer.episodes, footer.rows, episode)
        table = opened.read_row_groups(groups, columns, use_threads=False)
        return _with_texts(table.filter(rows), file)


def _with_texts(table: pa.Table, file: Path) -> pa.Table:
    """Return a table whose texts are references to distinct ones with the texts themselves."""
    schema = pa.schema([field.with_type(_plain(field.type)) for field in table.schema])
    if schema == table.schema:
        return table
    chunks = (chunk for column in table.columns for chunk in column.chunks)
    size, most = sum(map(_unpacked_bytes, chunks)), max_unpacked_bytes(file.stat().st_size)
    if size > most:
        raise DamagedFile(
            f"{file} has {size:,} bytes of text, expected at most {most:,}. {RESTORE}"
        )
    return table.cast(schema.with_metadata(table.schema.metadata))


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return a type without dictionaries."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_plain(kind.value_type)))
    return kind


def check_columns(file: Path, names: Sequence[str], stored: Sequence[str]) -> None:
    """Raise DamagedFile where columns are not among those stored in a file."""
    if lacking := [name for name in names if name not in stored]:
        raise DamagedFile(
            f"{file} lacks the columns {', '.join(lacking)}; it has {', '.join(stored)}. {RESTORE}"
        )


def _episode_rows(
    episodes: NDArray[Any], rows: Sequence[int], episode: int
) -> tuple[list[int], pa.Array]:
    """Return the row groups that hold rows of an episode, and a mask of those rows in them.

    `episodes` has the number of the episode of each row, `rows` the rows of each row group.
    """
    own = episodes == episode
    ends = np.cumsum(rows)
    found = np.unique(np.searchsorted(ends, np.flatnonzero(own), side="right")).tolist()
    parts = [own[ends[group] - rows[group] : ends[group]] for group in found]
    return found, pa.array(np.concatenate(parts or [own[:0]]))


def _image_value(cell: Any) -> Any:
    """Return a value of a column of images: bytes, text or a dict of them; [] for a list.

    A list in the place of an image may have millions of values.
    """
    if isinstance(cell, pa.StructScalar) and cell.is_valid:
        return {name: _image_value(cell[name]) for name in cell}
    is_list = isinstance(cell, pa.ListScalar | pa.LargeListScalar | pa.FixedSizeListScalar)
    return [] if is_list else cell.as_py()


def read_cells(
    file: Path,
    column: str,
    rows: Sequence[int],
    checksums: DatasetChecksums,
    convert: Callable[[Any], Any] = _image_value,
) -> Iterator[Any]:
    """Yield the values of a column at the given rows of the file, in the given order.

    `convert` makes a value of what pyarrow reads.

    For cells as large as images: only one page is in memory, compressed and decompressed (up to
    1024 rows of a row group in pyarrow's files, an episode in LeRobot's). Ascending rows are read
    in one sweep; each row that is not ascending starts another.
    """
    with _opened(file, [column], checksums, (), _IMAGE_BUFFER_BYTES) as (
        opened,
        guard,
        footer,
        _,
    ):
        starts = np.cumsum([0, *footer.rows])
        at = 0
        while at < len(rows):
            group = int(np.searchsorted(starts, rows[at], side="right")) - 1
            if not 0 <= group < len(footer.rows):
                raise _lacks_row(file, rows[at])
            guard.begin()
            sweep_start, position = at, int(starts[group])
            for batch in opened.iter_batches(_IMAGE_ROWS, [group], [column], use_threads=False):
                cells = batch.column(column)
                while at < len(rows) and position <= rows[at] < position + batch.num_rows:
                    yield convert(cells[rows[at] - position])
                    at += 1
                position += batch.num_rows
                if at == len(rows) or not position <= rows[at] < starts[group + 1]:
                    break
                guard.forget()
            if at == sweep_start:
                raise _lacks_row(file, rows[at])


def _lacks_row(file: Path, row: int) -> DamagedFile:
    return DamagedFile(f"{file} has no row {row}, which its footer counts. {RESTORE}")


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
            f"{file}: {name} has {counted(values.size, 'value')} over {counted(count, 'tick')}, "
            f"info.json declares {size} per tick"
        )
    with np.errstate(over="ignore"):
        return values.reshape(count, size).astype(np.float32)


def extra_values(column: pa.ChunkedArray, about: ExtraColumn, where: str) -> NDArray[Any]:
    """Return an extra column of an episode as (T,) or (T, width), in its own type."""
    length = len(column)
    values = flat_values(column).to_numpy(zero_copy_only=False)
    if values.size != length * (about.width or 1):
        raise DamagedFile(
            f"{where} has {counted(values.size, 'value')} over {counted(length, 'tick')}. {RESTORE}"
        )
    shape = (length,) if about.width is None else (length, about.width)
    return values.reshape(shape).astype(about.dtype)
