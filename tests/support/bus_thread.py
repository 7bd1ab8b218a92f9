"""An emulated servo bus served by a thread of the test: fresh in each test, without a process."""

from __future__ import annotations

import select
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from imitact.robots.emulation.bus import BusServer, BusTruth
from imitact.robots.emulation.servos import ServoModel


class BusThread:
    """`BusServer` with a thread; its methods may be called from any other thread."""

    def __init__(self, servos: Sequence[ServoModel], **settings: Any) -> None:
        self._server = BusServer("dynamixel", servos, has_wire_time=False, **settings)
        self._lock = threading.Lock()
        self._is_ending = False
        self.port = self._server.path
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._is_ending and self._server.is_open:
            due_s = self._server.next_due_s()
            select.select([self._server], [], [], 0.01 if due_s is None else 0.001)
            with self._lock:
                if self._server.is_open:
                    self._server.serve_ready()

    def __enter__(self) -> BusThread:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_ending = True
        self._thread.join()
        self._server.close()

    def truth(self) -> BusTruth:
        with self._lock:
            return self._server.truth()

    def move(self, positions: Mapping[int, float]) -> tuple[int, ...]:
        with self._lock:
            return self._server.move(positions)

    def set_fault(self, kind: str, **settings: Any) -> None:
        with self._lock:
            self._server.set_fault(kind, **settings)

    def clear_faults(self) -> None:
        with self._lock:
            self._server.clear_faults()

    def get_register(self, servo: int, name: str) -> int:
        with self._lock:
            return self._server.bus.get_register(servo, name)

    def set_register(self, servo: int, name: str, value: int) -> None:
        with self._lock:
            self._server.bus.set_register(servo, name, value)
