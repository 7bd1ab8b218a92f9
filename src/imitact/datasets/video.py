"""Video files: frames encoded as they come, and decoded by timestamp."""

from __future__ import annotations

import contextlib
import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import av
import av.error
import numpy as np
from av.container import InputContainer, OutputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from imitact.core.errors import BadInput, DamagedFile, library_words
from imitact.core.types import Frame
from imitact.datasets.mp4 import RESTORE, VideoTrack, read_video_track
from imitact.datasets.video_config import VideoConfig, exact_rate
from imitact.storage.atomic import disk_full_guard, fsync
from imitact.storage.regular_file import check_regular

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
        self._packets: deque[av.Packet] = deque()  # encoded, not in the file
        self._sure: float = math.inf  # frames that are to be in the file
        with disk_full_guard(path):
            path.unlink(missing_ok=True)  # a killed process's, or a link
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

    def hold_back(self) -> None:
        """Keep the frames from here on out of the file, unless `accept` follows.

        They are encoded and stay in memory, some kilobytes each.
        """
        self._sure = min(self._sure, self._count)

    def accept(self) -> None:
        """Take all frames so far into the file."""
        self._sure = math.inf

    def _mux(self, picture: av.VideoFrame | None) -> None:
        self._packets.extend(self._stream.encode(picture))
        # Frames are not reordered, so a file of the first packets is one of the first frames.
        while self._packets and self._number(self._packets[0]) < self._sure:
            self._container.mux(self._packets.popleft())

    def _number(self, packet: av.Packet) -> int:
        if packet.pts is None or packet.time_base is None:
            return 0
        return round(packet.pts * packet.time_base / self._tick_s)

    def _abandon(self) -> None:
        with contextlib.suppress(av.error.FFmpegError, OSError, ValueError):  # the file goes anyway
            self._container.close()
        self._path.unlink(missing_ok=True)


def match_frames(
    found_s: NDArray[np.float64],
    stamps_s: NDArray[np.float64],
    from_s: float,
    rate_hz: float,
    tolerance_s: float = 0.0,
) -> NDArray[np.float64]:
    """Return the time of the frame of each tick of an episode, (T,) in s.

    That is the frame at the tick's time stamp. Where stamps or frames are off, as from the clock of
    a camera, and there is one frame for each tick, it is the nearest one within half a tick of
    tick / rate. Ticks without a frame keep the time of their stamp, at which `read_frames` fails.

    Args:
        found_s: time of each frame of the video, (N,), ascending.
        stamps_s: time stamp of each tick, (T,), from the start of the episode.
        from_s: start of the episode in the video.
        tolerance_s: largest distance of a stamp from tick / rate, and of a frame from its stamp;
            0 for half a tick, and for `TOLERANCE_S`.
    """
    times_s, half_s = from_s + stamps_s, 0.5 / rate_hz
    if not len(found_s) or not len(times_s):
        return times_s
    right = np.clip(np.searchsorted(found_s, times_s), 1, max(1, len(found_s) - 1))
    left_s, right_s = found_s[right - 1], found_s[np.minimum(right, len(found_s) - 1)]
    nearest_s = np.where(times_s - left_s <= right_s - times_s, left_s, right_s)
    off_s = np.abs(nearest_s - times_s)
    exact_s = TOLERANCE_S + float(np.spacing(np.float32(np.abs(stamps_s).max())))
    if off_s.max() <= exact_s:
        return nearest_s
    due_s = from_s + np.arange(len(times_s)) / rate_hz
    first, stop = np.searchsorted(found_s, (from_s - half_s, due_s[-1] + half_s))
    if (
        stop - first == len(times_s)
        and np.abs(found_s[first:stop] - due_s).max() <= half_s
        and np.abs(times_s - due_s).max() <= max(half_s, tolerance_s)
    ):
        return found_s[first:stop]
    return np.where(off_s <= max(exact_s, tolerance_s), nearest_s, times_s)


def read_frames(
    path: Path, times_s: Sequence[float], shape: tuple[int, int, int], is_grey: bool = False
) -> Iterator[Frame]:
    """Yield the frames at the given times, in order, decoded lazily.

    Seeks to the key frame before the first time and decodes from there.

    Args:
        times_s: increasing times from the start of the file, in s.
        shape: expected (H, W, 3) of the frames.
        is_grey: whether the camera has one channel, which is repeated three times.

    Raises:
        DamagedFile: no frame at one of the times, another size, or not decodable.
    """
    if len(times_s) == 0:
        return
    with _opened(path) as (container, stream):
        base, context = stream.time_base, stream.codec_context
        if base is None or context is None:
            lacking = "time base" if base is None else "known codec"
            raise DamagedFile(f"{path} has no {lacking}. {RESTORE}")
        size = (context.height, context.width)  # 0 where only the decoded stream has it
        if all(size):
            _check_size(path, size, shape)  # before memory is allocated for a frame
        first = max(0.0, times_s[0] - TOLERANCE_S)
        if first > 0:
            container.seek(int(first / base), stream=stream, backward=True, any_frame=False)
        wanted = iter(times_s)
        time_s = next(wanted)
        seen_s = before_s = math.inf
        for picture in container.decode(stream):
            if picture.pts is None:
                continue
            before_s, seen_s = seen_s, float(picture.pts * base)
            # One frame may serve several times: a rate may have been raised by repeating frames.
            while abs(seen_s - time_s) <= TOLERANCE_S:
                frame: Frame = picture.to_ndarray(format="gray" if is_grey else "rgb24")  # pyright: ignore[reportAssignmentType]
                if is_grey:
                    frame = np.repeat(frame[..., None], 3, axis=2)
                _check_size(path, frame.shape[:2], shape)
                yield frame
                following = next(wanted, None)
                if following is None:
                    return
                time_s = following
            if seen_s > time_s + TOLERANCE_S:
                break
    nearest_s = min((before_s, seen_s), key=lambda frame_s: abs(frame_s - time_s))
    found = f"the nearest is at {nearest_s:.6f} s" if nearest_s < math.inf else "it has none at all"
    raise DamagedFile(
        f"{path} has no frame within {TOLERANCE_S} s of {time_s:.6f} s; {found}. Is it the video "
        "of another episode, or cut short? Copy it again from its origin. If its frames are off "
        "their times, give --read.tolerance-s"
    )


def _check_size(path: Path, size: tuple[int, ...], shape: tuple[int, int, int]) -> None:
    if size != shape[:2]:
        raise DamagedFile(
            f"{path} has frames of {size[0]}x{size[1]} pixels, expected {shape[0]}x{shape[1]} as "
            f"in meta/info.json. {RESTORE}"
        )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video for reading; what FFmpeg finds wrong with it is raised as DamagedFile."""
    check_regular(path, advice=RESTORE)
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise DamagedFile(f"{path} holds no video. {RESTORE}")
            yield container, container.streams.video[0]
    except av.error.FFmpegError as error:
        raise DamagedFile(
            f"{path} cannot be read as a video: {library_words(error)}. {RESTORE}"
        ) from error


def video_track(path: Path) -> VideoTrack:
    """Return the time of each frame of a video, which are key frames, and their size.

    Nothing is decoded; for usual files only the headers are read.
    """
    if (track := read_video_track(path)) is not None:
        return track
    found: list[tuple[float, bool]] = []
    with _opened(path) as (container, stream):
        context = stream.codec_context
        size = (context.height, context.width) if context else (0, 0)
        for packet in container.demux(stream):
            if packet.pts is not None and not packet.is_discard:
                if packet.time_base is None:
                    raise DamagedFile(f"{path} has no time base. {RESTORE}")
                found.append((float(packet.pts * packet.time_base), packet.is_keyframe))
    times_s, are_keys = zip(*sorted(found), strict=True) if found else ((), ())
    return VideoTrack(np.array(times_s, np.float64), np.array(are_keys, np.bool_), size)


def frame_times(path: Path) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the time of each frame, (N,) in s, ascending, and whether it is a key frame, (N,)."""
    track = video_track(path)
    return track.times_s, track.key_frames


def frame_size(path: Path) -> tuple[int, int]:
    """Return height and width of the frames of a video, as its decoder has them; (0, 0) if unknown.

    Nothing is decoded.
    """
    with _opened(path) as (_, stream):
        context = stream.codec_context
        return (context.height, context.width) if context else (0, 0)


def check_whole(path: Path) -> None:
    """Raise DamagedFile for a video that `read_video_track` refuses; only headers are read."""
    read_video_track(path)
