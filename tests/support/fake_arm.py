"""Fake arm: a driver whose servos live in shared memory, and which fails as a test says.

The servos outlast the process that drives them, as real ones do: a test sees from outside where
they are and whether they have torque, after that process was killed too.
"""

from __future__ import annotations

import os
import termios
import time
from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from imitact.core.clock import Clock, WallClock
from imitact.core.errors import RobotError
from imitact.core.robot import ServoHealth
from imitact.core.types import FloatArray, Spec
from imitact.parallel.mailbox import Mailbox
from imitact.robots.hosted import HostedDriver

FAULTS = (
    "none",
    "no answer",  # RobotError at each read
    "unplugged",  # termios.error at each call, which is no OSError
    "stop iteration",
    "exits",  # SystemExit
    "writes fail",
    "not a number",
    "wrong shape",
    "hangs",
    "stalls",  # hangs until the fault is gone
    "dies",  # the process ends
    "no health",
    "blocked",  # the servos do not move
    "deaf",  # the last joint does not answer to a release
    "refuses torque",
    "cannot connect",
    "asks",  # input() at connect
)
SLOW_S = 0.03


def arm_spec(names: tuple[str, ...] = ("waist", "elbow")) -> Spec:
    units = ("rad",) * len(names)
    return Spec(names, names, units, units, (), 50.0)


class FakeServos:
    """Position, goal and torque of each joint, and the fault, in shared memory.

    Args:
        names: of the joints.
        start: their first position, rad.
    """

    def __init__(self, names: tuple[str, ...] = ("waist", "elbow"), start: float = 0.5) -> None:
        self.spec = arm_spec(names)
        self.box = Mailbox.create((4, len(names)))  # position, goal, torque, counts
        values = np.zeros((4, len(names)))
        values[:2] = start
        self.box.post(values)
        self.faults = Mailbox.create((1,))

    def hosted(self, name: str = "arm", rest: FloatArray | None = None, **more: bool):
        """Return the driver of these servos for a host."""
        return HostedDriver(name, partial(FakeArm, self), self.spec, rest, **more)

    def fail(self, fault: str) -> None:
        """Let the driver fail from now on."""
        self.faults.post(np.array([float(FAULTS.index(fault))]))

    @property
    def fault(self) -> str:
        mail = self.faults.read()
        return "none" if mail is None else FAULTS[int(mail.values[0])]

    def _row(self, row: int) -> NDArray[np.float64]:
        mail = self.box.read()
        assert mail is not None
        return mail.values[row]

    @property
    def position(self) -> NDArray[np.float64]:
        return self._row(0)

    @property
    def goal(self) -> NDArray[np.float64]:
        return self._row(1)

    @property
    def torque(self) -> list[bool]:
        return [bool(value) for value in self._row(2)]

    @property
    def connections(self) -> int:
        return int(self._row(3)[0])

    @property
    def stalls(self) -> bool:
        """Whether the driver has stalled."""
        return bool(self._row(3)[1])

    def change(self, row: int, values: FloatArray | list[float] | float) -> None:
        mail = self.box.read()
        assert mail is not None
        mail.values[row] = values
        self.box.post(mail.values)


class FakeArm:
    """The driver."""

    def __init__(self, servos: FakeServos, clock: Clock | None = None, read_s: float = 0.0) -> None:
        self.servos, self.clock, self.read_s = servos, clock or WallClock(), read_s
        self.turn = 0
        self.is_enabled = False

    @property
    def spec(self) -> Spec:
        return self.servos.spec

    def connect(self) -> None:
        self._fail()
        if self.servos.fault == "cannot connect":
            raise RobotError("servo 3 gives no answer; is it plugged in?")
        if self.servos.fault == "asks":
            input("turn the arm by hand, then press Enter")
        connections = self.servos.connections + 1.0
        self.servos.change(3, [connections, 0.0])

    def enable(self) -> None:
        self._fail()
        torque = np.ones(self.spec.action_size)
        if self.servos.fault == "refuses torque":
            torque[-1] = 0
        is_on = self.servos.torque  # such a servo keeps its goal
        self.servos.change(1, np.where(is_on, self.servos.goal, self.servos.position))
        self.servos.change(2, torque)
        self.is_enabled = True
        if not all(torque):
            raise RobotError(f"{self.spec.action_names[-1]} is overloaded")

    def read(self) -> FloatArray:
        self.clock.wait_until(self.clock.now_s() + self.read_s)
        self._fail()
        if self.servos.fault == "no answer":
            raise RobotError("no answer from servo 2")
        if self.servos.fault == "not a number":
            return np.full(self.spec.state_size, np.nan)
        if self.servos.fault == "wrong shape":
            return np.zeros(99)
        return self.servos.position

    def write(self, action: FloatArray) -> FloatArray:
        self._fail()
        if not self.is_enabled:
            raise RobotError("its torque is off; call enable first")
        if self.servos.fault == "writes fail":
            raise RobotError("no answer to the command")
        sent = np.round(np.asarray(action), 4)
        self.servos.change(1, sent)
        if self.servos.fault != "blocked" and all(self.servos.torque):
            self.servos.change(0, sent)
        return sent

    def check_next(self) -> tuple[str, ServoHealth]:
        self._fail()
        if self.servos.fault == "no health":
            raise RobotError("no answer to the question for health")
        joint = self.spec.state_names[self.turn % self.spec.state_size]
        self.turn += 1
        return joint, ServoHealth(self.clock.now_s(), 40.0 + self.turn % 2, 12.0, 0.1, ("hot",))

    def release(self) -> tuple[str, ...]:
        self._fail()
        torque = np.zeros(self.spec.action_size)
        if self.servos.fault == "deaf":
            torque[-1] = 1
            self.servos.change(2, torque)
            return (self.spec.action_names[-1],)
        self.servos.change(2, torque)
        return ()

    def close(self) -> None:
        if self.servos.fault == "unplugged":
            raise termios.error(5, "Input/output error")

    def _fail(self) -> None:
        fault = self.servos.fault
        if fault == "unplugged":
            raise termios.error(5, "Input/output error")
        if fault == "stop iteration":
            next(_nothing())
        if fault == "exits":
            raise SystemExit(3)
        if fault == "hangs":
            time.sleep(3600)
        if fault == "stalls":
            self.servos.change(3, [self.servos.connections, 1.0])
            while self.servos.fault == "stalls":
                time.sleep(0.01)
        if fault == "dies":
            os._exit(7)


def _nothing() -> Iterator[int]:
    yield from ()
