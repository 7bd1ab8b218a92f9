"""One episode as a video: what the cameras saw, the stage reached, and the predicted chunk."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from imitact.core.rollout import Tick
from imitact.core.types import FloatArray, Frame, Spec
from imitact.core.views import resize
from imitact.datasets.video import VideoWriter
from imitact.datasets.video_config import VideoConfig
from imitact.evaluation import drawing
from imitact.evaluation.video_config import EpisodeVideoConfig
from imitact.storage.atomic import make_folder, move_into_place

_GROUND = (18, 20, 24)
_FAINT = (70, 76, 86)
_PLAIN = (225, 228, 232)
_GOOD = (96, 214, 122)
_BAD = (240, 110, 96)
# Eight hues that can be told apart on the dark ground (after Okabe and Ito 2008).
_HUES = (
    (86, 180, 233),
    (230, 159, 0),
    (0, 200, 150),
    (240, 228, 66),
    (100, 130, 255),
    (235, 100, 60),
    (224, 130, 190),
    (170, 170, 170),
)
_NARROWEST = 480  # pixels; smaller pictures are enlarged by whole factors to hold the text
_PANEL = 168  # pixels, height of the curves
_HEAD = 24
_LAST_S = 1.5  # the final picture stands this long
# To look at, not to learn from: smaller than a demonstration, with fewer key frames.
_VIDEO = VideoConfig(crf=25, gop=50, preset="veryfast")


def video_path(out: Path, seed: int) -> Path:
    """Where the film of a seed lies in an evaluation's folder, if it was filmed."""
    return out / "videos" / f"seed-{seed}.mp4"


class EpisodeVideo:
    """Takes every tick of an episode; writes an mp4 that appears under `path` when it is done.

    Use as a context manager: left by an error, it leaves no file. Pictures are taken at the
    ticks that `filming.every` divides; their frames must be readable then (rollout's `keep`).
    """

    def __init__(
        self,
        path: Path,
        spec: Spec,
        stages: tuple[str, ...],
        filming: EpisodeVideoConfig,
        title: str,
    ) -> None:
        self._path = path
        self._spec = spec
        self._stages = stages
        self._every = filming.every
        self._height = filming.height
        self._cameras = filming.chosen(spec)
        self._title = title
        self._rate_hz = spec.rate_hz / filming.every
        self._curves = _Curves(spec)
        self._picture: Frame | None = None
        self._writer: VideoWriter | None = None
        # Leading dot: nobody takes it for a finished video.
        self._partial = path.with_name(f".{path.name}.part")
        self._reward = 0.0
        self._succeeded: int | None = None

    def __enter__(self) -> EpisodeVideo:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is None:
            return
        try:
            if kind is None:
                self._end()
        except BaseException as failed:
            self._writer.__exit__(type(failed), failed, None)
            raise
        self._writer.__exit__(kind, error, trace)
        if kind is None:
            move_into_place(self._partial, self._path)

    def take(self, tick: Tick) -> None:
        """Show one tick; the stage on a picture is that of the reward before its action."""
        self._curves.take(tick)
        if tick.index % self._every == 0:
            seen = [tick.observation.frames[name] for name in self._cameras]
            self._picture = self._arrange(seen)
            self._show(tick.index)
        self._reward = tick.reward
        if tick.success and self._succeeded is None:
            self._succeeded = tick.index

    def _end(self) -> None:
        """The last picture once more, with the outcome."""
        if self._picture is None:
            return
        last = self._curves.ticks
        if self._succeeded is None:
            verdict, colour = f"no success in {last} ticks", _BAD
        else:
            verdict, colour = f"success at tick {self._succeeded}", _GOOD
        for _ in range(max(1, round(_LAST_S * self._rate_hz))):
            self._show(last - 1, verdict, colour)

    def _arrange(self, seen: list[Frame]) -> Frame:
        """The cameras in a row, on the ground colour where one is lower than another."""
        row: list[Frame] = []
        for frame in seen:
            height, width = frame.shape[:2]
            if height > self._height:
                frame = resize(frame, self._height, max(1, round(width * self._height / height)))
            row.append(frame)
        height = max(frame.shape[0] for frame in row)
        image = _blank(height, sum(frame.shape[1] for frame in row))
        left = 0
        for frame in row:
            image[: frame.shape[0], left : left + frame.shape[1]] = frame
            left += frame.shape[1]
        times = -(-_NARROWEST // image.shape[1])
        return image.repeat(times, axis=0).repeat(times, axis=1) if times > 1 else image

    def _show(self, index: int, verdict: str = "", colour: drawing.Colour = _PLAIN) -> None:
        assert self._picture is not None
        view = self._picture
        # Even sides: the pixel format of most players halves the colours.
        height = _HEAD + view.shape[0] + _PANEL
        page = _blank(height + height % 2, view.shape[1] + view.shape[1] % 2)
        clock = f"tick {index:4d}  {index / self._spec.rate_hz:6.2f} s"
        drawing.text(page, 9, 8, self._title, _PLAIN)
        drawing.text(page, 9, page.shape[1] - 8 - drawing.text_width(clock), clock, _PLAIN)
        page[_HEAD : _HEAD + view.shape[0], : view.shape[1]] = view
        _label(page, _HEAD + 8, 8, self._stage(), _PLAIN)
        if verdict:
            _label(page, _HEAD + 36, 8, verdict, colour)
        self._curves.draw(page[_HEAD + view.shape[0] :])
        if self._writer is None:
            make_folder(self._path.parent)
            self._writer = VideoWriter(
                self._partial, page.shape[0], page.shape[1], self._rate_hz, _VIDEO
            )
            self._writer.__enter__()
        self._writer.add(page)

    def _stage(self) -> str:
        if not self._stages:
            return f"reward {self._reward:g}"
        stage = int(self._reward)
        return f"{stage}/{len(self._stages) - 1} {self._stages[stage]}"


class _Curves:
    """What was commanded up to now, and the newest chunk ahead of it, one panel an arm."""

    def __init__(self, spec: Spec) -> None:
        self._rate_hz = spec.rate_hz
        self._panels = _panels(spec.action_names)
        self._units = spec.action_units
        self._done: list[NDArray[np.float64]] = []
        self._chunk: FloatArray | None = None
        self._born = 0
        self._low = np.full(spec.action_size, np.inf)
        self._high = np.full(spec.action_size, -np.inf)

    @property
    def ticks(self) -> int:
        """Ticks taken so far."""
        return len(self._done)

    def take(self, tick: Tick) -> None:
        self._done.append(tick.action)
        rows = tick.action[None]
        if tick.chunk is not None:
            self._chunk, self._born = tick.chunk, tick.index
            rows = np.concatenate([rows, tick.chunk])
        self._low = np.minimum(self._low, rows.min(axis=0))
        self._high = np.maximum(self._high, rows.max(axis=0))

    def draw(self, page: Frame) -> None:
        """Fill `page`: time runs across, now in the middle."""
        width = page.shape[1] // len(self._panels)
        for at, (title, names, columns) in enumerate(self._panels):
            self._panel(page[:, at * width : (at + 1) * width], title, names, columns)

    def _panel(self, page: Frame, title: str, names: list[str], columns: list[int]) -> None:
        height, width = page.shape[:2]
        left, right = 8, width - 8
        legend = _legend(page, title, names, left, right)
        axis = height - 20
        top, bottom = legend + 10, axis - 10
        low, high = float(self._low[columns].min()), float(self._high[columns].max())
        room = max(high - low, 0.1)  # a joint that stands still is a line, not noise
        middle = (low + high) / 2

        ahead = max(1 if self._chunk is None else len(self._chunk), round(self._rate_hz))
        now = len(self._done) - 1
        behind = max(now - ahead, 0)

        def across(ticks: NDArray[np.int64]) -> NDArray[np.float64]:
            return left + (ticks - now + ahead) / (2 * ahead) * (right - left)

        def down(values: FloatArray) -> NDArray[np.float64]:
            return (bottom + top) / 2 - (values - middle) / room * (bottom - top)

        centre = (left + right) // 2
        page[legend:axis, centre] = _FAINT
        page[axis, left:right] = _FAINT
        span = f"{ahead / self._rate_hz:g} s"
        drawing.text(page, axis + 6, left, f"-{span}", _FAINT)
        drawing.text(page, axis + 6, centre - drawing.text_width("now") // 2, "now", _FAINT)
        drawing.text(page, axis + 6, right - drawing.text_width(f"+{span}"), f"+{span}", _FAINT)
        units = ", ".join(sorted({self._units[c] for c in columns}, reverse=True))
        drawing.text(page, legend, left, f"{high:.1f} {units}", _FAINT)
        drawing.text(page, axis - 9, left, f"{low:.1f}", _FAINT)
        past = np.stack(self._done[behind:])
        ticks = np.arange(behind, now + 1)
        for place, column in enumerate(columns):
            hue = _HUES[place % len(_HUES)]
            if self._chunk is not None and len(self._chunk) > 1:
                born = np.arange(self._born, self._born + len(self._chunk))
                shown = born >= now - ahead
                drawing.curve(page, down(self._chunk[shown, column]), across(born[shown]), hue)
            drawing.curve(page, down(past[:, column]), across(ticks), hue, width=2)


def _panels(names: tuple[str, ...]) -> list[tuple[str, list[str], list[int]]]:
    """(title, short names, columns) by the word before the first "_", where that makes 2 to 4."""
    groups: dict[str, list[int]] = {}
    for column, name in enumerate(names):
        groups.setdefault(name.partition("_")[0], []).append(column)
    if not 2 <= len(groups) <= 4 or min(len(c) for c in groups.values()) < 2:
        groups = {"": list(range(len(names)))}
    panels = []
    for columns in groups.values():
        whole = [names[c] for c in columns]
        words = [name.split("_") for name in whole]
        shared = 0
        while all(len(w) > shared + 1 and w[shared] == words[0][shared] for w in words):
            shared += 1
        title = " ".join(words[0][:shared])
        panels.append((title, ["_".join(w[shared:]) for w in words], columns))
    return panels


def _legend(page: Frame, title: str, names: list[str], left: int, right: int) -> int:
    """Write the names in their colours; returns the row below them."""
    row, column = 6, left
    for place, name in enumerate([title, *names]):
        if not name:
            continue
        if column > left and column + drawing.text_width(name) > right:
            row, column = row + 10, left
        colour = _HUES[(place - 1) % len(_HUES)] if place else _PLAIN
        drawing.text(page, row, column, name, colour)
        column += drawing.text_width(name) + 8
    return row + 14


def _label(page: Frame, top: int, left: int, words: str, colour: drawing.Colour) -> None:
    """Text on a darkened box, readable on any picture."""
    scale = 2 if drawing.text_width(words, 2) + 2 * left < page.shape[1] else 1
    bottom = top + drawing.LETTER_HEIGHT * scale + 8
    right = left + drawing.text_width(words, scale) + 8
    page[top:bottom, left:right] //= 3
    drawing.text(page, top + 4, left + 4, words, colour, scale=scale)


def _blank(height: int, width: int) -> Frame:
    return np.full((height, width, 3), _GROUND, np.uint8)
