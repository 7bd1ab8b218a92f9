"""Numeric options: each has a range, and a number out of it is refused before anything is done."""

from __future__ import annotations

import math
import typing
from pathlib import Path

import pytest

from imitact.cli import main
from imitact.cli.options import Option, options
from imitact.core.errors import BadInput
from imitact.quality.following import TrackingLimits
from imitact.quality.timestamps import TickLimits

ARGUMENTS = {
    "check": ["data"],
    "compare": ["a", "b"],
    "completion": ["bash"],
    "convert": ["data", "--out", "o"],
    "demo": [],
    "evaluate": ["policy", "--out", "o"],
    "export": ["policy", "--data", "d", "--out", "o"],
    "export-policy": ["policy", "--out", "o", "--to", "lerobot"],
    "import-policy": ["policy", "--out", "o"],
    "record": ["--out", "o"],
    "record --robot": ["--robot", "sim:cube", "--out", "o"],
    "replay": ["data", "--robot", "sim:cube"],
    "robot": ["simulate", "aloha"],
    "run": ["policy", "--robot", "sim:cube"],
    "serve": ["policy"],
    "teleop": ["sim:cube"],
    "train": ["data", "--out", "o", "--model.pretrained-backbone", "none"],
    "tune": ["policy"],
    "view": ["data"],
}
"""A command line of each verb with what it cannot do without."""


def start(verb: str) -> typing.Any:
    name, _, robot = verb.partition(" --robot")
    chosen = main.VERBS[name]
    return chosen.start("sim:cube") if " --robot" in verb and not robot else chosen.start()


def numbers(hint: typing.Any) -> set[type]:
    """Return which kinds of number a type has in it."""
    inside = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return set()
    return {hint} & {int, float} | {kind for part in inside for kind in numbers(part)}


def numeric_options() -> list[tuple[str, Option]]:
    found = []
    for verb in ARGUMENTS:
        kind = start(verb)
        known = options(kind if isinstance(kind, type) else type(kind))
        found += [(verb, option) for option in known if numbers(option.hint)]
    return found


NUMERIC = numeric_options()


def test_the_law_covers_every_verb():
    assert {verb.partition(" ")[0] for verb in ARGUMENTS} == set(main.VERBS)
    assert len(NUMERIC) > 200


def test_every_numeric_option_has_a_range_in_which_its_default_lies():
    lacking = [f"{verb} {option.name}" for verb, option in NUMERIC if option.range is None]
    assert lacking == []
    for verb, option in NUMERIC:
        assert option.range is not None
        option.range.check(f"{verb} {option.name}", option.field.default)


KINDS = {(option.owner, option.field.name): (verb, option) for verb, option in reversed(NUMERIC)}
"""Each setting once, in the verb that has it first."""


def run(capsys: pytest.CaptureFixture[str], verb: str, *words: str) -> str:
    """Expect a refusal in one line; return it."""
    argv = [verb.partition(" ")[0], *ARGUMENTS[verb], *words]
    assert main.run(argv) == 2, argv
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize("value", ["-1", "0", "nan", "1e13"])
def test_a_number_out_of_its_range_is_refused_by_name_before_anything_is_done(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    number = float(value)
    for verb, option in KINDS.values():
        assert option.range is not None
        if number not in option.range:
            line = run(capsys, verb, f"{option.name}={value}")
            assert f" {option.name} is " in line
            assert f"it must be {option.range}" in line
    assert [*tmp_path.iterdir()] == []


def test_no_range_has_numbers_that_are_not_finite():
    for number in (math.nan, math.inf, -math.inf):
        assert not any(number in option.range for _, option in NUMERIC if option.range)


@pytest.mark.parametrize("words", [("",), ("many",), ("1e3",), ()])
def test_what_is_no_number_is_refused_by_name(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
):
    line = run(capsys, "view", "--width", *words)
    assert "--width" in line
    assert "an integer" in line


def test_every_spelling_of_an_option_is_checked(capsys: pytest.CaptureFixture[str]):
    for words in (["--max-episodes", "-1"], ["--max_episodes=-1"], ["--max_episodes", "-1"]):
        assert "--max-episodes is -1; it must be from 1 to" in run(capsys, "view", *words)
    assert "--delays is -1" in run(capsys, "tune", "--delays", "0", "-1")


def test_settings_made_in_python_keep_the_same_ranges():
    with pytest.raises(BadInput, match=r"min_ticks is -1; it must be from 0 to"):
        TickLimits(min_ticks=-1)
    with pytest.raises(BadInput, match="lag_s is nan; it must be from 0 to 60"):
        TrackingLimits(lag_s=math.nan)
