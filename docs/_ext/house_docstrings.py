"""Docstrings as imitact writes them, for Sphinx: text with `code` and lists of "name: meaning".

The source keeps docstrings that read well where they stand; what Sphinx reads is
reStructuredText. `rest` turns the one into the other.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any

# As verbs/settings.py reads them; a word that begins large begins a sentence: "Legend: ...".
_ENTRY = re.compile(r"([a-z_]\w*(?:, \w+)*):\s+(\S.*)")
_INDENT = "    "


def inline(text: str) -> str:
    """`code` as a literal; nothing else has a meaning."""
    parts = re.split(r"`+([^`]+)`+", text)
    told = []
    for i, part in enumerate(parts):
        if i % 2:
            after = parts[i + 1][:1]
            told.append(f"``{part}``" + ("\\ " if after.isalnum() else ""))
        else:
            plain = re.sub(r"([\\*|`])", r"\\\1", part)
            told.append(re.sub(r"_(?=\W|$)", r"\\_", plain))
    return "".join(told)


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    block: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            block.append(line)
        elif block:
            yield block
            block = []


def _items(block: list[str], begins: re.Pattern[str]) -> list[tuple[str, str]]:
    """(what the pattern's first group found, all text of the item), for a block of items."""
    items: list[tuple[str, str]] = []
    for line in block:
        if found := begins.fullmatch(line):
            items.append((found[1], found[2]))
        else:
            head, text = items[-1]
            items[-1] = head, f"{text} {line.strip()}"
    return items


def _rest(block: list[str]) -> list[str]:
    if all(line.startswith(_INDENT) for line in block):
        code = textwrap.dedent("\n".join(block)).splitlines()
        return ["::", "", *(_INDENT + line for line in code)]
    if _ENTRY.fullmatch(block[0]):
        told = []
        for names, meaning in _items(block, _ENTRY):
            code = ", ".join(f"``{name}``" for name in names.split(", "))
            told += [code, f"{_INDENT}{inline(meaning)}"]
        return told
    if block[0].startswith("- "):
        return [f"- {inline(text)}" for _, text in _items(block, re.compile(r"(- )(.*)"))]
    return [inline(" ".join(line.strip() for line in block))]


def rest(lines: list[str]) -> list[str]:
    """A docstring's lines as reStructuredText."""
    return [line for block in _blocks(lines) for line in [*_rest(block), ""]]


def _on_docstring(
    app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    lines[:] = rest(lines)


def setup(app: Any) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", _on_docstring)
    return {"version": "1", "parallel_read_safe": True}
