"""Clips: an episode's camera frames as a small video, and single frames as JPEG.

A clip has one frame per tick, frame i at exactly i / rate, and a key frame every eight frames, so a
player that seeks decodes at most eight.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from imitact.core.camera_view import resize
from imitact.core.errors import BadInput
from imitact.core.types import Camera, Episode, Frame
from imitact.datasets.video import VideoWriter
from imitact.datasets.video_config import VideoConfig

_ENCODING = VideoConfig(crf=28, gop=8, preset="veryfast")
"""About 1 kB per frame of the ALOHA scene at 240x320, and a seek within 10 ms."""

MIN_WIDTH = 16


def clip_size(camera: Camera, width: int) -> tuple[int, int]:
    """Return the height and width of a camera's clip in pixels, at most `width` wide.

    Frames are never enlarged. Both sizes are even, since yuv420p, the pixel format that every
    browser plays, halves the colour planes.
    """
    if width < MIN_WIDTH:
        raise BadInput(f"--width is {width} pixels; it must be at least {MIN_WIDTH}")
    width = min(width, camera.width)
    height = camera.height * width / camera.width
    return max(2, 2 * round(height / 2)), max(2, 2 * round(width / 2))


def encode_clip(episode: Episode, camera: Camera, rate_hz: float, width: int) -> bytes:
    """Return all frames of a camera in an episode as an MP4 file (h264)."""
    height, width = clip_size(camera, width)
    with tempfile.TemporaryDirectory(prefix="imitact-clip-") as folder:
        path = Path(folder) / "clip.mp4"
        with VideoWriter(path, height, width, rate_hz, _ENCODING) as writer:
            for frame in episode.frames(camera.name):
                writer.add(resize(frame, height, width))
        return path.read_bytes()


def contact_sheet(frames: Iterable[Frame], columns: int) -> bytes:
    """Return frames of equal size, in rows of `columns`, as one JPEG image."""
    images = list(frames)
    height, width = images[0].shape[:2]
    rows = -(-len(images) // columns)
    page = Image.new("RGB", (columns * width, rows * height))
    for place, frame in enumerate(images):
        page.paste(Image.fromarray(frame), (width * (place % columns), height * (place // columns)))
    data = io.BytesIO()
    page.save(data, "JPEG", quality=85)
    return data.getvalue()


def spread_evenly(lengths: Sequence[int], most: int) -> list[int]:
    """Return at most `most` episode indices, spread evenly from the shortest to the longest.

    Episodes of equal length are spread evenly over the recording.
    """
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    if most >= len(order):
        return sorted(order)
    places = np.linspace(0, len(order) - 1, most).round().astype(int)
    return sorted({order[place] for place in places})
