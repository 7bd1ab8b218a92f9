"""Session parts: every verb on an ALOHA checks its arms for collisions, unless told not to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import imitact.api.run_robot
import imitact.api.teleoperate
from imitact.api.run_robot import replay_robot, run_robot
from imitact.api.session_parts import open_parts
from imitact.api.teleoperate import record_robot, teleoperate
from imitact.control.safety_filter import Stage
from imitact.core.aloha_joints import ALOHA_JOINTS, ALOHA_UNITS
from imitact.core.errors import BadInput
from imitact.core.types import Spec
from imitact.robots.aloha_hardware import START_POSE
from imitact.robots.config import ArmConfig, RobotConfig, write_config
from tests.support.safety import FRESH

START = np.array([*START_POSE, 0.1] * 2)
FOLDED = np.array([0.0, -1.2, 1.55, 0.0, 1.5, 0.0, 0.1] * 2)
SPEC = Spec(ALOHA_JOINTS, ALOHA_JOINTS, ALOHA_UNITS, ALOHA_UNITS, (), 50.0)


def stages(robot: str, *, self_collision: bool = True) -> set[int]:
    """Return the stages that act where the arms of a robot fold on to their own bases."""
    parts = open_parts(robot, with_leaders=False, self_collision=self_collision)
    with parts.setup:
        parts.safety.begin(START)
        share = 0.5 * (1 - np.cos(np.linspace(0, np.pi, 200)))
        ways = START + share[:, None] * (FOLDED - START)
        return {parts.safety.check(way, None, FRESH, {}).stage for way in ways}


def robot_toml(folder: Path, **settings: Any) -> str:
    arms = {side: ArmConfig(f"/dev/{side}", "vx300s") for side in ("left", "right")}
    write_config(folder / "robot.toml", RobotConfig("aloha", arms=arms, **settings))
    return str(folder / "robot.toml")


@pytest.mark.parametrize("robot", ["virtual:cube", "sim:cube", "robot.toml"])
def test_an_aloha_is_held_before_an_arm_touches_itself(robot: str, tmp_path: Path):
    name = robot_toml(tmp_path) if robot == "robot.toml" else robot
    assert Stage.COLLISION in stages(name)
    assert Stage.COLLISION not in stages(name, self_collision=False)


def test_robot_toml_turns_the_check_off(tmp_path: Path):
    assert Stage.COLLISION not in stages(robot_toml(tmp_path, self_collision=False))


def test_a_check_that_cannot_be_made_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def missing(bases: object) -> None:
        raise BadInput("gym-aloha is not installed")

    monkeypatch.setattr("imitact.api.session_parts.CollisionCheck", missing)
    with pytest.raises(BadInput, match=r"installed.*--no-self-collision.*self_collision = false"):
        open_parts(robot_toml(tmp_path))


VERBS: dict[str, Callable[..., object]] = {
    "teleop": lambda **given: teleoperate("robot.toml", **given),
    "record": lambda **given: record_robot("data", robot="robot.toml", task="x", **given),
    "run": lambda **given: run_robot("policy", robot="robot.toml", **given),
    "replay": lambda **given: replay_robot("data", robot="robot.toml", **given),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("said", [True, False])
def test_each_verb_passes_on_what_it_is_told(verb: str, said: bool, monkeypatch: Any):
    class Opened(Exception):
        pass

    def opened(*args: object, self_collision: bool, **given: object) -> None:
        raise Opened(self_collision)

    for module in (imitact.api.run_robot, imitact.api.teleoperate):
        monkeypatch.setattr(module, "open_parts", opened)
    stored = SimpleNamespace(spec=SPEC, limits=None, execution=None, chunk_size=100)
    monkeypatch.setattr(imitact.api.run_robot, "read_stored", lambda policy: stored)
    monkeypatch.setattr(imitact.api.run_robot, "open_dataset", lambda data: stored)
    with pytest.raises(Opened, match=str(said)):
        VERBS[verb](self_collision=said)
    with pytest.raises(Opened, match="True"):
        VERBS[verb]()
