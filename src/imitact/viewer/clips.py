"""Frames of an episode, small enough to be carried by a page.

A clip has one frame a tick, frame i at i / rate exactly, and a key frame every few frames: a player
that seeks decodes at most as many.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from imitact.core.errors import BadInput
from imitact.core.types import Camera, Episode, Frame
from imitact.core.views import resize
from imitact.datasets.video import VideoConfig, VideoWriter

_CONFIG = VideoConfig(crf=28, gop=8, preset="veryfast")
"""About 1 kB a frame of the ALOHA scene at 240x320, a seek within 10 ms."""

NARROWEST = 16


def small(camera: Camera, width: int) -> tuple[int, int]:
    """(height, width) of a camera's clip: at most `width` wide, never enlarged, both even.

    Even, since the pixel format that every browser plays halves the colours.
    """
    if width < NARROWEST:
        raise BadInput(f"a video {width} pixels wide shows nothing; at least {NARROWEST}")
    width = min(width, camera.width)
    height = camera.height * width / camera.width
    return max(2, 2 * round(height / 2)), max(2, 2 * round(width / 2))


def clip(episode: Episode, camera: Camera, rate_hz: float, width: int) -> bytes:
    """All frames of a camera in an episode as an MP4 file of h264."""
    height, width = small(camera, width)
    with tempfile.TemporaryDirectory(prefix="imitact-clip-") as folder:
        path = Path(folder) / "clip.mp4"
        with VideoWriter(path, height, width, rate_hz, _CONFIG) as writer:
            for frame in episode.frames(camera.name):
                writer.add(resize(frame, height, width))
        return path.read_bytes()


def sheet(frames: Iterable[Frame], columns: int) -> bytes:
    """Frames of one size in rows of `columns`, as one JPEG picture."""
    held = list(frames)
    height, width = held[0].shape[:2]
    rows = -(-len(held) // columns)
    page = np.zeros((rows * height, columns * width, 3), np.uint8)
    for at, frame in enumerate(held):
        top, left = height * (at // columns), width * (at % columns)
        page[top : top + height, left : left + width] = frame
    return jpeg(page)


def jpeg(picture: Frame) -> bytes:
    """A picture as JPEG."""
    encoder = av.VideoCodecContext.create("mjpeg", "w")
    encoder.height, encoder.width = picture.shape[:2]
    encoder.pix_fmt = "yuvj420p"
    encoder.time_base = Fraction(1, 25)
    encoder.qmin = encoder.qmax = 4  # 2 (best) to 31
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuvj420p")
    packets = [*encoder.encode(frame), *encoder.encode(None)]
    return b"".join(bytes(packet) for packet in packets)


def spread(lengths: Sequence[int], most: int) -> list[int]:
    """At most so many numbers of episodes, from the shortest to the longest, evenly between.

    Among episodes of one length those evenly spread over the recording.
    """
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    if most >= len(order):
        return sorted(order)
    places = np.linspace(0, len(order) - 1, most).round().astype(int)
    return sorted({order[place] for place in places})
