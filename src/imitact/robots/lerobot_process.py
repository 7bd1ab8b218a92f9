"""LeRobot process: a program in LeRobot's environment, asked for one thing at a time.

`python -m imitact_lerobot_host` (integrations/imitact_lerobot_host) has the other end, and the
layout of the messages. It gets one end of a socket pair; its standard input is closed, and what it
prints is kept to say why it fell.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import RobotError, library_words
from imitact.parallel.child_process import ending_words

MODULE = "imitact_lerobot_host"

IMPORT_TIMEOUT_S = 300.0
"""Time for LeRobot's import, s: 4 s of CPU time, up to 105 s on a busy computer."""

_HEAD = struct.Struct("<II")
_MAX_JSON_BYTES = 1 << 20
_MAX_VALUES = 1 << 12
_LINES = 30
_END_S = 3.0

Answer = tuple[dict[str, Any], NDArray[np.float64]]


class LeRobotProcess:
    """A program that drives one device of LeRobot. Its methods belong to one thread at a time."""

    def __init__(self, python: str) -> None:
        """Prepare the program.

        Args:
            python: of the environment in which LeRobot and imitact_lerobot_host are installed.
        """
        self.python = python
        self.version = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._buffer = bytearray()
        self._number = 0
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._printed: threading.Thread | None = None

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self, files: Sequence[int] = (), timeout_s: float = IMPORT_TIMEOUT_S) -> None:
        """Start the program, and wait until LeRobot is imported.

        Args:
            files: descriptors that it inherits under the same numbers.
            timeout_s: deadline, s.

        Raises:
            RobotError: Python or LeRobot is not there, or the deadline has passed.
        """
        self.stop()
        ours, theirs = socket.socketpair()
        command = [self.python, "-u", "-m", MODULE, "--socket", str(theirs.fileno())]
        try:
            self._process = subprocess.Popen(
                [*command, "--parent", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(), *files),
                start_new_session=True,  # Ctrl-C is for imitact, which parks the arm first
            )
        except OSError as error:
            ours.close()
            raise RobotError(
                f"Python of LeRobot's environment, {self.python}, cannot be started "
                f"({library_words(error)}); set python in [lerobot] of robot.toml"
            ) from None
        finally:
            theirs.close()
        self._socket, self._number = ours, 0
        self._buffer.clear()
        self._lines.clear()
        self._printed = threading.Thread(
            target=self._keep_lines, args=(self._process,), daemon=True
        )
        self._printed.start()
        try:
            greeting = self._receive(time.monotonic() + timeout_s)[0]
        except RobotError as error:
            self.stop()
            raise RobotError(f"LeRobot did not start: {error}") from None
        if "ready" not in greeting:
            self.stop()
            raise RobotError(str(greeting.get("fault", "the program of LeRobot sent no greeting")))
        self.version = str(greeting["ready"])

    def ask(
        self, do: str, values: Sequence[float] | NDArray[np.float64] = (), *, timeout_s: float,
        **fields: Any,
    ) -> Answer:  # fmt: skip
        """Send a request and return its answer: the JSON object, and the values.

        An answer that comes after its deadline is dropped at the next request.

        Raises:
            RobotError: the request failed, the program ended, or the deadline has passed.
        """
        if self._socket is None:
            raise RobotError(self.death() or "the program of LeRobot is not running")
        self._number += 1
        data = _packed({"do": do, "number": self._number, **fields}, values)
        deadline_s = time.monotonic() + timeout_s
        self._send(data, deadline_s)
        while True:
            message, numbers = self._receive(deadline_s, do)
            number = message.get("number")
            if number == self._number:
                break
            if not isinstance(number, int) or number > self._number:
                raise RobotError(f"LeRobot's program answered request {number}, which was not sent")
        if "error" in message:
            raise RobotError(str(message["error"]))
        return message, numbers

    def death(self) -> str:
        """Return how the program ended, in words; empty while it runs or was not started."""
        if self._process is None or (code := self._process.poll()) is None:
            return ""
        words = ending_words("the program of LeRobot", code)
        return f"{words}{self._last_line}" if code > 0 else words

    def stop(self) -> None:
        """End the program. Torque of a robot stays as it is, a leader is made limp."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is None:
            return
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._printed is not None:
            self._printed.join(_END_S)

    @property
    def _last_line(self) -> str:
        if self._printed is not None:
            self._printed.join(0.5)
        lines = [line for line in self._lines if line.strip()]
        return f"; it printed: {lines[-1].strip()}" if lines else ""

    def _keep_lines(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as stream:
            for line in iter(lambda: stream.readline(4096), b""):
                self._lines.append(line.decode(errors="replace").rstrip())

    def _send(self, data: bytes, deadline_s: float) -> None:
        assert self._socket is not None
        self._socket.settimeout(max(0.001, deadline_s - time.monotonic()))
        try:
            self._socket.sendall(data)
        except OSError as error:
            self._gone(f"it takes no requests ({library_words(error)})")

    def _receive(self, deadline_s: float, what: str = "start") -> Answer:
        """Return the next message; what has come of one stays for the next call."""
        assert self._socket is not None
        while (message := _unpacked(self._buffer)) is None:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not select.select([self._socket], [], [], left_s)[0]:
                raise RobotError(f'LeRobot\'s driver gives no answer to "{what}"')
            try:
                part = self._socket.recv(1 << 16)
            except OSError as error:
                self._gone(library_words(error))
            if not part:
                self._gone("it closed its socket")
            self._buffer += part
        return message

    def _gone(self, why: str) -> NoReturn:
        """Raise for a program that is not there any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
        raise RobotError(self.death() or f"the program of LeRobot is lost: {why}")


def check_python(python: str) -> str:
    """Return the Python of LeRobot's environment.

    Args:
        python: of robot.toml; empty takes $IMITACT_LEROBOT_PYTHON, then the environment lerobot-env
            or .venv-lerobot in the current folder.

    Raises:
        RobotError: there is none.
    """
    given = python or os.environ.get("IMITACT_LEROBOT_PYTHON", "")
    if given:
        path = Path(given).expanduser()
        if path.is_dir():
            path = path / "bin" / "python"
        if not path.is_file():
            raise RobotError(
                f"there is no Python {path} of LeRobot's environment; set python in [lerobot] of "
                "robot.toml"
            )
        return str(path.absolute())
    places = [Path(name) / "bin" / "python" for name in ("lerobot-env", ".venv-lerobot")]
    for path in places:
        if path.is_file():
            return str(path.absolute())
    raise RobotError(
        "LeRobot runs in an environment of its own, and there is none: python3.12 -m venv "
        "lerobot-env, then lerobot-env/bin/pip install 'lerobot[feetech,dynamixel]==0.6.1' and "
        f"integrations/{MODULE}; or set IMITACT_LEROBOT_PYTHON to the Python of yours"
    )


def _packed(message: Mapping[str, Any], values: Sequence[float] | NDArray[np.float64]) -> bytes:
    text = json.dumps(message).encode()
    array = np.asarray(values, "<f8")
    return _HEAD.pack(len(text), array.size) + text + array.tobytes()


def _unpacked(buffer: bytearray) -> Answer | None:
    """Take a message out of the buffer; None where it is not whole yet."""
    if len(buffer) < _HEAD.size:
        return None
    length, count = _HEAD.unpack_from(buffer)
    if length > _MAX_JSON_BYTES or count > _MAX_VALUES:
        raise RobotError("what the program of LeRobot sent is no message of imitact's")
    end = _HEAD.size + length + 8 * count
    if len(buffer) < end:
        return None
    text, data = (
        bytes(buffer[_HEAD.size : _HEAD.size + length]),
        bytes(buffer[_HEAD.size + length : end]),
    )
    del buffer[:end]
    try:
        message = json.loads(text)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise RobotError("what the program of LeRobot sent is no message of imitact's")
    return message, np.frombuffer(data, "<f8").astype(np.float64)
