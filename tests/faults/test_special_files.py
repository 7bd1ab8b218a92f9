"""Special files: the program of that name, on a few files of some kinds."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.faults import special_files

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")

KINDS = ("recording", "lerobot v2.1", "aloha", "diffusion-policy", "policy", "checkpoints")


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> dict[str, special_files.Thing]:
    return special_files.things(tmp_path_factory.mktemp("special"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_special_file_in_the_place_of_any_file_is_refused_by_name(
    kind: str, things: dict[str, special_files.Thing], tmp_path: Path
) -> None:
    found = special_files.run(things[kind], tmp_path / "work", most=3)
    assert not found["wrong"]
    assert found["refused"] or things[kind].repairs


def test_a_reader_that_waits_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(special_files, "CASE_S", 0.2)
    monkeypatch.setattr(special_files, "SPECIAL", {"a pipe": os.mkfifo})
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing" / "file").write_text("")
    thing = special_files.Thing(tmp_path / "thing", lambda path: (path / "file").read_bytes())
    found = special_files.run(thing, tmp_path / "work")
    assert found["wrong"] == ["file is a pipe: HangsError: more than 0.2 s"]
