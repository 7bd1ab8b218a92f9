"""Fake camera: a source of frames that fails as a test says, in a process or in a test."""

from __future__ import annotations

import time

import numpy as np

from imitact.core.errors import RobotError
from imitact.parallel.mailbox import Mailbox
from imitact.robots.cameras import CapturedFrame

HEIGHT, WIDTH = 24, 32
FAULTS = ("none", "frozen", "unplugged", "hangs", "value error", "arrival times")


class FakeCamera:
    """Its frames have one gray, which is the number of the frame.

    Args:
        faults: mailbox of the number of the fault.
        rate_hz: frames per second.
    """

    def __init__(self, faults: Mailbox, rate_hz: float = 100.0) -> None:
        self.faults, self.rate_hz, self.count = faults, rate_hz, 0

    @property
    def fault(self) -> str:
        mail = self.faults.read()
        return "none" if mail is None else FAULTS[int(mail.values[0])]

    def open(self) -> None:
        if self.fault == "unplugged":
            raise RobotError("there is no such camera")

    def grab(self) -> CapturedFrame:
        time.sleep(1 / self.rate_hz)
        fault = self.fault
        if fault == "unplugged":
            raise RobotError("it gives no frames any more")
        if fault == "value error":
            raise ValueError("a surprise")
        if fault == "hangs":
            time.sleep(3600)
        if fault != "frozen":
            self.count += 1
        frame = np.full((HEIGHT, WIDTH, 3), self.count % 256, np.uint8)
        return CapturedFrame(frame, time.monotonic(), fault != "arrival times", self.count)

    def close(self) -> None:
        pass
