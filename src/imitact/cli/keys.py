"""Keys of a terminal: read without waiting, none is lost, and the terminal is restored always."""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, TextIO

_ESCAPES = {
    b"\x1b[A": "up", b"\x1b[B": "down", b"\x1b[C": "right", b"\x1b[D": "left",
    b"\x1bOA": "up", b"\x1bOB": "down", b"\x1bOC": "right", b"\x1bOD": "left",
    b"\x1b[5~": "pageup", b"\x1b[6~": "pagedown",
}  # fmt: skip
_NAMES = {b" ": "space", b"\r": "enter", b"\n": "enter", b"\x7f": "backspace", b"\t": "tab"}

ESCAPE_S = 0.05
"""Time after which an escape that nothing follows is the key Esc, s."""


class Keys:
    """Reads single keys; a context manager. Where stdin is no terminal there are none.

    Ctrl-C stays a signal. Keys typed before the block are kept. Ctrl-Z restores the terminal, and
    `fg` takes it again.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        """Prepare to read a stream: stdin."""
        self._stream = sys.stdin if stream is None else stream
        self._before: list[Any] | None = None
        self._descriptor = -1
        self._rest = b""
        self._rest_s = 0.0
        self._handlers: dict[int, Any] = {}

    @property
    def is_terminal(self) -> bool:
        """Whether there are keys to read."""
        return self._before is not None

    def __enter__(self) -> Keys:
        try:
            import termios

            descriptor = self._stream.fileno()
            if not os.isatty(descriptor):
                return self
            self._before = termios.tcgetattr(descriptor)
            self._descriptor = descriptor
        except (ImportError, OSError, ValueError):  # no POSIX, closed, or replaced by a test
            self._before = None
            return self
        atexit.register(self._restore)
        with contextlib.suppress(ValueError):  # not the main thread
            self._handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._suspend)
            self._handlers[signal.SIGCONT] = signal.signal(signal.SIGCONT, self._resume)
        self._take()
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()
        atexit.unregister(self._restore)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()
        self._before = None

    def read(self) -> list[str]:
        """Return the keys since the last call: characters, or names such as "space" and "up"."""
        if self._before is None:
            return []
        try:
            while select.select([self._descriptor], [], [], 0)[0]:
                data = os.read(self._descriptor, 1024)
                if not data:  # the terminal has gone
                    break
                self._rest, self._rest_s = self._rest + data, time.monotonic()
        except OSError:
            return []
        is_old = time.monotonic() - self._rest_s > ESCAPE_S
        found, self._rest = split_keys(self._rest, is_complete=is_old)
        return found

    def _take(self) -> None:
        import termios
        import tty

        # TCSADRAIN: unlike TCSAFLUSH it throws away no key that was typed.
        tty.setcbreak(self._descriptor, termios.TCSADRAIN)

    def _restore(self) -> None:
        if self._before is None:
            return
        import termios

        with contextlib.suppress(OSError, termios.error):
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)

    def _resume(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTSTP, self._suspend)
        with contextlib.suppress(OSError):
            self._take()


def split_keys(data: bytes, *, is_complete: bool) -> tuple[list[str], bytes]:
    """Return the keys of what a terminal sent, and what may go on with the next bytes.

    Args:
        data: as read.
        is_complete: whether nothing follows: then Esc is a key, and half a character is dropped.
    """
    keys: list[str] = []
    while data:
        if data[:1] == b"\x1b":
            if found := next((e for e in _ESCAPES if data.startswith(e)), None):
                keys.append(_ESCAPES[found])
                data = data[len(found) :]
            elif len(data) == 1 or (len(data) == 2 and data[1:2] in b"[O"):
                if not is_complete:
                    return keys, data
                keys.append("escape")
                data = data[1:]
            elif data[1:2] in (b"[", b"O"):  # another function key, up to its letter
                ends = (at for at in range(2, len(data)) if 0x40 <= data[at] <= 0x7E)
                data = data[next(ends, len(data) - 1) + 1 :]
            else:
                keys.append("escape")
                data = data[1:]
            continue
        size = _size(data[0])
        if len(data) < size and not is_complete:
            return keys, data
        one, data = data[:size], data[size:]
        name = _NAMES.get(one) or one.decode(errors="ignore")
        if name and (name.isprintable() or name in _NAMES.values()):
            keys.append(name)
    return keys, b""


def _size(first: int) -> int:
    """Return the bytes of a UTF-8 character by its first byte."""
    if first < 0xC2 or first > 0xF4:  # ASCII, or no first byte
        return 1
    return 2 if first < 0xE0 else 3 if first < 0xF0 else 4


FIRST_REPEAT_S = 0.75
"""Longest time until a held key repeats first, s: keyboards wait 0.25 to 0.66 s."""

REPEAT_S = 0.15
"""Longest time between two repeats of a held key, s: keyboards repeat 10 to 40 times a second."""


class HeldKey:
    """Whether a key is held, from its repeats: a terminal tells no release.

    After the last repeat the key counts as held for `REPEAT_S`.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        """Begin released; `now_s` returns the time in s."""
        self._now_s = now_s
        self._until_s = -1.0

    def press(self) -> None:
        """Take a press, or a repeat."""
        now_s = self._now_s()
        self._until_s = now_s + (REPEAT_S if now_s < self._until_s else FIRST_REPEAT_S)

    def release(self) -> None:
        """Let go at once."""
        self._until_s = -1.0

    @property
    def is_held(self) -> bool:
        return self._now_s() < self._until_s
