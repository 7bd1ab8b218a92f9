"""Suggestions: the nearest name is named, and an unlike one is not."""

from __future__ import annotations

import pytest

from imitact.core.suggestions import nearest, unknown


@pytest.mark.parametrize(
    ("given", "expected"),
    [("quik", "quick"), ("QUICK", "quick"), ("relaesed", "released"), ("zzz", None), ("", None)],
)
def test_the_nearest_name_is_suggested(given: str, expected: str | None):
    assert nearest(given, ("quick", "released", "paper")) == expected


def test_case_of_a_name_is_kept():
    assert nearest("mien", ("Mine", "other")) == "Mine"


def test_the_error_lists_every_name():
    text = str(unknown("preset", "quik", {"paper": 1, "quick": 2}))
    assert text == 'there is no preset "quik"; expected paper, quick. Did you mean quick?'
    assert str(unknown("preset", "x", ("paper",))) == 'there is no preset "x"; expected paper'
