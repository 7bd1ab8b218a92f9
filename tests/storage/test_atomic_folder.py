"""Atomic folders: a folder of output is complete or absent, a replaced one is never lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from imitact.core.errors import BadInput, DiskFull
from imitact.storage import atomic_folder as folders
from imitact.storage.atomic_folder import (
    atomic_folder,
    check_output_folder,
    check_replaceable,
    replaced_folder,
    whole_folder,
)


def content(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*.txt")}


def test_a_folder_appears_when_all_of_it_is_written(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with atomic_folder(out, "copy") as building:
        (building / "deep").mkdir()
        (building / "deep" / "a.txt").write_text("a")
        assert not out.exists()
    assert content(out) == {"deep/a.txt": "a"}
    assert list(out.parent.iterdir()) == [out]
    assert list(out.iterdir()) == [out / "deep"]


def test_a_failed_folder_leaves_nothing_and_a_killed_one_is_begun_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(FileNotFoundError), atomic_folder(out, "copy") as building:
        (building / "deep" / "a.txt").write_text("half")
    assert list(tmp_path.iterdir()) == []
    left = tmp_path / ".out.building"  # as a killed process leaves it
    (left / "deep").mkdir(parents=True)
    (left / "half.txt").write_text("half")
    out.mkdir()
    with atomic_folder(out, "copy") as building:
        (building / "a.txt").write_text("a")
    assert content(out) == {"a.txt": "a"}
    assert list(out.iterdir()) == [out / "a.txt"]


def test_two_processes_do_not_build_one_folder(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from imitact.core.errors import BadInput\n"
        "from imitact.storage.atomic_folder import atomic_folder\n"
        "try:\n    with atomic_folder(Path(sys.argv[1]), 'conversion'): pass\n"
        "except BadInput as error: print(error)\n"
    )
    with atomic_folder(tmp_path / "out", "copy") as building:
        (building / "a.txt").write_text("a")
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "out")], capture_output=True, text=True
        )
        assert f"another copy is writing to {building} (process {os.getpid()})" in done.stdout
    assert content(tmp_path / "out") == {"a.txt": "a"}


def test_a_replaced_folder_is_untouched_until_the_new_one_is_complete(tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    for text in ("first", "second"):
        with replaced_folder(folder) as building:
            (building / "a.txt").write_text(text)
            assert content(folder) == ({} if text == "first" else {"a.txt": "first"})
        assert content(folder) == {"a.txt": text}
    with pytest.raises(DiskFull, match="make room"), replaced_folder(folder, advice="make room"):
        raise OSError(28, "No space left on device")
    assert content(folder) == {"a.txt": "second"}
    assert list(tmp_path.iterdir()) == [folder]


def test_killed_between_the_two_renames_the_old_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, fresh = tmp_path / "policy", tmp_path / "fresh"
    for each in (folder, fresh):
        each.mkdir()
        (each / "a.txt").write_text(each.name)
    rename, renames = os.rename, []

    def killed(source: Path, target: Path) -> None:
        renames.append(source)
        if len(renames) == 2:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(folders.os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        folders.replace_folder(fresh, folder)
    monkeypatch.undo()
    assert not folder.exists()
    assert content(whole_folder(folder)) == {"a.txt": "policy"}
    folders.replace_folder(fresh, folder)
    assert whole_folder(folder) == folder
    assert content(folder) == {"a.txt": "fresh"}


def test_a_rename_that_fails_puts_the_old_folder_back(tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "a.txt").write_text("old")
    with pytest.raises(OSError, match="No such file"):
        folders.replace_folder(tmp_path / "missing", folder)
    assert content(folder) == {"a.txt": "old"}
    assert list(tmp_path.iterdir()) == [folder]


def test_an_output_folder_with_content_or_inside_its_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("a")
    (tmp_path / "empty").mkdir()
    for out in ("full", "full/a.txt"):
        with pytest.raises(BadInput, match=r"exists and is not empty; .*--out"):
            check_output_folder(tmp_path / out)
    with pytest.raises(BadInput, match=r"lies inside .*full, which is never altered"):
        check_output_folder(tmp_path / "full" / "new", tmp_path / "full")
    for out in ("empty", "new", "full2"):
        check_output_folder(tmp_path / out, tmp_path / "full")


def test_a_folder_that_holds_anything_else_is_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    check_replaceable(folder, {"a.txt"}, "a policy")
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    check_replaceable(folder, {"a.txt"}, "a policy")
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(BadInput, match=r'holds "thesis.txt", which is not part of a policy'):
        check_replaceable(folder, {"a.txt"}, "a policy")
    with pytest.raises(BadInput, match="is a file, and a policy is written as a folder"):
        check_replaceable(folder / "a.txt", (), "a policy")
