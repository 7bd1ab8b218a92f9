"""The program: answers imitact's requests one after the other until imitact has gone."""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from imitact_lerobot_host import messages
from imitact_lerobot_host.device import Device
from imitact_lerobot_host.frame_box import FrameBox
from imitact_lerobot_host.making import HostError, make_device, words

ORPHAN_S = 5.0
"""Time after the end of imitact after which a program that hangs in a driver is ended, s."""


class Server:
    """Answers requests: one device at a time.

    Requests are "describe", "open", "enable", "read", "write", "check", "release" and "close"; each
    answer has the number of its request, and "error" where it failed.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._device: Device | None = None

    def run(self) -> None:
        """Answer until the other end has gone; then a leader is limp, and a robot as it was."""
        try:
            while (request := messages.receive(self._connection)) is not None:
                self._connection.sendall(self._answer(*request))
        except (OSError, ValueError) as error:
            sys.stderr.write(f"imitact cannot be understood: {error}\n")
        finally:
            self._close()

    def send(self, message: dict[str, Any]) -> None:
        """Send a message that answers no request."""
        self._connection.sendall(messages.pack(message))

    def _answer(self, request: dict[str, Any], values: np.ndarray) -> bytes:
        number = request.get("number")
        try:
            answer, numbers = self._do(request, values)
        except Exception as error:  # StopIteration and termios.error are among what drivers raise
            if self._device is not None:
                self._device.clear()
            text = words(error) if isinstance(error, HostError) else _foreign(error)
            if not isinstance(error, (HostError, ConnectionError)):
                traceback.print_exc()
            return messages.pack({"number": number, "error": text})
        return messages.pack({"number": number, **answer}, numbers)

    def _do(
        self, request: dict[str, Any], values: np.ndarray
    ) -> tuple[dict[str, Any], list[float]]:
        what = request.get("do")
        if what == "describe":
            return {"device": _made(request).describe()}, []
        if what == "open":
            self._close()
            device = _made(request)
            device.open()
            self._device = device
            return {"device": device.describe()}, []
        if what == "close":
            self._close()
            return {}, []
        device = self._device
        if device is None and what == "release" and "type" in request:
            return {"missing": _release(_made(request))}, []
        if device is None:
            raise HostError("no device is open")
        if what == "read":
            return {}, device.read()
        if what == "write":
            return {}, device.write(values.tolist())
        simple: dict[Any, Callable[[], dict[str, Any]]] = {
            "enable": lambda: {"done": device.enable()},
            "check": lambda: {"health": device.check_next()},
            "release": lambda: {"missing": device.release()},
        }
        if what not in simple:
            raise HostError(f'there is no request "{what}"')
        return simple[what](), []

    def _close(self) -> None:
        device, self._device = self._device, None
        if device is not None:
            device.close()


def _made(request: dict[str, Any]) -> Device:
    device = make_device(
        request["kind"],
        request["type"],
        request.get("id", ""),
        request.get("calibration", ""),
        request.get("settings", {}),
    )
    frames = {
        name: FrameBox(box["file"], box["shape"], box["slots"])
        for name, box in request.get("frames", {}).items()
    }
    patience = float(request.get("patience", 1.0))
    return Device(device, request["kind"], request["type"], frames, patience)


def _release(device: Device) -> list[str]:
    """Release a device that is not open, and cannot be opened."""
    try:
        return device.release_unopened()
    finally:
        device.close()


def _foreign(error: BaseException) -> str:
    return f"{type(error).__name__}: {words(error)}"


def _end_with(parent: int) -> None:
    """End the program where its parent has gone and a driver hangs."""
    while os.getppid() == parent:
        time.sleep(0.5)
    time.sleep(ORPHAN_S)
    os._exit(1)


def main() -> None:
    """Serve the socket that imitact handed over."""
    parser = argparse.ArgumentParser(prog="imitact_lerobot_host", description=__doc__)
    parser.add_argument("--socket", type=int, required=True, help="file descriptor of the socket")
    parser.add_argument("--parent", type=int, required=True, help="process id of imitact")
    options = parser.parse_args()
    threading.Thread(target=_end_with, args=(options.parent,), daemon=True).start()
    connection = socket.socket(fileno=options.socket)
    try:
        import lerobot
        import lerobot.motors
    except Exception as error:
        connection.sendall(messages.pack({"fault": f"LeRobot: {_foreign(error)}"}))
        os._exit(1)
    server = Server(connection)
    with contextlib.suppress(OSError):
        server.send({"ready": str(getattr(lerobot, "__version__", "unknown"))})
        server.run()
    # Wait for no thread of a driver, and let no __del__ of LeRobot's disconnect.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
