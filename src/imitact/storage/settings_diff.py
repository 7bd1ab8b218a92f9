"""Settings diff: which settings differ between what was begun and what is asked for now.

A recording, training, evaluation, tuning or conversion goes on only with the settings it was begun
with. Each stores its settings as JSON; `differences` names every one that is another now.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from imitact.core.errors import BadInput

_LONGEST = 60
"""Characters of a value that a message shows."""

_ABSENT = object()  # a setting that is not there, which is not the same as null


def plain_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they come back from a JSON file: tuples as lists, keys as text.

    Raises:
        BadInput: a value has no JSON form, or is NaN or infinite.
    """
    try:
        return json.loads(json.dumps(settings, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BadInput(f"settings must be plain JSON values: {error}") from error


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their full names: {"train": {"steps": 1}} gives {"train.steps": 1}."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings that differ, in words: "train.steps was 100, is 200".

    Args:
        then: plain JSON values, as stored.
        now: plain JSON values, as asked for.

    Returns:
        One text for each differing setting, in the order of `now`, then of `then`.
    """
    before, after = flattened(then), flattened(now)
    return [
        f"{name} was {_shown(before.get(name, _ABSENT))}, is {_shown(after.get(name, _ABSENT))}"
        for name in dict.fromkeys([*after, *before])
        if before.get(name, _ABSENT) != after.get(name, _ABSENT)
    ]


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "not set"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
