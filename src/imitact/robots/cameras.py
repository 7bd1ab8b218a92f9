"""Cameras: a process for each, which posts frames with their capture times into a mailbox.

A camera that gives no frames, too few, or always the same one is reported. A process whose camera
hangs ends itself, which frees the device, and is started again.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from imitact.core.errors import RobotError, library_words
from imitact.core.robot import TimedFrame
from imitact.core.types import Camera, Frame
from imitact.parallel.child_process import ChildProcess, ParentPipe
from imitact.parallel.mailbox import Mailbox
from imitact.robots.hosted import TextBox
from imitact.robots.timed_frames import frame_mailbox, newest_frame

FAULT_BYTES = 1024
WATCH_S = 0.05


@dataclass(frozen=True)
class CapturedFrame:
    """A frame as a camera gave it.

    Attributes:
        frame: (H, W, 3), RGB.
        captured_s: when it was captured, on the monotonic clock.
        is_kernel_time: whether that is the kernel's time; otherwise it is the arrival's.
        checksum: of the bytes that the camera sent; equal ones are the same image.
    """

    frame: Frame
    captured_s: float
    is_kernel_time: bool
    checksum: int


class CameraSource(Protocol):
    """A camera's device. Its calls wait, and may raise RobotError."""

    def open(self) -> None: ...

    def grab(self) -> CapturedFrame: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class CameraPlan:
    """A camera for a process of its own.

    Attributes:
        camera: name and size.
        rate_hz: frames per second that it should give.
        make: makes its source in the process; picklable, takes no arguments.
        dead_s: time without a frame after which it counts as dead, s.
        frozen_s: time of the same frame after which it counts as frozen, s. The noise of a sensor
            makes every frame differ.
        hung_s: time without a frame after which its process ends itself to free the device, s.
        slow_share: share of its rate below which it counts as slow.
        reopen_s: time between attempts to open it again, s.
    """

    camera: Camera
    rate_hz: float
    make: Callable[[], CameraSource]
    dead_s: float = 0.5
    frozen_s: float = 1.0
    hung_s: float = 3.0
    slow_share: float = 0.8
    reopen_s: float = 0.5


class CameraHealth:
    """Finds a camera that is slow or frozen, from its frames."""

    def __init__(self, plan: CameraPlan) -> None:
        self._plan = plan
        self._times: deque[float] = deque(maxlen=max(3, round(plan.rate_hz)))
        self._same_since_s: float | None = None
        self._checksum: int | None = None

    def fault(self, captured: CapturedFrame) -> str:
        """Return what is wrong with the camera after one more frame; empty where nothing is."""
        plan, now_s = self._plan, captured.captured_s
        self._times.append(now_s)
        if captured.checksum != self._checksum or self._same_since_s is None:
            self._checksum, self._same_since_s = captured.checksum, now_s
        if now_s - self._same_since_s >= plan.frozen_s:
            return (
                f"the same frame since {now_s - self._same_since_s:.1f} s: it is frozen, or its "
                "lens is covered"
            )
        if len(self._times) == self._times.maxlen:
            rate_hz = (len(self._times) - 1) / max(1e-9, self._times[-1] - self._times[0])
            if rate_hz < plan.slow_share * plan.rate_hz:
                return (
                    f"{rate_hz:.1f} frames/s, expected {plan.rate_hz:g}; in dim light set the "
                    "control exposure_dynamic_framerate = 0, and keep two cameras to a USB hub"
                )
        return ""


class Capture:
    """The thread of a camera: open, grab, post, and again."""

    def __init__(self, plan: CameraPlan, box: Mailbox, fault: TextBox, pipe: ParentPipe) -> None:
        self._plan, self._box, self._fault, self._pipe = plan, box, fault, pipe
        self._said = ""
        self.newest_s: float | None = None
        self.failure = ""
        threading.Thread(target=self._run, daemon=True, name=plan.camera.name).start()

    def say(self, fault: str) -> None:
        """Post what is wrong; empty where nothing is."""
        if fault != self._said:
            self._said = fault
            self._fault.post(fault)
            self._pipe.line(f"camera {self._plan.camera.name}: {fault or 'gives frames'}")

    def _run(self) -> None:
        while True:
            try:
                self._grab_all()
            except Exception as error:  # a driver of the user's own raises anything
                text = library_words(error)
                self.failure = text if isinstance(error, RobotError) else f"{error!r}"
                self.say(self.failure)
            time.sleep(self._plan.reopen_s)

    def _grab_all(self) -> None:
        source = self._plan.make()
        try:
            source.open()
            health = CameraHealth(self._plan)
            had_kernel_time = True
            while True:
                captured = source.grab()
                self._box.post(captured.frame, captured.captured_s, time.monotonic())
                self.newest_s, self.failure = time.monotonic(), ""
                self.say(health.fault(captured))
                if had_kernel_time and not captured.is_kernel_time:
                    had_kernel_time = False
                    self._pipe.line(
                        f"camera {self._plan.camera.name}: its driver gives no capture times of "
                        "the monotonic clock; frames have the times of their arrival, which are "
                        "later by the exposure and the transfer"
                    )
        finally:
            source.close()


def run_camera(pipe: ParentPipe, plan: CameraPlan, box: Mailbox, fault: TextBox) -> None:
    """Post the frames of a camera until the parent has gone; the target of the process.

    Raises:
        RobotError: it cannot be opened at first, or hangs later.
    """
    capture = Capture(plan, box, fault, pipe)
    is_ready, start_s = False, time.monotonic()
    while not pipe.parent_is_gone:
        order = pipe.next_order(WATCH_S)
        if order is not None and order[1] == "end":
            os._exit(0)  # the thread may wait for a frame
        if capture.newest_s is None:
            if capture.failure:
                raise RobotError(capture.failure)
            silent_s = 0.0 if not is_ready else time.monotonic() - start_s
        else:
            if not is_ready:
                pipe.ready()
                is_ready = True
            silent_s = time.monotonic() - capture.newest_s
        if silent_s > plan.hung_s and not capture.failure:
            raise RobotError(f"camera {plan.camera.name} gives no frame since {silent_s:.1f} s")


class Cameras:
    """The processes of all cameras, seen from the process that starts them.

    Its methods belong to that process; `boxes` may be given to others as arguments.

    Attributes:
        boxes: (H, W, 3) mailbox of the frames of each camera.
    """

    def __init__(
        self,
        plans: Mapping[str, CameraPlan],
        on_line: Callable[[str], object] = lambda line: None,
    ) -> None:
        """Make the mailboxes; `start` starts the processes. `plans` are by the camera's name."""
        self._plans = dict(plans)
        self.boxes = {
            name: frame_mailbox(plan.camera.height, plan.camera.width)
            for name, plan in self._plans.items()
        }
        self._faults = {name: TextBox.create(FAULT_BYTES) for name in self._plans}
        self._processes = {
            name: ChildProcess(
                f"the process of camera {name}",
                run_camera,
                (plan, self.boxes[name], self._faults[name]),
                on_line,
            )
            for name, plan in self._plans.items()
        }
        self._started_s: dict[str, float] = {}

    def start(self, timeout_s: float = 30.0) -> None:
        """Start all cameras and wait for a frame of each.

        Raises:
            RobotError: cameras gave no frame; all are named, and all are ended.
        """
        failed: list[str] = []
        for name in self._plans:
            self._begin(name)
        for process in self._processes.values():
            try:
                process.wait_ready(timeout_s)
            except RobotError as error:
                failed.append(str(error))
        if failed:
            self.close()
            raise RobotError("; ".join(failed))

    def watch(self) -> Mapping[str, str]:
        """Start the processes that ended again; return what is wrong with each camera, in words."""
        found: dict[str, str] = {}
        for name in list(self._started_s):
            if death := self._processes[name].death():
                found[name] = death
                if time.monotonic() - self._started_s[name] > 2.0:
                    self._begin(name)
            elif fault := self.fault(name):
                found[name] = fault
        return found

    def frame(self, name: str) -> TimedFrame | None:
        """Return the newest frame of a camera; None before the first."""
        return newest_frame(name, self.boxes[name])

    def fault(self, name: str) -> str:
        """Return what is wrong with a camera, in words; empty where nothing is."""
        newest = self.boxes[name].times()
        if newest is None:
            return "no frame yet"
        silent_s = time.monotonic() - newest[1][1]
        said = self._faults[name].read()
        if silent_s > self._plans[name].dead_s:
            return f"no frame since {silent_s:.1f} s" + (f": {said}" if said else "")
        return said

    def close(self) -> None:
        """End all cameras."""
        for process in self._processes.values():
            process.end(0.0)
        self._started_s.clear()

    def _begin(self, name: str) -> None:
        self._processes[name].begin()
        self._started_s[name] = time.monotonic()
