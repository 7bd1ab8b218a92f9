"""Regular files: nothing else is opened, and nothing is written through a link."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imitact.core.errors import BadInput, DamagedFile
from imitact.datasets.open import open_dataset
from imitact.storage import atomic, atomic_folder, lock
from imitact.storage.checksum import file_sha256
from imitact.storage.journal import Journal
from imitact.storage.json_file import read_json_object
from imitact.storage.regular_file import create_file, open_regular, open_to_append, read_limited
from imitact.storage.sealed_file import unseal
from tests.faults.special_files import SPECIAL

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="these files are POSIX's")


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    signal.alarm(20)  # ends the tests: a reader waits for a pipe, or reads a device without end
    yield
    signal.alarm(0)


READERS: dict[str, Callable[[Path], object]] = {
    "open_regular": open_regular,
    "read_limited": lambda file: read_limited(file, 1000),
    "read_json_object": read_json_object,
    "file_sha256": file_sha256,
    "Journal": Journal,
    "unseal": unseal,
}


@pytest.mark.parametrize("what", SPECIAL)
@pytest.mark.parametrize("reader", READERS)
def test_only_regular_files_are_read(reader: str, what: str, tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    SPECIAL[what](file)
    if reader == "Journal" and not file.exists():
        return  # there is none yet; its first line is refused
    with pytest.raises(BadInput, match=r"file\.json"):
        READERS[reader](file)


@pytest.mark.parametrize("what", SPECIAL)
def test_a_special_file_is_not_called_missing(what: str, tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    SPECIAL[what](tmp_path / "meta" / "info.json")
    if not (tmp_path / "meta" / "info.json").exists():
        return  # a link that leads nowhere is missing
    with pytest.raises(BadInput, match=r"info\.json.* expected a file"):
        open_dataset(tmp_path)


def test_a_link_to_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"{}")
    (tmp_path / "b").symlink_to("a")
    assert read_json_object(tmp_path / "b") == {}


def test_a_file_without_a_true_size_is_read_up_to_the_size_that_it_says() -> None:
    if Path("/proc/self/status").exists():
        with pytest.raises(DamagedFile, match="more than the 0 bytes"):
            read_limited(Path("/proc/self/status"), 1000)


def write_journal(path: Path) -> None:
    Journal(path).begin({"a": 1})


def write_lock(path: Path) -> None:
    with lock.shared_build_lock(path):
        pass


def write_signature(path: Path) -> None:
    with lock.exclusive_writer(path.parent, "test"):
        assert not path.is_symlink()


def append(path: Path) -> None:
    os.close(open_to_append(path))


def create(path: Path) -> None:
    with create_file(path) as file:
        file.write(b"new")


WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "write_bytes": ("file", lambda path: atomic.write_bytes(path, b"new")),
    "write_json": ("file", lambda path: atomic.write_json(path, {})),
    "a temporary file": (
        ".folder.file.part",
        lambda path: atomic.write_bytes(path.with_name("file"), b"new"),
    ),
    "a temporary file that a library writes": (
        ".folder.file.part",
        lambda path: atomic.write_atomically(
            path.with_name("file"), lambda temporary: temporary.write_bytes(b"new")
        ),
    ),
    "Journal": ("file", write_journal),
    "the lock of a cache": ("file", write_lock),
    "the signature of a lock": (lock.WRITER, write_signature),
    "open_to_append": ("file", append),
    "create_file": ("file", create),
}
"""The name of the file that each writer writes, and the writer."""


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("leads_to", ["a file", "nothing"])
def test_nothing_is_written_through_a_link(writer: str, leads_to: str, tmp_path: Path) -> None:
    name, write = WRITERS[writer]
    target = tmp_path / "target"
    if leads_to == "a file":
        target.write_bytes(b"mine")
    (tmp_path / "folder").mkdir()
    file = tmp_path / "folder" / name
    file.symlink_to(target)
    refused = ""
    try:
        write(file)
    except BadInput as error:
        refused = str(error)
    assert "is a link to" in refused or not file.is_symlink()
    assert (target.read_bytes() == b"mine") if leads_to == "a file" else not target.exists()


@pytest.mark.parametrize("what", SPECIAL)
def test_a_journal_is_appended_to_a_regular_file_only(what: str, tmp_path: Path) -> None:
    SPECIAL[what](tmp_path / "episodes.jsonl")
    with pytest.raises(BadInput, match=r"episodes\.jsonl"):
        Journal(tmp_path / "episodes.jsonl").begin({"a": 1})


def test_a_folder_is_not_filled_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for name in (".out.building", ".out.saving", ".out.previous"):
        (tmp_path / name).symlink_to("mine")
    with atomic_folder.atomic_folder(tmp_path / "out", "copy") as building:
        (building / "new").write_text("")
    with atomic_folder.replaced_folder(tmp_path / "out") as building:
        (building / "newer").write_text("")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["newer"]
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
