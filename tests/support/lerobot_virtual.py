"""LeRobot on a virtual clock: its classes and its servos' SDKs, unmodified, on emulated buses.

What is replaced is below them, the serial port of pyserial, and the clock of imitact's host. All of
it runs in one process of LeRobot's environment: threads that take turns (`turn_clock`).
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import tempfile
import termios
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imitact_lerobot_host.__main__ as host_program
import numpy as np
import serial
from imitact_lerobot_host import messages, serial_arm

import imitact.robots.lerobot as lerobot_driver
from imitact.core.errors import RobotError
from imitact.robots import lerobot_process
from imitact.robots.emulation.servo_bus import ServoBus
from tests.support.turn_clock import TurnClock

sys.path.insert(
    0, str(Path(__file__).resolve().parents[2] / "integrations/imitact_lerobot_host/src")
)


class VirtualPorts:
    """Ports of emulated buses by their names, and what of the system a driver asks about them."""

    def __init__(self, clock: TurnClock, buses: Mapping[str, ServoBus]) -> None:
        self.clock, self.buses = clock, dict(buses)
        self.names = {name: f"virtual:{name}" for name in buses}
        self._folder = tempfile.TemporaryDirectory(prefix="imitact-ports-")
        self._open: dict[int, VirtualSerial] = {}

    def open(self, port: str, baudrate: int, **_: Any) -> VirtualSerial:
        """Open a port, as serial.Serial does."""
        name = port.removeprefix("virtual:")
        bus = self.buses[name]
        if bus.is_hung_up:
            raise serial.SerialException(2, f"could not open port {port}: no such device")
        file = os.open(Path(self._folder.name) / name, os.O_RDWR | os.O_CREAT)
        one = self._open[file] = VirtualSerial(self.clock, bus, file, baudrate)
        return one

    def select(
        self, files: Sequence[int], _: Any, __: Any, timeout_s: float
    ) -> tuple[list[int], list[int], list[int]]:
        """Wait until one of the ports has input, as select.select does."""
        end_s = self.clock.now_s() + timeout_s
        while True:
            ready = [file for file in files if self._open[file].has_input]
            now_s = self.clock.now_s()
            if ready or now_s >= end_s:
                return ready, [], []
            dues = [at for file in files if (at := self._open[file].next_s) is not None]
            self.clock.wait_until(min([end_s, *dues]))

    def watch(self) -> None:
        """Break the ports whose adapters are gone; called with every step of the buses."""
        for one in self._open.values():
            one.is_gone = one.is_gone or one.bus.is_hung_up

    def close(self) -> None:
        self._folder.cleanup()

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Let pyserial, imitact's host and its driver have these ports and this clock."""
        clock = self.clock
        times = SimpleNamespace(
            monotonic=clock.now_s, monotonic_ns=lambda: round(clock.now_s() * 1e9)
        )
        kept = serial.Serial
        serial.Serial = self.open  # type: ignore[assignment,misc]
        serial_arm.select = SimpleNamespace(select=self.select)  # type: ignore[assignment]
        serial_arm.time = lerobot_driver.time = times  # type: ignore[assignment]
        host_program.traceback = SimpleNamespace(print_exc=lambda: None)  # type: ignore
        try:
            yield
        finally:
            serial.Serial = kept  # type: ignore[misc]
            serial_arm.select = select
            serial_arm.time = lerobot_driver.time = time
            self.close()


class VirtualSerial:
    """An open port: what a driver writes reaches the bus, and replies arrive when they are due."""

    def __init__(self, clock: TurnClock, bus: ServoBus, file: int, baudrate: int) -> None:
        self.bus, self.is_gone = bus, False
        self._clock, self._file, self._baud = clock, file, baudrate
        self._queue: deque[tuple[float, bytes]] = deque()
        self._input = bytearray()

    def _arrive(self) -> None:
        while self._queue and self._queue[0][0] <= self._clock.now_s():
            self._input += self._queue.popleft()[1]

    def _check(self) -> None:
        if self.is_gone or self.bus.is_hung_up:
            self.is_gone = True
            raise serial.SerialException("device reports readiness to read but returned no data")

    @property
    def has_input(self) -> bool:
        self._arrive()
        return bool(self._input) or self.is_gone

    @property
    def next_s(self) -> float | None:
        return self._queue[0][0] if self._queue else None

    @property
    def in_waiting(self) -> int:
        if self.is_gone:
            raise OSError(5, "Input/output error")
        self._arrive()
        return len(self._input)

    def fileno(self) -> int:
        return self._file

    def write(self, data: Sequence[int]) -> int:
        self._check()
        now_s, written = self._clock.now_s(), sum(one.goal_writes for one in self.bus.servos)
        for due_s, reply in self.bus.exchange(bytes(data), now_s, self._baud):
            last_s = self._queue[-1][0] if self._queue else due_s
            self._queue.append((max(due_s, last_s), reply))
        if written != sum(one.goal_writes for one in self.bus.servos):
            self.bus.advance(now_s)
        return len(data)

    def read(self, size: int) -> bytes:
        self._check()
        self._arrive()
        found = bytes(self._input[:size])
        del self._input[:size]
        return found

    def reset_input_buffer(self) -> None:
        if self.is_gone:
            raise termios.error(5, "Input/output error")
        self._arrive()
        self._input.clear()

    def flush(self) -> None:
        self._check()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._file)


class ProgramHere(lerobot_process.LeRobotProcess):
    """The program of LeRobot's environment, in this process: the same requests and answers."""

    def __init__(self, clock: TurnClock) -> None:
        super().__init__(sys.executable)
        self._clock = clock
        self._server: host_program.Server | None = None

    @property
    def is_alive(self) -> bool:
        return self._server is not None

    def start(self, files: Sequence[int] = (), timeout_s: float = 0.0) -> None:
        self._server = host_program.Server(None)  # type: ignore[arg-type]

    def stop(self) -> None:
        if self._server is not None:
            self._server._close()
            self._server = None

    def ask(
        self, do: str, values: Any = (), *, timeout_s: float, **fields: Any
    ) -> lerobot_process.Answer:
        if self._server is None:
            raise RobotError("the program of LeRobot is not running")
        begin_s = self._clock.now_s()
        request = messages.pack({"do": do, "number": 1, **fields}, values)
        read = lerobot_process._unpacked(bytearray(request))
        assert read is not None
        answer = bytearray(self._server._answer(read[0], np.asarray(read[1])))
        if self._clock.now_s() - begin_s > timeout_s:
            raise RobotError(f'LeRobot\'s driver gives no answer to "{do}"')
        found = lerobot_process._unpacked(answer)
        assert found is not None
        if "error" in found[0]:
            raise RobotError(str(found[0]["error"]))
        return found
