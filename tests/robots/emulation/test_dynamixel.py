"""Dynamixel servos on an emulated bus, on virtual time: instructions, registers, modes, errors."""

from __future__ import annotations

import struct

import pytest
from servo_client import DynamixelClient, dynamixel_statuses

from imitact.core.errors import BadInput
from imitact.robots.emulation import dynamixel
from imitact.robots.emulation.arms import aloha_follower_servos, aloha_leader_servos
from imitact.robots.emulation.dynamixel_table import (
    ACCESS_ERROR,
    ALERT,
    INSTRUCTION_ERROR,
    LENGTH_ERROR,
    LIMIT_ERROR,
    RANGE_ERROR,
)
from imitact.robots.emulation.servos import ServoModel

XM540, XM430, XL430, XC430 = 1120, 1020, 1060, 1070
MODE, SECONDARY_ID, HOMING, SHUTDOWN = 11, 12, 20, 63
TORQUE, HARDWARE_ERROR, WATCHDOG, GOAL_CURRENT = 64, 70, 98, 102
GOAL_VELOCITY, PROFILE_VELOCITY, GOAL, PRESENT = 104, 112, 116, 132


def one(model: int = XM430, position: float = 2048.0, **registers: int) -> DynamixelClient:
    return DynamixelClient(ServoModel(1, model, "joint", registers, position=position))


# --------------------------------------------------------------------- packets


OF_THE_MANUAL = (
    # ROBOTIS-GIT/emanual docs/en/dxl/protocol2.md, the examples of the instructions: request,
    # replies. Servo 1 is at 166 and measures 11.9 V, servo 2 is at 2079 and has 36 degrees.
    ("read", "fffffd0001070002840004001d15", ("fffffd0001080055 00a6000000 8cc0",)),
    ("write", "fffffd000109000374000002 0000ca89", ("fffffd0001040055 00a10c",)),
    ("reg write", "fffffd000109000468 00c8000000ae8e", ("fffffd0001040055 00a10c",)),
    ("action", "fffffd000103000502ce", ("fffffd0001040055 00a10c",)),
    ("clear", "fffffd00010800100144584c22b1dc", ("fffffd0001040055 00a10c",)),
    (
        "sync read",
        "fffffd00fe0900 8284000400 0102 cefa",
        ("fffffd0001080055 00a6000000 8cc0", "fffffd0002080055 001f080000 babe"),
    ),
    ("sync write", "fffffd00fe1100 8374000400 0196000000 02aa000000 8287", ()),
    (
        "bulk read",
        "fffffd00fe0d00 92 0190000200 0292000100 1a05",
        ("fffffd0001060055 007700 c369", "fffffd0002050055 0024 8ba9"),
    ),
    ("reboot", "fffffd00010300082f4e", ("fffffd0001040055 00a10c",)),
)


def test_the_examples_of_the_manual_get_its_answers() -> None:
    models = (
        ServoModel(1, XM430, "a", position=166, volts=11.9),
        ServoModel(2, XM430, "b", position=2079),
    )
    client = DynamixelClient(*models, step_s=0.0)
    client.bus.servos[1].temperature_c = 36.0
    for name, request, replies in OF_THE_MANUAL:
        got = client.send(bytes.fromhex(request.replace(" ", ""))).hex()
        assert got == "".join(replies).replace(" ", ""), name
    assert client.read(2, GOAL, 4).number == 170


def test_pings_are_those_of_the_manual() -> None:
    assert dynamixel.instruction_packet(1, dynamixel.PING).hex() == "fffffd0001030001194e"
    assert dynamixel.instruction_packet(0xFE, dynamixel.PING).hex() == "fffffd00fe0300013142"
    status = dynamixel.status_packet(2, 0, b"\x06\x04\x26")
    assert status.hex() == "fffffd0002070055000604266f6d"


def test_packets_that_arrive_in_pieces_are_understood() -> None:
    client = one()
    packet = dynamixel.instruction_packet(1, dynamixel.PING)
    assert client.send(packet[:6]) == b""
    assert len(dynamixel_statuses(client.send(packet[6:]))) == 1


def test_the_rest_of_a_packet_is_not_waited_for_for_ever() -> None:
    client = one()
    client.send(dynamixel.instruction_packet(1, dynamixel.PING)[:6])
    client.wait(0.5)
    assert len(client.ping(1)) == 1


@pytest.mark.parametrize("before", [b"\x00\xff", b"\xff\xff\xfd", b"\xff\xff\xfd\x00\x01\xff\xff"])
def test_a_packet_after_noise_is_understood(before: bytes) -> None:
    client = one()
    packet = dynamixel.instruction_packet(1, dynamixel.PING)
    assert len(dynamixel_statuses(client.send(before + packet))) == 1


def test_a_packet_with_a_wrong_checksum_is_not_answered() -> None:
    client = one()
    packet = bytearray(dynamixel.instruction_packet(1, dynamixel.PING))
    packet[-1] ^= 1
    assert client.send(bytes(packet)) == b""
    assert len(client.ping(1)) == 1


def test_bytes_that_look_like_a_header_are_stuffed_both_ways() -> None:
    # FF FF FD within a register: -131073 is FF FF FD FF.
    client = one(operating_mode=4, homing_offset=-131073 - 2048)
    assert client.position(1) == -131073
    assert client.write(1, GOAL, 4, -131073) == 0
    raw = client.send(dynamixel.instruction_packet(1, dynamixel.READ, struct.pack("<HH", GOAL, 4)))
    assert b"\xff\xff\xfd\xfd" in raw
    assert client.read(1, GOAL, 4).signed == -131073


def test_a_broadcast_ping_finds_every_servo() -> None:
    client = DynamixelClient(*aloha_leader_servos())
    models = [int.from_bytes(s.data[:2], "little") for s in client.ping(0xFE)]
    assert models == [XM430] * 7 + [XL430, XC430]


def test_an_unknown_instruction_is_an_error() -> None:
    (status,) = one().ask(1, 0x20)
    assert status.error == INSTRUCTION_ERROR


# --------------------------------------------------------------------- access


def test_eeprom_is_locked_while_the_torque_is_on() -> None:
    client = one()
    assert client.write(1, TORQUE, 1, 1) == 0
    assert client.write(1, MODE, 1, 4) == ACCESS_ERROR
    assert client.read(1, MODE, 1).number == 3
    assert client.write(1, TORQUE, 1, 0) == 0
    assert client.write(1, MODE, 1, 4) == 0
    assert client.read(1, MODE, 1).number == 4


@pytest.mark.parametrize(
    ("address", "size", "value", "error"),
    [
        (PRESENT, 4, 5, ACCESS_ERROR),  # measured
        (0, 2, 1020, ACCESS_ERROR),  # fixed
        (15, 1, 1, ACCESS_ERROR),  # no register there
        (700, 1, 1, ACCESS_ERROR),  # beyond the table
        (GOAL, 2, 5, LENGTH_ERROR),  # half a register
        (GOAL + 1, 1, 5, LENGTH_ERROR),  # from the middle of one
        (TORQUE, 1, 2, RANGE_ERROR),
        (MODE, 1, 2, RANGE_ERROR),  # no such mode
        (GOAL, 4, 4096, LIMIT_ERROR),
        (GOAL, 4, -1, LIMIT_ERROR),
        (GOAL_CURRENT, 2, 1194, LIMIT_ERROR),
        (GOAL_VELOCITY, 4, 201, LIMIT_ERROR),
        (GOAL, 4, 1_048_576, RANGE_ERROR),
    ],
)
def test_what_may_not_be_written_is_refused_and_changes_nothing(
    address: int, size: int, value: int, error: int
) -> None:
    client = one()
    before = bytes(client.bus.servos[0].table.data)
    assert client.write(1, address, size, value) == error
    assert bytes(client.bus.servos[0].table.data[:120]) == before[:120]


def test_a_goal_beyond_the_limits_is_not_followed_in_a_sync_write_either() -> None:
    client = one(min_position_limit=1000, max_position_limit=3000)
    client.write(1, TORQUE, 1, 1)
    client.sync_write(GOAL, 4, {1: 3001})
    client.wait(1.0)
    assert client.position(1) == 2048


def test_models_without_current_control_have_neither_its_registers_nor_its_modes() -> None:
    client = one(XL430)
    assert client.write(1, GOAL_CURRENT, 2, 10) == ACCESS_ERROR
    assert client.write(1, MODE, 1, 5) == RANGE_ERROR
    assert client.write(1, MODE, 1, 16) == 0
    with pytest.raises(
        BadInput, match=r'no register of servo joint \(model 1060\) "current_limit"'
    ):
        one(XL430, current_limit=5)


@pytest.mark.parametrize(
    ("register", "value", "words"),
    [
        ("homing_offset", 2_000_000, "takes -1044479 to 1044479"),
        ("operating_mode", -1, "takes 0 to 16"),
        ("model_number", 70_000, "2 bytes"),
    ],
)
def test_a_register_that_cannot_hold_its_value_is_refused(
    register: str, value: int, words: str
) -> None:
    with pytest.raises(BadInput, match=f"{register} cannot hold {value}.*{words}"):
        one(**{register: value})


def test_an_unknown_model_is_refused_by_its_number() -> None:
    with pytest.raises(BadInput, match=r"1030.*expected 1120 \(XM540-W270\)"):
        one(1030)


def test_several_registers_are_written_at_once_or_none_is() -> None:
    client = one()
    velocity_and_goal = struct.pack("<iiii", 0, 0, 0, 9999)
    (status,) = client.ask(1, dynamixel.WRITE, struct.pack("<H", 104) + velocity_and_goal)
    assert status.error == LIMIT_ERROR
    good = struct.pack("<iiii", 0, 0, 17, 2100)
    (status,) = client.ask(1, dynamixel.WRITE, struct.pack("<H", 104) + good)
    assert status.error == 0
    assert client.read(1, PROFILE_VELOCITY, 4).number == 17
    assert client.read(1, GOAL, 4).number == 2100


def test_indirect_addresses_gather_registers() -> None:
    client = one(position=1234)
    for number, address in enumerate((144, 145, 146, 132, 133, 134, 135)):
        assert client.write(1, 168 + 2 * number, 2, address) == 0
    data = client.read(1, 224, 7).data
    assert data == struct.pack("<HBi", 121, 31, 1234)
    for number, address in enumerate(range(116, 120)):
        assert client.write(1, 578 + 2 * number, 2, address) == 0
    assert client.write(1, 634, 4, 1500) == 0
    assert client.read(1, GOAL, 4).number == 1500


@pytest.mark.parametrize(("level", "writes", "reads"), [(0, 0, 0), (1, 0, 1), (2, 1, 1)])
def test_the_status_return_level_says_what_is_answered(level: int, writes: int, reads: int) -> None:
    client = one(status_return_level=level)
    assert len(client.ask(1, dynamixel.WRITE, b"\x41\x00\x01")) == writes
    assert len(client.ask(1, dynamixel.READ, b"\x41\x00\x01\x00")) == reads
    assert len(client.ping(1)) == 1


# --------------------------------------------------------------------- groups


def test_reads_of_a_group_are_answered_in_its_order() -> None:
    client = DynamixelClient(*aloha_follower_servos({2: 1500.0, 4: 2600.0}))
    ids = [9, 2, 4, 3]
    positions = [2048, 1500, 2600, 1500]
    statuses = client.sync_read(PRESENT, 4, ids)
    assert [(s.id, s.signed) for s in statuses] == list(zip(ids, positions, strict=True))
    bulk = b"".join(struct.pack("<BHH", i, PRESENT, 4) for i in ids)
    assert client.ask(0xFE, dynamixel.BULK_READ, bulk) == statuses
    for code, parameters in (
        (dynamixel.FAST_SYNC_READ, struct.pack("<HH", PRESENT, 4) + bytes(ids)),
        (dynamixel.FAST_BULK_READ, bulk),
    ):
        raw = client.send(dynamixel.instruction_packet(0xFE, code, parameters))
        assert raw[4] == 0xFE
        assert raw[5] | raw[6] << 8 == len(raw) - 7
        for number, (servo, position) in enumerate(zip(ids, positions, strict=True)):
            begin = 8 + 8 * number
            part = raw[begin : begin + 8]
            assert part[:6] == bytes((0, servo)) + struct.pack("<i", position)
            assert dynamixel.crc16(raw[: begin + 6]) == part[6] | part[7] << 8


def test_a_fast_sync_read_ends_at_a_silent_servo() -> None:
    client = DynamixelClient(*aloha_follower_servos())
    client.bus.set_fault("dead", ids=(2,))
    parameters = struct.pack("<HH", PRESENT, 4) + bytes((1, 2, 3))
    raw = client.send(dynamixel.instruction_packet(0xFE, dynamixel.FAST_SYNC_READ, parameters))
    assert len(raw) == 8 + 8  # of 8 + 3 * 8


def test_bulk_writes_and_registered_writes_reach_their_servos() -> None:
    client = DynamixelClient(*aloha_follower_servos())
    bulk = struct.pack("<BHHB", 1, 65, 1, 1) + struct.pack("<BHHi", 9, GOAL, 4, 2000)
    assert client.ask(0xFE, dynamixel.BULK_WRITE, bulk) == []
    assert client.read(1, 65, 1).number == 1
    assert client.read(9, GOAL, 4).number == 2000
    (status,) = client.ask(9, dynamixel.REG_WRITE, struct.pack("<Hi", GOAL, 2222))
    assert status.error == 0
    assert client.read(9, 69, 1).number == 1
    assert client.read(9, GOAL, 4).number == 2000
    assert client.ask(0xFE, dynamixel.ACTION) == []
    assert client.read(9, GOAL, 4).number == 2222
    assert client.read(9, 69, 1).number == 0


# --------------------------------------------------------------------- motion


def test_a_servo_with_torque_goes_to_its_goal_and_a_limp_one_stays() -> None:
    client = one()
    client.write(1, GOAL, 4, 3000)
    client.wait(1.0)
    assert client.position(1) == 2048
    client.write(1, TORQUE, 1, 1)
    client.wait(1.0)
    assert client.position(1) == 3000


@pytest.mark.parametrize(("goal_at_torque", "ends"), [("keep", 3000), ("present", 2048)])
def test_what_torque_on_does_to_an_old_goal_is_an_option(goal_at_torque: str, ends: int) -> None:
    model = ServoModel(1, XM430, "joint", {"goal_position": 3000}, goal_at_torque=goal_at_torque)  # type: ignore[arg-type]
    client = DynamixelClient(model)
    client.write(1, TORQUE, 1, 1)
    client.wait(1.0)
    assert client.position(1) == ends


def test_no_joint_is_faster_than_its_motor() -> None:
    client = one(XM540)
    client.write(1, TORQUE, 1, 1)
    client.write(1, GOAL, 4, 4000)
    client.wait(0.5)
    speed = client.read(1, 128, 4).signed * 0.229
    assert 29 < speed < 31  # rpm
    client.wait(2.0)
    assert client.position(1) == 4000


def test_a_profile_velocity_limits_the_speed() -> None:
    client = one()
    client.write(1, PROFILE_VELOCITY, 4, 20)  # 4.58 rpm, 313 ticks/s
    client.write(1, TORQUE, 1, 1)
    client.write(1, GOAL, 4, 3000)
    client.wait(1.0)
    assert 2048 + 220 < client.position(1) < 2048 + 330


def test_a_servo_turned_by_its_drive_mode_reads_and_obeys_mirrored() -> None:
    straight, mirrored = (
        DynamixelClient(
            ServoModel(
                1, XM430, "joint", {"drive_mode": mode}, position=2500, mounted_reversed=True
            )
        )
        for mode in (1, 0)
    )
    assert straight.position(1) == 2500
    assert mirrored.position(1) == 4096 - 2500
    for client in (straight, mirrored):
        client.write(1, TORQUE, 1, 1)
        client.write(1, GOAL, 4, 3000)
        client.wait(1.0)
        assert client.position(1) == 3000
    assert round(straight.truth(1).position) == 3000
    assert round(mirrored.truth(1).position) == 4096 - 3000


def test_the_homing_offset_is_added_and_is_ignored_in_position_mode_beyond_a_quarter_turn() -> None:
    client = one(position=2000)
    client.write(1, HOMING, 4, 100)
    assert client.position(1) == 2100
    client.write(1, HOMING, 4, 1025)
    assert client.position(1) == 2000
    client.write(1, MODE, 1, 4)
    assert client.position(1) == 3025
    client.write(1, TORQUE, 1, 1)
    client.write(1, GOAL, 4, 4000)
    client.wait(1.0)
    assert client.position(1) == 4000
    assert round(client.truth(1).position) == 2975


def test_turns_are_counted_while_limp_and_lost_where_position_mode_begins() -> None:
    client = one()
    client.bus.move({1: 5000.0})
    assert client.position(1) == 5000
    client.write(1, TORQUE, 1, 1)
    assert client.position(1) == 5000 - 4096


def test_extended_mode_goes_beyond_a_turn_and_a_reboot_forgets_turns() -> None:
    client = one(operating_mode=4)
    client.write(1, TORQUE, 1, 1)
    client.write(1, GOAL, 4, -3000)
    client.wait(3.0)
    assert client.position(1) == -3000
    client.ask(1, dynamixel.REBOOT)
    client.wait(0.5)
    assert client.position(1) == 1096


def test_clear_forgets_turns_and_needs_its_key() -> None:
    client = one(operating_mode=4)
    client.bus.move({1: 9000.0})
    (refused,) = client.ask(1, dynamixel.CLEAR, b"\x01\x00\x00\x00\x00")
    assert refused.error == INSTRUCTION_ERROR
    assert client.position(1) == 9000
    (status,) = client.ask(1, dynamixel.CLEAR, b"\x01\x44\x58\x4c\x22")
    assert status.error == 0
    assert client.position(1) == 9000 - 2 * 4096


@pytest.mark.parametrize(
    ("mode", "address", "size", "value"), [(1, GOAL_VELOCITY, 4, -50), (16, 100, 2, -200)]
)
def test_velocity_and_pwm_mode_turn_on_and_on(
    mode: int, address: int, size: int, value: int
) -> None:
    client = one(operating_mode=mode)
    client.write(1, TORQUE, 1, 1)
    assert client.write(1, address, size, value) == 0
    client.wait(2.0)
    first = client.position(1)
    client.wait(2.0)
    assert client.position(1) < first - 1000
    assert client.write(1, address, size, 0) == 0
    client.wait(0.5)
    rest = client.position(1)
    client.wait(1.0)
    assert client.position(1) == rest


def test_current_mode_pushes_with_its_current_and_without_current_is_limp() -> None:
    client = one(operating_mode=0)
    client.write(1, TORQUE, 1, 1)
    client.write(1, GOAL_CURRENT, 2, 0)
    client.wait(0.5)
    assert client.position(1) == 2048
    client.write(1, GOAL_CURRENT, 2, -100)
    client.wait(0.5)
    assert client.position(1) < 1500
    assert client.read(1, 126, 2).signed == -100


def test_the_goal_current_caps_the_force_of_a_blocked_gripper() -> None:
    client = one(operating_mode=5)
    client.bus.set_fault("stall", ids=(1,), position=1800, side=-1)
    client.write(1, GOAL_CURRENT, 2, 200)
    client.write(1, TORQUE, 1, 1)
    client.write(1, GOAL, 4, 1000)
    client.wait(5.0)
    assert client.position(1) == pytest.approx(1800, abs=2)
    assert client.read(1, 126, 2).signed == -200
    assert client.truth(1).errors == ()
    client.write(1, GOAL_CURRENT, 2, 1193)
    client.wait(5.0)
    assert client.truth(1).errors == ("overload",)


def test_a_change_of_mode_resets_gains_profile_and_goals() -> None:
    client = one(current_limit=900)
    client.write(1, 84, 2, 100)
    client.write(1, PROFILE_VELOCITY, 4, 33)
    client.write(1, GOAL_CURRENT, 2, 200)
    client.write(1, MODE, 1, 5)
    assert client.read(1, 84, 2).number == 800
    assert client.read(1, PROFILE_VELOCITY, 4).number == 0
    assert client.read(1, GOAL_CURRENT, 2).number == 900


# --------------------------------------------------------------------- shadow servos


def test_a_shadow_servo_obeys_its_secondary_id_silently_and_answers_its_own() -> None:
    client = DynamixelClient(*aloha_follower_servos())
    statuses = client.ask(2, dynamixel.WRITE, struct.pack("<HB", TORQUE, 1))
    assert [s.id for s in statuses] == [2]
    assert client.read(3, TORQUE, 1).number == 1
    client.sync_write(GOAL, 4, {2: 2300})
    client.wait(1.0)
    assert client.position(2) == client.position(3) == 2300
    assert [s.id for s in client.sync_read(PRESENT, 4, [2])] == [2]
    assert [s.id for s in client.ping(3)] == [3]


def test_a_shadow_servo_keeps_its_own_eeprom() -> None:
    client = DynamixelClient(*aloha_follower_servos())
    assert client.write(2, MODE, 1, 4) == 0
    assert client.read(3, MODE, 1).number == 3


def test_a_pair_with_a_wrong_offset_fights_until_one_overloads() -> None:
    client = DynamixelClient(*aloha_follower_servos(changes={3: {"homing_offset": 400}}))
    client.write(2, TORQUE, 1, 1)
    client.sync_write(GOAL, 4, {2: 2048})
    client.wait(5.0)
    assert "overload" in client.truth(2).errors + client.truth(3).errors


def test_only_the_shadow_knows_of_its_fault() -> None:
    client = DynamixelClient(*aloha_follower_servos())
    client.bus.set_fault("overload", ids=(3,))
    assert client.read(2, HARDWARE_ERROR, 1).number == 0
    assert client.read(3, HARDWARE_ERROR, 1).number == 32


# --------------------------------------------------------------------- errors


def test_a_stall_overloads_and_only_a_reboot_brings_the_torque_back() -> None:
    client = one()
    client.bus.set_fault("stuck", ids=(1,))
    client.write(1, TORQUE, 1, 1)
    client.write(1, GOAL, 4, 3000)
    client.wait(1.5)
    assert client.read(1, HARDWARE_ERROR, 1).error == 0
    client.wait(1.5)
    status = client.read(1, HARDWARE_ERROR, 1)
    assert (status.error, status.number) == (ALERT, 0x20)
    assert client.read(1, TORQUE, 1).number == 0
    assert client.write(1, TORQUE, 1, 1) == ALERT
    assert client.read(1, TORQUE, 1).number == 0
    client.bus.clear_faults()
    assert client.ask(1, dynamixel.REBOOT)[0].error == 0
    assert client.ping(1) == []  # it restarts
    client.wait(0.5)
    assert client.write(1, TORQUE, 1, 1) == 0
    assert client.read(1, TORQUE, 1).number == 1


def test_an_error_that_shutdown_leaves_out_is_reported_but_keeps_the_torque() -> None:
    client = one(shutdown=0)
    client.write(1, TORQUE, 1, 1)
    client.bus.set_fault("overload", ids=(1,))
    assert client.read(1, TORQUE, 1).number == 1
    assert client.read(1, TORQUE, 1).error == ALERT


def test_a_reboot_keeps_eeprom_and_forgets_ram() -> None:
    client = one()
    client.write(1, MODE, 1, 4)
    client.write(1, 84, 2, 111)
    client.write(1, TORQUE, 1, 1)
    client.ask(1, dynamixel.REBOOT)
    client.wait(0.5)
    assert client.read(1, MODE, 1).number == 4
    assert client.read(1, 84, 2).number == 800
    assert client.read(1, TORQUE, 1).number == 0


def test_an_action_without_a_registered_write_is_an_error() -> None:
    (status,) = one().ask(1, dynamixel.ACTION)
    assert status.error == INSTRUCTION_ERROR


def test_all_servos_at_once_are_not_reset_to_the_factory() -> None:
    client = one(operating_mode=4)
    assert client.ask(0xFE, dynamixel.FACTORY_RESET, b"\xff") == []
    assert client.read(1, MODE, 1).number == 4


def test_a_factory_reset_keeps_what_it_is_asked_to_keep() -> None:
    client = DynamixelClient(ServoModel(7, XM430, "joint", {"operating_mode": 4}))
    (status,) = client.ask(7, dynamixel.FACTORY_RESET, b"\x02")
    assert status.error == 0
    client.wait(0.5)
    assert client.read(7, MODE, 1).number == 3
    client.write(7, TORQUE, 1, 1)
    (status,) = client.ask(7, dynamixel.FACTORY_RESET, b"\x02")
    assert status.error == ACCESS_ERROR


def test_the_bus_watchdog_stops_a_servo_and_locks_its_goals_until_it_is_cleared() -> None:
    client = one()
    client.write(1, TORQUE, 1, 1)
    client.write(1, WATCHDOG, 1, 10)  # 200 ms
    client.write(1, GOAL, 4, 4000)
    for _ in range(20):  # any instruction counts
        client.wait(0.15)
        client.ping(1)
    assert client.read(1, WATCHDOG, 1).signed == 10
    client.write(1, GOAL, 4, 100)
    client.wait(0.3)
    stopped = client.position(1)
    assert client.read(1, WATCHDOG, 1).signed == -1
    client.wait(1.0)
    assert abs(client.position(1) - stopped) < 100
    assert client.position(1) > 1000
    assert client.write(1, GOAL, 4, 2000) == RANGE_ERROR
    assert client.write(1, WATCHDOG, 1, 0) == 0
    assert client.write(1, GOAL, 4, 2000) == 0
    client.wait(1.5)
    assert client.position(1) == 2000


def test_the_bus_watchdog_leaves_a_limp_servo_alone() -> None:
    client = one()
    client.write(1, WATCHDOG, 1, 10)
    client.wait(1.0)
    assert client.read(1, WATCHDOG, 1).signed == 10


# --------------------------------------------------------------------- line


def test_servos_at_another_baud_rate_hear_nothing() -> None:
    client = one(baud_rate=1)  # 57600
    packet = dynamixel.instruction_packet(1, dynamixel.PING)
    assert client.send(packet, 1_000_000) == b""
    assert client.send(packet, 57_600) != b""


def test_replies_take_latency_wire_time_and_the_delay_of_each_servo() -> None:
    client = DynamixelClient(*aloha_follower_servos())
    client.sync_read(126, 10, range(1, 10))
    request, reply = 7 + 3 + 4 + 9, 9 * (11 + 10)
    assert client.due_s - client.now_s == pytest.approx(0.0005 + (request + reply) * 1e-5)
    slow = DynamixelClient(*(ServoModel(i, XM430, "joint") for i in (1, 2)))
    slow.sync_read(PRESENT, 4, [1, 2])
    assert slow.due_s - slow.now_s == pytest.approx(0.0005 + (16 + 30) * 1e-5 + 2 * 0.0005)
