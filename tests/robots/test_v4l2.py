"""Linux cameras: streams are decoded with their times, on recorded streams and a fake device."""

from __future__ import annotations

import errno
import re
import struct
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from imitact.core.errors import RobotError
from imitact.robots.config import CameraConfig
from imitact.robots.v4l2 import VIDIOC_QUERYCTRL, VIDIOC_S_CTRL, V4l2Camera, set_controls

HEIGHT, WIDTH, COUNT = 48, 64, 8


def picture(number: int) -> np.ndarray:
    """A gradient whose left half has the gray of the number."""
    frame = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    frame[:, : WIDTH // 2] = 20 * number + 20
    frame[:, WIDTH // 2 :] = np.linspace(0, 255, HEIGHT, dtype=np.uint8)[:, None, None]
    return frame


@pytest.fixture(params=["mjpeg", "yuyv"])
def stream(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, CameraConfig]:
    """A recorded stream of a camera."""
    path = tmp_path / "camera.avi"
    codec, pixels = {"mjpeg": ("mjpeg", "yuvj422p"), "yuyv": ("rawvideo", "yuyv422")}[request.param]
    with av.open(str(path), "w") as container:
        out = container.add_stream(codec, rate=30)
        out.width, out.height, out.pix_fmt = WIDTH, HEIGHT, pixels
        for number in range(COUNT):
            container.mux(out.encode(av.VideoFrame.from_ndarray(picture(number), "rgb24")))
        container.mux(out.encode(None))
    config = CameraConfig("/dev/v4l/by-path/x", WIDTH, HEIGHT, 30.0, request.param)
    return path, config


class FakeInput:
    """A container whose packets have the times of the kernel, or damage, as a test says."""

    def __init__(self, path: Path, ages_s: list[float], damaged: frozenset[int] = frozenset()):
        self.container = av.open(str(path))
        self.streams = self.container.streams
        self.packets = self._packets(ages_s, damaged)
        self.options: dict[str, Any] = {}

    def _packets(self, ages_s: list[float], damaged: frozenset[int]) -> Iterator[Any]:
        packets = [p for p in self.container.demux(video=0) if p.size]
        for number, packet in enumerate(packets):
            if number in damaged:
                memoryview_of(packet)[:] = b"\xff" * packet.size
            if ages_s:
                age_s = ages_s[min(number, len(ages_s) - 1)]
                packet.time_base = Fraction(1, 1_000_000)
                packet.pts = round((time.monotonic() - age_s) * 1e6)
            yield packet

    def demux(self, video: int) -> Iterator[Any]:
        return self.packets

    def close(self) -> None:
        self.container.close()

    def __call__(self, path: str, **options: Any) -> FakeInput:
        self.options = {"path": path, **options}
        return self


def memoryview_of(packet: Any) -> memoryview:
    return memoryview(packet).cast("B")


def test_frames_are_decoded_with_the_times_of_the_kernel(stream: tuple[Path, CameraConfig]):
    path, config = stream
    device = FakeInput(path, [0.03])
    camera = V4l2Camera("top", config, open_input=device)
    camera.open()
    assert device.options["format"] == "video4linux2"
    assert device.options["options"] == {
        "input_format": {"mjpeg": "mjpeg", "yuyv": "yuyv422"}[config.format],
        "video_size": "64x48",
        "framerate": "30",
    }
    checksums = set()
    for number in range(COUNT):
        captured = camera.grab()
        assert captured.is_kernel_time
        assert captured.captured_s <= time.monotonic() - 0.03
        difference = captured.frame.astype(int) - picture(number)
        assert np.abs(difference[:, 4 : WIDTH // 2 - 4]).max() < 12
        checksums.add(captured.checksum)
    assert len(checksums) == COUNT
    with pytest.raises(RobotError, match="has ended its stream"):
        camera.grab()
    camera.close()
    with pytest.raises(RobotError, match="is not open"):
        camera.grab()


def test_frames_that_waited_while_newer_ones_came_are_left_out(
    stream: tuple[Path, CameraConfig],
):
    path, config = stream
    camera = V4l2Camera("top", config, open_input=FakeInput(path, [0.5] * 5 + [0.01]))
    camera.open()
    assert camera.grab().frame[0, 8, 0] == pytest.approx(20 * 5 + 20, abs=8)


def test_times_of_another_clock_are_replaced_by_the_arrival(stream: tuple[Path, CameraConfig]):
    path, config = stream
    before_s = time.monotonic()
    camera = V4l2Camera("top", config, open_input=FakeInput(path, [1e6]))
    camera.open()
    captured = camera.grab()
    assert not captured.is_kernel_time
    assert before_s <= captured.captured_s <= time.monotonic()


@pytest.mark.parametrize("stream", ["mjpeg"], indirect=True)
def test_a_damaged_frame_is_left_out(stream: tuple[Path, CameraConfig]):
    path, config = stream
    camera = V4l2Camera("top", config, open_input=FakeInput(path, [0.01], frozenset({0, 2})))
    camera.open()
    grays = [round(camera.grab().frame[0, 8, 0] / 20) for _ in range(COUNT - 2)]
    assert grays == [2, 4, 5, 6, 7, 8]


def test_another_size_than_the_one_asked_for_is_refused(stream: tuple[Path, CameraConfig]):
    path, config = stream
    other = CameraConfig(config.path, 640, 480, 30.0, config.format)
    with pytest.raises(RobotError, match=re.escape("gives 64x48 pixels, expected 640x480")):
        V4l2Camera("top", other, open_input=FakeInput(path, [])).open()


def _refusing(error: OSError):
    def open_input(*_: Any, **__: Any) -> Any:
        raise error

    return open_input


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file"), "there is no such camera"),
        (PermissionError(errno.EACCES, "Permission denied"), "group video"),
        (OSError(errno.EBUSY, "Device or resource busy"), "another program uses it"),
        (OSError(errno.EIO, "Input/output error"), "cannot be opened"),
    ],
)
def test_a_camera_that_cannot_be_opened_is_named_with_the_remedy(error: OSError, words: str):
    camera = V4l2Camera("top", CameraConfig("/dev/v4l/x"), open_input=_refusing(error))
    with pytest.raises(RobotError, match=f"camera top .*{words}"):
        camera.open()


def test_a_path_that_is_not_there_is_refused():
    with pytest.raises(RobotError, match="there is no such camera"):
        V4l2Camera("top", CameraConfig("/dev/v4l/by-path/none")).open()


class FakeControls:
    """ioctl of a device with three controls, one of which cannot be set."""

    def __init__(self) -> None:
        self.values: dict[int, int] = {}
        self.controls = [
            (0x980900, b"Brightness", 0, 255, 0),
            (0x9A0902, b"Exposure, Dynamic Framerate", 0, 1, 0),
            (0x9A090B, b"Focus, Absolute", 0, 250, 0),
            (0x9A0999, b"Temperature", 0, 90, 0x0004),
        ]

    def __call__(self, file: int, number: int, data: bytearray) -> int:
        if number == VIDIOC_QUERYCTRL:
            (asked,) = struct.unpack_from("<I", data)
            assert asked & 0x80000000
            for control, name, least, largest, flags in self.controls:
                if control > asked & 0x7FFFFFFF:
                    packed = struct.pack(
                        "<II32siiiiI8x", control, 1, name, least, largest, 1, 0, flags
                    )
                    data[:] = packed
                    return 0
            raise OSError(errno.EINVAL, "Invalid argument")
        assert number == VIDIOC_S_CTRL
        control, value = struct.unpack("<Ii", data)
        if not any(c == control and a <= value <= b for c, _, a, b, _ in self.controls):
            raise OSError(errno.ERANGE, "Numerical result out of range")
        self.values[control] = value
        return 0


def test_controls_are_set_by_their_v4l2_names(tmp_path: Path):
    device = tmp_path / "video0"
    device.touch()
    ioctl = FakeControls()
    set_controls(str(device), {"exposure_dynamic_framerate": 0, "focus_absolute": 40}, ioctl)
    assert ioctl.values == {0x9A0902: 0, 0x9A090B: 40}
    with pytest.raises(RobotError, match="has no control zoom; it has brightness, exposure_dyn"):
        set_controls(str(device), {"zoom": 1}, ioctl)
    with pytest.raises(RobotError, match="its range is 0 to 250"):
        set_controls(str(device), {"focus_absolute": 400}, ioctl)
    with pytest.raises(RobotError, match="has no control temperature"):
        set_controls(str(device), {"temperature": 20}, ioctl)


def test_the_ioctl_numbers_are_those_of_linux():
    assert (VIDIOC_S_CTRL, VIDIOC_QUERYCTRL) == (0xC008561C, 0xC0445624)
