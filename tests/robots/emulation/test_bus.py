"""Emulated Dynamixel buses, spoken to by a real client: dynamixel-sdk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from imitact.robots.emulation.arms import aloha_follower_servos
from imitact.robots.emulation.bus import EmulatedBus

sdk = pytest.importorskip("dynamixel_sdk")


class PatientPort(sdk.PortHandler):
    """The SDK's port with a time-out that a busy machine keeps: 20 s instead of 34 ms."""

    def setPacketTimeout(self, packet_length: int) -> None:  # noqa: N802
        super().setPacketTimeout(packet_length)
        self.packet_timeout += 20_000

    def readPort(self, length: int) -> bytes:  # noqa: N802
        self.ser.timeout = 0.05  # the SDK spins instead
        return super().readPort(length)


@pytest.fixture
def bus() -> Iterator[EmulatedBus]:
    with EmulatedBus("dynamixel", aloha_follower_servos()) as bus:
        yield bus


@pytest.fixture
def client(bus: EmulatedBus) -> Iterator[tuple[Any, Any]]:
    port = PatientPort(bus.port)
    assert port.setBaudRate(1_000_000)
    yield port, sdk.PacketHandler(2.0)
    port.closePort()


def test_dynamixel_sdk_drives_a_follower_arm(
    bus: EmulatedBus, client: tuple[Any, Any], patiently: Callable[[Callable[[], bool]], None]
) -> None:
    port, packets = client
    for servo in range(1, 10):
        model, result, error = packets.ping(port, servo)
        assert (model, result, error) == (1120 if servo <= 7 else 1020, 0, 0)
    assert packets.write1ByteTxRx(port, 1, 64, 1) == (0, 0)
    assert packets.write4ByteTxRx(port, 1, 116, 2500) == (0, 0)
    patiently(lambda: packets.read4ByteTxRx(port, 1, 132)[0] == 2500)
    read = sdk.GroupSyncRead(port, packets, 126, 10)
    for servo in range(1, 10):
        read.addParam(servo)
    for exchange in (read.txRxPacket, read.fastSyncRead):
        assert exchange() == 0
        assert [read.getData(i, 132, 4) for i in range(1, 10)] == [2500] + [2048] * 8
    truth = bus.truth()
    assert truth.servos[1].has_torque
    assert not truth.servos[2].has_torque
    assert truth.servos[1].goal == 2500
