"""Journal: a file of JSON lines that records each finished piece of work, so that it can resume.

A line counts once its line feed is written, and ends with the CRC-32 of everything before it.
"""

from __future__ import annotations

import contextlib
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from imitact.core.errors import DamagedFile
from imitact.core.version import __version__
from imitact.storage.atomic import disk_full_guard, make_folder
from imitact.storage.json_file import check_json_memory, read_bytes
from imitact.storage.regular_file import open_to_append
from imitact.storage.settings_diff import check_same_settings

FORMAT = 2
"""Raised whenever an older file could be misread. Lines of format 1 have no CRC-32; such a file is
continued."""

_FORMATS = (1, FORMAT)

T = TypeVar("T")

_LINE = re.compile(rb'(\{.*),"crc32":(\d{1,10})\}', re.DOTALL)

_REMOVE = "Remove the file to start again, or give another output folder"


def journal_line(value: Mapping[str, Any]) -> bytes:
    """Return the line, with CRC-32 and line feed, of plain JSON values (at least one)."""
    data = msgspec.json.encode(value)
    return data[:-1] + b',"crc32":%d}\n' % zlib.crc32(data)


def parse_journal_line(data: bytes, *, required: bool) -> dict[str, Any]:
    """Return the values of a line that `journal_line` made, without line feed and checksum.

    Raises ValueError for what is not a JSON object or not what was written, and for a missing
    checksum where it is `required`; lines of older files have none.
    """
    found = _LINE.fullmatch(data)
    if found:
        data = found[1] + b"}"
        if zlib.crc32(data) != int(found[2]):
            raise ValueError("its CRC-32 is not the one that it gives")
    try:
        value = msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, OverflowError, RecursionError) as error:
        raise ValueError(f"not a JSON object: {error}") from error
    if not found and (required or "crc32" in value):
        raise ValueError("its CRC-32 is missing")
    return value


def append_whole(handle: int, data: bytes) -> None:
    """Append all of `data` to an open file; where that fails, nothing of it remains."""
    size = os.fstat(handle).st_size
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(handle, left) :]
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(handle, size)
        raise


class Journal:
    """A file whose first line is the settings of the work, and each further line one entry.

    The unfinished last line of a killed process is cut off when the file is opened. Each line is
    flushed to the disk before `add` returns. An altered line is refused by its number.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Read the lines that there are; `read_only` leaves an unfinished last one in the file."""
        self._path = path
        self._lines: list[dict[str, Any]] = []
        if path.exists():
            self._read(read_only)

    @property
    def settings(self) -> dict[str, Any]:
        """The first line; empty where there is none."""
        return self._lines[0] if self._lines else {}

    def begin(self, settings: dict[str, Any]) -> None:
        """Write the settings as the first line, or refuse a file that was begun with others."""
        settings = {"format": FORMAT, **msgspec.json.decode(msgspec.json.encode(settings))}
        if kept := self.settings:
            check_same_settings(kept, {**settings, "format": kept["format"]}, self._path)
        else:
            self._write(settings)

    def entries(self, kind: str, what: type[T]) -> list[T]:
        """Return all entries of a kind, in the order in which they were added, as `what`."""
        try:
            return [
                msgspec.convert(entry[kind], what, strict=False)
                for entry in self._lines[1:]
                if kind in entry
            ]
        except msgspec.ValidationError as error:
            raise DamagedFile(
                f"{self._path} has an entry that does not fit: {error}. {_REMOVE}"
            ) from error

    def add(self, kind: str, entry: Any) -> None:
        """Append one entry, of anything that msgspec turns into JSON."""
        self._write({kind: entry})

    def _write(self, values: dict[str, Any]) -> None:
        data = journal_line(values)
        make_folder(self._path.parent)
        with disk_full_guard(self._path), os.fdopen(open_to_append(self._path), "ab") as file:
            append_whole(file.fileno(), data)
            os.fsync(file.fileno())
        self._lines.append(parse_journal_line(data.rstrip(), required=True))

    def _read(self, read_only: bool) -> None:
        data = read_bytes(self._path, advice=f"{_REMOVE}.")
        check_json_memory(data, self._path)
        whole = data.rfind(b"\n") + 1
        if whole < len(data) and not read_only:
            with os.fdopen(open_to_append(self._path), "ab") as file:
                file.truncate(whole)
        for number, text in enumerate(data[:whole].split(b"\n")[:-1], 1):
            try:
                # The format in the first line holds for all of them.
                head = self.settings or parse_journal_line(text, required=False)
                if head.get("format") not in _FORMATS:
                    raise DamagedFile(
                        f"{self._path} has format {head.get('format')!r}, this imitact "
                        f"({__version__}) continues {' and '.join(map(str, _FORMATS))}. {_REMOVE}"
                    )
                self._lines.append(parse_journal_line(text, required=head["format"] != 1))
            except ValueError as error:
                raise DamagedFile(f"{self._path}, line {number}: {error}. {_REMOVE}") from error
