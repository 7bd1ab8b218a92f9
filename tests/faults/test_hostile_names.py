"""Hostile names: what a file calls its joints, cameras and tasks never controls the terminal."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.support.command_line import answer, tiny
from tests.support.paths import ROOT

DATA = ROOT / "tests" / "fixtures" / "lerobot" / "v30"
NAME = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\x08\u202egnp\u2066\x00\x7f\nimitact: done"
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A dataset whose joints, features and version have names that control a terminal."""
    data = tmp_path / "data"
    shutil.copytree(DATA, data)
    file = data / "meta" / "info.json"
    info = json.loads(file.read_text())
    for feature in ("observation.state", "action"):
        about = info["features"][feature]
        about["names"] = [f"{NAME}{number}" for number in range(about["shape"][0])]
    info["robot_type"] = NAME
    info["features"][f"observation.{NAME}"] = {"dtype": NAME, "shape": [1], "names": None}
    file.write_text(json.dumps(info))
    return data


@pytest.mark.parametrize(
    "argv",
    [
        ["check", "DATA"],
        ["check", "DATA", "--fix", "OUT"],
        ["convert", "DATA", "--out", "OUT", "--to", "aloha-hdf5"],
        ["train", "DATA", "--out", "OUT", *tiny("--model.chunk-size", "4"), "--ignore-errors"],
        ["train", "DATA", "--out", "OUT", *tiny("--model.chunk-size", "50")],
        ["train", "DATA", "--out", "OUT", "--read.state", NAME],
        ["view", "DATA", "--out", "OUT.html"],
        ["check", NAME],
        ["evaluate", NAME, "--out", "OUT"],
        [NAME],
    ],
    ids=lambda argv: " ".join(argv[:2]).encode("unicode_escape").decode()[:30],
)
def test_names_never_reach_the_terminal(
    argv: list[str], hostile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {
        "DATA": str(hostile),
        "OUT": str(tmp_path / "out"),
        "OUT.html": str(tmp_path / "o.html"),
    }
    code, printed, err = answer(capsys, *(places.get(word, word) for word in argv))
    assert code in (0, 2, 3), err
    for text in (printed, err):
        found = CONTROL.search(text)
        assert not found, text[max(0, found.start() - 100) :]
        assert "\nimitact: done" not in text
