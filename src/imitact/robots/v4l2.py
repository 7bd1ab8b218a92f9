"""Linux camera: frames of a V4L2 device with the kernel's capture times, read through PyAV.

FFmpeg's "video4linux2" input maps the driver's buffers and passes the time that the kernel gave
each (libavdevice/v4l2.c, `-ts default`). It sets no controls, so they are set by ioctl before. This
file has not been run on a camera: none was there. Its decoding and its loop are tested on recorded
streams, its ioctls on a fake device.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import av
from av.error import FFmpegError

from imitact.core.errors import RobotError, library_words
from imitact.core.types import Frame
from imitact.robots.cameras import CapturedFrame
from imitact.robots.config import CameraConfig

INPUT_FORMATS = {"mjpeg": "mjpeg", "yuyv": "yuyv422"}
"""FFmpeg's names of the formats that a camera sends."""

LATE_PERIODS = 2.0
"""Age from which on a frame is not decoded where newer ones wait: the driver keeps up to 32."""

WAITING_S = 0.002
"""A frame that is there within this time has waited for its reader, s."""

KERNEL_TIME_S = 10.0
"""A capture time is of the monotonic clock where it is at most so long ago, s."""

# linux/videodev2.h
_QUERY_CONTROL = struct.Struct("<II32siiiiI8x")
_CONTROL = struct.Struct("<Ii")
_NEXT_CONTROL, _DISABLED, _READ_ONLY = 0x80000000, 0x0001, 0x0004


def _ioctl_number(number: int, size: int) -> int:
    """Return _IOWR('V', number, size) of linux/ioctl.h."""
    return 3 << 30 | size << 16 | ord("V") << 8 | number


VIDIOC_S_CTRL = _ioctl_number(28, _CONTROL.size)
VIDIOC_QUERYCTRL = _ioctl_number(36, _QUERY_CONTROL.size)

Ioctl = Callable[[int, int, bytearray], Any]


class V4l2Camera:
    """One camera (`cameras.CameraSource`)."""

    def __init__(
        self,
        name: str,
        config: CameraConfig,
        *,
        open_input: Callable[..., Any] = av.open,
        ioctl: Ioctl = fcntl.ioctl,
    ) -> None:
        """Remember the camera; `open` opens it.

        Args:
            name: for messages.
            config: path, size, rate, format and controls.
            open_input: opens the stream, as `av.open`.
            ioctl: sets the controls, as `fcntl.ioctl`.
        """
        self._where = f"camera {name} ({config.path})"
        self._config, self._open_input, self._ioctl = config, open_input, ioctl
        self._container: Any = None
        self._undecodable = 0

    def open(self) -> None:
        """Set the controls and start the stream.

        Raises:
            RobotError: there is no such camera, another program has it, it lacks a control, or it
                gives another size.
        """
        config = self._config
        try:
            set_controls(config.path, config.controls, self._ioctl)
            self._container = self._open_input(
                config.path,
                format="video4linux2",
                options={
                    "input_format": INPUT_FORMATS[config.format],
                    "video_size": f"{config.width}x{config.height}",
                    "framerate": f"{config.rate_hz:g}",
                },
            )
        except (OSError, FFmpegError) as error:
            raise RobotError(f"{self._where}: {_opening_words(error)}") from error
        stream = self._container.streams.video[0]
        came, wanted = (stream.width, stream.height), (config.width, config.height)
        if came != wanted:
            self.close()
            raise RobotError(
                f"{self._where} gives {came[0]}x{came[1]} pixels, expected {wanted[0]}x{wanted[1]};"
                " `v4l2-ctl --list-formats-ext` shows the sizes it has"
            )

    def grab(self) -> CapturedFrame:
        """Wait for the next frame and return it; frames that are late are left out.

        Raises:
            RobotError: the camera gives no frames any more, or none that can be decoded.
        """
        if self._container is None:
            raise RobotError(f"{self._where} is not open")
        while True:
            asked_s = time.monotonic()
            packet = self._next_packet()
            now_s = time.monotonic()
            captured_s, is_kernel_time = now_s, False
            if packet.pts is not None and packet.time_base is not None:
                time_s = float(packet.pts * packet.time_base)
                if 0 <= now_s - time_s <= KERNEL_TIME_S:
                    captured_s, is_kernel_time = time_s, True
            has_waited = now_s - asked_s < WAITING_S
            if has_waited and now_s - captured_s > LATE_PERIODS / self._config.rate_hz:
                continue
            frame = self._decoded(packet)
            if frame is not None:
                checksum = zlib.crc32(memoryview(packet))
                return CapturedFrame(frame, captured_s, is_kernel_time, checksum)

    def close(self) -> None:
        """Stop the stream."""
        container, self._container = self._container, None
        if container is not None:
            container.close()

    def _next_packet(self) -> Any:
        try:
            packet = next(self._container.demux(video=0))
        except StopIteration:
            raise RobotError(f"{self._where} has ended its stream") from None
        except (OSError, FFmpegError) as error:
            raise RobotError(
                f"{self._where} gives no frames any more: {library_words(error)}; is it plugged in?"
            ) from error
        if not packet.size:  # the end of a stream
            raise RobotError(f"{self._where} has ended its stream")
        return packet

    def _decoded(self, packet: Any) -> Frame | None:
        """Return the frame of a packet; None where it is damaged, as some are on a busy USB."""
        try:
            frames = packet.decode()
        except FFmpegError as error:
            self._undecodable += 1
            if self._undecodable > self._config.rate_hz:
                raise RobotError(
                    f"{self._where}: {self._undecodable} frames in a row cannot be decoded, the "
                    f"last with: {library_words(error)}"
                ) from error
            return None
        if not frames:
            return None
        self._undecodable = 0
        frame = frames[0].to_ndarray(format="rgb24")
        size = (self._config.height, self._config.width, 3)
        if frame.shape != size:
            raise RobotError(f"{self._where} gave a frame of {frame.shape}, expected {size}")
        return frame


def set_controls(path: str, controls: Mapping[str, int], ioctl: Ioctl = fcntl.ioctl) -> None:
    """Set controls of a camera by their V4L2 names, as `v4l2-ctl --list-ctrls` shows them.

    Raises:
        OSError: the device cannot be opened.
        RobotError: it lacks a control, or refuses a value.
    """
    if not controls:
        return
    file = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        known = _known_controls(file, ioctl)
        for name, value in controls.items():
            if name not in known:
                raise RobotError(
                    f"{path} has no control {name}; it has {', '.join(known) or 'none'}"
                )
            number, least, largest = known[name]
            try:
                ioctl(file, VIDIOC_S_CTRL, bytearray(_CONTROL.pack(number, value)))
            except OSError as error:
                raise RobotError(
                    f"{path} refuses {name} = {value} ({library_words(error)}); its range is "
                    f"{least} to {largest}, and an automatic control may have to be off first"
                ) from error
    finally:
        os.close(file)


def _known_controls(file: int, ioctl: Ioctl) -> dict[str, tuple[int, int, int]]:
    """Return id, least and largest value of each control that can be set, by name."""
    found: dict[str, tuple[int, int, int]] = {}
    number = 0
    while True:
        query = bytearray(_QUERY_CONTROL.size)
        struct.pack_into("<I", query, 0, number | _NEXT_CONTROL)
        try:
            ioctl(file, VIDIOC_QUERYCTRL, query)
        except OSError:  # EINVAL: there are no more
            return found
        number, _kind, name, least, largest, _step, _default, flags = _QUERY_CONTROL.unpack(query)
        if not flags & (_DISABLED | _READ_ONLY):
            text = name.split(b"\0")[0].decode(errors="replace").lower()
            found[re.sub("[^a-z0-9]+", "_", text).strip("_")] = (number, least, largest)


def _opening_words(error: Exception) -> str:
    words = library_words(error)
    if isinstance(error, FileNotFoundError):
        return "there is no such camera; `ls -l /dev/v4l/by-path` lists those that are plugged in"
    if isinstance(error, PermissionError):
        return f"{words}; add yourself to the group video and log in anew"
    if isinstance(error, OSError) and error.errno == 16:  # EBUSY
        return "another program uses it"
    return f"it cannot be opened ({words})"
