"""Third-party plugins of LeRobot through the host: found by their type, without a serial port.

tests/support/lerobot_plugins has a robot and a teleoperator as they would be installed. Nothing of
imitact names them; `make robot-parity` drives them with LeRobot itself (scripts/robot_plugin.py).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imitact.core.errors import BadInput, RobotError
from imitact.robots.check import CheckConfig, check_robot
from imitact.robots.config import LeRobotConfig, RobotConfig
from imitact.robots.lerobot import LeRobotDriver, describe
from imitact.robots.lerobot_process import LeRobotProcess
from tests.support.lerobot_arm import FAKE, HOST, PATIENCE, PLUGINS

JOINTS = ("base.pos", "elbow.pos", "jaw.pos")


@pytest.fixture(autouse=True)
def _plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (HOST, FAKE, PLUGINS))))


@pytest.fixture
def config(tmp_path: Path) -> LeRobotConfig:
    settings: dict[str, Any] = {"channel": "can1", "motors": str(tmp_path / "motors.json")}
    return LeRobotConfig("tiny_arm", "arm", sys.executable, str(tmp_path), settings)


@pytest.fixture
def process() -> Iterator[LeRobotProcess]:
    one = LeRobotProcess(sys.executable)
    yield one
    one.stop()


def motors(config: LeRobotConfig) -> dict[str, dict[str, Any]]:
    return json.loads(Path(str(config.settings["motors"])).read_text())


def test_a_plugins_arm_on_a_can_bus_is_driven_by_its_type_alone(
    config: LeRobotConfig, process: LeRobotProcess
) -> None:
    one = LeRobotDriver(process, "robot", config, 30.0, patience=PATIENCE)
    one.connect()
    assert one.spec.action_names == JOINTS
    assert one.spec.action_units == ("deg", "deg", "deg")
    one.enable()
    assert one.write(np.array([10.0, -20.0, 5.0])).tolist() == [10.0, -20.0, 5.0]
    assert one.read().tolist() == [10.0, -20.0, 5.0]
    with pytest.raises(RobotError, match="no motors that tell their health"):
        one.check_next()
    assert one.release() == ()
    assert not any(motor["torque"] for motor in motors(config).values())
    one.close()


def test_an_action_that_an_arm_takes_and_does_not_send_counts_as_asked(
    config: LeRobotConfig, process: LeRobotProcess
) -> None:
    settings = {**config.settings, "velocity": True}
    config = LeRobotConfig(**{**vars(config), "settings": settings})
    one = LeRobotDriver(process, "robot", config, 30.0, patience=PATIENCE)
    one.connect()
    assert one.spec.action_names == (*JOINTS, "base.vel")
    assert one.write(np.array([10.0, -20.0, 5.0, 0.25])).tolist() == [10.0, -20.0, 5.0, 0.25]
    one.close()


def test_a_dead_motor_on_a_can_bus_is_named_and_the_others_are_limp(
    config: LeRobotConfig, process: LeRobotProcess
) -> None:
    one = LeRobotDriver(process, "robot", config, 30.0, patience=PATIENCE)
    one.connect()
    kept = motors(config)
    kept["elbow"]["dead"] = True
    Path(str(config.settings["motors"])).write_text(json.dumps(kept))
    with pytest.raises(RobotError, match="no answer on the CAN bus from elbow"):
        one.read()
    assert one.release() == ("elbow",)
    assert [motor["torque"] for motor in motors(config).values()] == [False, True, False]
    one.close()


def test_robot_check_finds_nothing_wrong_with_plugins_that_it_does_not_know(
    config: LeRobotConfig,
) -> None:
    rest = dict.fromkeys(JOINTS, 0.0)
    leader = LeRobotConfig("tiny_dials", "", sys.executable)
    robot = RobotConfig(
        kind="lerobot", rate_hz=1.0, lerobot=config, lerobot_leader=leader, rest=rest
    )
    found = check_robot(robot, CheckConfig(reads=3), patience=PATIENCE)
    names = sorted((one.name, one.severity) for one in found)
    assert names == [("health-unknown", "note"), ("read-rate", "note"), ("read-rate", "note")]


def test_a_plugin_that_cannot_be_imported_is_named(
    config: LeRobotConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lerobot_robot_broken.py").write_text("import no_such_sdk\n")
    about = tmp_path / "lerobot_robot_broken-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lerobot_robot_broken\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (HOST, FAKE, PLUGINS, tmp_path))))
    wrong = LeRobotConfig(**{**vars(config), "type": "broken_arm", "settings": {}})
    with pytest.raises(
        BadInput, match=r'no robot "broken_arm".*tiny_arm.*imported: lerobot_robot_broken'
    ):
        describe(sys.executable, [("robot", wrong)], 30.0)


def test_a_package_of_any_name_is_imported_by_lerobots_own_option(
    config: LeRobotConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "my_arms"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "config_mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from lerobot.robots.config import RobotConfig\n"
        "from lerobot_robot_tiny import TinyArm as Mine, TinyArmConfig\n\n\n"
        "@RobotConfig.register_subclass('mine')\n"
        "@dataclass\n"
        "class MineConfig(TinyArmConfig):\n"
        "    pass\n"
    )
    (package / "__init__.py").write_text("from .config_mine import Mine, MineConfig\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (HOST, FAKE, PLUGINS, tmp_path))))
    settings = {**config.settings, "discover_packages_path": "my_arms"}
    mine = LeRobotConfig(**{**vars(config), "type": "mine", "settings": settings})
    (found,) = describe(sys.executable, [("robot", mine)], 30.0)
    assert found.spec.action_names == JOINTS
    settings["discover_packages_path"] = "no_such_package"
    with pytest.raises(BadInput, match=r"discover_packages_path is no_such_package: No module"):
        describe(sys.executable, [("robot", mine)], 30.0)
