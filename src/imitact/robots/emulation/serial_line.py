"""Serial line: a pseudo-terminal whose other end is an emulated servo bus.

A driver opens `path` like a USB adapter. A pseudo-terminal passes bytes at once and at any baud
rate; the time that they take on the wire is added by `wire_time_s`, and the rate that the driver
set is read back, so that a bus can be deaf at a wrong one. Linux and macOS only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import tty
from collections import deque
from pathlib import Path

from imitact.core.errors import RobotError

BITS_PER_BYTE = 10
"""Start bit, eight data bits, stop bit: 8N1, which both servo families use."""

# Linux, include/uapi/asm-generic/ioctls.h and termbits.h: struct termios2 has 44 bytes, the last
# eight are the input and the output speed in baud.
_TCGETS2 = 0x802C542A
_TERMIOS2_SIZE = 44
_TIOCGEXCL = 0x80045440
_TIOCNXCL = 0x540D


def wire_time_s(byte_count: int, baud_rate: int) -> float:
    """Return how long bytes take on a wire."""
    return byte_count * BITS_PER_BYTE / baud_rate


class SerialLine:
    """Both ends of a pseudo-terminal: drivers open `path`, the emulated bus reads and writes here.

    Bytes leave in the order in which they were queued, each at its due time, as through the buffer
    of a USB adapter: a late reply delays those behind it, it is not overtaken.

    Args:
        link: a path that becomes a symbolic link to the port, like /dev/serial/by-id; a link that
            is there is replaced, any other file is refused.
    """

    def __init__(self, link: Path | None = None) -> None:
        self._near, self._far = os.openpty()
        tty.setraw(self._far)
        os.set_blocking(self._near, False)
        # Without an own descriptor of the far end, reading fails (EIO) while no driver has it open.
        self._port = os.ttyname(self._far)
        self._queue: deque[tuple[float, bytes]] = deque()
        self._link = link
        self.path = self._port
        self.is_open = True
        if link is not None:
            if link.exists() and not link.is_symlink():
                self.close()
                raise RobotError(f"{link} is a file, not a link to a port; give another path")
            link.unlink(missing_ok=True)
            link.symlink_to(self._port)
            self.path = str(link)

    def fileno(self) -> int:
        """Return the descriptor that is readable when a driver has written."""
        return self._near

    def receive(self) -> bytes:
        """Return the bytes that arrived; empty where there are none."""
        if not self.is_open:
            return b""
        try:
            return os.read(self._near, 65536)
        except BlockingIOError:
            return b""
        except OSError as error:
            if error.errno == errno.EIO:  # no driver has the port open
                return b""
            raise

    def queue(self, data: bytes, due_s: float) -> None:
        """Send bytes at `due_s`, or when those queued before have left."""
        self._queue.append((due_s, data))

    def next_due_s(self) -> float | None:
        """Return when the next bytes have to leave; None where none wait."""
        return self._queue[0][0] if self._queue else None

    def send_due(self, now_s: float) -> None:
        """Send what is due. Bytes that a full buffer does not take are lost, as on a wire."""
        while self._queue and self._queue[0][0] <= now_s:
            _, data = self._queue.popleft()
            if self.is_open:
                with contextlib.suppress(BlockingIOError):
                    os.write(self._near, data)

    def baud_rate(self) -> int | None:
        """Return the rate that the driver set, in baud; None where the system cannot say."""
        if not self.is_open:
            return None
        try:
            raw = fcntl.ioctl(self._near, _TCGETS2, bytes(_TERMIOS2_SIZE))
        except OSError:  # not Linux
            return None
        return struct.unpack_from("<II", raw, _TERMIOS2_SIZE - 8)[1]

    def is_exclusive(self) -> bool:
        """Whether a driver asked for exclusive use: TIOCEXCL, or a lock as pyserial takes it."""
        if not self.is_open:
            return False
        with contextlib.suppress(OSError):
            if struct.unpack("i", fcntl.ioctl(self._far, _TIOCGEXCL, bytes(4)))[0]:
                return True
        with contextlib.suppress(OSError):
            inode = f":{os.stat(self._port).st_ino} "
            locks = Path("/proc/locks").read_text().splitlines()
            return any(" FLOCK " in line and inode in line for line in locks)
        return False

    def users(self) -> tuple[int, ...]:
        """Return the processes that have the port open, this one left out (Linux)."""
        found: list[int] = []
        if not self.is_open:  # another port may have its name by now
            return ()
        with contextlib.suppress(OSError):
            for process in Path("/proc").iterdir():
                if not process.name.isdigit() or int(process.name) == os.getpid():
                    continue
                with contextlib.suppress(OSError):  # ended meanwhile, or another user's
                    for descriptor in (process / "fd").iterdir():
                        with contextlib.suppress(OSError):
                            if os.readlink(descriptor) == self._port:
                                found.append(int(process.name))
                                break
        return tuple(sorted(found))

    def forget_exclusive_use(self) -> None:
        """Clear TIOCEXCL once the driver that asked for it has gone.

        A serial port forgets it at the last close. This one is never closed entirely, because the
        bus keeps its far end open.
        """
        if self.is_open and self.is_exclusive() and not self.users():
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._far, _TIOCNXCL)

    def close(self) -> None:
        """Take the adapter away: a driver that has the port open gets an error."""
        if not self.is_open:
            return
        self.is_open = False
        self._queue.clear()
        for descriptor in (self._near, self._far):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        if self._link is not None and self._link.is_symlink():
            with contextlib.suppress(OSError):
                if os.readlink(self._link) == self._port:
                    self._link.unlink()
