"""Settings diff: every setting that differs is named, in full, and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imitact.core.errors import BadInput
from imitact.storage.settings_diff import check_same_settings, differences, flattened, plain_json

THEN = {"steps": 100, "train": {"lr": 1e-4, "betas": [0.9, 0.99]}, "read": {}}


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (THEN, []),
        ({**THEN, "steps": 200}, ["steps was 100, is now 200"]),
        (
            {**THEN, "train": {"lr": 1e-4, "betas": [0.9], "fused": None}},
            ["train.betas was [0.9, 0.99], is now [0.9]", "train.fused was not set, is now null"],
        ),
        (
            {**THEN, "train": 3},
            ["train was not set, is now 3", "train.lr was 0.0001, is now not set",
             "train.betas was [0.9, 0.99], is now not set"],
        ),
        ({**THEN, "read": {"files": "*"}}, ['read.files was not set, is now "*"']),
    ],
)  # fmt: skip
def test_each_setting_that_differs_is_named_in_full(now: dict[str, Any], said: list[str]) -> None:
    assert differences(THEN, now) == said


def test_long_values_are_shortened() -> None:
    (line,) = differences({"seeds": list(range(50))}, {"seeds": []})
    assert line == f"seeds was {str(list(range(50)))[:57]}..., is now []"


def test_other_settings_are_refused_with_all_differences_and_the_folder() -> None:
    check_same_settings(THEN, dict(THEN), Path("out"))
    with pytest.raises(BadInput, match=r"^out was begun with other settings: .*; .* to continue"):
        check_same_settings(THEN, {"steps": 1, "read": {}}, Path("out"))


def test_settings_that_are_not_known_yet_are_not_compared() -> None:
    check_same_settings(THEN, {"steps": 100}, Path("out"), partial=True)
    for now in ({"steps": 1}, {"new": 1}, {"train": {"lr": 1e-4}}):
        with pytest.raises(BadInput, match="other settings"):
            check_same_settings(THEN, now, Path("out"), partial=True)


def test_settings_are_compared_as_json_gives_them_back() -> None:
    assert plain_json({"a": (1, 2), 3: {"b": None}}) == {"a": [1, 2], "3": {"b": None}}
    assert flattened({"a": {"b": {"c": 1}, "d": []}, "e": {}}) == {"a.b.c": 1, "a.d": [], "e": {}}
    for value in (float("nan"), {1, 2}, object()):
        with pytest.raises(BadInput, match="must be plain JSON values"):
            plain_json({"a": value})
