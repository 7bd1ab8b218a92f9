"""Write the table of folders and files into docs/architecture.md, from module docstrings.

python scripts/architecture_table.py
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "imitact"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- table of files: begin -->", "<!-- table of files: end -->"

FOLDERS = (
    "core", "storage", "parallel", "datasets", "datasets/lerobot", "datasets/formats", "quality",
    "recording", "models", "models/interop", "envs", "envs/experts", "training", "evaluation",
    "evaluation/tuning", "deploy", "control", "robots", "robots/emulation", "teleoperation",
    "viewer", "api", "cli", ".",
)  # fmt: skip
"""In the order of the layers, the lowest first; "." is the front door."""


def summary(file: Path) -> str:
    """Return the first paragraph of a module's docstring, without its full stop."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).removesuffix(".")


def table() -> str:
    """Return the table in Markdown, a row for each file."""
    rows = ["| folder | file | what it is |", "|---|---|---|"]
    for folder in FOLDERS:
        place = SOURCE / folder
        name = "" if folder == "." else f"{folder}/"
        rows.append(f"| **`imitact/{name}`** | | {summary(place / '__init__.py')} |")
        rows += [
            f"| | `{file.name}` | {summary(file)} |"
            for file in sorted(place.glob("*.py"))
            if file.name != "__init__.py"
        ]
    return "\n".join(rows)


def inserted(page: str) -> str:
    """Return the page with the current table between its two marks."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(inserted(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
