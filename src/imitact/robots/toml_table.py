"""TOML tables: strict reading into dataclasses, and writing with each field's text as a comment."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

from imitact.core.errors import BadInput, nearest
from imitact.core.field_texts import field_texts

T = TypeVar("T")


def read_table(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """Return a dataclass made of a table, refusing every unknown, missing or unfit key by name.

    Args:
        kind: a dataclass whose fields are str, int, float, bool, a Literal, a tuple of one of them,
            a dataclass, a Mapping from names to one of these, Any, or one of these or None.
        where: the table's place, for errors: "robot.toml: [arms.left]".

    Raises:
        BadInput: a key is unknown or missing, or a value has another type.
    """
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}  # pyright: ignore[reportArgumentType]
    for key in table:
        if key not in fields:
            meant = nearest(key, fields)
            question = f". Did you mean {meant}?" if meant else ""
            raise BadInput(
                f"{where}: there is no key {key}; expected {', '.join(fields)}{question}"
            )
    values = {}
    for name, field in fields.items():
        if name in table:
            values[name] = _value(hints[name], table[name], f"{where}: {name}")
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise BadInput(
                f"{where}: {name} is missing: {field_texts(kind).get(name, 'it is required')}"
            )
    try:
        return kind(**values)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None


def _value(hint: Any, value: Any, where: str) -> Any:
    """Return a value of a table as the type of its field."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _value(next(a for a in arguments if a is not type(None)), value, where)
    if hint is Any:
        return value
    if origin is Literal:
        if value not in arguments:
            choices = ", ".join(map(_text, arguments))
            raise BadInput(f"{where} is {_text(value)}; expected one of {choices}")
        return value
    if dataclasses.is_dataclass(hint) or (origin or hint) in (Mapping, dict, _ABC_MAPPING):
        if not isinstance(value, Mapping):
            raise BadInput(f"{where} is {_text(value)}; expected a table")
        if dataclasses.is_dataclass(hint):
            return read_table(typing.cast(type, hint), value, where)
        return {key: _value(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is tuple:
        if not isinstance(value, list):
            raise BadInput(f"{where} is {_text(value)}; expected a list")
        return tuple(_value(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        raise BadInput(f"{where} is {_text(value)}; expected {_EXPECTED[hint]}")
    return value


_ABC_MAPPING = get_origin(Mapping[str, Any])

_EXPECTED = {
    str: "text",
    float: "a finite number",
    int: "a whole number",
    bool: "true or false",
}


def table_text(value: Any) -> str:
    """Return a dataclass or a mapping as TOML; each field has its text above it as a comment.

    Fields at None and empty tables are left out, and a text is written once.
    """
    text = "\n".join(_lines(value, "", set()))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _lines(value: Any, path: str, said: set[str]) -> Iterator[str]:
    texts: Mapping[str, str] = {}
    if isinstance(value, Mapping):
        items = dict(value)
    else:
        texts = field_texts(type(value))
        items = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
    items = {key: item for key, item in items.items() if item is not None and item not in ({}, ())}
    tables = {key: item for key, item in items.items() if _is_table(item)}
    if path and len(tables) < len(items):
        yield from ("", f"[{path}]")
    for key, item in items.items():
        if key not in tables:
            yield from _comment(texts.get(key, ""), said)
            yield f"{_key(key)} = {_text(item)}"
    for key, item in tables.items():
        yield ""
        yield from _comment(texts.get(key, ""), said)
        yield from _lines(item, f"{path}.{_key(key)}" if path else _key(key), said)


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or dataclasses.is_dataclass(value)


def _comment(text: str, said: set[str]) -> Iterator[str]:
    if text and text not in said:
        said.add(text)
        yield from textwrap.wrap(text, 96, initial_indent="# ", subsequent_indent="# ")


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _text(key)


def _text(value: Any) -> str:
    """Return a value as TOML."""
    if isinstance(value, str):
        # JSON's escapes are TOML's, besides DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_text(v)}" for k, v in value.items()) + "}"
    return str(value)
