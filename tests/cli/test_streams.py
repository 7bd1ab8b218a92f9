"""Standard streams: the work and its exit code do not depend on who reads what it prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import tiny
from tests.support.paths import ROOT

IMITACT = [sys.executable, "-m", "imitact"]
DATA = ROOT / "tests" / "fixtures" / "lerobot" / "v30"
CHECK = ["check", str(DATA), "--no-frames"]

STREAMS = {
    "a reader that ends after a line": "2>&1 | head -1",
    "a full stderr": "2>/dev/full",
    "a full stdout": ">/dev/full",
    "both full": ">/dev/full 2>&1",
    "a closed stderr": "2>&-",
    "a closed stdout": ">&-",
    "a closed stdin": "<&-",
    "all closed": "<&- >&- 2>&-",
}


def shell(argv: list[str], streams: str, **environment: str) -> tuple[int, str]:
    """Run a command line with these streams; return its own exit code, and what was printed."""
    command = f'"$@" {streams}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", command, "bash", *IMITACT, *argv],
        capture_output=True,
        env={**os.environ, **environment},
    )
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize(
    ("code", "argv"), [(0, CHECK), (2, ["check", "nothing/here"]), (0, ["train", "--help"])]
)
def test_the_exit_code_is_that_of_the_work(code: int, argv: list[str], streams: str) -> None:
    found, printed = shell(argv, STREAMS[streams])
    assert found == code, printed
    assert "Traceback" not in printed
    assert "Exception ignored" not in printed


def test_a_training_goes_on_without_a_reader(tmp_path: Path) -> None:
    out = tmp_path / "out"
    argv = ["train", str(DATA), "--out", str(out), *tiny("--model.chunk-size", "4")]
    code, printed = shell([*argv, "--ignore-errors"], "2>&1 | head -1")
    assert code == 0, printed
    assert (out / "policy" / "policy.json").is_file()
    assert (out / "training.json").is_file()


def test_what_a_full_stdout_cannot_take_is_printed_to_stderr() -> None:
    code, printed = shell(CHECK, "2>&1 >/dev/full")
    assert code == 0
    assert f"{DATA}: " in printed


@pytest.mark.parametrize("encoding", ["ascii:strict", "ascii", "latin-1", "cp1252:strict", "utf-8"])
def test_any_encoding_of_the_output_works(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "ä 日 \udcff"
    path.mkdir()
    (path / "meta").symlink_to(DATA / "meta")
    code, printed = shell(["check", str(path), "--no-frames"], "", PYTHONIOENCODING=encoding)
    assert code == 3, printed  # the data files are missing
    assert "Traceback" not in printed


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    """A library that prints to number 2 would otherwise write into a file of the work."""
    code = (
        "import os, sys\nfrom imitact.cli.main import _open_standard_streams\n"
        "_open_standard_streams()\n"
        f"file = open({str(tmp_path / 'file')!r}, 'w')\nassert file.fileno() > 2\n"
        "os.write(2, b'a message of a library')\nsys.stderr.write('another')\n"
    )
    done = subprocess.run(["bash", "-c", '"$@" <&- >&- 2>&-', "bash", sys.executable, "-c", code])
    assert done.returncode == 0
    assert (tmp_path / "file").read_bytes() == b""
