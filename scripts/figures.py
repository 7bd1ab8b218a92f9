"""Draw the figures of docs/concepts into docs/images/concepts.

    python scripts/figures.py                       # all of them, from the recorded numbers
    python scripts/figures.py chunking ensemble     # these
    python scripts/figures.py cvae targets --measure    # record their numbers anew before drawing

Each figure is a room of scripts/concepts. The same numbers give the same file, byte for byte.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

ROOT = Path(__file__).parents[1]
FIGURES = {
    "chunking": "a demonstrator who waits, imitated one action and many actions at a time",
    "ensemble": "what each prediction weighs, and how steady the command becomes",
    "cvae": "how much the latent says, by the weight of its price (numbers: --measure, minutes)",
    "targets": "what is commanded and what is measured (numbers: --measure, needs the simulator)",
}


def path_of(name: str) -> Path:
    """Where a figure lies."""
    return ROOT / "docs" / "images" / "concepts" / f"{name}.svg"


def draw(name: str) -> str:
    """The figure as SVG."""
    return importlib.import_module(f"concepts.{name}").draw()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FIGURES)}")
    parser.add_argument("--measure", action="store_true", help="record the numbers anew")
    given = parser.parse_args()
    for name in given.names or FIGURES:
        if name not in FIGURES:
            parser.error(f"no figure {name!r}; there are {', '.join(FIGURES)}")
        room = importlib.import_module(f"concepts.{name}")
        if given.measure and hasattr(room, "measure"):
            room.measure()
        path = path_of(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(draw(name), encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
