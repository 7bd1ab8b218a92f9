"""Isolated process: a library that crashes, hangs or takes all memory is an error of its file."""

from __future__ import annotations

import copy
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from imitact.core.errors import BadInput, DamagedFile
from imitact.datasets.formats.hdf5 import Hdf5Reader
from imitact.datasets.open import open_dataset
from imitact.parallel import isolated_process, isolated_worker
from tests.support import foreign_files as foreign

FAKE = """
import os, signal, time
import numpy as np
h5l = h5o = None
class Empty:
    @property
    def id(self): return self
    links = id
    def iterate(self, visit, info): pass
    def close(self): pass
def File(path, *given, **named):
    path = os.path.basename(path)
    if "crash" in path:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "hang" in path:
        time.sleep(60)
    if "memory" in path:
        np.ones(1 << 40)
    if "filter" in path:
        raise OSError("Can't open (required filter 'x' is not registered)")
    print("what a library prints is not an answer")
    return Empty()
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hdf5Reader:
    """A reader with a fake h5py that fails as the name of the file says."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "h5py.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lib"))
    for name in ("crash", "hang", "memory", "filter", "fine"):
        (tmp_path / name).write_text("")
    return Hdf5Reader()


def test_a_crash_is_an_error_of_the_file_and_the_next_file_is_read(
    fake: Hdf5Reader, tmp_path: Path
):
    for _ in range(2):
        with pytest.raises(DamagedFile, match=r"crash: the library .* crashed .exit code -11"):
            fake.arrays(tmp_path / "crash")
        assert fake.arrays(tmp_path / "fine") == {}


def test_a_call_that_takes_too_long_is_stopped(
    fake: Hdf5Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert fake.arrays(tmp_path / "fine") == {}
    monkeypatch.setattr(isolated_process, "ANSWER_TIMEOUT_S", 0.5)
    began = time.monotonic()
    with pytest.raises(
        DamagedFile, match=r"hang: the library that reads it gave no answer within 0 s"
    ):
        fake.arrays(tmp_path / "hang")
    assert time.monotonic() - began < 20
    monkeypatch.undo()


def test_a_call_that_takes_too_much_memory_is_refused(fake: Hdf5Reader, tmp_path: Path):
    with pytest.raises(DamagedFile, match=r"memory cannot be read .*MemoryError"):
        fake.arrays(tmp_path / "memory")


def test_a_missing_filter_is_bad_input_and_not_damage(fake: Hdf5Reader, tmp_path: Path):
    with pytest.raises(BadInput, match=r"no filter for .*h5repack") as caught:
        fake.arrays(tmp_path / "filter")
    assert not isinstance(caught.value, DamagedFile)


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "h5py.py").write_text("raise ModuleNotFoundError('no', name='h5py')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "any").write_bytes(b"")
    with pytest.raises(ModuleNotFoundError) as caught:
        Hdf5Reader().arrays(tmp_path / "any")
    assert caught.value.name == "h5py"


def test_threads_and_copies_get_their_own_answers(tmp_path: Path):
    source = open_dataset(foreign.aloha(tmp_path))
    other = copy.deepcopy(source)
    found: dict[int, Any] = {}

    def look(at: int) -> None:
        chosen = (source, other)[at % 2]
        found[at] = np.stack(list(chosen.episode(at % 3).frames("top")))

    threads = [threading.Thread(target=look, args=(at,)) for at in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for at, frames in found.items():
        np.testing.assert_array_equal(frames, foreign.film(at % 3, (9, 5, 7)[at % 3]))
    assert len(found) == 12


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The worker's module in this process."""
    monkeypatch.setattr(isolated_worker, "_files", OrderedDict())
    return isolated_worker


def test_an_object_that_many_links_lead_to_is_read_once(
    worker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "links.hdf5"
    with h5py.File(path, "w") as file:
        group = file.create_group("leaf")
        group["x"] = np.arange(3.0)
        for number in range(20):
            file[f"group {number}"] = group
            file[f"array {number}"] = group["x"]
    described: list[Any] = []
    description = worker._description
    monkeypatch.setattr(
        worker, "_description", lambda item: described.append(item) or description(item)
    )
    answer, _ = worker.tree({"file": str(path)}, b"")
    assert len(described) == 1
    assert {array["path"] for array in answer["arrays"]} == {
        "/leaf/x",
        *(f"/group {number}/x" for number in range(20)),
        *(f"/array {number}" for number in range(20)),
    }


def test_more_paths_than_a_file_may_have_are_refused(
    worker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(worker, "MAX_OBJECTS", 100)
    path = tmp_path / "links.hdf5"
    with h5py.File(path, "w") as file:
        group = file.create_group("leaf")
        group["x"] = np.arange(3.0)
        for level in range(2):
            parent = file.create_group(f"level {level}")
            for number in range(8):
                parent[f"{number}"] = group
            group = parent
    with pytest.raises(ValueError, match="more than 100 groups and arrays"):
        worker.tree({"file": str(path)}, b"")
    path = tmp_path / "groups.hdf5"
    with h5py.File(path, "w") as file:
        for number in range(101):
            file.create_group(f"{number}")
    with pytest.raises(ValueError, match="more than 100 groups and arrays"):
        worker.tree({"file": str(path)}, b"")


def test_a_loop_of_groups_is_refused(worker: Any, tmp_path: Path):
    path = tmp_path / "loop.hdf5"
    with h5py.File(path, "w") as file:
        file["again"] = file["/"]
    with pytest.raises(ValueError, match="groups within groups, more than 8"):
        worker.tree({"file": str(path)}, b"")


@pytest.mark.parametrize(
    ("name", "is_found"),
    [("data/demo_0/actions", True), ("data/demo_0/obs/x", True), ("data/x", False), ("x", False)],
)
def test_an_array_within_a_group_of_a_group_is_found(
    worker: Any, name: str, is_found: bool, tmp_path: Path
):
    path = tmp_path / "any.hdf5"
    with h5py.File(path, "w") as file:
        file[name] = np.arange(3.0)
        file.create_group("data/empty")
    assert worker.has_array({"file": str(path), "path": "/data"}, b"")[0] == {"found": is_found}


def test_a_file_without_the_group_has_no_array_there(worker: Any, tmp_path: Path):
    path = tmp_path / "any.hdf5"
    with h5py.File(path, "w") as file:
        file["data"] = np.arange(3.0)  # an array where a group would be
    assert worker.has_array({"file": str(path), "path": "/data"}, b"")[0] == {"found": False}
