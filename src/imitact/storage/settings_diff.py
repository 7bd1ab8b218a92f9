"""Settings diff: which settings differ between what was begun and what is asked for now.

A recording, training, evaluation, tuning or conversion continues only with the settings it was
begun with. Each stores its settings as JSON; `check_same_settings` names every one that differs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imitact.core.errors import BadInput

_MAX_SHOWN = 60
"""Characters of a value that a message shows."""

_ABSENT = object()  # a setting that is missing, which is not the same as null


def plain_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as they come back from a JSON file: tuples as lists, keys as text.

    Refuses a value that has no JSON form, and NaN and infinity.
    """
    try:
        return json.loads(json.dumps(settings, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BadInput(f"settings must be plain JSON values: {error}") from error


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by their full names: {"train": {"steps": 1}} as {"train.steps": 1}."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def differences(
    then: Mapping[str, Any],
    now: Mapping[str, Any],
    wording: str = "{name} was {then}, is now {now}",
) -> list[str]:
    """Return the settings that differ, in words: "train.steps was 100, is now 200".

    Both are plain JSON values. There is one text in this wording for each setting that differs, in
    the order of `now`, then of `then`.
    """
    flat = flattened(then), flattened(now)
    names = dict.fromkeys([*flat[1], *flat[0]])
    found = []
    for name in names:
        before, after = (settings.get(name, _ABSENT) for settings in flat)
        # An empty group that has settings on the other side: they are named one by one.
        is_group = {} in (before, after) and any(n.startswith(f"{name}.") for n in names)
        if before != after and not is_group:
            found.append(wording.format(name=name, then=_shown(before), now=_shown(after)))
    return found


def check_same_settings(
    then: Mapping[str, Any], now: Mapping[str, Any], where: Path, *, partial: bool = False
) -> None:
    """Raise BadInput, naming every difference, where the work in `where` would go on with others.

    With `partial`, settings that `now` lacks are not compared.
    """
    if partial:
        then = {name: value for name, value in then.items() if name in now}
    if found := differences(then, now):
        raise BadInput(
            f"{where} was begun with other settings: {'; '.join(found)}. Give the same settings "
            "to continue, or another folder"
        )


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "not set"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."
