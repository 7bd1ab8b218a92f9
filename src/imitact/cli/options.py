"""A dataclass of settings from a command line, each explained as it is where it is defined.

Two ways of writing a field's meaning are read: a docstring under the field, and an entry
"name: meaning" in the docstring of the class.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

T = TypeVar("T")

_ENTRY = re.compile(r"(\w+(?:, \w+)*):\s+(\S.*)")


def meanings(settings: type) -> dict[str, str]:
    """What each field of a dataclass means, in one line, by name."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc(settings.__doc__ or "").splitlines():
        if entry := _ENTRY.fullmatch(line):
            names = entry[1].split(", ")
            found.update(dict.fromkeys(names, entry[2]))
        elif line.startswith(" ") and names:
            found.update({name: f"{found[name]} {line.strip()}" for name in names})
        else:
            names = []
    body = ast.parse(textwrap.dedent(inspect.getsource(settings))).body[0]
    assert isinstance(body, ast.ClassDef)
    for field, text in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            found[field.target.id] = " ".join(str(text.value.value).split())
    return {f.name: found[f.name] for f in dataclasses.fields(settings) if f.name in found}


def parse(prog: str, settings: type[T] | T, argv: Sequence[str]) -> T:
    """The settings that `argv` gives, those not given from the instance or the type's defaults.

    Ends the program with the help, exit code 0, or with what is wrong, exit code 2.
    """
    registry = ConstructorRegistry()
    registry.struct_rule(_explained)
    kind, default = (settings, None) if isinstance(settings, type) else (type(settings), settings)
    return tyro.cli(kind, default=default, prog=prog, args=argv, registry=registry)


def _explained(info: StructTypeInfo) -> StructConstructorSpec | None:
    """tyro's rule for a dataclass, with meanings for help."""
    kind = info.type
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return None
    hints = typing.get_type_hints(kind, include_extras=True)
    texts = meanings(kind)
    return StructConstructorSpec(
        instantiate=kind,
        fields=tuple(
            StructFieldSpec(f.name, hints[f.name], _default(f, info.default), texts.get(f.name))
            for f in dataclasses.fields(kind)
        ),
    )


def _default(field: dataclasses.Field[Any], instance: Any) -> Any:
    if dataclasses.is_dataclass(instance):
        return getattr(instance, field.name)
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return tyro.MISSING
