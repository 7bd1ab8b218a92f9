"""Links for page names: `docs/formats.md` in a page or docstring becomes a link on the site."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes

_PAGE = re.compile(r"docs/([\w/-]+)\.md")


def _on_resolved(app: Any, doctree: nodes.document, here: str) -> None:
    for literal in list(doctree.findall(nodes.literal)):
        found = _PAGE.fullmatch(literal.astext())
        if not found or found[1] not in app.env.found_docs or found[1] == here:
            continue
        if isinstance(literal.parent, nodes.reference):
            continue
        uri = app.builder.get_relative_uri(here, found[1])
        title = app.env.titles[found[1]].astext()
        link = nodes.reference("", title, internal=True, refuri=uri)
        literal.replace_self(link)


def setup(app: Any) -> dict[str, Any]:
    app.connect("doctree-resolved", _on_resolved)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
