"""Feetech parity: the maker's client, feetech-servo-sdk, on an emulated SO-101 behind a port.

Run it with a Python that has the client and can import imitact (`make robot-parity` does):

    python scripts/parity_feetech.py

Exit code 0 if it drives the six servos, and if its known defect shows: after one late reply every
later read is one read old, until the port is flushed. The bytes that it sends are recorded in
tests/robots/emulation/test_feetech.py, where they are tested without it.
"""

from __future__ import annotations

import contextlib
import sys
import termios
import time
from collections.abc import Callable, Iterator
from typing import Any

import scservo_sdk

from imitact.robots.emulation.arms import so101_servos
from imitact.robots.emulation.bus import EmulatedBus

PATIENCE_S = 60.0
PATIENCE_MS, SHORT_MS = 20_000, 100
TORQUE, GOAL, PRESENT, TEMPERATURE = 40, 42, 56, 63


@contextlib.contextmanager
def client(path: str) -> Iterator[tuple[Any, Any]]:
    """Open a port that waits like a computer with time, and sleeps instead of spinning."""
    port: Any = scservo_sdk.PortHandler(path)
    set_timeout, read = port.setPacketTimeout, port.readPort

    def set_longer_timeout(length: int) -> None:
        set_timeout(length)
        port.packet_timeout += port.patience_ms

    def read_sleeping(length: int) -> bytes:
        port.ser.timeout = 0.02
        return read(length)

    port.patience_ms = PATIENCE_MS
    port.setPacketTimeout, port.readPort = set_longer_timeout, read_sleeping
    assert port.setBaudRate(1_000_000)
    try:
        yield port, scservo_sdk.PacketHandler(0)
    finally:
        with contextlib.suppress(termios.error, OSError):
            port.closePort()


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    end_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end_s, "did not happen"
        time.sleep(0.01)


def drives_an_so101() -> None:
    """Ping, torque, goals, positions and error bits of six servos."""
    with EmulatedBus("feetech", so101_servos()) as bus, client(bus.port) as (port, packets):
        for servo in range(1, 7):
            assert packets.ping(port, servo) == (777, 0, 0)
        assert packets.write1ByteTxRx(port, 2, TORQUE, 1) == (0, 0)
        goals = scservo_sdk.GroupSyncWrite(port, packets, GOAL, 2)
        for servo in range(1, 7):
            goals.addParam(servo, [0xC4, 0x09])
        assert goals.txPacket() == 0
        read = scservo_sdk.GroupSyncRead(port, packets, PRESENT, 2)
        for servo in range(1, 7):
            read.addParam(servo)
        expected = [2048, 2500] + [2048] * 4

        def has_moved() -> bool:
            got = read.txRxPacket()
            return got == 0 and [read.getData(i, PRESENT, 2) for i in range(1, 7)] == expected

        until(has_moved)
        bus.set_fault("error", ids=(3,), bits=0x20)
        assert packets.read1ByteTxRx(port, 3, TEMPERATURE)[2] == 0x20


def stays_one_read_behind_after_a_late_reply() -> None:
    """The defect for which imitact's host flushes the port before each request."""
    with EmulatedBus("feetech", so101_servos()) as bus, client(bus.port) as (port, packets):

        def read() -> int | None:
            position, result, _ = packets.read2ByteTxRx(port, 1, PRESENT)
            return position if result == 0 else None

        def misses() -> bool:
            bus.set_fault("late_once", late_s=2.0)
            port.patience_ms = SHORT_MS
            return read() is None

        assert read() == 2048
        until(misses)
        port.patience_ms = PATIENCE_MS
        bus.move({1: 1000.0})
        assert read() == 2048, "the late reply"
        bus.move({1: 1100.0})
        assert read() == 1000, "this client never flushes"
        until(lambda: port.ser.in_waiting > 0)
        port.ser.reset_input_buffer()
        bus.move({1: 1200.0})
        assert read() == 1200


def main() -> int:
    """Run both; what does not hold raises."""
    for law in (drives_an_so101, stays_one_read_behind_after_a_late_reply):
        law()
        print(f"feetech-servo-sdk {law.__name__.replace('_', ' ')}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
