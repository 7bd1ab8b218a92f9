"""Finished episodes on disk, a line each, so that an interrupted evaluation goes on."""

from __future__ import annotations

import contextlib
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from imitact.core.errors import BadInput, DamagedFile
from imitact.core.version import __version__
from imitact.storage.atomic import disk_full_guard, make_folder

FORMAT = 2
"""Changes whenever an older file could be misread. Lines of format 1 have no CRC-32; such a file
is gone on with."""

_FORMATS = (1, FORMAT)

T = TypeVar("T")

_LINE = re.compile(rb'(\{.*),"crc32":(\d{1,10})\}', re.DOTALL)


def journal_line(value: Mapping[str, Any]) -> bytes:
    """The line of plain JSON values (one at least) with its CRC-32 and its line feed."""
    data = msgspec.json.encode(value)
    return data[:-1] + b',"crc32":%d}\n' % zlib.crc32(data)


def parse_journal_line(data: bytes, *, required: bool) -> dict[str, Any]:
    """What `journal_line` wrote, without its checksum.

    required: whether it must have one; lines of older files have none.

    Raises ValueError where it is no JSON object, or not what was written.
    """
    found = _LINE.fullmatch(data)
    if found:
        data = found[1] + b"}"
        if zlib.crc32(data) != int(found[2]):
            raise ValueError("its CRC-32 is not the one that it names")
    try:
        value = msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, OverflowError, RecursionError) as error:
        raise ValueError(f"not a JSON object: {error}") from error
    if not found and (required or "crc32" in value):
        raise ValueError("its CRC-32 is missing")
    return value


def append_whole(handle: int, data: bytes) -> None:
    """Write all of `data` at the end of an open file, or nothing of it."""
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
    """A file of JSON lines: what is evaluated, then one entry as each episode ends.

    A line counts once its line feed is written: the unfinished last line of a killed process is
    cut off. Each line is flushed to the disk before `add` returns, and ends with a CRC-32, so that
    one that was altered is refused by its number.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[dict[str, Any]] = []
        if path.is_file():
            self._lines = self._read()

    def head(self, given: dict[str, Any]) -> None:
        """Begin with `given` (plain JSON values), or check that the file begins with it.

        Refuses a file that other settings wrote, naming the first that differ.
        """
        given = {"format": FORMAT, **msgspec.json.decode(msgspec.json.encode(given))}
        if not self._lines:
            self._write(given)
            return
        kept = self._lines[0]
        given["format"] = kept["format"]
        differ = [key for key in (*given, *kept) if given.get(key) != kept.get(key)]
        if differ:
            told = "; ".join(
                f"{key} was {_short(kept.get(key))}, is now {_short(given.get(key))}"
                for key in dict.fromkeys(differ)
            )
            raise BadInput(
                f"{self._path} holds another evaluation: {told}. Give the same settings to go on "
                "with it, or another output folder"
            )

    def entries(self, kind: str, what: type[T]) -> list[T]:
        """All entries of that kind, in the order in which they were added, as `what`."""
        try:
            return [
                msgspec.convert(entry[kind], what, strict=False)
                for entry in self._lines[1:]
                if kind in entry
            ]
        except msgspec.ValidationError as error:
            raise DamagedFile(
                f"{self._path} has an entry that does not fit: {error}. {_AFRESH}"
            ) from error

    def add(self, kind: str, entry: Any) -> None:
        """Append one entry (anything that msgspec turns into JSON)."""
        self._write({kind: entry})

    def _write(self, values: dict[str, Any]) -> None:
        data = journal_line(values)
        make_folder(self._path.parent)
        with disk_full_guard(self._path), self._path.open("ab", buffering=0) as file:
            append_whole(file.fileno(), data)
            os.fsync(file.fileno())
        self._lines.append(parse_journal_line(data.rstrip(), required=True))

    def _read(self) -> list[dict[str, Any]]:
        data = self._path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with self._path.open("r+b") as file:
                file.truncate(whole)
        lines: list[dict[str, Any]] = []
        for number, text in enumerate(data[:whole].split(b"\n")[:-1], 1):
            try:
                # What the first line says of itself holds for all of them.
                head = lines[0] if lines else parse_journal_line(text, required=False)
                if head.get("format") not in _FORMATS:
                    raise DamagedFile(
                        f"{self._path} has format {head.get('format')!r}, this imitact "
                        f"({__version__}) goes on with {_FORMATS}. {_AFRESH}"
                    )
                lines.append(parse_journal_line(text, required=head["format"] != 1))
            except ValueError as error:
                raise DamagedFile(f"{self._path}, line {number}: {error}. {_AFRESH}") from error
        return lines


_AFRESH = "Remove the file to evaluate afresh, or give another output folder"


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else f"{text[:57]}..."
