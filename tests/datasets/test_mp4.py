"""MP4 headers: the times that FFmpeg finds, and no more frames than a file can hold."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from imitact.core.errors import DamagedFile
from imitact.datasets.mp4 import MAX_FRAMES, read_video_track
from imitact.datasets.video import frame_times
from tests.support.paths import FIXTURES


def write(path: Path, codec: str = "libx264", pts: Any = range(40), base: int = 30, **options: str):
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"  # type: ignore[union-attr]
        stream.codec_context.time_base = Fraction(1, base)
        for number, at in enumerate(pts):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 5 * number, np.uint8))
            frame.pts, frame.time_base = at, Fraction(1, base)
            container.mux(stream.encode(frame))  # type: ignore[union-attr]
        container.mux(stream.encode())  # type: ignore[union-attr]
    return path


def demuxed(path: Path) -> tuple[list[float], list[bool]]:
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.pts is not None and not p.is_discard]
    found = sorted((float(p.pts * p.time_base), p.is_keyframe) for p in packets)  # type: ignore[operator]
    return [time_s for time_s, _ in found], [is_key for _, is_key in found]


@pytest.mark.parametrize(
    "video",
    [
        {},
        {"bf": "3", "g": "12"},
        {"bf": "3", "g": "12", "pts": range(5, 45)},
        {"pts": [33 * n + n % 3 for n in range(40)], "base": 1000},
        {"pts": range(-5, 35)},
        {"codec": "libsvtav1", "g": "10"},
    ],
)
def test_times_and_key_frames_are_those_of_the_demuxer(
    video: dict[str, Any], tmp_path: Path
) -> None:
    path = write(tmp_path / "v.mp4", **video)
    times_s, keys = frame_times(path)
    assert (times_s.tolist(), keys.tolist()) == demuxed(path)


def test_times_of_all_fixtures_are_those_of_the_demuxer() -> None:
    files = sorted(FIXTURES.rglob("*.mp4"))
    assert len(files) > 20
    for file in files:
        track = read_video_track(file)
        assert track is not None
        assert (track.times_s.tolist(), track.key_frames.tolist()) == demuxed(file)


def replaced(path: Path, kind: bytes, change: Any) -> Path:
    """Change the contents of a box in place."""
    data = bytearray(path.read_bytes())
    at = data.index(kind) + 4
    change(data, at)
    path.write_bytes(data)
    return path


def promise(data: bytearray, at: int) -> None:
    struct.pack_into(">II", data, at + 4, 1, 50_000_000)


@pytest.mark.parametrize("kind", [b"stsz", b"stts"])
def test_more_frames_than_the_file_can_hold_are_refused(kind: bytes, tmp_path: Path) -> None:
    path = replaced(write(tmp_path / "v.mp4"), kind, promise)
    with pytest.raises(DamagedFile, match="has impossible tables: 50,000,000 frames"):
        read_video_track(path)


def test_more_frames_than_any_file_has_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4")
    with path.open("r+b") as file:  # a hole of zeros, in the last box
        data = file.read()
        at = data.index(b"mdat") - 4
        file.seek(0, 2)
        file.truncate(at + 2 * MAX_FRAMES)
        file.seek(at)
        file.write(struct.pack(">I", 2 * MAX_FRAMES))
    replaced(path, b"stsz", lambda d, at: struct.pack_into(">II", d, at + 4, 1, MAX_FRAMES + 1))
    with pytest.raises(DamagedFile, match=r"5,000,001 frames in .* expected at most 5,000,000"):
        read_video_track(path)


def test_a_table_longer_than_its_box_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4")
    replaced(path, b"stts", lambda data, at: struct.pack_into(">I", data, at + 4, 1 << 31))
    with pytest.raises(DamagedFile, match="has impossible tables: a table of"):
        read_video_track(path)
