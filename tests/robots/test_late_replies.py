"""Late replies on LeRobot's buses: none is taken for another, with dynamixel-sdk on virtual time.

`make robot-faults` tries the same with LeRobot's own classes, and with Feetech's SDK.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from imitact.robots.emulation.arms import koch_follower_servos
from imitact.robots.emulation.servo_bus import ServoBus
from tests.support.lerobot_arm import HOST
from tests.support.turn_clock import TurnClock

sdk = pytest.importorskip("dynamixel_sdk")
PRESENT, TORQUE = 132, 64
LATE_S = 0.06
"""More than the SDK's time-out of 34 ms, less than two of them: it comes while a retry waits."""


class Line:
    """An emulated Koch follower, the SDK's port to it, and imitact's host around that."""

    def __init__(self) -> None:
        from imitact_lerobot_host.serial_arm import SerialArm

        from tests.support.lerobot_virtual import VirtualPorts

        self.clock = TurnClock(10.0)
        self.bus = ServoBus("dynamixel", koch_follower_servos())
        self.bus.advance(self.clock.now_s())
        self.ports = VirtualPorts(self.clock, {"koch": self.bus})
        self.installed = self.ports.installed()
        self.installed.__enter__()
        self.port = sdk.PortHandler("virtual:koch")
        self.packets = sdk.PacketHandler(2.0)
        motors = {str(number): SimpleNamespace(id=number) for number in range(1, 7)}
        lerobots = SimpleNamespace(
            port_handler=self.port, packet_handler=self.packets, motors=motors
        )
        self.arm: Any = SerialArm("", SimpleNamespace(bus=lerobots), 1.0)
        assert self.port.setBaudRate(1_000_000)

    def read(self, servo: int = 1) -> int | None:
        """Return a position; None where the request is lost, three times as in LeRobot."""
        for _ in range(3):
            self.clock.wait_until(self.clock.now_s() + 0.002)
            self.bus.advance(self.clock.now_s())
            try:
                value, result, _ = self.packets.read4ByteTxRx(self.port, servo, PRESENT)
            except ConnectionError:
                self.port.is_using = False
                continue
            if result == 0:
                return value
        return None


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    monkeypatch.syspath_prepend(str(HOST))
    one = Line()
    for servo in one.bus.servos:
        servo.table.set("baud_rate", 3)  # 1 Mbaud
    yield one
    one.installed.__exit__(None, None, None)


def wrong_reads(line: Line) -> list[int]:
    """Move a joint before each read, and return the positions that it had before."""
    wrong: list[int] = []
    for step in range(40):
        line.bus.move({1: 1000.0 + 20 * step})
        line.bus.advance(line.clock.now_s())
        value = line.read()
        if value is not None and value != 1000 + 20 * step:
            wrong.append(value)
    return wrong


def test_a_reply_that_comes_while_another_request_waits_is_never_its_answer(line: Line) -> None:
    assert line.read() == 2048
    line.bus.set_fault("late", late_s=LATE_S)
    assert wrong_reads(line) == []
    line.bus.clear_faults()
    line.bus.move({1: 1234.0})
    line.bus.advance(line.clock.now_s())
    assert line.read() == 1234, "once replies are in time, the first read is right"


def test_without_that_the_sdk_answers_with_old_positions(line: Line) -> None:
    line.arm._late.is_off = True
    line.bus.set_fault("late", late_s=LATE_S)
    assert len(wrong_reads(line)) > 10


def test_one_late_reply_costs_no_more_than_its_own_read(line: Line) -> None:
    line.bus.set_fault("late_once", late_s=LATE_S)
    line.read()
    assert wrong_reads(line) == []


def test_a_dead_motor_does_not_keep_the_others_from_being_read(line: Line) -> None:
    line.bus.set_fault("dead", ids=(1,))
    assert line.read(1) is None
    assert line.read(2) == 2048
    line.bus.set_fault("silent")
    assert line.read(2) is None


def test_torque_is_turned_off_where_no_reply_comes_back(line: Line) -> None:
    for servo in line.bus.servos:
        servo.table.set("torque_enable", 1)
    line.arm.bus.model_ctrl_table = {"m": {"Torque_Enable": (TORQUE, 1)}}
    for motor in line.arm.bus.motors.values():
        motor.model = "m"
    line.arm.bus._write = lambda address, size, servo, value, **_: line.packets.write1ByteTxRx(
        line.port, servo, address, value
    )
    line.arm.bus._read = lambda address, size, servo, **_: line.packets.read1ByteTxRx(
        line.port, servo, address
    )
    line.arm.bus._is_comm_success = lambda result: result == 0
    line.bus.set_fault("drop")
    assert len(line.arm.release()) == 6, "none confirms it"
    assert not any(servo.has_torque for servo in line.bus.servos)
