"""Numbers, videos and pictures as one HTML file that opens anywhere without a network.

Look and behaviour are in web/, written for this page: what it needs of a charting library (lines,
bars, a heat map, a cursor that videos follow) is a few hundred lines of canvas code, and a library
that a package index ships with it, as plotly does, would add 4 MB to every page.

Whatever a dataset names itself is data: it is in the page as JSON with every "<" spelled otherwise,
enters the document as text, and the page's own policy runs no script but ours, by its SHA-256.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from imitact.core.errors import BadInput
from imitact.core.version import __version__
from imitact.storage.atomic import make_folder, write_atomically

_MARK = '<meta name="generator" content="imitact '
_SCRIPTS = (
    "base.js",
    "charts.js",
    "demonstrations.js",
    "trainings.js",
    "evaluations.js",
    "page.js",
)


@dataclass
class Blobs:
    """Bytes that a page carries, by the short names under which its numbers refer to them."""

    by_name: dict[str, bytes] = field(default_factory=dict)

    def add(self, data: bytes) -> str:
        """Carry `data`; gives its name."""
        name = f"b{len(self.by_name)}"
        self.by_name[name] = data
        return name


def render(title: str, sections: Sequence[Mapping[str, Any]], blobs: Blobs) -> str:
    """The page, as text.

    sections: what it shows, a tab each, as plain JSON values: "kind" is dataset, training or
              evaluation, "name" is unique, and the rest is as the rooms of this wing make it.
    """
    script, style = "\n".join(_part(name) for name in _SCRIPTS), _part("page.css")
    told = {"title": title, "imitact": __version__, "sections": list(sections)}
    return Template(_part("page.html")).substitute(
        policy=html.escape(_policy(script, style)),
        imitact=html.escape(__version__),
        title=html.escape(title),
        style=style,
        data=as_script(told),
        # The type is none that a browser runs; base64 has no character that could end the element.
        blobs="\n".join(
            f'<script type="text/plain" id="{name}">{base64.b64encode(data).decode()}</script>'
            for name, data in blobs.by_name.items()
        ),
        script=script,
    )


def check_free(path: Path) -> None:
    """Refuse to put a page over a folder, or over a file that is no page of imitact's."""
    if path.is_dir():
        raise BadInput(f"{path} is a folder; give the name of a file for the page")
    if path.exists():
        with path.open(encoding="utf-8", errors="replace") as file:
            if _MARK not in file.read(4096):
                raise BadInput(f"{path} exists and is no page of imitact's; give another name")


def write(path: Path, page: str) -> None:
    """Write the page, whole or not at all, at a path that `check_free` lets pass."""
    check_free(path)
    make_folder(path.absolute().parent)
    write_atomically(path, lambda p: p.write_text(page, encoding="utf-8"), path.absolute().parent)


def as_script(value: Any) -> str:
    """JSON that can stand within a script element: no "<", ">" or "&" in it, nothing but ASCII."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _part(name: str) -> str:
    return resources.files("imitact.look").joinpath("web", name).read_text(encoding="utf-8")


def _policy(script: str, style: str) -> str:
    """What a browser lets the page do: run this script, use this style, show what it carries."""

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; script-src {digest(script)}; style-src {digest(style)}; "
        "img-src blob:; media-src blob:; base-uri 'none'; form-action 'none'"
    )
