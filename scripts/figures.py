"""Draw the figures of docs/concepts into docs/images/concepts.

    python scripts/figures.py                       # all, from the recorded numbers
    python scripts/figures.py chunking ensemble     # only these
    python scripts/figures.py cvae targets --measure    # measure their numbers again first

Each figure is a module of scripts/concepts. The same numbers give the same file, byte for byte.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

ROOT = Path(__file__).parents[1]
FIGURES = {
    "chunking": "demonstrations with a pause, imitated with chunks of several lengths",
    "ensemble": "weights of the predictions, and smoothness of the commands",
    "cvae": "information in the latent over the KL weight (--measure takes minutes)",
    "targets": "commanded and measured joints (--measure needs the simulator)",
}
"""Name of each figure to what it shows."""


def path_of(name: str) -> Path:
    """Return the file of a figure."""
    return ROOT / "docs" / "images" / "concepts" / f"{name}.svg"


def draw(name: str) -> str:
    """Return a figure as SVG."""
    return importlib.import_module(f"concepts.{name}").draw()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FIGURES)}")
    parser.add_argument("--measure", action="store_true", help="measure the numbers again")
    given = parser.parse_args()
    for name in given.names or FIGURES:
        if name not in FIGURES:
            parser.error(f'no figure "{name}"; expected one of {", ".join(FIGURES)}')
        module = importlib.import_module(f"concepts.{name}")
        if given.measure and hasattr(module, "measure"):
            module.measure()
        path = path_of(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(draw(name), encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
