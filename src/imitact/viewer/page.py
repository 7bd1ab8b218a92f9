"""HTML page: numbers, videos and images in one file that opens anywhere without a network.

The scripts and the style are in web/. What the page needs of a charting library (lines, bars, a
heat map, a cursor that videos follow) is a few hundred lines of canvas code; plotly, the library
that a package index offers, would add 4 MB to every page.

Names from a dataset are untrusted. They are in the page as JSON with every "<" escaped, enter the
document as text only, and the page's content security policy runs no script but ours, by its
SHA-256.
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
from imitact.storage.atomic import write_bytes
from imitact.storage.regular_file import open_regular

_GENERATOR = '<meta name="generator" content="imitact '
_SCRIPTS = ("base", "charts", "demonstrations", "trainings", "evaluations", "runs", "page")


@dataclass
class Blobs:
    """Binary contents of a page, by the short names that its JSON refers to."""

    by_name: dict[str, bytes] = field(default_factory=dict)

    def add(self, data: bytes) -> str:
        """Add `data` and return its name."""
        name = f"b{len(self.by_name)}"
        self.by_name[name] = data
        return name


def unreadable_section(kind: str, path: Path, why: str) -> dict[str, Any]:
    """Return the section of an item that cannot be read, beside others that can."""
    badge = "cannot be read"
    return {"kind": "unreadable", "of": kind, "path": str(path), "badge": badge, "why": why}


def render_page(title: str, sections: Sequence[Mapping[str, Any]], blobs: Blobs) -> str:
    """Return the page as HTML.

    The sections are JSON values, one tab each: "kind" is dataset, training, evaluation, run
    or unreadable, "name" is unique, and the rest is what `dataset_section` and its siblings return.
    """
    script, style = "\n".join(_web_file(f"{name}.js") for name in _SCRIPTS), _web_file("page.css")
    data = {"title": title, "imitact": __version__, "sections": list(sections)}
    return Template(_web_file("page.html")).substitute(
        policy=html.escape(_content_security_policy(script, style)),
        imitact=html.escape(__version__),
        title=html.escape(title),
        style=style,
        data=json_for_script(data),
        # No browser runs text/plain, and base64 has no character that could end the element.
        blobs="\n".join(
            f'<script type="text/plain" id="{name}">{base64.b64encode(data).decode()}</script>'
            for name, data in blobs.by_name.items()
        ),
        script=script,
    )


def check_page_path(path: Path) -> None:
    """Refuse to replace a folder, or a file that is not a page of imitact."""
    if path.is_dir():
        raise BadInput(f"{path} is a folder; give the name of a file for the page")
    if path.exists():
        with open_regular(path, advice="Give another name.") as file:
            if _GENERATOR.encode() not in file.read(4096):
                raise BadInput(f"{path} exists and is not a page of imitact; give another name")


def write_page(path: Path, page: str) -> None:
    """Write the page atomically, at a path that `check_page_path` accepts."""
    check_page_path(path)
    write_bytes(path.absolute(), page.encode())


def json_for_script(value: Any) -> str:
    """Return JSON that is safe within a script element: ASCII without "<", ">" and "&"."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _web_file(name: str) -> str:
    return resources.files("imitact.viewer").joinpath("web", name).read_text(encoding="utf-8")


def _content_security_policy(script: str, style: str) -> str:
    """Return the policy that allows this script, this style, and the page's own contents."""

    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; script-src {source(script)}; style-src {source(style)}; "
        "img-src blob:; media-src blob:; base-uri 'none'; form-action 'none'"
    )
