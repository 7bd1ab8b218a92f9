"""Systems: what imitact does where a module of Linux is missing, as on Windows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from imitact.cli import main
from imitact.cli.verbs import Verb
from tests.support.command_line import TINY, is_refused
from tests.support.demonstrations import demonstrate, write

WINDOWS = """
import os, signal, sys
for name in ("fcntl", "resource"):
    sys.modules[name] = None
for module, names in {os: "posix_fallocate sched_getaffinity", signal: "pthread_sigmask"}.items():
    for name in names.split():
        module.__dict__.pop(name, None)
"""
"""A sitecustomize.py that takes away from this Python, and those it starts, what Windows lacks."""


@pytest.fixture
def windows(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that has no more of Python than Windows offers."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WINDOWS)
    return {**os.environ, "PYTHONPATH": str(folder)}


def test_demonstrations_are_read_checked_and_trained_on_without_modules_of_unix(
    windows: dict[str, str], tmp_path: Path
):
    data = write(tmp_path / "data", [demonstrate(seed) for seed in range(3)], cameras=["front"])
    for argv in (
        ["check", data],
        ["train", data, "--out", tmp_path / "training", *TINY],
        ["train", data, "--out", tmp_path / "training", *TINY, "--resume"],
    ):
        command = [sys.executable, "-m", "imitact", *map(str, argv)]
        done = subprocess.run(command, env=windows, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "training" / "policy" / "policy.json").is_file()


@pytest.mark.parametrize("module", ["fcntl", "termios"])
def test_a_module_that_the_system_lacks_is_never_to_be_installed_with_pip(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def lacks():
        raise ModuleNotFoundError(f"No module named '{module}'", name=module)

    monkeypatch.setitem(main.VERBS, "check", Verb("", lacks))
    refusal = is_refused(capsys, "check", "data")
    assert module in refusal
    assert "Linux and macOS" in refusal
    assert "pip install" not in refusal
