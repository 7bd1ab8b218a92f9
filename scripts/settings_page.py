"""Write docs/settings.md: every setting of every verb, as the command line itself explains it.

    python scripts/settings_page.py

Verbs come from imitact.cli.main, settings and meanings from their
dataclasses: nothing is listed here.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from imitact.cli import main as cli
from imitact.cli.options import meanings
from imitact.training.config import PRESETS

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
REQUIRED = "required"
_USUAL = "quick"
"""The preset that is taken where none is named."""

_TOP = """\
# Settings

Every setting of every verb, as `imitact VERB --help` explains it. This page is written by `python
scripts/settings_page.py` from the code, and a test compares the two.

A setting is an option: `--model.chunk 50`. One that is true or false is `--resume` or
`--no-resume`, `--model.cvae` or `--model.no-cvae`. In Python the same names are fields of the
dataclass named below the heading. Where presets differ, the table shows the value of each;
`--preset` chooses.
"""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One option of a verb.

    name:     as on the command line, without a value.
    kind:     what its value is, in a word.
    defaults: preset to default as text; one entry, named "", where there are no presets.
    meaning:  its docstring, in one line.
    """

    name: str
    kind: str
    defaults: dict[str, str]
    meaning: str


@dataclasses.dataclass(frozen=True)
class Group:
    """A dataclass nested in a verb's settings, such as the network's."""

    field: str
    kind: type
    prefix: str
    settings: tuple[Setting, ...]


@dataclasses.dataclass(frozen=True)
class VerbSettings:
    """What a verb takes: its own settings, then the groups."""

    name: str
    line: str
    kind: type
    settings: tuple[Setting, ...]
    groups: tuple[Group, ...]


@functools.cache
def verb_settings(name: str) -> VerbSettings:
    """Of the verb of that name, read from imitact.cli.main."""
    verb = cli.VERBS[name]
    room = verb.room()
    others = [None] * (len(verb.first) - 1)  # options beside --preset that are read first
    first = verb.settings(room, None, *others)
    starts = (
        {"": first}
        if isinstance(first, type)
        else {preset: verb.settings(room, preset, *others) for preset in PRESETS}
    )
    kind = first if isinstance(first, type) else type(first)
    own: list[Setting] = []
    groups: list[Group] = []
    for field, hint in _fields(kind):
        bare, marks = _bare(hint)
        inner = {preset: _default(field, start) for preset, start in starts.items()}
        if dataclasses.is_dataclass(bare) and isinstance(bare, type):
            prefix = "" if OmitArgPrefixes in marks else f"{_dashed(field.name)}."
            of_type = {p: bare if value is dataclasses.MISSING else value for p, value in
                       inner.items()}  # fmt: skip
            groups.append(Group(field.name, bare, prefix, tuple(_settings(bare, of_type, prefix))))
        else:
            own.append(_setting(kind, field, hint, inner, ""))
    return VerbSettings(name, verb.line, kind, tuple(own), tuple(groups))


def _fields(kind: type) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        yield field, hints[field.name]


def _settings(kind: type, starts: dict[str, Any], prefix: str) -> Iterator[Setting]:
    """Of a dataclass, and of those within it."""
    for field, hint in _fields(kind):
        bare, _ = _bare(hint)
        inner = {preset: _default(field, start) for preset, start in starts.items()}
        if dataclasses.is_dataclass(bare) and isinstance(bare, type):
            yield from _settings(bare, inner, f"{prefix}{_dashed(field.name)}.")
        else:
            yield _setting(kind, field, hint, inner, prefix)


def _setting(
    kind: type, field: dataclasses.Field[Any], hint: Any, defaults: dict[str, Any], prefix: str
) -> Setting:
    bare, marks = _bare(hint)
    positional = Positional in marks
    name = _dashed(field.name).upper() if positional else f"--{prefix}{_dashed(field.name)}"
    texts = {preset: _text(value) for preset, value in defaults.items()}
    return Setting(name, _kind(bare), texts, meanings(kind)[field.name])


def _default(field: dataclasses.Field[Any], start: Any) -> Any:
    if not isinstance(start, type):
        return getattr(start, field.name)
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return dataclasses.MISSING


def _bare(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type without tyro's marks, and the marks."""
    marks: tuple[Any, ...] = ()
    while typing.get_origin(hint) is typing.Annotated:
        hint, *more = typing.get_args(hint)
        marks += tuple(more)
    forms = (Positional, OmitArgPrefixes)
    found = [form for form in forms if set(marks) & set(typing.get_args(form[int])[1:])]
    return hint, tuple(found)


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _kind(hint: Any) -> str:
    """What a value is, as one would say it."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " or ".join(str(choice) for choice in inside)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("none" if part is type(None) else _kind(part) for part in inside)
    if origin in (tuple, list):
        return f"{_kind(inside[0])} ..."
    words = {int: "integer", float: "number", str: "text", bool: "true or false", Path: "path"}
    return words.get(hint, str(getattr(hint, "__name__", hint)))


def _text(value: Any) -> str:
    if value in (dataclasses.MISSING, tyro.MISSING):
        return REQUIRED
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "(nothing)"
    return str(value) if value != "" else "''"


def plain(text: str) -> str:
    """Text for a cell of a table in Markdown: only `code` has a meaning."""
    parts = re.split(r"(`[^`]+`)", text)
    parts[::2] = [re.sub(r"([\\*_$<>\[\]])", r"\\\1", part) for part in parts[::2]]
    return "".join(parts).replace("|", "\\|")


def _default_cell(defaults: dict[str, str]) -> str:
    values: dict[str, list[str]] = {}
    for preset, text in defaults.items():
        values.setdefault(text, []).append(preset)
    if len(values) == 1 or set(values) == set(defaults):  # the preset names itself
        text = next(iter(values)) if len(values) == 1 else defaults[_USUAL]
        return text if text == REQUIRED else f"`{text}`"
    return ", ".join(f"`{text}` ({', '.join(presets)})" for text, presets in values.items())


def _table(settings: Sequence[Setting]) -> list[str]:
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for setting in settings:
        kind = "" if setting.kind == "true or false" else f" *{plain(setting.kind)}*"
        cells = (
            f"`{setting.name}`{kind}",
            _default_cell(setting.defaults).replace("|", "\\|"),
            plain(setting.meaning),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _about(kind: type) -> list[str]:
    """The docstring of the dataclass, without its list of fields."""
    text = (kind.__doc__ or "").split("\n\n")
    kept = [" ".join(part.split()) for part in text]
    return [plain(part) for part in kept if part and not re.match(r"\w+(, \w+)*: ", part)]


def page() -> str:
    """The whole page."""
    lines = [_TOP]
    shown: dict[tuple[type, str], tuple[str, Group]] = {}
    for name in cli.VERBS:
        verb = verb_settings(name)
        lines += [f"## imitact {name}", "", f"`{verb.kind.__module__}.{verb.kind.__name__}`", ""]
        for part in _about(verb.kind):
            lines += [part, ""]
        if verb.settings:
            lines += [*_table(verb.settings), ""]
        for group in verb.groups:
            where = f"`{group.kind.__module__}.{group.kind.__name__}`"
            key = (group.kind, group.prefix)
            if key in shown:
                owner, before = shown[key]
                other = [
                    s for s, b in zip(group.settings, before.settings, strict=True)
                    if s.defaults != b.defaults
                ]  # fmt: skip
                text = f"`--{group.prefix}…`: as for [imitact {owner}](#imitact-{owner})"
                lines += [text + (", but:" if other else "."), ""]
                lines += [*_table(other), ""] if other else []
                continue
            shown[key] = name, group
            title = f"`--{group.prefix}…`" if group.prefix else group.field
            lines += [f"### imitact {name}: {title}", "", where, ""]
            for part in _about(group.kind):
                lines += [part, ""]
            lines += [*_table(group.settings), ""]
    return "\n".join(lines).rstrip() + "\n"


def options() -> dict[str, set[str]]:
    """Verb to the names of all its options, what turns a switch off included."""
    found = {}
    for name in cli.VERBS:
        verb = verb_settings(name)
        every = [*verb.settings, *(s for group in verb.groups for s in group.settings)]
        found[name] = {s.name for s in every if s.name.startswith("--")}
        for setting in every:
            if setting.kind == "true or false":
                group, _, last = setting.name[2:].rpartition(".")
                found[name].add(f"--{group}{'.' if group else ''}no-{last}")
    return found


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE.name)


if __name__ == "__main__":
    main()
