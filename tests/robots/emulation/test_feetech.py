"""Feetech servos on an emulated bus, on virtual time: packets, registers, modes, errors."""

from __future__ import annotations

import pytest
from servo_client import FeetechClient, feetech_statuses

from imitact.core.errors import BadInput
from imitact.robots.emulation import feetech
from imitact.robots.emulation.arms import so101_servos
from imitact.robots.emulation.servos import ServoModel

STS3215 = 777
HOMING, MODE, TORQUE, GOAL, GOAL_SPEED, TORQUE_LIMIT, LOCK = 31, 33, 40, 42, 46, 48, 55
PRESENT, SPEED, LOAD, TEMPERATURE, STATUS = 56, 58, 60, 63, 65

RECORDED = (
    # What scservo_sdk 1.0.0 sends for these calls (second column), and what an SO-101 at rest in
    # the middle with torque on servo 1 answers. Ping and read are also examples of Feetech's
    # protocol manual.
    ("ping", "ffff010201fb", "ffff010200fc"),
    ("its read of the model number", "ffff0104020302f3", "ffff010400090 3ee"),
    ("read2ByteTxRx(56)", "ffff0104023802be", "ffff0104000008f2"),
    ("write1ByteTxRx(40, 1)", "ffff0104032801ce", "ffff010200fc"),
    ("write2ByteTxRx(42, 2500)", "ffff0105032ac409ff", "ffff010200fc"),
    (
        "GroupSyncRead(56, 2) of 1 to 6",
        "fffffe0a82380201020304050626",
        "ffff0104000008f2" "ffff0204000008f1" "ffff0304000008f0"
        "ffff0404000008ef" "ffff0504000008ee" "ffff0604000008ed",
    ),
    (
        "GroupSyncWrite(42, 2) of 2048 to 1 to 6",
        "fffffe16832a02010008020008030008040008050008060008f7",
        "",
    ),
)  # fmt: skip


def one(position: float = 2048.0, **registers: int) -> FeetechClient:
    return FeetechClient(ServoModel(1, STS3215, "joint", registers, position=position))


def test_recorded_requests_get_recorded_replies() -> None:
    client = FeetechClient(*so101_servos(), step_s=0.0)
    for call, request, reply in RECORDED:
        got = client.send(bytes.fromhex(request))
        assert got.hex() == reply.replace(" ", ""), call


def test_packets_are_built_as_recorded() -> None:
    assert feetech.instruction_packet(1, feetech.PING).hex() == RECORDED[0][1]
    sync_read = feetech.instruction_packet(0xFE, feetech.SYNC_READ, bytes((56, 2, *range(1, 7))))
    assert sync_read.hex() == RECORDED[5][1]


@pytest.mark.parametrize("before", [b"\x00\xff", b"\xff\xff", b"\xff\xff\x01\x09\x02", b"\xff"])
def test_a_packet_after_noise_is_understood(before: bytes) -> None:
    client = one()
    client.send(before)
    client.wait(0.2)
    assert len(client.ping(1)) == 1
    packet = feetech.instruction_packet(1, feetech.PING)
    assert len(feetech_statuses(one().send(b"\xff" + packet))) == 1


def test_a_packet_with_a_wrong_checksum_is_not_answered() -> None:
    client = one()
    packet = bytearray(feetech.instruction_packet(1, feetech.PING))
    packet[-1] ^= 1
    assert client.send(bytes(packet)) == b""
    assert len(client.ping(1)) == 1


def test_a_broadcast_ping_finds_every_servo() -> None:
    assert [s.id for s in FeetechClient(*so101_servos()).ping(0xFE)] == [1, 2, 3, 4, 5, 6]


def test_the_position_is_the_encoder_less_the_homing_offset_within_one_turn() -> None:
    client = one(position=2048)
    client.write(1, HOMING, 2, 1024)
    assert client.position(1) == 1024
    client.write(1, HOMING, 2, 1 << 11 | 100)  # sign and magnitude: -100
    assert client.position(1) == 2148
    client.bus.move({1: 4000.0})
    assert client.position(1) == 4
    client.bus.move({1: -10.0})
    assert client.position(1) == 90


def test_the_middle_is_set_by_a_special_torque_value() -> None:
    client = one(position=3000)
    client.write(1, TORQUE, 1, 128)
    assert client.position(1) == 2048
    assert client.read(1, TORQUE, 1).number == 0
    assert client.read(1, HOMING, 2).number == 3000 - 2048


def test_a_goal_beyond_the_limits_is_clamped_and_the_register_shows_it() -> None:
    client = one(min_position_limit=1000, max_position_limit=3000)
    client.write(1, TORQUE, 1, 1)
    assert client.write(1, GOAL, 2, 4000) == 0
    assert client.read(1, GOAL, 2).number == 3000
    client.wait(1.0)
    assert client.position(1) == 3000


def test_a_servo_never_takes_the_short_way_round() -> None:
    client = one(position=4000)
    client.write(1, TORQUE, 1, 1)
    client.write(1, GOAL, 2, 100)
    client.wait(0.5)
    assert 2000 < client.position(1) < 3900
    client.wait(2.0)
    assert client.position(1) == 100
    assert round(client.truth(1).position) == 100


def test_velocities_and_loads_have_their_sign_in_a_bit() -> None:
    client = one(position=3000)
    client.write(1, TORQUE, 1, 1)
    client.write(1, GOAL, 2, 500)
    client.wait(0.3)
    assert client.read(1, SPEED, 2).number & 1 << 15
    assert client.read(1, LOAD, 2).number & 1 << 10
    assert 2900 < client.read(1, SPEED, 2).number & 0x7FFF < 3100


def test_goal_velocity_limits_the_speed() -> None:
    client = one()
    client.write(1, GOAL_SPEED, 2, 200)
    client.write(1, TORQUE, 1, 1)
    client.write(1, GOAL, 2, 3000)
    client.wait(1.0)
    assert 2048 + 150 < client.position(1) < 2048 + 210


def test_wheel_mode_turns_on_and_on() -> None:
    client = one(operating_mode=1)
    client.write(1, TORQUE, 1, 1)
    client.write(1, GOAL_SPEED, 2, 1 << 15 | 1000)
    client.wait(3.0)
    assert client.truth(1).position < 2048 - 2500


def test_a_stall_overloads_leaves_a_fifth_of_the_torque_and_a_new_torque_enable_clears_it() -> None:
    client = one()
    client.bus.set_fault("stuck", ids=(1,))
    client.write(1, TORQUE, 1, 1)
    client.write(1, GOAL, 2, 3000)
    client.wait(1.5)
    assert client.read(1, STATUS, 1).error == 0
    client.wait(1.5)
    status = client.read(1, STATUS, 1)
    assert (status.error, status.number) == (0x20, 0x20)
    assert client.read(1, TORQUE, 1).number == 1
    assert client.read(1, LOAD, 2).number == 200
    assert client.write(1, TORQUE, 1, 1) == 0
    assert client.read(1, STATUS, 1).error == 0


def test_an_overheated_servo_unloads_and_recovers_when_it_is_cool() -> None:
    client = one()
    client.write(1, TORQUE, 1, 1)
    client.bus.set_fault("overheat", duration_s=3.0, ids=(1,), celsius=75, rise_s=1.0)
    client.wait(0.5)
    assert 40 < client.read(1, TEMPERATURE, 1).number < 70
    client.wait(1.0)
    assert client.read(1, STATUS, 1).error == 1 << 2
    assert client.read(1, TORQUE, 1).number == 0
    client.wait(60.0)
    assert client.read(1, STATUS, 1).error == 0
    assert client.write(1, TORQUE, 1, 1) == 0
    assert client.read(1, TORQUE, 1).number == 1


def test_what_is_written_under_the_lock_is_forgotten_at_the_next_start() -> None:
    client = one()
    client.write(1, 9, 2, 500)
    client.write(1, LOCK, 1, 0)
    client.write(1, 11, 2, 3500)
    client.write(1, LOCK, 1, 1)
    client.write(1, 11, 2, 3000)
    client.write(1, 9, 2, 700)
    assert client.read(1, 11, 2).number == 3000
    client.ask(1, feetech.REBOOT)
    client.wait(0.5)
    assert (client.read(1, 9, 2).number, client.read(1, 11, 2).number) == (500, 3500)


def test_measured_registers_cannot_be_written() -> None:
    client = one()
    client.write(1, PRESENT, 2, 77)
    client.write(1, 3, 2, 77)
    assert client.position(1) == 2048
    assert client.read(1, 3, 2).number == STS3215


def test_a_registered_write_waits_for_the_action() -> None:
    client = one()
    client.ask(1, feetech.REG_WRITE, bytes((GOAL, 0, 8)))
    client.write(1, GOAL, 2, 1)
    assert client.ask(0xFE, feetech.ACTION) == []
    assert client.read(1, GOAL, 2).number == 2048


def test_a_servo_with_response_level_0_answers_reads_and_pings_only() -> None:
    client = one(response_status_level=0)
    assert client.ask(1, feetech.WRITE, bytes((TORQUE, 1))) == []
    assert client.read(1, TORQUE, 1).number == 1
    assert len(client.ping(1)) == 1


def test_another_model_is_refused() -> None:
    with pytest.raises(BadInput, match=r"model number 1020 .* expected 777"):
        FeetechClient(ServoModel(1, 1020, "joint"))
