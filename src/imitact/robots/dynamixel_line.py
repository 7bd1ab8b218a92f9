"""Dynamixel line: a serial port for one process, with our own waiting below dynamixel-sdk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import termios
import time
from collections.abc import Sequence
from pathlib import Path

import serial
from dynamixel_sdk import PortHandler  # pyright: ignore[reportMissingTypeStubs]

from imitact.core.errors import RobotError, library_words

ANSWER_S = 0.005
"""Time that an answer may take besides its own bytes and the port's latency timer: return delay
(0.5 ms from the factory), USB (1 ms), and 3.5 ms for the scheduling of this thread."""

WRITE_SLACK_S = 0.05
"""Time that the system may take to accept a request."""


class PortInUse(RobotError):
    """Another process has the port open."""


BUSY = (errno.EAGAIN, errno.EBUSY)
"""Of a port that is locked (flock, by pyserial), and of one that is exclusive (TIOCEXCL)."""


class DynamixelLine(PortHandler):  # pyright: ignore[reportUntypedBaseClass]
    """dynamixel-sdk's port, opened for one process, waiting in `select`, by the monotonic clock."""

    def __init__(self, port: str, baud: int) -> None:
        super().__init__(port)
        self.allowance_s = ANSWER_S
        self._due_s = 0.0
        # pyserial's exclusive is flock, which keeps out root as well, but only who asks for it;
        # TIOCEXCL keeps out everyone but root.
        self.ser = serial.Serial(port, baud, timeout=0, exclusive=True)
        self._fd: int = self.ser.fileno()
        self.is_open = True
        try:
            fcntl.ioctl(self._fd, termios.TIOCEXCL)
            self.set_speed(baud)
            self.clearPort()
        except BaseException:
            self.close()
            raise

    def set_speed(self, baud: int) -> None:
        self.ser.baudrate = baud
        self.baudrate = baud
        self.tx_time_per_byte = 1e4 / baud

    def set_latency(self) -> float:
        """Set the adapter's latency timer to 1 ms where that is possible; return what it is, s."""
        name = os.path.basename(os.path.realpath(self.port_name))
        file = Path("/sys/bus/usb-serial/devices") / name / "latency_timer"
        if not file.exists():
            return 0.0  # no FTDI adapter
        if _latency_ms(file) > 1:
            with contextlib.suppress(Exception):
                self.ser.set_low_latency_mode(True)
        if _latency_ms(file) > 1:
            with contextlib.suppress(OSError):
                file.write_text("1")
        return _latency_ms(file) / 1000

    def close(self) -> None:
        for step in (
            # A pseudo-terminal keeps the mark while its other end is open.
            lambda: fcntl.ioctl(self._fd, termios.TIOCNXCL),
            self.ser.close,
        ):
            with contextlib.suppress(Exception):
                step()
        self.is_open = False

    # The names below are dynamixel-sdk's, which calls them.

    def clearPort(self) -> None:  # noqa: N802
        termios.tcflush(self._fd, termios.TCIFLUSH)

    def writePort(self, packet: Sequence[int]) -> int:  # noqa: N802
        self.clearPort()
        data, sent = bytes(packet), 0
        until_s = time.monotonic() + len(data) * 10 / self.baudrate + WRITE_SLACK_S
        while sent < len(data):
            left_s = until_s - time.monotonic()
            if left_s <= 0 or not select.select([], [self._fd], [], left_s)[1]:
                raise OSError("the system accepts no more bytes")
            with contextlib.suppress(BlockingIOError):
                sent += os.write(self._fd, data[sent:])
        return sent

    def readPort(self, length: int) -> bytes:  # noqa: N802
        """Wait until bytes are there or the time is over; return at most `length` of them."""
        left_s = max(0.0, self._due_s - time.monotonic())
        if not select.select([self._fd], [], [], left_s)[0]:
            return b""
        try:
            data = os.read(self._fd, length)
        except BlockingIOError:
            return b""
        if not data and length:
            raise OSError("the port reports its end")
        return data

    def start_wait(self, size: int) -> None:
        """Allow an answer of so many bytes its time, from now."""
        self._due_s = time.monotonic() + size * 10 / self.baudrate + self.allowance_s

    def is_over(self) -> bool:
        return time.monotonic() >= self._due_s

    def setPacketTimeout(self, packet_length: int) -> None:  # noqa: N802
        self.start_wait(packet_length)

    def isPacketTimeout(self) -> bool:  # noqa: N802
        return self.is_over()


def _latency_ms(file: Path) -> float:
    try:
        return float(file.read_text())
    except (OSError, ValueError):
        return 16.0  # the driver's default


def open_failure(port: str, error: BaseException) -> str:
    """Return in words why a port could not be opened, and what to do."""
    number = getattr(error, "errno", None)
    if number in BUSY:
        holders = [f"{name} (process {pid})" for pid, name in port_holders(port)]
        who = " or ".join(holders) or "another program"
        return f"{who} has the port open; end it first, two programs cannot share a bus"
    if number in (errno.EPERM, errno.EACCES):
        return (
            "this user may not open the port; add it to the group of the device "
            "(sudo usermod -aG dialout $USER, then log in again)"
        )
    return f"the port cannot be opened ({library_words(error)}); plug the adapter in again"


def port_holders(port: str | Path) -> list[tuple[int, str]]:
    """Return process ID and name of the other processes that have a port open.

    Linux shows those of this user only, or all to root.
    """
    target, found = os.path.realpath(port), []
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        if pid == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if any(os.path.realpath(link) == target for link in (folder / "fd").iterdir()):
                found.append((pid, (folder / "comm").read_text().strip()))
    return found


def listed_ports() -> str:
    with contextlib.suppress(OSError):
        return ", ".join(sorted(os.listdir("/dev/serial/by-id"))) or "none"
    return "none"
