"""Pages that index.md does not list are appended to its last table of contents."""

from __future__ import annotations

import re
from typing import Any

_CONTENTS = re.compile(r"^```\{toctree\}\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _on_read(app: Any, name: str, source: list[str]) -> None:
    if name != "index":
        return
    contents = list(_CONTENTS.finditer(source[0]))
    named = {line.strip() for found in contents for line in found[1].splitlines()}
    others = sorted(app.env.found_docs - named - {"index"})
    end = contents[-1].end(1)
    source[0] = source[0][:end] + "".join(f"{other}\n" for other in others) + source[0][end:]


def setup(app: Any) -> dict[str, Any]:
    app.connect("source-read", _on_read)
    app.connect("env-get-outdated", lambda *_: ["index"])
    return {"version": "1", "parallel_read_safe": True}
