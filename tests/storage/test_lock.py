"""Folder locks: one writer at a time, whatever the signature in the folder says."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from imitact.core.errors import BadInput
from imitact.storage.lock import WRITER, exclusive_writer, shared_build_lock


def test_a_folder_without_a_signature_is_refused_all_the_same(tmp_path: Path) -> None:
    with exclusive_writer(tmp_path, "training"):
        for text in ("", "x", f"{2**22 + 5} recording", "-1", "9" * 50):
            (tmp_path / WRITER).write_text(text)
            with (
                pytest.raises(BadInput, match=r"another export is writing to [^()]*; wait"),
                exclusive_writer(tmp_path, "export"),
            ):
                pass
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_does_not_let_two_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any, **more: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with (
        exclusive_writer(tmp_path, "training"),
        pytest.raises(BadInput, match="another training is writing"),
        exclusive_writer(tmp_path, "training"),
    ):
        pass


BUILD = """
import sys, time
from pathlib import Path
from imitact.storage.lock import shared_build_lock
folder = Path(sys.argv[1])
with shared_build_lock(folder / "lock"):
    if not (folder / "built").exists():
        print("building", flush=True)
        time.sleep(0.5)
        (folder / "built").touch()
"""


def test_of_several_that_need_one_thing_one_builds_it_and_the_others_wait(tmp_path: Path) -> None:
    began = [
        subprocess.Popen(
            [sys.executable, "-c", BUILD, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    said = [process.communicate(timeout=60)[0] for process in began]
    assert sorted(said) == ["", "", "building\n"]


def test_a_build_lock_is_free_again_when_its_holder_is_killed(tmp_path: Path) -> None:
    hold = BUILD.replace("time.sleep(0.5)", "time.sleep(600)")
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "building\n"
    holder.kill()
    holder.communicate()
    began = time.monotonic()
    with shared_build_lock(tmp_path / "lock"):
        assert time.monotonic() - began < 10
