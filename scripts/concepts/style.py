"""Figure style: size, fonts and colours that are legible on white and on black."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

TEXT = "#7d8793"
"""Text and axes. Like all colours here, its contrast is at least 3:1 on white and on black."""

FAINT = "#8a939d"
BLUE = "#3b87cc"
ORANGE = "#dd6b35"
GREEN = "#2f9a74"

_STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "imitact",  # identical ids in every run
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.edgecolor": TEXT,
    "axes.labelcolor": TEXT,
    "axes.titlecolor": TEXT,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "figure.facecolor": "none",
    "text.color": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "path.simplify": False,
}


@contextmanager
def panels(count: int, widths: Sequence[float] = ()) -> Iterator[tuple[Sequence[Axes], list[str]]]:
    """Give axes side by side, and a list that holds the figure as SVG after the block."""
    svg: list[str] = []
    with matplotlib.rc_context(cast("Any", _STYLE)):
        figure = Figure(figsize=(7.2, 2.7))
        FigureCanvasSVG(figure)
        left, right, bottom, top, gap = 0.085, 0.985, 0.175, 0.89, 0.085
        shares = list(widths) or [1.0] * count
        free = right - left - gap * (count - 1)
        axes, at = [], left
        for share in shares:
            width = free * share / sum(shares)
            axes.append(figure.add_axes((at, bottom, width, top - bottom)))
            at += width + gap
        yield axes, svg
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    # The reader's fonts instead of those of the machine that drew the figure.
    text = re.sub(r"'DejaVu Sans'", "system-ui, sans-serif", text)
    svg.append("\n".join(line.rstrip() for line in text.splitlines()) + "\n")


def label(axes: Axes, x: float, y: float, text: str, colour: str = TEXT, **more: object) -> None:
    """Write a label at data coordinates, in the colour of what it labels."""
    axes.text(x, y, text, color=colour, **more)  # type: ignore[arg-type]
