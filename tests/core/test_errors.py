"""Errors suggest the nearest name, and a command that works for the way imitact is installed."""

from __future__ import annotations

import json
import re
from importlib import metadata

import pytest

from imitact.core.errors import install_command, missing_package, nearest, unknown_name
from tests.support.paths import ROOT


class Installed:
    """A distribution whose direct_url.json is the given text."""

    def __init__(self, text: str | None) -> None:
        self._text = text

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self._text


@pytest.mark.parametrize(
    ("source", "command"),
    [
        (None, "pip install 'imitact[view]'"),
        (
            {"url": "file:///x/imitact", "dir_info": {"editable": True}},
            "pip install '.[view]'",
        ),
        ({"url": "file:///x/imitact", "dir_info": {}}, "pip install '.[view]'"),
        (
            {"url": "https://example.org/imitact", "vcs_info": {"vcs": "git", "commit_id": "1"}},
            "pip install 'imitact[view] @ git+https://example.org/imitact'",
        ),
    ],
)
def test_the_command_fits_the_installation(
    source: dict[str, object] | None, command: str, monkeypatch: pytest.MonkeyPatch
):
    text = None if source is None else json.dumps(source)
    monkeypatch.setattr(metadata, "distribution", lambda name: Installed(text))
    assert install_command("view") == command
    assert str(missing_package("rerun", "view")) == f"rerun is not installed; {command} installs it"


def test_without_an_installation_the_clone_is_named(monkeypatch: pytest.MonkeyPatch):
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    assert install_command("sim") == "pip install '.[sim]'"


def test_nothing_tells_people_to_install_imitact_from_an_index():
    """The name is nobody's on PyPI; core/errors.py names it only where pip installed it so."""
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    wrong = [
        path.relative_to(ROOT).as_posix()
        for path in files
        if path.name != "errors.py"
        and re.search(r"pip install[^\n`]* '?imitact\b", path.read_text())
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [("quik", "quick"), ("QUICK", "quick"), ("relaesed", "released"), ("zzz", None), ("", None)],
)
def test_the_nearest_name_is_suggested(given: str, expected: str | None):
    assert nearest(given, ("quick", "released", "paper")) == expected


def test_case_of_a_name_is_kept():
    assert nearest("mien", ("Mine", "other")) == "Mine"


def test_the_error_lists_every_name():
    text = str(unknown_name("preset", "quik", {"paper": 1, "quick": 2}))
    assert text == 'there is no preset "quik"; expected paper, quick. Did you mean quick?'
    assert str(unknown_name("preset", "x", ("paper",))) == 'there is no preset "x"; expected paper'
