"""JSON files: whatever a file holds, it is read as an object or refused by its name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imitact.core.errors import BadInput, DamagedFile
from imitact.storage.json_file import read_bytes, read_json_object


def test_an_object_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{"a": [1, 2.5, null]}', encoding="utf-8")
    assert read_json_object(tmp_path / "a") == {"a": [1, 2.5, None]}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b'{"a": NaN}', "is not JSON"),
        (b'{"a": "\xff"}', "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[1]", "holds list, expected an object"),
        (b"3", "holds int, expected an object"),
    ],
)
def test_anything_else_is_refused_with_its_file_and_advice(
    data: bytes, says: str, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(DamagedFile, match=f"a {says}.* Train again"):
        read_json_object(tmp_path / "a", advice="Train again")


def test_a_missing_file_a_folder_and_one_beyond_the_limit_are_damage(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    for name, says in (("b", "is missing"), ("a/b", "is missing"), (".", "is a folder")):
        with pytest.raises(DamagedFile, match=says):
            read_bytes(tmp_path / name)
    with pytest.raises(DamagedFile, match="a has 5 bytes, expected at most 4"):
        read_bytes(tmp_path / "a", limit=4)
    assert read_bytes(tmp_path / "a", limit=5) == read_bytes(tmp_path / "a", limit=None) == b"12345"


def test_a_file_that_the_system_does_not_give_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a").write_bytes(b"{}")
    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(BadInput, match="a cannot be read: Permission denied") as caught:
        read_json_object(tmp_path / "a")
    assert not isinstance(caught.value, DamagedFile)
