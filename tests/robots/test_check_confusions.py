"""Robot check on the emulated ALOHA of a bench: what is mixed up or set up wrongly is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from imitact.core.errors import BadInput
from imitact.robots.config import ArmConfig, GripperConfig, RobotConfig, read_config, write_config
from imitact.robots.emulation.faults import FaultPlan
from imitact.robots.emulation.world import bus_servos, check_faults, set_registers
from imitact.robots.robot_finding import RobotFinding
from tests.support.bus_thread import BusThread

pytest.importorskip("dynamixel_sdk")

from imitact.robots.check import CheckConfig, check_robot
from imitact.robots.check_identity import record_identity

PATIENCE = 100.0
QUICK = CheckConfig(reads=3)
FOLLOWERS = ("follower_left", "follower_right")

Make = Callable[[str], RobotConfig]


@pytest.fixture
def followers() -> Iterator[Make]:
    """Both followers of the bench, set up as a plan says."""
    with ExitStack() as stack:

        def make(plan: str = "") -> RobotConfig:
            faults = FaultPlan.from_toml(plan)
            check_faults("aloha", faults)
            arms: dict[str, ArmConfig] = {}
            for name in FOLLOWERS:
                servos = [
                    replace(servo, position={2: 940, 3: 940, 4: 3050, 5: 3050}.get(servo.id, 2048))
                    for servo in bus_servos("aloha")[name]
                ]
                bus = stack.enter_context(BusThread(servos))
                set_registers(bus, faults.of_bus(name))  # type: ignore[arg-type]
                arms[name.split("_")[1]] = ArmConfig(
                    bus.port, "vx300s", GripperConfig("aloha"), watchdog_s=0
                )
            return RobotConfig("aloha", arms=arms)

        yield make


def errors_of(config: RobotConfig) -> list[RobotFinding]:
    found = check_robot(config, QUICK, patience=PATIENCE)
    return [finding for finding in found if finding.severity == "error"]


def register(servo: int, name: str, value: int) -> str:
    return f"""
        [[register]]
        bus = "follower_left"
        id = {servo}
        name = "{name}"
        value = {value}
    """


def test_the_arms_of_a_bench_are_told_from_each_other(followers: Make, tmp_path: Path):
    file = tmp_path / "robot.toml"
    write_config(file, followers(""))
    record_identity(file, patience=PATIENCE)
    config = read_config(file)
    assert errors_of(config) == []
    left, right = config.arms["left"], config.arms["right"]
    exchanged = {
        "left": replace(left, port=right.port),
        "right": replace(right, port=left.port),
    }
    found = errors_of(replace(config, arms=exchanged))
    assert [(one.name, one.where) for one in found] == [
        ("left-right-swapped", "left follower"),
        ("left-right-swapped", "right follower"),
    ]


@pytest.mark.parametrize(
    ("plan", "name", "words"),
    [
        (register(9, "drive_mode", 1), "drive-mode", "slams open"),
        (register(4, "homing_offset", -1020), "wrap", "inside the travel"),
    ],
)
def test_a_servo_that_is_set_up_wrongly_is_named(followers: Make, plan: str, name: str, words: str):
    found = [one for one in errors_of(followers(plan)) if one.name == name]
    assert [one.where.split(":")[0] for one in found] == ["left follower"]
    assert words in found[0].line


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (register(9, "drive_mod", 1), "Did you mean drive_mode"),
        (register(12, "drive_mode", 1), "12"),
        (register(9, "drive_mode", 300), "300"),
        (register(9, "drive_mode", 1).replace("follower_left", "left"), "follower_left"),
        ("[[register]]\nid = 3", "no bus, no name, no value"),
        ("register = 3", r"\[\[register\]\]"),
        ('[[register]]\nbus = "a"\nid = true\nname = "b"\nvalue = 1', "integer"),
    ],
)
def test_a_register_that_cannot_be_is_refused_by_name(plan: str, words: str):
    with pytest.raises(BadInput, match=words):
        check_faults("aloha", FaultPlan.from_toml(plan))


def test_the_registers_of_a_plan_survive_its_text():
    plan = FaultPlan.from_toml(register(9, "drive_mode", 1))
    assert FaultPlan.from_toml(plan.to_toml()) == plan
