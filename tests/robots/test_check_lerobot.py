"""Checks of LeRobot's devices: each thing that is wrong has a name, and nothing moves."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from imitact.core.clock import VirtualClock
from imitact.robots.check import CheckConfig, check_robot
from imitact.robots.check_lerobot import check_lerobot_motion
from imitact.robots.config import RobotConfig
from imitact.robots.robot_finding import RobotFinding
from tests.support.lerobot_arm import JOINTS, PATIENCE, Arm, use_stand_in

REST = dict.fromkeys(JOINTS, 0.0)


@pytest.fixture
def arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Arm:
    use_stand_in(monkeypatch)
    return Arm(tmp_path / "follower")


def check(arm: Arm, config: RobotConfig | None = None) -> dict[str, RobotFinding]:
    config = config or RobotConfig(kind="lerobot", rate_hz=1.0, lerobot=arm.config, rest=REST)
    found = check_robot(config, CheckConfig(reads=5), patience=PATIENCE)
    return {finding.name: finding for finding in found}


def test_a_good_arm_and_its_leader_have_a_rate_and_no_more(arm: Arm, tmp_path: Path) -> None:
    leader = Arm(tmp_path / "leader", "fake_leader")
    arm.set_registers()
    config = RobotConfig(
        kind="lerobot", rate_hz=1.0, lerobot=arm.config, lerobot_leader=leader.config, rest=REST
    )
    found = check(arm, config)
    assert {name: one.severity for name, one in found.items()} == {"read-rate": "note"}
    assert arm.registers("Torque_Enable") == [0, 0, 0]


def test_each_joint_moves_and_comes_back_and_the_arm_is_limp_afterwards(arm: Arm) -> None:
    arm.set_registers()
    config = RobotConfig(kind="lerobot", rate_hz=30.0, lerobot=arm.config, rest=REST)
    found = check_lerobot_motion(config, None, PATIENCE, VirtualClock())
    assert found == []
    assert arm.registers("Torque_Enable") == [0, 0, 0]


def test_an_overload_a_hot_servo_and_a_wrap_are_named(arm: Arm) -> None:
    arm.set_registers(Present_Temperature=65, Present_Position=4095)
    arm.fail(errors={"2": 32})
    found = check(arm)
    assert found["servo-error"].where.endswith("lift.pos")
    assert "overload" in found["servo-error"].came
    assert found["temperature"].severity == "warning"
    assert found["wrap"].severity == "error"


def test_a_missing_servo_and_a_missing_calibration_are_errors(arm: Arm) -> None:
    arm.fail(dead=[3])
    assert "Missing motor IDs: [3]" in check(arm)["lerobot-connection"].came
    arm.fail()
    (arm.folder / "arm.json").unlink()
    assert "lerobot-calibrate" in check(arm)["lerobot-connection"].came


def test_a_missing_rest_pose_or_environment_is_named(arm: Arm) -> None:
    bare = RobotConfig(kind="lerobot", rate_hz=1.0, lerobot=arm.config)
    remedy = check(arm, bare)["rest-missing"].remedy
    assert re.search(r'to \[rest\]; they are now "\S*pan.pos" = -?\d+\.\d, "', remedy)
    gone = replace(bare, lerobot=replace(arm.config, python=str(arm.folder / "nothing")))
    assert "there is no Python" in check(arm, gone)["lerobot-missing"].came
