"""A client of emulated servo buses on virtual time, for both protocols."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imitact.robots.emulation import dynamixel, feetech
from imitact.robots.emulation.servo_bus import ServoBus
from imitact.robots.emulation.servos import ServoModel


@dataclass(frozen=True)
class Status:
    """A status packet that came back."""

    id: int
    error: int
    data: bytes

    @property
    def number(self) -> int:
        return int.from_bytes(self.data, "little")

    @property
    def signed(self) -> int:
        return int.from_bytes(self.data, "little", signed=True)


class DynamixelClient:
    """Speaks to a bus; each exchange takes `step_s` of virtual time."""

    def __init__(self, *models: ServoModel, step_s: float = 0.001, **settings: Any) -> None:
        self.bus = ServoBus("dynamixel", models, **settings)
        self.now_s, self.step_s = 100.0, step_s
        self.raw = b""
        self.due_s = 0.0
        self.bus.advance(self.now_s)

    def wait(self, seconds: float) -> None:
        """Let time pass in the steps of a served bus."""
        end_s = self.now_s + seconds
        while self.now_s < end_s - 1e-9:
            self.now_s = min(end_s, self.now_s + 0.02)
            self.bus.advance(self.now_s)

    def send(self, data: bytes, baud_rate: int | None = None) -> bytes:
        self.now_s += self.step_s
        sent = self.bus.exchange(data, self.now_s, baud_rate)
        self.raw = b"".join(reply for _, reply in sent)
        self.due_s = max((due_s for due_s, _ in sent), default=self.now_s)
        return self.raw

    def ask(self, servo: int, code: int, parameters: bytes = b"") -> list[Status]:
        """Send an instruction; return the whole status packets that came."""
        packet = dynamixel.instruction_packet(servo, code, parameters)
        return dynamixel_statuses(self.send(packet))

    def ping(self, servo: int) -> list[Status]:
        return self.ask(servo, dynamixel.PING)

    def read(self, servo: int, address: int, length: int) -> Status:
        (status,) = self.ask(servo, dynamixel.READ, struct.pack("<HH", address, length))
        return status

    def write(self, servo: int, address: int, size: int, value: int) -> int:
        """Write a number; return the error byte."""
        (status,) = self.ask(servo, dynamixel.WRITE, _word(address) + _number(value, size))
        return status.error

    def sync_write(self, address: int, size: int, values: Mapping[int, int]) -> None:
        entries = b"".join(bytes((i,)) + _number(v, size) for i, v in values.items())
        assert not self.ask(0xFE, dynamixel.SYNC_WRITE, struct.pack("<HH", address, size) + entries)

    def sync_read(self, address: int, size: int, ids: Sequence[int]) -> list[Status]:
        parameters = struct.pack("<HH", address, size) + bytes(ids)
        return self.ask(0xFE, dynamixel.SYNC_READ, parameters)

    def position(self, servo: int) -> int:
        return self.read(servo, 132, 4).signed

    def truth(self, servo: int) -> Any:
        return self.bus.truth().servos[servo]


class FeetechClient:
    """Speaks to a bus of STS servos; each exchange takes `step_s` of virtual time."""

    def __init__(self, *models: ServoModel, step_s: float = 0.001, **settings: Any) -> None:
        self.bus = ServoBus("feetech", models, **settings)
        self.now_s, self.step_s = 100.0, step_s
        self.bus.advance(self.now_s)

    wait = DynamixelClient.wait
    truth = DynamixelClient.truth

    def send(self, data: bytes) -> bytes:
        self.now_s += self.step_s
        return b"".join(reply for _, reply in self.bus.exchange(data, self.now_s))

    def ask(self, servo: int, code: int, parameters: bytes = b"") -> list[Status]:
        return feetech_statuses(self.send(feetech.instruction_packet(servo, code, parameters)))

    def ping(self, servo: int) -> list[Status]:
        return self.ask(servo, feetech.PING)

    def read(self, servo: int, address: int, length: int) -> Status:
        (status,) = self.ask(servo, feetech.READ, bytes((address, length)))
        return status

    def write(self, servo: int, address: int, size: int, value: int) -> int:
        (status,) = self.ask(servo, feetech.WRITE, bytes((address,)) + _number(value, size))
        return status.error

    def position(self, servo: int) -> int:
        return self.read(servo, 56, 2).number


def _word(value: int) -> bytes:
    return struct.pack("<H", value)


def _number(value: int, size: int) -> bytes:
    return (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")


def dynamixel_statuses(raw: bytes) -> list[Status]:
    """Return the status packets of a stream; what is damaged is left out."""
    found: list[Status] = []
    while len(raw) >= 11:
        if raw[:4] != dynamixel.HEADER:
            raw = raw[1:]
            continue
        size = 7 + (raw[5] | raw[6] << 8)
        packet, raw = raw[:size], raw[size:]
        if dynamixel.crc16(packet[:-2]) == packet[-2] | packet[-1] << 8:
            body = packet[7:-2].replace(b"\xff\xff\xfd\xfd", b"\xff\xff\xfd")
            assert body[0] == dynamixel.STATUS
            found.append(Status(packet[4], body[1], body[2:]))
    return found


def feetech_statuses(raw: bytes) -> list[Status]:
    """Return the status packets of a stream; what is damaged is left out."""
    found: list[Status] = []
    while len(raw) >= 6:
        if raw[:2] != feetech.HEADER or raw[2] == 0xFF:
            raw = raw[1:]
            continue
        size = 4 + raw[3]
        packet = raw[:size]
        if len(packet) < size or feetech.checksum(packet[2:-1]) != packet[-1]:
            raw = raw[1:]
            continue
        raw = raw[size:]
        found.append(Status(packet[2], packet[4], packet[5:-1]))
    return found
