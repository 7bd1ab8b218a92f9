"""Camera check: rate, age, identity and view of every camera, all of them running at once."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imitact.core.camera_view import resize
from imitact.core.errors import ImitactError, RobotError, library_words
from imitact.core.types import Frame
from imitact.datasets.images import decode, image_size, png
from imitact.robots.cameras import CameraSource, CapturedFrame
from imitact.robots.config import CameraConfig
from imitact.robots.robot_finding import RobotFinding
from imitact.storage.atomic import write_bytes
from imitact.storage.json_file import read_bytes

MakeCamera = Callable[[str, CameraConfig], CameraSource]
"""Makes the source of a camera from its name and settings."""

SLOW_SHARE = 0.8
"""Share of its rate below which a camera counts as slow."""

OLD_S = 0.1
"""Age of a frame at its arrival above which it shows the past, s."""

SAME_VIEW = 0.5
"""Correlation with the reference image below which a camera shows something else."""

OTHER_VIEW = 0.15
"""By how much another camera's reference must fit better for the two to be exchanged."""

_VIEW = (24, 32)
"""Rows and columns at which views are compared: light and small objects matter little."""


@dataclass
class _Watch:
    """What one camera gave."""

    times_s: list[float] = field(default_factory=list)
    ages_s: list[float] = field(default_factory=list)
    checksums: set[int] = field(default_factory=set)
    frame: Frame | None = None
    is_kernel_time: bool = True
    failure: str = ""


def check_cameras(
    cameras: Mapping[str, CameraConfig],
    seconds: float,
    *,
    make_camera: MakeCamera | None = None,
    folder: Path = Path("."),
) -> list[RobotFinding]:
    """Return what is wrong with the cameras.

    Args:
        cameras: by name.
        seconds: how long they are watched, s.
        make_camera: makes the source of a camera; V4L2 by default.
        folder: of robot.toml; the reference images are beside it.
    """
    found = _check_paths(cameras)
    watches = _watch(cameras, seconds, make_camera)
    for name, config in cameras.items():
        found += _judge(f"camera {name}", config, watches[name])
    return found + _check_views(cameras, watches, folder)


def _watch(
    cameras: Mapping[str, CameraConfig], seconds: float, make_camera: MakeCamera | None
) -> dict[str, _Watch]:
    """Run all cameras at once: together they may exceed what one USB controller carries."""
    make = make_camera or _camera
    watches = {name: _Watch() for name in cameras}

    def run(name: str) -> None:
        watch = watches[name]
        try:
            source = make(name, cameras[name])
            try:
                source.open()
                _grab(source, watch, seconds)
            finally:
                source.close()
        except Exception as error:  # a driver of the user's own raises anything
            watch.failure = library_words(error)

    threads = [threading.Thread(target=run, args=(name,), daemon=True) for name in cameras]
    for thread in threads:
        thread.start()
    end_s = time.monotonic() + seconds + 10.0
    for name, thread in zip(cameras, threads, strict=True):
        thread.join(max(0.0, end_s - time.monotonic()))
        if thread.is_alive():
            watches[name] = _Watch(failure="it gives no frame and does not return")
    return watches


def _camera(name: str, config: CameraConfig) -> CameraSource:
    from imitact.robots.emulation.cameras import PATH_PREFIX
    from imitact.robots.v4l2 import V4l2Camera  # Linux only

    if config.path.startswith(PATH_PREFIX):
        return _BenchCamera(config.path)
    return V4l2Camera(name, config)


class _BenchCamera:
    """A camera of an emulated robot, whose frames are in a mailbox."""

    _LONGEST_S = 5.0

    def __init__(self, path: str) -> None:
        self._path = path
        self._sequence = 0

    def open(self) -> None:
        from imitact.robots.emulation.cameras import open_frames

        self._box = open_frames(self._path)

    def grab(self) -> CapturedFrame:
        end_s = time.monotonic() + self._LONGEST_S
        while time.monotonic() < end_s:
            mail = self._box.read()
            if mail is not None and mail.sequence != self._sequence:
                self._sequence = mail.sequence
                checksum = mail.sequence  # drawn anew; a still scene is no frozen camera
                return CapturedFrame(mail.values, float(mail.times[0]), True, checksum)
            time.sleep(0.002)
        raise RobotError(f"{self._path} gives no frames")

    def close(self) -> None:
        self._box.close()


def _grab(source: CameraSource, watch: _Watch, seconds: float) -> None:
    end_s = None
    while end_s is None or time.monotonic() < end_s:
        captured = source.grab()
        now_s = time.monotonic()
        if end_s is None:
            end_s = now_s + seconds  # the first frame may take a second
        watch.times_s.append(captured.captured_s)
        watch.ages_s.append(now_s - captured.captured_s)
        watch.checksums.add(captured.checksum)
        watch.frame = captured.frame
        watch.is_kernel_time &= captured.is_kernel_time


def _check_paths(cameras: Mapping[str, CameraConfig]) -> list[RobotFinding]:
    found, devices = [], {}
    for name, config in cameras.items():
        where = f"camera {name}"
        if Path(config.path).name.startswith("video"):
            found.append(
                RobotFinding(
                    "camera-name",
                    "warning",
                    where,
                    f"its path is {config.path}, which may be another camera after the next start",
                    "a path below /dev/v4l/by-path",
                    "Take the path of this socket from ls -l /dev/v4l/by-path",
                )
            )
        device = os.path.realpath(config.path)
        if device in devices:
            found.append(
                RobotFinding(
                    "camera-twice",
                    "error",
                    where,
                    f"{config.path} is the same device as camera {devices[device]}",
                    "a device of its own",
                    "Look below /dev/v4l/by-path, where names ending in index0 give frames",
                )
            )
        devices[device] = name
    return found


def _judge(where: str, config: CameraConfig, watch: _Watch) -> list[RobotFinding]:
    if watch.failure or len(watch.times_s) < 3:
        came = watch.failure or f"it gave {len(watch.times_s)} frames"
        return [RobotFinding("camera", "error", where, came, f"{config.rate_hz:g} frames/s")]
    found = []
    span_s = max(watch.times_s[-1] - watch.times_s[0], 1e-9)
    rate_hz = (len(watch.times_s) - 1) / span_s
    age_s = float(np.median(watch.ages_s))
    came = f"{rate_hz:.1f} frames/s, {1000 * age_s:.0f} ms old at the median when they arrive"
    if rate_hz < SLOW_SHARE * config.rate_hz:
        found.append(
            RobotFinding(
                "camera-rate",
                "warning",
                where,
                came,
                f"{config.rate_hz:g} frames/s",
                "Set exposure_dynamic_framerate = 0 in its controls, which otherwise halves the "
                "rate in dim light; keep two cameras to a USB controller; or lower rate_hz",
            )
        )
    elif age_s > OLD_S:
        found.append(
            RobotFinding(
                "camera-age",
                "warning",
                where,
                came,
                f"at most {1000 * OLD_S:g} ms",
                "A policy would see the past: take format mjpeg, a smaller size or a shorter "
                "exposure",
            )
        )
    else:
        found.append(RobotFinding("camera-rate", "note", where, came))
    if not watch.is_kernel_time:
        found.append(
            RobotFinding(
                "camera-time",
                "note",
                where,
                "its driver gives no capture times; those of arrival are used, which are later by "
                "exposure and transfer",
            )
        )
    if len(watch.checksums) == 1:
        found.append(
            RobotFinding(
                "camera-frozen",
                "error",
                where,
                f"all {len(watch.times_s)} frames are the same",
                "frames that differ, if only by noise",
                "Plug it in again; is its lens covered?",
            )
        )
    elif watch.frame is not None and float(watch.frame.std()) < 2.0:
        found.append(
            RobotFinding(
                "camera-blank",
                "warning",
                where,
                f"its frame is of one brightness, {watch.frame.mean():.0f} of 255",
                "an image",
                "Take the cap off the lens, switch the light on, or set its exposure",
            )
        )
    return found


# ---------------------------------------------------------------------------------- views


def _check_views(
    cameras: Mapping[str, CameraConfig], watches: Mapping[str, _Watch], folder: Path
) -> list[RobotFinding]:
    """Compare what the cameras see with their reference images: exchanged, or moved."""
    references: dict[str, NDArray[np.float64]] = {}
    found: list[RobotFinding] = []
    for name, config in cameras.items():
        if not config.reference:
            found.append(
                RobotFinding(
                    "reference-missing",
                    "note",
                    f"camera {name}",
                    "there is no image of what it should see",
                    "one, with which exchanged cameras are noticed",
                    "`imitact robot check --record` keeps one beside robot.toml",
                )
            )
            continue
        try:
            data = read_bytes(folder / config.reference)
            references[name] = _view(decode(data, image_size(data, config.reference)))
        except (ImitactError, OSError) as error:
            came = library_words(error)
            found.append(RobotFinding("reference", "error", f"camera {name}", came))
    for name in references:
        frame = watches[name].frame
        if frame is None:
            continue
        fits = {
            other: float(np.mean(_view(frame) * reference))
            for other, reference in references.items()
        }
        best = max(fits, key=lambda other: fits[other])
        if fits[best] > max(SAME_VIEW, fits[name] + OTHER_VIEW):
            found.append(
                RobotFinding(
                    "cameras-swapped",
                    "error",
                    f"camera {name}",
                    f"it sees what camera {best} saw (correlation {fits[best]:.2f})",
                    f"its own reference image (correlation {fits[name]:.2f})",
                    "Exchange their paths in robot.toml, or their plugs",
                )
            )
        elif fits[name] < SAME_VIEW:
            found.append(
                RobotFinding(
                    "camera-view",
                    "warning",
                    f"camera {name}",
                    f"it sees something else than its reference image (correlation "
                    f"{fits[name]:.2f})",
                    f"at least {SAME_VIEW:g}",
                    "Was it moved? Policies need the view that they were trained with. If the "
                    "scene changed, record it again with --record",
                )
            )
    return found


def _view(frame: Frame) -> NDArray[np.float64]:
    """Return a small grey image of mean 0 and variance 1."""
    grey = resize(frame, *_VIEW).astype(np.float64).mean(2)
    return (grey - grey.mean()) / max(float(grey.std()), 1.0)


def save_references(
    cameras: Mapping[str, CameraConfig], folder: Path, *, make_camera: MakeCamera | None = None
) -> dict[str, str]:
    """Write an image of what each camera sees; return the file names, relative to the folder.

    Raises:
        RobotError: a camera gives no frame; nothing is written.
    """
    watches = _watch(cameras, 0.5, make_camera)
    for name, watch in watches.items():
        if watch.frame is None:
            raise RobotError(f"camera {name} gives no frame ({watch.failure or 'it is silent'})")
    files = {name: f"{name}_reference.png" for name in cameras}
    for name, file in files.items():
        frame = watches[name].frame
        assert frame is not None
        write_bytes(folder / file, png(frame))
    return files
