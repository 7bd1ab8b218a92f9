"""Video files: frames encoded as they come, and decoded by timestamp."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import av
import av.error
import numpy as np
from av.container import InputContainer, OutputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from imitact.core.errors import BadInput, DamagedFile
from imitact.core.types import Frame
from imitact.datasets.video_config import VideoConfig, exact_rate
from imitact.storage.atomic import disk_full_guard, fsync

TOLERANCE_S = 1e-4
"""Largest distance of a frame from its requested time, in s; that of LeRobot."""


def _options(config: VideoConfig) -> dict[str, str]:
    common = {"g": str(config.gop), "preset": config.used_preset}
    # One thread and no frame reordering: the bytes depend on the frames alone, not on the number
    # of cores, and decoding order is display order.
    if config.codec == "av1":
        os.environ.setdefault("SVT_LOG", "1")  # errors only; by default it prints every setting
        return {**common, "crf": str(config.crf), "svtav1-params": "lp=1:pred-struct=1"}
    quality = {"qp": "0"} if config.codec == "lossless" else {"crf": str(config.crf)}
    return {**common, **quality, "bf": "0", "threads": "1"}


class VideoWriter:
    """Encodes frames as they come; frame i has the time i / rate exactly.

    Use it in a `with` block: leaving it finishes and flushes the file; leaving it by an exception
    removes the file. Memory holds only the few frames that the encoder buffers.
    """

    def __init__(
        self, path: Path, height: int, width: int, rate_hz: float, config: VideoConfig
    ) -> None:
        config.check_size(height, width, path.stem)
        self._path = path
        self._shape = (height, width, 3)
        self._tick_s = 1 / exact_rate(rate_hz)
        self._count = 0
        with disk_full_guard(path):
            self._container: OutputContainer = av.open(
                str(path),
                "w",
                format="mp4",
                # Index first, so that a player can start before it has the whole file.
                options={"movflags": "faststart"},
                container_options={"fflags": "+bitexact"},
            )
        try:
            self._stream: VideoStream = self._container.add_stream(  # pyright: ignore
                config.encoder,
                rate=exact_rate(rate_hz),
                options=_options(config),
            )
            self._stream.height, self._stream.width = height, width
            self._stream.pix_fmt = "rgb24" if config.codec == "lossless" else config.stored_pixels
            self._stream.codec_context.time_base = self._tick_s
            if config.codec != "lossless":
                # The matrix of PyAV's conversion from RGB; players assume another for large frames.
                self._stream.codec_context.colorspace = 5  # BT.470BG = BT.601
                self._stream.codec_context.color_range = 1  # 16 to 235
            self._stream.codec_context.open(strict=False)
        except (av.error.FFmpegError, ValueError) as error:
            self._abandon()
            raise BadInput(
                f"the encoder refused {height}x{width} frames with codec {config.codec}, preset "
                f"{config.used_preset} and pixel format {config.stored_pixels}: {error}"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None:
            self._abandon()
            return
        try:
            with disk_full_guard(self._path):
                self._mux(None)
                self._container.close()
                fsync(self._path)
                check_whole(self._path)  # a container raises nothing on a full disk
        except BaseException:
            self._abandon()
            raise

    def add(self, frame: Frame) -> None:
        """Append one frame, uint8 (H, W, 3)."""
        if frame.shape != self._shape or frame.dtype != np.uint8:
            raise BadInput(
                f"frame {self._count} of {self._path.name} is {frame.dtype} of shape "
                f"{frame.shape}, expected uint8 of shape {self._shape}"
            )
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture.pts = self._count
        picture.time_base = self._tick_s
        with disk_full_guard(self._path):
            self._mux(picture)
        self._count += 1

    def _mux(self, picture: av.VideoFrame | None) -> None:
        for packet in self._stream.encode(picture):
            self._container.mux(packet)

    def _abandon(self) -> None:
        with contextlib.suppress(av.error.FFmpegError, OSError, ValueError):  # the file goes anyway
            self._container.close()
        self._path.unlink(missing_ok=True)


def read_frames(
    path: Path, times_s: Sequence[float], shape: tuple[int, int, int]
) -> Iterator[Frame]:
    """Yield the frames at the given times, in order, decoded lazily.

    Seeks to the key frame before the first time and decodes from there.

    Args:
        times_s: increasing times from the start of the file, in s.
        shape: expected (H, W, 3) of the frames.

    Raises:
        DamagedFile: no frame at one of the times, another size, or not decodable.
    """
    if len(times_s) == 0:
        return
    with _opened(path) as (container, stream):
        base, context = stream.time_base, stream.codec_context
        if base is None or context is None:
            lacking = "time base" if base is None else "known codec"
            raise DamagedFile(f"{path} has no {lacking}. {_RESTORE}")
        size = (context.height, context.width)  # 0 where only the decoded stream has it
        if all(size):
            _check_size(path, size, shape)  # before memory is allocated for a frame
        first = max(0.0, times_s[0] - TOLERANCE_S)
        if first > 0:
            container.seek(int(first / base), stream=stream, backward=True, any_frame=False)
        wanted = iter(times_s)
        time_s = next(wanted)
        seen_s: float | None = None
        for picture in container.decode(stream):
            if picture.pts is None:
                continue
            seen_s = float(picture.pts * base)
            # One frame may serve several times: a rate may have been raised by repeating frames.
            while abs(seen_s - time_s) <= TOLERANCE_S:
                frame: Frame = picture.to_ndarray(format="rgb24")  # pyright: ignore[reportAssignmentType]
                _check_size(path, frame.shape[:2], shape)
                yield frame
                following = next(wanted, None)
                if following is None:
                    return
                time_s = following
            if seen_s > time_s + TOLERANCE_S:
                break
    found = "no frame at all" if seen_s is None else f"one at {seen_s:.6f} s"
    raise DamagedFile(
        f"{path} has no frame within {TOLERANCE_S} s of {time_s:.6f} s (found {found}). {_RESTORE}"
    )


def _check_size(path: Path, size: tuple[int, ...], shape: tuple[int, int, int]) -> None:
    if size != shape[:2]:
        raise DamagedFile(
            f"{path} has frames of {size[0]}x{size[1]} pixels, expected {shape[0]}x{shape[1]} as "
            f"in meta/info.json. {_RESTORE}"
        )


_RESTORE = "Copy the file again from its origin, or record the dataset again."

_MAX_BOXES = 10_000
"""Boxes of an MP4 file; even fragments of one second would make hours of video."""


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video for reading; what FFmpeg finds wrong with it is raised as DamagedFile."""
    if not path.is_file():
        raise DamagedFile(f"{path} is missing. {_RESTORE}")
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise DamagedFile(f"{path} holds no video. {_RESTORE}")
            yield container, container.streams.video[0]
    except av.error.FFmpegError as error:
        raise DamagedFile(f"{path} cannot be read as a video: {error}. {_RESTORE}") from error


def frame_times(path: Path) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the time of each frame, (N,) in s, ascending, and whether it is a key frame, (N,).

    Nothing is decoded.
    """
    found: list[tuple[float, bool]] = []
    with _opened(path) as (container, stream):
        for packet in container.demux(stream):
            if packet.pts is not None and not packet.is_discard:
                if packet.time_base is None:
                    raise DamagedFile(f"{path} has no time base. {_RESTORE}")
                found.append((float(packet.pts * packet.time_base), packet.is_keyframe))
    times_s, are_keys = zip(*sorted(found), strict=True) if found else ((), ())
    return np.array(times_s, np.float64), np.array(are_keys, np.bool_)


def check_whole(path: Path) -> None:
    """Raise DamagedFile for a missing, truncated or other than MP4 file; reads box headers only.

    ISO 14496-12, section 4.2: a file is a sequence of boxes, each with its size and type.
    """
    if not path.is_file():
        raise DamagedFile(f"{path} is missing. {_RESTORE}")
    size = path.stat().st_size
    kinds: list[bytes] = []
    at = 0
    with path.open("rb") as file:
        while at < size and len(kinds) < _MAX_BOXES:
            file.seek(at)
            head = file.read(16)
            if len(head) < 8:
                break
            length, kind = struct.unpack(">I4s", head[:8])
            if length == 1 and len(head) == 16:
                length = struct.unpack(">Q", head[8:])[0]
            elif length == 0:  # to the end of the file
                length = size - at
            if length < 8:
                break
            kinds.append(kind)
            at += length
    if at != size or b"moov" not in kinds or b"mdat" not in kinds or kinds[0] != b"ftyp":
        raise DamagedFile(f"{path} is cut short or not an MP4 file ({size:,} bytes). {_RESTORE}")
