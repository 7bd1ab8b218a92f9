"""Dynamixel bus: late, missing and damaged answers, exclusive ports, failures in words."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from imitact.core.errors import RobotError
from imitact.robots.emulation.arms import aloha_follower_servos
from tests.support.bus_thread import BusThread

pytest.importorskip("dynamixel_sdk")

from imitact.robots.dynamixel_bus import DynamixelBus, NoAnswer
from imitact.robots.dynamixel_registers import (
    FIRMWARE,
    GOAL_CURRENT,
    GOAL_POSITION,
    HOMING_OFFSET,
    OPERATING_MODE,
    PRESENT_POSITION,
    TORQUE_ENABLE,
)

IDS = tuple(range(1, 10))
PATIENCE = 100.0
"""Time-outs of 0.5 s: a busy machine answers within them."""


@pytest.fixture
def servos() -> Iterator[BusThread]:
    with BusThread(aloha_follower_servos()) as servos:
        yield servos


def opened(servos: BusThread, patience: float = PATIENCE) -> DynamixelBus:
    bus = DynamixelBus(servos.port, where="left follower", names={4: "elbow"}, patience=patience)
    bus.open()
    return bus


@pytest.fixture
def bus(servos: BusThread) -> Iterator[DynamixelBus]:
    bus = opened(servos)
    yield bus
    bus.close()


def positions(bus: DynamixelBus) -> dict[int, int]:
    read = bus.sync_read(IDS, PRESENT_POSITION)
    return {servo: PRESENT_POSITION.decode(data) for servo, data in read.data.items()}


def test_values_are_signed_both_ways(bus: DynamixelBus) -> None:
    bus.write(4, HOMING_OFFSET, -700)
    assert bus.read(4, HOMING_OFFSET) == -700
    bus.write(9, OPERATING_MODE, 5)
    bus.write(9, GOAL_CURRENT, -200)
    assert bus.read(9, GOAL_CURRENT) == -200
    assert positions(bus)[4] == 2048 - 700


def test_a_late_answer_never_passes_for_a_newer_one(servos: BusThread) -> None:
    """The control: without the barrier, all later reads are old (docs of dynamixel_bus)."""
    bus = opened(servos, patience=20)  # 0.1 s
    servos.set_fault("late_once", late_s=0.4)
    bus.sync_read(IDS, PRESENT_POSITION)
    assert bus.counts.missing
    for step in range(12):
        servos.move({1: 1000 + 50 * step})
        read = positions(bus)
        assert read.get(1, 1000 + 50 * step) == 1000 + 50 * step
        time.sleep(0.06)
    assert positions(bus) == {1: 1550, **dict.fromkeys(range(2, 10), 2048)}
    bus.close()


def test_a_late_answer_of_one_register_never_passes_for_another(servos: BusThread) -> None:
    bus = opened(servos, patience=20)
    servos.set_fault("late_once", late_s=0.3)
    with pytest.raises(NoAnswer):
        bus.read(1, TORQUE_ENABLE)
    firmware = bus.read(1, FIRMWARE, tries=10)
    assert firmware == servos.get_register(1, "firmware_version") != 0
    assert bus.read(1, TORQUE_ENABLE) == 0
    bus.close()


def test_one_missing_answer_loses_no_other(servos: BusThread, bus: DynamixelBus) -> None:
    servos.set_fault("dead", ids=(4,))
    read = bus.sync_read(IDS, PRESENT_POSITION)
    assert read.missing == (4,)
    assert set(read.data) == set(IDS) - {4}


def test_a_dead_servo_costs_no_time_out_in_every_read(servos: BusThread, bus: DynamixelBus) -> None:
    servos.set_fault("dead", ids=(9,))
    for _ in range(2):  # the second waits for the barrier
        bus.sync_read(IDS, PRESENT_POSITION)
    before = bus.counts.missing
    assert bus.sync_read(IDS, PRESENT_POSITION).missing == (9,)
    assert bus.counts.missing == before, "it was asked and waited for again"


def test_a_servo_that_comes_back_is_read_again(servos: BusThread, bus: DynamixelBus) -> None:
    servos.set_fault("dead", ids=(4,))
    bus.sync_read(IDS, PRESENT_POSITION)
    servos.clear_faults()
    end_s = time.monotonic() + 30
    while bus.sync_read(IDS, PRESENT_POSITION).missing:
        assert time.monotonic() < end_s


def test_a_damaged_answer_is_never_a_value(servos: BusThread) -> None:
    bus = opened(servos, patience=20)
    servos.set_fault("corrupt", ids=(3,))
    read = bus.sync_read(IDS, PRESENT_POSITION)
    assert 3 not in read.data
    servos.clear_faults()
    assert bus.read(3, PRESENT_POSITION, tries=5) == 2048
    bus.close()


def test_noise_before_answers_is_skipped(servos: BusThread, bus: DynamixelBus) -> None:
    servos.set_fault("noise", chance=1.0, bytes=5)
    assert positions(bus) == dict.fromkeys(IDS, 2048)


def test_an_error_bit_is_seen_in_a_sync_read(servos: BusThread, bus: DynamixelBus) -> None:
    servos.set_fault("overload", ids=(3,))
    assert len(positions(bus)) == 9
    assert bus.alerts == {3}


def test_a_refused_value_is_an_error_that_names_servo_and_reason(bus: DynamixelBus) -> None:
    bus.write(4, TORQUE_ENABLE, 1)
    with pytest.raises(RobotError, match=r"left follower .*elbow \(servo 4\) refused writing 5 "
                                         r"to Operating_Mode: .*EEPROM"):  # fmt: skip
        bus.write(4, OPERATING_MODE, 5)


def test_a_silent_servo_is_named_with_a_remedy(servos: BusThread) -> None:
    bus = opened(servos, patience=1)
    servos.set_fault("dead", ids=(4,))
    with pytest.raises(NoAnswer, match=r"elbow \(servo 4\) did not answer .*cable"):
        bus.read(4, TORQUE_ENABLE)
    bus.close()


def test_a_sync_write_reaches_servos_and_their_shadows(
    servos: BusThread, bus: DynamixelBus
) -> None:
    bus.sync_write(GOAL_POSITION, {1: 2000, 2: 1900})
    assert [bus.read(servo, GOAL_POSITION) for servo in (1, 2, 3)] == [2000, 1900, 1900]


def test_a_second_opening_of_a_port_is_refused(servos: BusThread, bus: DynamixelBus) -> None:
    other = DynamixelBus(servos.port, where="right follower")
    with pytest.raises(RobotError, match=r"right follower .*has the port open; end it first"):
        other.open()
    assert bus.read(1, PRESENT_POSITION) == 2048
    bus.close()
    other.open()
    other.close()


HOLD = "import sys, serial; p = serial.Serial(sys.argv[1], exclusive=True); print(1, flush=True); \
sys.stdin.read()"


def test_the_process_that_has_a_port_is_named(servos: BusThread) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, servos.port],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        with pytest.raises(RobotError, match=rf"process {holder.pid}\).*has the port open"):
            DynamixelBus(servos.port).open()
    finally:
        holder.stdin.close()
        holder.stdout.close()
        holder.wait()


def test_an_unplugged_adapter_is_a_robot_error(servos: BusThread, bus: DynamixelBus) -> None:
    servos.set_fault("hang_up")
    with pytest.raises(RobotError, match=r"left follower .*unplugged"):
        bus.sync_read(IDS, PRESENT_POSITION)
    assert not bus.is_open
    with pytest.raises(RobotError, match="not open; connect first"):
        bus.read(1, PRESENT_POSITION)
    bus.close()


def test_a_port_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RobotError, match=r"no such port; .*/dev/serial/by-id"):
        DynamixelBus(tmp_path / "ttyUSB7").open()
    (tmp_path / "file").touch()
    with pytest.raises(RobotError, match="cannot be opened"):
        DynamixelBus(tmp_path / "file").open()


def test_the_rate_of_servos_that_have_another_is_found(servos: BusThread) -> None:
    bus = opened(servos, patience=10)
    servos.set_fault("wrong_baud", baud=57600)
    assert bus.ping(1) is None
    assert bus.find_baud((1,)) == 57600
    servos.clear_faults()
    assert bus.ping(1) == 1120
    bus.close()


FAULTS: tuple[dict[str, float | str], ...] = (
    {"kind": "late_once", "late_s": 0.1},
    {"kind": "jitter", "jitter_s": 0.03},
    {"kind": "drop", "chance": 0.3},
    {"kind": "corrupt", "chance": 0.3},
    {"kind": "noise", "chance": 0.5, "bytes": 5},
    {"kind": "late", "late_s": 0.02},
)


@pytest.mark.parametrize("seed", range(3))
def test_no_value_is_ever_old_whatever_the_line_does(servos: BusThread, seed: int) -> None:
    """Without the barrier, 18 to 52 of 300 values were old, by up to 18 reads."""
    rng = np.random.default_rng(seed)
    bus = opened(servos, patience=1)
    for step in range(150):
        if step % 10 == 0:
            servos.clear_faults()
            settings = dict(FAULTS[rng.integers(len(FAULTS))])
            servos.set_fault(str(settings.pop("kind")), **settings)
        servos.move({1: 500 + 20 * step, 9: 500 + 20 * step})
        read = positions(bus)
        assert {read.get(servo, 500 + 20 * step) for servo in (1, 9)} == {500 + 20 * step}
        with contextlib.suppress(NoAnswer):
            assert bus.read(1, FIRMWARE) == servos.get_register(1, "firmware_version")
    bus.close()
