"""Fault plans: their text, what they refuse, and what each kind does to a bus."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from servo_client import DynamixelClient, FeetechClient

from imitact.core.errors import BadInput
from imitact.robots.emulation.arms import aloha_follower_servos, so101_servos
from imitact.robots.emulation.faults import FAULT_KINDS, Fault, FaultPlan

ALERT, HARDWARE_ERROR = 0x80, 70
TORQUE, GOAL, PRESENT, VOLTAGE, TEMPERATURE = 64, 116, 132, 144, 146
IDS = range(1, 10)


def arm(*faults: Fault, seed: int = 0) -> DynamixelClient:
    return DynamixelClient(*aloha_follower_servos(), faults=FaultPlan(faults, seed))


def positions(client: DynamixelClient) -> dict[int, int]:
    return {s.id: s.signed for s in client.sync_read(PRESENT, 4, IDS)}


# --------------------------------------------------------------------- plans


def test_there_are_at_least_a_dozen_kinds_and_each_is_explained() -> None:
    assert len(FAULT_KINDS) >= 12
    assert all(kind.meaning for kind in FAULT_KINDS.values())


def test_a_plan_survives_its_text(tmp_path: Path) -> None:
    plan = FaultPlan(
        (
            Fault("late", 1.5, 0.25, (2, 3), "left \"a\"", {"late_s": 0.1}),
            Fault("hang_up", 3.0),
            Fault("stall", ids=(9,), parameters={"position": 1700, "side": -1}),
        ),
        seed=7,
    )  # fmt: skip
    assert FaultPlan.from_toml(plan.to_toml()) == plan
    path = tmp_path / "plan.toml"
    path.write_text(plan.to_toml())
    assert FaultPlan.load(path) == plan


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed = ", "is no TOML"),
        ("sed = 1", 'no key of fault plan "sed".*Did you mean seed'),
        ("seed = -1", "seed is -1"),
        ("seed = 1.5", "seed is 1.5"),
        ("fault = 3", r"\[\[fault\]\]"),
        ("[[fault]]\nstart_s = 1", "has no kind; expected drop"),
        ('[[fault]]\nkind = "dropp"', 'no kind of fault "dropp".*Did you mean drop'),
        ("[[fault]]\nkind = 3", 'no kind of fault "3"'),
        ('[[fault]]\nkind = "drop"\nchanse = 0.5', "chanse.*Did you mean chance"),
        ('[[fault]]\nkind = "drop"\nchance = 1.5', "chance is 1.5; expected 0 to 1"),
        ('[[fault]]\nkind = "drop"\nchance = nan', "chance is nan; expected a number"),
        ('[[fault]]\nkind = "drop"\nchance = true', "chance is True; expected a number"),
        ('[[fault]]\nkind = "drop"\nstart_s = -1', "start_s is -1"),
        ('[[fault]]\nkind = "drop"\nduration_s = "x"', "duration_s is 'x'"),
        ('[[fault]]\nkind = "drop"\nids = 3', "ids is 3; expected a list"),
        ('[[fault]]\nkind = "drop"\nids = [300]', "300 is no servo id"),
        ('[[fault]]\nkind = "drop"\nids = ["a"]', "'a' is no servo id"),
        ('[[fault]]\nkind = "drop"\nbus = 3', "bus is 3"),
        ('[[fault]]\nkind = "dead"', "dead: ids is missing"),
        ('[[fault]]\nkind = "silent"\nids = [1]', "concerns the whole bus"),
    ],
)
def test_what_is_no_plan_is_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        FaultPlan.from_toml(text)


def test_a_plan_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none\.toml is missing. Give the path of a fault plan"):
        FaultPlan.load(tmp_path / "none.toml")


def test_a_plan_for_servos_or_buses_that_are_not_there_is_refused() -> None:
    buses = {"left": [1, 2], "right": [1, 3]}
    FaultPlan((Fault("dead", ids=(3,)), Fault("drop", bus="left"))).check(buses)
    with pytest.raises(BadInput, match="no servo 3 on bus left; expected one of 1, 2"):
        FaultPlan((Fault("dead", ids=(3,), bus="left"),)).check(buses)
    with pytest.raises(BadInput, match="middle"):
        FaultPlan((Fault("drop", bus="middle"),)).check(buses)


def test_a_bus_gets_its_own_faults_only() -> None:
    plan = FaultPlan((Fault("drop", bus="left"), Fault("late"), Fault("silent", bus="right")))
    assert [f.kind for f in plan.of_bus("left").faults] == ["drop", "late"]


def test_a_seed_draws_one_plan_and_all_kinds_are_drawn() -> None:
    assert FaultPlan.draw(3, [1, 2]) == FaultPlan.draw(3, [1, 2])
    drawn = {FaultPlan.draw(seed, [1, 2]).faults[0].kind for seed in range(300)}
    assert drawn == set(FAULT_KINDS)
    with pytest.raises(BadInput, match="dropp"):
        FaultPlan.draw(0, [1], kinds=("dropp",))


def test_the_same_seed_gives_the_same_bytes() -> None:
    def run(seed: int) -> list[bytes]:
        faults = [Fault("drop", parameters={"chance": 0.3}), Fault("noise"), Fault("jitter")]
        client = arm(*faults, seed=seed)
        return [(client.sync_read(PRESENT, 4, IDS), client.raw)[1] for _ in range(20)]

    assert run(1) == run(1)
    assert run(1) != run(2)


# --------------------------------------------------------------------- replies


def test_drop_takes_replies_for_as_long_as_it_lasts() -> None:
    client = arm(Fault("drop", 1.0, 0.5, (3,)))
    assert len(positions(client)) == 9
    client.wait(1.0)
    assert sorted(positions(client)) == [1, 2, 4, 5, 6, 7, 8, 9]
    client.wait(0.6)
    assert len(positions(client)) == 9
    assert client.bus.counts["dropped"] == 1


def test_corrupt_spoils_the_checksum() -> None:
    client = arm(Fault("corrupt", ids=(3,)))
    assert 3 not in positions(client)
    assert len(client.raw) == 9 * 15


def test_late_replies_wait_and_one_late_reply_waits_once() -> None:
    client = arm(Fault("late", 0.0, 1.0, (), "", {"late_s": 0.2}))
    client.ping(1)
    assert client.due_s - client.now_s > 0.2
    client.wait(1.1)
    client.ping(1)
    assert client.due_s - client.now_s < 0.01
    client.bus.set_fault("late_once", late_s=0.4)
    client.ping(1)
    assert client.due_s - client.now_s > 0.4
    client.ping(1)
    assert client.due_s - client.now_s < 0.01


def test_jitter_differs_from_reply_to_reply() -> None:
    client = arm(Fault("jitter", parameters={"jitter_s": 0.05}))
    waits = [(client.ping(1), client.due_s - client.now_s)[1] for _ in range(20)]
    assert max(waits) < 0.052
    assert len({round(wait, 6) for wait in waits}) == 20


def test_noise_comes_before_a_reply() -> None:
    client = arm(Fault("noise", ids=(1,), parameters={"bytes": 5}))
    assert len(client.ping(1)) == 1
    assert len(client.raw) == 14 + 5


def test_error_bits_ride_on_replies() -> None:
    client = arm(Fault("error", 0.0, 1.0, (2,)))
    assert client.read(2, PRESENT, 4).error == ALERT
    assert client.read(1, PRESENT, 4).error == 0
    client.wait(1.1)
    assert client.read(2, PRESENT, 4).error == 0


def test_error_bits_of_feetech_are_its_own() -> None:
    client = FeetechClient(*so101_servos())
    client.bus.set_fault("error", ids=(1,))
    assert client.read(1, 56, 2).error == 0x20
    client.bus.set_fault("error", ids=(2,), bits=5)
    assert client.read(2, 56, 2).error == 5


# --------------------------------------------------------------------- line


def test_a_silent_bus_hears_nothing_and_holds() -> None:
    client = arm(Fault("silent", 1.0, 1.0))
    client.write(1, TORQUE, 1, 1)
    client.wait(1.0)
    client.sync_write(GOAL, 4, {1: 3000})
    assert client.ping(1) == []
    client.wait(1.1)
    assert client.position(1) == 2048
    assert client.truth(1).has_torque


def test_a_servo_at_a_wrong_baud_rate_hears_that_rate_only() -> None:
    from imitact.robots.emulation.dynamixel import PING, instruction_packet

    client = arm(Fault("wrong_baud", ids=(4,), parameters={"baud": 115_200}))
    assert client.send(instruction_packet(4, PING), 1_000_000) == b""
    assert client.send(instruction_packet(4, PING), 115_200) != b""
    assert client.send(instruction_packet(5, PING), 1_000_000) != b""


def test_an_adapter_that_went_comes_back() -> None:
    client = arm(Fault("hang_up", 0.5, 1.0))
    assert len(client.ping(1)) == 1
    client.wait(0.5)
    assert client.bus.is_hung_up
    assert client.ping(1) == []
    client.wait(1.0)
    assert not client.bus.is_hung_up
    assert len(client.ping(1)) == 1


# --------------------------------------------------------------------- servos


def test_a_fault_lasts_although_another_of_its_kind_ends() -> None:
    client = arm(Fault("dead", 0.0, 3.0, (1,)), Fault("dead", 1.0, 1.0, (1, 2)))
    client.wait(2.5)
    assert [s.id for s in client.sync_read(PRESENT, 4, (1, 2))] == [2]
    client.wait(1.0)
    assert [s.id for s in client.sync_read(PRESENT, 4, (1, 2))] == [1, 2]


def test_an_unplugged_servo_is_limp_and_comes_back_restarted() -> None:
    client = arm(Fault("dead", 1.0, 1.0, (1,)))
    client.write(1, TORQUE, 1, 1)
    client.wait(1.0)
    assert client.ping(1) == []
    assert not client.truth(1).has_torque
    assert client.bus.move({1: 1000.0}) == ()
    client.wait(1.5)
    assert client.read(1, TORQUE, 1).number == 0
    assert client.position(1) == 1000


def test_a_reboot_loses_the_torque() -> None:
    client = arm(Fault("reboot", 1.0, ids=(1,)))
    client.write(1, TORQUE, 1, 1)
    client.write(6, TORQUE, 1, 1)
    client.wait(1.0)
    assert client.ping(1) == []
    client.wait(0.5)
    assert client.read(1, TORQUE, 1).number == 0
    assert client.read(6, TORQUE, 1).number == 1


def test_a_stuck_shaft_turns_neither_by_its_motor_nor_by_hand() -> None:
    client = arm(Fault("stuck", 0.0, 1.0, (1,)))
    client.write(1, TORQUE, 1, 1)
    client.sync_write(GOAL, 4, {1: 2500})
    client.wait(0.9)
    assert client.position(1) == 2048
    assert client.read(1, 126, 2).signed > 1000
    assert client.bus.move({1: 0.0}) == (1,)
    client.wait(1.0)
    assert client.position(1) == 2500


@pytest.mark.parametrize(("side", "goal", "rest"), [(-1, 1000, 1800), (1, 3000, 2300)])
def test_a_stall_blocks_one_side(side: int, goal: int, rest: int) -> None:
    client = arm(Fault("stall", ids=(9,), parameters={"position": rest, "side": side}))
    client.write(9, TORQUE, 1, 1)
    client.sync_write(GOAL, 4, {9: goal})
    client.wait(1.0)
    assert client.position(9) == pytest.approx(rest, abs=2)
    client.sync_write(GOAL, 4, {9: 2048})
    client.wait(1.0)
    assert client.position(9) == 2048


def test_an_overload_shuts_a_servo_down() -> None:
    client = arm(Fault("overload", 0.5, ids=(1,)))
    client.write(1, TORQUE, 1, 1)
    client.wait(0.6)
    assert client.read(1, HARDWARE_ERROR, 1).number == 0x20
    assert not client.truth(1).has_torque


def test_an_overheated_servo_shuts_down_at_its_limit() -> None:
    client = arm(Fault("overheat", ids=(1,), parameters={"celsius": 85, "rise_s": 1.0}))
    client.write(1, TORQUE, 1, 1)
    client.wait(0.8)
    assert 60 < client.read(1, TEMPERATURE, 1).number <= 80
    assert client.truth(1).has_torque
    client.wait(0.4)
    assert client.read(1, TEMPERATURE, 1).number == 85
    assert client.read(1, HARDWARE_ERROR, 1).number == 4
    assert not client.truth(1).has_torque


def test_a_voltage_sag_is_measured_and_reported() -> None:
    client = arm(Fault("voltage_sag", 1.0, 1.0, parameters={"volts": 8.5}))
    assert client.read(1, VOLTAGE, 2).number == 121
    client.wait(1.0)
    status = client.read(1, VOLTAGE, 2)
    assert (status.number, status.error) == (85, ALERT)
    client.wait(1.1)
    assert client.read(1, VOLTAGE, 2).number == 121


def test_a_wrap_jumps_by_whole_turns() -> None:
    client = arm(Fault("wrap", 1.0, 1.0, (8,), parameters={"turns": -1}))
    client.wait(1.0)
    assert positions(client)[8] == 2048 - 4096
    client.wait(1.1)
    assert positions(client)[8] == 2048


@pytest.mark.parametrize("kind", FAULT_KINDS)
@pytest.mark.parametrize("protocol", ["dynamixel", "feetech"])
def test_every_fault_ends_and_leaves_a_bus_that_answers(kind: str, protocol: str) -> None:
    models = aloha_follower_servos() if protocol == "dynamixel" else so101_servos()
    client = (DynamixelClient if protocol == "dynamixel" else FeetechClient)(*models)
    torque, goal, size = (TORQUE, GOAL, 4) if protocol == "dynamixel" else (40, 42, 2)
    client.write(1, torque, 1, 1)
    client.bus.set_fault(kind, duration_s=0.5, ids=(1,) if FAULT_KINDS[kind].has_ids else ())
    for step in range(20):
        client.ask(1, 3, bytes((goal, 0))[: 2 if protocol == "dynamixel" else 1]
                   + (2048 + 10 * step).to_bytes(size, "little"))  # fmt: skip
        client.ping(0xFE)
        client.wait(0.05)
    assert all(math.isfinite(servo.position) for servo in client.bus.truth().servos.values())
    client.bus.clear_faults()
    client.wait(0.5)
    assert len(client.ping(0xFE)) == len(models)
