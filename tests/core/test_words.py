"""Words: counts have the noun of their number, in every message and result."""

from __future__ import annotations

import ast
import re

import pytest

from imitact.core.words import counted
from tests.support.paths import ROOT

COUNTS = (
    "episodes|demonstrations|ticks|seeds|errors|warnings|steps|videos|samples|queries|rows|datasets"
)
"""Nouns that follow a count of things; frames and values follow rates and sizes, too."""

ADJECTIVES = "skipped |other |fresh |differing "

NEVER_ONE = {
    "{rate_hz:g} ticks",
    "{config.rate_hz:g} ticks",
    "{fact.upper} ticks",
    "{fact.homing_offset} ticks",
    "{fact.position} ticks",
    "{wrap} ticks",
    "{left} ticks",
    "{present} ticks",
    "{position} ticks",
    "{tick} ticks",
    "{only_b} differing seeds",
    "{_first(copy.lengths)} ticks",
}
"""Positions of servos, and rates."""


@pytest.mark.parametrize(
    ("count", "one", "text"),
    [
        (0, "episode", "0 episodes"),
        (1, "episode", "1 episode"),
        (2, "query", "2 queries"),
        (1, "other seed", "1 other seed"),
        (3, "day", "3 days"),
    ],
)
def test_a_noun_has_the_number_of_its_count(count: int, one: str, text: str):
    assert counted(count, one) == text


def test_another_plural_can_be_given():
    assert counted(2, "process", "processes") == "2 processes"


def plural_counts(text: str) -> list[str]:
    """Return the f-strings of Python code in which a number stands before a fixed plural."""
    found = []
    for joined in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.JoinedStr)):
        for value, after in zip(joined.values, joined.values[1:], strict=False):
            if not (isinstance(value, ast.FormattedValue) and isinstance(after, ast.Constant)):
                continue
            noun = re.match(rf" ((?:{ADJECTIVES})?(?:{COUNTS}))\b(?!/)", str(after.value))
            spec = ast.unparse(value.format_spec) if value.format_spec else ""
            is_constant = re.fullmatch(r"(\w+\.)*_?[A-Z][A-Z_]+", ast.unparse(value.value))
            if noun and not is_constant and not re.search(r"[+,f]|\d", spec):
                shown = f"{{{ast.unparse(value.value)}{':g' if spec else ''}}} {noun[1]}"
                found.append(shown)
    return found


def test_the_search_finds_what_it_is_for():
    assert plural_counts('f"{len(rows)} ticks"') == ["{len(rows)} ticks"]
    assert plural_counts('f"{n} other seeds"') == ["{n} other seeds"]
    assert plural_counts('f"{rate:g} ticks/s, {MAX_TICKS} ticks, {share:.1%} ticks"') == []


def test_no_message_has_a_count_with_a_fixed_plural():
    found = {
        f"{path.relative_to(ROOT)}: {text}"
        for path in sorted((ROOT / "src").rglob("*.py"))
        for text in plural_counts(path.read_text(encoding="utf-8"))
        if text not in NEVER_ONE
    }
    assert found == set()
