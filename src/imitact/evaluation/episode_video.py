"""Episode videos: camera frames, the stage reached and the action curves of one episode as MP4."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from imitact.core.camera_view import resize
from imitact.core.rollout import Tick
from imitact.core.types import Frame, Spec
from imitact.core.words import counted
from imitact.datasets.video import VideoWriter
from imitact.datasets.video_config import VideoConfig
from imitact.evaluation import drawing
from imitact.evaluation.drawing import BACKGROUND, TEXT, font
from imitact.evaluation.episode_video_config import EpisodeVideoConfig
from imitact.storage.atomic import make_folder, move_into_place

_GOOD, _BAD = "#60d67a", "#f06e60"
_MIN_WIDTH = 480  # pixels; smaller pictures are enlarged by whole factors to hold the text
_CURVES_HEIGHT = 168  # pixels
_HEADER_HEIGHT = 24
_HEADER_PX = 13
_LAST_S = 1.5  # duration of the final picture
# For people, not for training: smaller than a demonstration, with fewer key frames.
_ENCODING = VideoConfig(crf=25, gop=50, preset="veryfast")


def video_path(out: Path, seed: int) -> Path:
    """Return the path of a seed's video in the output folder of an evaluation."""
    return out / "videos" / f"seed-{seed}.mp4"


@contextmanager
def episode_video(
    path: Path, spec: Spec, stages: tuple[str, ...], config: EpisodeVideoConfig, title: str
) -> Iterator[EpisodeVideo]:
    """Yield the video to add ticks to; its file appears at the end, and not after an error.

    `stages` is empty where rewards are not stages.
    """
    video = EpisodeVideo(spec, stages, config, title)
    # The leading dot keeps the unfinished file from being taken for a video.
    partial = path.with_name(f".{path.name}.part")
    make_folder(path.parent)
    with VideoWriter(partial, *video.size, spec.rate_hz / config.every, _ENCODING) as writer:
        video.writer = writer
        yield video
        video.add_end()
    move_into_place(partial, path)


class EpisodeVideo:
    """The video of an episode, which `episode_video` opens.

    Pictures are taken at the ticks that `config.every` divides, whose frames must still be readable
    (see `keep` of `rollout`). `size` is the height and width of one, in pixels.
    """

    writer: VideoWriter

    def __init__(
        self, spec: Spec, stages: tuple[str, ...], config: EpisodeVideoConfig, title: str
    ) -> None:
        self._spec = spec
        self._stages = stages
        self._config = config
        self._cameras = config.cameras_in(spec)
        self._title = title
        self._curves = drawing.ActionCurves(spec)
        self._reward = 0.0
        self._success_tick: int | None = None
        cameras = map(spec.camera, self._cameras)
        self._view = self._arrange([np.zeros((c.height, c.width, 3), np.uint8) for c in cameras])
        height = _HEADER_HEIGHT + self._view.height + _CURVES_HEIGHT
        # Even sides: yuv420p, the pixel format that most players need, halves the colour planes.
        self.size = height + height % 2, self._view.width + self._view.width % 2

    def add(self, tick: Tick) -> None:
        """Add a tick; the stage on its picture is that of the reward before its action."""
        self._curves.add(tick)
        if tick.index % self._config.every == 0:
            self._view = self._arrange([tick.observation.frames[name] for name in self._cameras])
            self._write_picture(tick.index)
        self._reward = tick.reward
        if tick.success and self._success_tick is None:
            self._success_tick = tick.index

    def add_end(self) -> None:
        """Repeat the last picture with the result of the episode."""
        ticks = self._curves.ticks
        if self._success_tick is None:
            result, colour = f"no success in {counted(ticks, 'tick')}", _BAD
        else:
            result, colour = f"success at tick {self._success_tick}", _GOOD
        for _ in range(max(1, round(_LAST_S * self._spec.rate_hz / self._config.every))):
            self._write_picture(ticks - 1, result, colour)

    def _arrange(self, frames: list[Frame]) -> Image.Image:
        """Set the cameras side by side, reduced to the height allowed, enlarged to hold text."""
        row: list[Frame] = []
        for frame in frames:
            height = min(frame.shape[0], self._config.height)
            width = max(1, round(frame.shape[1] * height / frame.shape[0]))
            row.append(resize(frame, height, width))
        size = sum(f.shape[1] for f in row), max(f.shape[0] for f in row)
        image = Image.new("RGB", size, BACKGROUND)
        left = 0
        for frame in row:
            image.paste(Image.fromarray(frame), (left, 0))
            left += frame.shape[1]
        times = -(-_MIN_WIDTH // image.width)
        larger = (times * image.width, times * image.height)
        return image.resize(larger, Image.Resampling.NEAREST) if times > 1 else image

    def _write_picture(self, tick: int, result: str = "", colour: str = TEXT) -> None:
        page = Image.new("RGB", (self.size[1], self.size[0]), BACKGROUND)
        draw, middle = ImageDraw.Draw(page), _HEADER_HEIGHT / 2
        draw.text((8, middle), self._title, TEXT, font(_HEADER_PX), anchor="lm")
        clock = f"tick {tick}", f"{tick / self._spec.rate_hz:.2f} s"
        right = page.width - 8
        draw.text((right, middle), clock[1], TEXT, font(_HEADER_PX), anchor="rm")
        right -= drawing.text_width("0000.00 s", _HEADER_PX)
        draw.text((right, middle), clock[0], TEXT, font(_HEADER_PX), anchor="rm")
        page.paste(self._view, (0, _HEADER_HEIGHT))
        below = drawing.draw_label(page, _HEADER_HEIGHT + 8, self._stage(), TEXT)
        if result:
            drawing.draw_label(page, below + 4, result, colour)
        curves = self._curves.picture(_CURVES_HEIGHT, page.width)
        page.paste(curves, (0, _HEADER_HEIGHT + self._view.height))
        self.writer.add(np.asarray(page))

    def _stage(self) -> str:
        if not self._stages:
            return f"reward {self._reward:g}"
        stage = int(self._reward)
        return f"{stage}/{len(self._stages) - 1} {self._stages[stage]}"
