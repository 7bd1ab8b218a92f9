"""Drawing with Pillow: labels and action curves on the pictures of an episode video."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from imitact.core.rollout import Tick
from imitact.core.types import FloatArray, Spec, shown_unit, with_unit

_Panel = tuple[str, list[str], list[int]]
"""Title, short names and columns of the actions of a panel."""

BACKGROUND, TEXT = "#121418", "#e1e4e8"
_FAINT, _AXIS = "#707782", "#464c56"
# Eight hues that differ on a dark background for colour-blind readers (after Okabe and Ito 2008).
_HUES = ("#56b4e9", "#e69f00", "#00c896", "#f0e442", "#6482ff", "#eb643c", "#e082be", "#aaaaaa")
_MARGIN = 8  # pixels, as all sizes below
_LABEL_PX = 20
_SMALL_PX = 11
_LINE = 13
_SCALE = 2  # curves are drawn this many times larger and then reduced, which smooths them


@lru_cache
def font(size_px: int) -> Any:
    """Return Pillow's built-in font at that size."""
    return ImageFont.load_default(size_px)


def text_width(text: str, size_px: int) -> int:
    """Return the width of a line of text in pixels."""
    return round(font(size_px).getlength(text))


def draw_label(page: Image.Image, top: int, text: str, colour: str) -> int:
    """Write text on a darkened box at the left of an image; return the row below the box."""
    size_px = _LABEL_PX
    while size_px > _SMALL_PX and text_width(text, size_px) + 4 * _MARGIN > page.width:
        size_px -= 1
    bottom = top + size_px + _MARGIN
    box = (_MARGIN, top, min(page.width, 2 * _MARGIN + text_width(text, size_px) + 4), bottom)
    page.paste(ImageEnhance.Brightness(page.crop(box)).enhance(1 / 3), box)
    middle = (top + bottom) / 2
    draw = ImageDraw.Draw(page)
    draw.text((_MARGIN + 6, middle), text, colour, font(size_px), anchor="lm")
    return bottom


class ActionCurves:
    """Curves of the commanded actions so far and of the newest chunk, one panel per arm."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._panels = _panels(spec.action_names)
        self._actions: list[NDArray[np.float64]] = []
        self._chunk: FloatArray | None = None
        self._chunk_tick = 0
        self._low = np.full(spec.action_size, np.inf)
        self._high = np.full(spec.action_size, -np.inf)

    @property
    def ticks(self) -> int:
        """Number of ticks added so far."""
        return len(self._actions)

    def add(self, tick: Tick) -> None:
        """Add the action of a tick, and its chunk if there is one."""
        self._actions.append(tick.action)
        rows = tick.action[None]
        if tick.chunk is not None:
            self._chunk, self._chunk_tick = tick.chunk, tick.index
            rows = np.concatenate([rows, tick.chunk])
        self._low = np.minimum(self._low, rows.min(axis=0))
        self._high = np.maximum(self._high, rows.max(axis=0))

    def picture(self, height: int, width: int) -> Image.Image:
        """Return an image of all panels; time runs across, with the present in the middle."""
        page = Image.new("RGB", (_SCALE * width, _SCALE * height), BACKGROUND)
        panel_width = width // len(self._panels)
        for place, panel in enumerate(self._panels):
            self._draw_panel(ImageDraw.Draw(page), place * panel_width, height, panel_width, panel)
        return page.reduce(_SCALE)

    def _draw_panel(
        self, draw: ImageDraw.ImageDraw, offset: int, height: int, width: int, panel: _Panel
    ) -> None:
        title, names, columns = panel
        left, right = offset + _MARGIN, offset + width - _MARGIN
        centre = (left + right) // 2

        def write(x: float, y: float, text: str, colour: str, anchor: str) -> None:
            at = (_SCALE * x, _SCALE * y)
            draw.text(at, text, colour, font(_SCALE * _SMALL_PX), anchor=anchor)

        def line(x: NDArray[Any], y: NDArray[Any], colour: str, line_px: float) -> None:
            points = _SCALE * np.stack([x, y], axis=1)
            draw.line(points.ravel().tolist(), colour, round(_SCALE * line_px), joint="curve")

        row, at = 4, left
        for place, name in enumerate([title, *names]):
            if not name:
                continue
            length = text_width(name, _SMALL_PX)
            if at > left and at + length > right:
                row, at = row + _LINE, left
            write(at, row, name, _HUES[(place - 1) % len(_HUES)] if place else TEXT, "la")
            at += length + _MARGIN
        legend = row + _LINE + 3
        axis = height - 20
        top, bottom = legend + 10, axis - 10

        low, high = float(self._low[columns].min()), float(self._high[columns].max())
        span = max(high - low, 0.1)  # a joint at rest is a flat line, not noise
        middle = (low + high) / 2
        ahead = max(1 if self._chunk is None else len(self._chunk), round(self._spec.rate_hz))
        now = self.ticks - 1
        first = max(now - ahead, 0)

        def x_of(ticks: NDArray[np.int64]) -> NDArray[np.float64]:
            return left + (ticks - now + ahead) / (2 * ahead) * (right - left)

        def y_of(values: FloatArray) -> FloatArray:
            return (bottom + top) / 2 - (values - middle) / span * (bottom - top)

        line(np.array([centre, centre]), np.array([legend, axis]), _AXIS, 1)
        line(np.array([left, right]), np.array([axis, axis]), _AXIS, 1)
        seconds = f"{ahead / self._spec.rate_hz:g} s"
        write(left, axis + 4, f"-{seconds}", _FAINT, "la")
        write(centre, axis + 4, "now", _FAINT, "ma")
        write(right, axis + 4, f"+{seconds}", _FAINT, "ra")
        known = {shown_unit(self._spec.action_units[c]) for c in columns} - {""}
        units = ", ".join(sorted(known, reverse=True))
        write(left, legend, with_unit(f"{high:.1f}", units), _FAINT, "la")
        write(left, axis - 3, f"{low:.1f}", _FAINT, "ld")
        past = np.stack(self._actions[first:])
        past_x = x_of(np.arange(first, now + 1))
        for place, column in enumerate(columns):
            hue = _HUES[place % len(_HUES)]
            if self._chunk is not None and len(self._chunk) > 1:
                ticks = np.arange(self._chunk_tick, self._chunk_tick + len(self._chunk))
                shown = ticks >= now - ahead
                line(x_of(ticks[shown]), y_of(self._chunk[shown, column]), hue, 1.5)
            line(past_x, y_of(past[:, column]), hue, 2.5)


def _panels(names: tuple[str, ...]) -> list[_Panel]:
    """Group actions by the word before the first "_", where that makes two to four groups."""
    groups: dict[str, list[int]] = {}
    for column, name in enumerate(names):
        groups.setdefault(name.partition("_")[0], []).append(column)
    if not 2 <= len(groups) <= 4 or min(len(c) for c in groups.values()) < 2:
        groups = {"": list(range(len(names)))}
    panels = []
    for columns in groups.values():
        words = [names[c].split("_") for c in columns]
        shared = 0
        while all(len(w) > shared + 1 and w[shared] == words[0][shared] for w in words):
            shared += 1
        title = " ".join(words[0][:shared])
        panels.append((title, ["_".join(w[shared:]) for w in words], columns))
    return panels
