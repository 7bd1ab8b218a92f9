"""Emulated buses that hear nonsense: no byte and no packet breaks them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from servo_client import DynamixelClient, FeetechClient

from imitact.robots.emulation import dynamixel, feetech
from imitact.robots.emulation.arms import aloha_follower_servos, aloha_leader_servos, so101_servos
from imitact.robots.emulation.feetech_servo import FeetechServo

Client = DynamixelClient | FeetechClient


def make(protocol: str) -> Client:
    if protocol == "feetech":
        return FeetechClient(*so101_servos())
    return DynamixelClient(*aloha_leader_servos())


def heal(client: Client) -> None:
    """Undo what packets may lawfully do: new ids, another rate, no answers."""
    for number, servo in enumerate(client.bus.servos, 1):
        servo.table.set("id", number)
        is_feetech = isinstance(servo, FeetechServo)
        servo.table.set("response_status_level" if is_feetech else "status_return_level", 2)
    client.wait(0.5)


@pytest.mark.parametrize("protocol", ["dynamixel", "feetech"])
@pytest.mark.parametrize("seed", range(3))
def test_noise_never_breaks_a_bus(protocol: str, seed: int) -> None:
    client, rng = make(protocol), np.random.default_rng(seed)
    header = b"\xff\xff\xfd\x00" if protocol == "dynamixel" else b"\xff\xff"
    for _ in range(300):
        noise = rng.bytes(int(rng.integers(1, 60)))
        client.send(header + noise if rng.random() < 0.5 else noise)
    client.wait(0.5)
    heal(client)
    assert len(client.ping(0xFE)) == len(client.bus.servos)


@pytest.mark.parametrize("protocol", ["dynamixel", "feetech"])
@pytest.mark.parametrize("seed", range(3))
def test_whole_packets_of_nonsense_never_break_a_bus(protocol: str, seed: int) -> None:
    client, rng = make(protocol), np.random.default_rng(seed)
    family = dynamixel if protocol == "dynamixel" else feetech
    codes = [*family.INSTRUCTION_NAMES, 0, 7, 0x55, 0xFF]
    for _ in range(600):
        code = codes[int(rng.integers(len(codes)))]
        parameters = rng.bytes(int(rng.integers(0, 24)))
        if rng.random() < 0.5:  # a likely address
            parameters = bytes((int(rng.integers(0, 150)), 0)) + parameters
        servo = int(rng.integers(0, 12)) if rng.random() < 0.9 else 0xFE
        client.ask(servo, code, parameters)
        if rng.random() < 0.2:
            client.wait(0.02)
    for truth in client.bus.truth().servos.values():
        assert math.isfinite(truth.position)
        assert math.isfinite(truth.temperature_c)
        assert abs(truth.load) <= 1
    heal(client)
    assert len(client.ping(0xFE)) == len(client.bus.servos)


@pytest.mark.parametrize("length", [0, 1, 200, 201, 250, 254, 255])
def test_a_feetech_read_of_any_length_is_answered_or_not(length: int) -> None:
    client = FeetechClient(*so101_servos())
    assert len(client.ask(1, feetech.READ, bytes((0, length)))) == (length <= 200)
    assert len(client.ask(0xFE, feetech.SYNC_READ, bytes((0, length, 1, 2)))) in (0, 2)
    assert len(client.ping(1)) == 1


def test_a_fast_read_of_any_length_is_answered_or_not() -> None:
    client = DynamixelClient(*aloha_follower_servos())
    for length in (0, 1, 4, 300, 1000, 65_535):
        parameters = b"\x84\x00" + length.to_bytes(2, "little") + bytes(range(1, 10))
        client.ask(0xFE, dynamixel.FAST_SYNC_READ, parameters)
        client.ask(0xFE, dynamixel.SYNC_READ, parameters)
    assert len(client.ping(1)) == 1
