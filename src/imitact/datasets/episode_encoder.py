"""Episode encoder: the frames of an episode as one video file and pixel statistics per camera."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from imitact.core.types import Camera, Episode, Frame, Spec
from imitact.datasets.lerobot.stats import FeatureStats, PixelCounts
from imitact.datasets.video import VideoWriter
from imitact.datasets.video_config import VideoConfig
from imitact.storage.atomic import fsync


class CameraEncoder(VideoWriter):
    """Video writer that also gathers the statistics of the frames of its camera.

    `length` is the expected number of frames; it determines which are sampled for statistics. None
    takes all.
    """

    def __init__(
        self, path: Path, camera: Camera, rate_hz: float, video: VideoConfig, length: int | None
    ) -> None:
        super().__init__(path, camera.height, camera.width, rate_hz, video)
        self._pixels = PixelCounts(length)
        self._sure_pixels: PixelCounts | None = None

    def add(self, frame: Frame) -> None:
        super().add(frame)
        self._pixels.add(frame)

    def hold_back(self) -> None:
        super().hold_back()
        if self._sure_pixels is None:
            self._sure_pixels = copy.deepcopy(self._pixels)

    def accept(self) -> None:
        super().accept()
        self._sure_pixels = None

    def stats(self) -> FeatureStats:
        """Return the statistics of the sampled frames that are in the file."""
        return (self._sure_pixels or self._pixels).result()


def frame_stats(frames: Iterable[Frame], length: int) -> FeatureStats:
    """Return the statistics of the frames of one camera in an episode of `length` ticks."""
    pixels = PixelCounts(length)
    for frame in frames:
        pixels.add(frame)
    return pixels.result()


def encode_episode(
    episode: Episode,
    spec: Spec,
    video: VideoConfig,
    folder: Path,
    start: int = 0,
    stop: int | None = None,
    finished: Mapping[str, Path] | None = None,
) -> tuple[dict[str, Path], dict[str, FeatureStats]]:
    """Encode ticks `start` to `stop` (exclusive; None: all) of an episode, one camera at a time.

    Args:
        folder: existing folder for the video files, which are numbered.
        finished: cameras with a video of exactly these ticks, which is copied, not encoded again.

    Returns:
        The video file of every camera, flushed to the disk, and the statistics of its frames.
    """
    stop = len(episode.state) if stop is None else stop
    videos: dict[str, Path] = {}
    stats: dict[str, FeatureStats] = {}
    for number, camera in enumerate(spec.cameras):
        path = videos[camera.name] = folder / f"{number}.mp4"
        frames = episode.frames(camera.name, start, stop)
        if finished and camera.name in finished:
            shutil.copyfile(finished[camera.name], path)
            fsync(path)
            stats[camera.name] = frame_stats(frames, stop - start)
            continue
        with CameraEncoder(path, camera, spec.rate_hz, video, stop - start) as encoder:
            for frame in frames:
                encoder.add(frame)
        stats[camera.name] = encoder.stats()
    return videos, stats
