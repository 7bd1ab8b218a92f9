"""Robot preparation: end stops are measured and kept, and nothing wrong is ever recorded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from imitact.core.errors import BadInput, RobotError
from imitact.robots.config import ArmConfig, GripperConfig, RobotConfig, read_config, write_config
from imitact.robots.emulation.arms import aloha_follower_servos, aloha_leader_servos
from imitact.robots.robot_finding import failure
from tests.support.bus_thread import BusThread

pytest.importorskip("dynamixel_sdk")

from imitact.api import prepare_robot
from imitact.api.prepare_robot import check_named_robot, measure_grippers

PATIENCE = 100.0
CLOSED, OPEN = 1700, 2400
TICK_RAD = np.pi / 2048


@pytest.fixture
def follower() -> Iterator[BusThread]:
    with BusThread(aloha_follower_servos({2: 940, 4: 3050, 7: 2470, 9: 1900})) as bus:
        bus.set_fault("stall", ids=(9,), position=CLOSED, side=-1)
        bus.set_fault("stall", ids=(9,), position=OPEN, side=1)
        yield bus


@pytest.fixture
def leader() -> Iterator[BusThread]:
    with BusThread(aloha_leader_servos({9: 2000})) as bus:
        yield bus


def described(
    path: Path, follower: BusThread | None = None, leader: BusThread | None = None
) -> Path:
    """Write the robot.toml of arms whose grippers were not measured."""
    arms = {} if follower is None else {"left": ArmConfig(follower.port, "vx300s", watchdog_s=0)}
    leaders = {} if leader is None else {"left": ArmConfig(leader.port, "wx250s", watchdog_s=0)}
    if not arms:
        arms = {"left": ArmConfig("/dev/none", "vx300s")}
    write_config(path / "robot.toml", RobotConfig("aloha", arms=arms, leaders=leaders))
    return path / "robot.toml"


def moved_by_hand(bus: BusThread, ticks: list[int]):
    """Return what ends a measurement after a hand has moved the gripper to these positions."""
    left = list(ticks)

    def is_done(low: float, high: float) -> bool:
        if left:
            bus.move({9: left.pop(0)})
            return False
        return True

    return is_done


def test_the_end_stops_of_a_whole_arm_pair_are_measured_and_kept(
    follower: BusThread, leader: BusThread, tmp_path: Path
):
    file = described(tmp_path, follower, leader)
    asked: list[str] = []
    measured = measure_grippers(
        str(file),
        confirm=lambda question: not asked.append(question),
        is_done=moved_by_hand(leader, [1750, 2350]),
        patience=PATIENCE,
    )
    assert list(measured) == ["left follower", "left leader"]
    assert len(asked) == 2
    config = read_config(file)
    for gripper, closed, opened in (
        (config.arms["left"].gripper, CLOSED, OPEN),
        (config.leaders["left"].gripper, 1750, 2350),
    ):
        assert gripper.variant == "measured"
        assert gripper.closed_rad == pytest.approx((closed - 2048) * TICK_RAD, abs=0.02)
        assert gripper.open_rad == pytest.approx((opened - 2048) * TICK_RAD, abs=0.02)
    assert follower.truth().is_limp


def test_no_gripper_moves_before_a_person_agrees(follower: BusThread, tmp_path: Path):
    file = described(tmp_path, follower)
    before = follower.truth().servos[9].position
    with pytest.raises(BadInput, match="nothing was moved"):
        measure_grippers(
            str(file), confirm=lambda _: False, is_done=lambda *_: True, patience=PATIENCE
        )
    assert follower.truth().servos[9].position == before
    assert read_config(file).arms["left"].gripper == GripperConfig()


def test_a_mirrored_gripper_of_a_follower_is_named_and_not_kept(
    follower: BusThread, tmp_path: Path
):
    file = described(tmp_path, follower)
    with pytest.raises(RobotError, match=r"left follower: the gripper is mirrored.*Drive_Mode"):
        measure_grippers(
            str(file),
            confirm=lambda question: "first" not in question,
            is_done=lambda *_: True,
            patience=PATIENCE,
        )
    assert read_config(file).arms["left"].gripper == GripperConfig()
    assert follower.truth().is_limp


def test_a_mirrored_gripper_of_a_leader_is_named_and_not_kept(leader: BusThread, tmp_path: Path):
    file = described(tmp_path, leader=leader)
    config = read_config(file)
    arm = config.leaders["left"]
    with pytest.raises(RobotError, match=r"left leader: it was left .* Drive_Mode"):
        prepare_robot._measured(
            "left leader", arm, "left", PATIENCE, lambda _: True,
            moved_by_hand(leader, [2350, 1750]), lambda _: None,
        )  # fmt: skip


def test_a_robot_with_errors_is_not_recorded(follower: BusThread, tmp_path: Path):
    file = described(tmp_path, follower)
    found = check_named_robot(str(file), record=True)
    names = {finding.name for finding in found}
    assert {"gripper-stops", "not-recorded"} <= names
    assert read_config(file).arms["left"].fingerprint == ()


@pytest.mark.parametrize("robot", ["sim:cube", "virtual:cube"])
def test_a_robot_without_ports_is_refused_by_name(robot: str):
    with pytest.raises(BadInput, match=f"{robot} has no ports.*bench:aloha"):
        check_named_robot(robot)


def test_only_the_grippers_of_an_aloha_are_measured(tmp_path: Path):
    file = tmp_path / "robot.toml"
    file.write_text('kind = "lerobot"\n[lerobot]\ntype = "so101_follower"\n')
    with pytest.raises(BadInput, match="LeRobot's calibration"):
        measure_grippers(str(file), confirm=lambda _: True, is_done=lambda *_: True)


@pytest.mark.parametrize(
    ("error", "came"),
    [
        ("left follower (/dev/a): waist did not answer.", "/dev/a: waist did not answer"),
        ("left follower: it holds", "it holds"),
        ("right follower (/dev/a): no", "right follower (/dev/a): no"),
    ],
)
def test_a_finding_names_its_place_once(error: str, came: str):
    assert failure("port", "left follower", RobotError(error)).came == came
