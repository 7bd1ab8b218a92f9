"""Atomic file writes: the old file or the new one, and a full disk by name."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from imitact.core.errors import DiskFull
from imitact.storage import atomic
from imitact.storage.atomic import disk_full_guard, write_atomically, write_bytes, write_json


def test_equal_values_give_equal_bytes_and_nothing_else_remains(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        write_json(tmp_path / "new" / name, {"ä": 1.5, "list": [1, 2]})
    first, second = sorted((tmp_path / "new").iterdir())
    assert (
        first.read_bytes() == second.read_bytes() == atomic.json_bytes({"ä": 1.5, "list": [1, 2]})
    )
    assert first.read_bytes().endswith(b"]\n}\n")


def test_a_path_of_any_bytes_is_written_and_read_back(tmp_path: Path) -> None:
    path = os.fsdecode(b"caf\xe9")
    write_json(tmp_path / "a.json", {"path": path})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"path": path}


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_bytes(path, b"old")

    def fail(temporary: Path) -> None:
        temporary.write_bytes(b"half of the n")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_flushed_before_it_appears_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    flushed: list[tuple[bool, bool]] = []
    fsync = atomic.fsync

    def watched(target: Path) -> None:
        flushed.append((target == tmp_path, path.exists()))
        fsync(target)

    monkeypatch.setattr(atomic, "fsync", watched)
    write_bytes(path, b"new")
    assert flushed == [(False, False), (True, True)]


def test_files_of_one_name_may_be_staged_in_one_folder(tmp_path: Path) -> None:
    def other(temporary: Path) -> None:
        write_bytes(tmp_path / "b" / "policy.json", b"b", tmp_path)
        temporary.write_bytes(b"a")
        write_bytes(tmp_path / "b" / "policy.json", b"b", tmp_path)

    write_atomically(tmp_path / "a" / "policy.json", other, tmp_path)
    assert [(tmp_path / name / "policy.json").read_bytes() for name in "ab"] == [b"a", b"b"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_named_with_the_free_bytes_and_what_to_do(
    error: Exception, tmp_path: Path
) -> None:
    def write() -> None:
        try:
            raise error
        except Exception as cause:
            raise ValueError("the library's own words") from cause

    with (
        pytest.raises(DiskFull, match=r"writing .*/a/b: [\d,]+ bytes are free; remove a film"),
        disk_full_guard(tmp_path / "a" / "b", "remove a film"),
    ):
        write()


def test_other_errors_pass_a_disk_full_guard_unchanged(tmp_path: Path) -> None:
    error: Any = PermissionError(errno.EACCES, "no")
    with pytest.raises(PermissionError) as caught, disk_full_guard(tmp_path):
        raise error
    assert caught.value is error
