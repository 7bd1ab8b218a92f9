"""Finished episodes on disk, a line each, so that an interrupted evaluation goes on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from imitact.contract import BadInput, Damaged
from imitact.data.durable import make_folder, room_for

FORMAT = 1
"""Changes whenever an older file could be misread."""

T = TypeVar("T")


class Journal:
    """A file of JSON lines: what is evaluated, then one entry as each episode ends.

    A line counts once its line feed is written: the unfinished last line of a killed process is
    cut off. Each line is flushed to the disk before `add` returns.
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
                msgspec.convert(line[kind], what, strict=False)
                for line in self._lines[1:]
                if kind in line
            ]
        except msgspec.ValidationError as error:
            raise Damaged(
                f"{self._path} has an entry that does not fit: {error}. {_AFRESH}"
            ) from error

    def add(self, kind: str, entry: Any) -> None:
        """Append one entry (anything that msgspec turns into JSON)."""
        self._write({kind: entry})

    def _write(self, line: dict[str, Any]) -> None:
        data = msgspec.json.encode(line) + b"\n"
        make_folder(self._path.parent)
        with room_for(self._path), self._path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._lines.append(msgspec.json.decode(data))

    def _read(self) -> list[dict[str, Any]]:
        data = self._path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with self._path.open("r+b") as file:
                file.truncate(whole)
        lines = []
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                lines.append(msgspec.json.decode(line, type=dict[str, Any]))
            except msgspec.DecodeError as error:
                raise Damaged(
                    f"{self._path}, line {number} is not a JSON object: {error}. {_AFRESH}"
                ) from error
        if lines and lines[0].get("format") != FORMAT:
            raise Damaged(
                f"{self._path} does not begin as a journal of format {FORMAT} does. {_AFRESH}"
            )
        return lines


_AFRESH = "Remove the file to evaluate afresh, or give another output folder"


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else f"{text[:57]}..."
