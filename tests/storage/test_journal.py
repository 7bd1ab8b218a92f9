"""Journal: finished entries survive a kill, altered ones are refused, other settings are named."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from imitact.core.errors import BadInput, DamagedFile
from imitact.storage.journal import Journal, append_whole, journal_line, parse_journal_line


def begun(path: Path, **settings: object) -> Journal:
    journal = Journal(path)
    journal.begin({"chunking": "replay:3", "names": {"policy": "ab12"}, **settings})
    return journal


def test_any_altered_byte_of_a_line_is_noticed() -> None:
    whole = journal_line({"episode": {"seed": 3, "ok": True}})[:-1]
    assert parse_journal_line(whole, required=True) == {"episode": {"seed": 3, "ok": True}}
    for at, bit in itertools.product(range(len(whole)), range(8)):
        altered_line = bytearray(whole)
        altered_line[at] ^= 1 << bit
        with pytest.raises(ValueError, match=r"CRC-32|JSON|utf-8"):
            parse_journal_line(bytes(altered_line), required=True)
    for end in range(len(whole)):
        with pytest.raises(ValueError, match=r"CRC-32|JSON|utf-8"):
            parse_journal_line(whole[:end], required=True)


def test_entries_come_back_in_their_order_and_by_kind(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.jsonl"
    journal = begun(path)
    for kind, entry in (("world", [1]), ("episode", [2]), ("episode", [3])):
        journal.add(kind, entry)
    for each in (journal, begun(path)):
        assert each.entries("episode", list[int]) == [[2], [3]]
        assert each.entries("world", list[int]) == [[1]]
    with pytest.raises(DamagedFile, match="has an entry that does not fit"):
        begun(path).entries("episode", str)


def test_the_half_line_of_a_killed_process_is_cut_off_and_the_file_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    begun(path).add("episode", 1)
    for end in range(1, len(line := journal_line({"episode": 2}))):
        path.write_bytes((kept := path.read_bytes()) + line[:end])
        assert begun(path).entries("episode", int) == [1]
        assert path.read_bytes() == kept
    begun(path).add("episode", 2)
    assert begun(path).entries("episode", int) == [1, 2]


def test_other_settings_are_refused_and_each_difference_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    begun(path)
    begun(path)
    with pytest.raises(BadInput, match=r"a\.jsonl was begun with other settings") as caught:
        begun(path, names={"policy": "cd34"}, step_cap=7)
    assert 'names.policy was "ab12", is now "cd34"; step_cap was not set, is now 7' in str(
        caught.value
    )


def test_an_altered_line_is_refused_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    journal = begun(path)
    journal.add("episode", 1)
    path.write_bytes(path.read_bytes().replace(b'"episode":1', b'"episode":2'))
    with pytest.raises(DamagedFile, match=r"line 2: its CRC-32 is not the one .* start again"):
        Journal(path)


def test_a_line_that_cannot_be_appended_whole_leaves_nothing_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"kept\n")
    write, calls = os.write, []

    def full(handle: int, data: memoryview) -> int:
        calls.append(len(data))
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return write(handle, data[:3])

    monkeypatch.setattr(os, "write", full)
    with path.open("ab", buffering=0) as file, pytest.raises(OSError, match="No space"):
        append_whole(file.fileno(), b"a whole line\n")
    assert path.read_bytes() == b"kept\n"
