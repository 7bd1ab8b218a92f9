"""An arm of the stand-in for LeRobot (tests/support/fake_lerobot): files, faults and registers."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from imitact.robots.config import LeRobotConfig
from tests.support.paths import ROOT

HOST = ROOT / "integrations" / "imitact_lerobot_host" / "src"
FAKE = ROOT / "tests" / "support" / "fake_lerobot"
PLUGINS = ROOT / "tests" / "support" / "lerobot_plugins"
JOINTS = ("pan.pos", "lift.pos", "gripper.pos")
PATIENCE = 10.0


class Arm:
    """One arm of the stand-in: its configuration, its faults, its registers."""

    def __init__(self, folder: Path, type_: str = "fake_arm") -> None:
        self.folder = folder
        folder.mkdir()
        kept = {"range_min": 1000, "range_max": 3000}
        calibration = dict.fromkeys(("pan", "lift", "gripper"), kept)
        (folder / "arm.json").write_text(json.dumps(calibration))
        settings = {name: str(folder / name) for name in ("port", "faults", "state")}
        self.config = LeRobotConfig(type_, "arm", sys.executable, str(folder), settings)

    def fail(self, **faults: Any) -> None:
        (self.folder / "faults").write_text(json.dumps(faults))

    def registers(self, name: str) -> list[int]:
        state = json.loads((self.folder / "state").read_text())
        return [servo[name] for servo in state.values()]

    def set_registers(self, **values: int) -> None:
        start = {"Goal_Position": 0, "Present_Load": 0, "Present_Voltage": 121, "Status": 0}
        start |= {"Present_Temperature": 31, "Present_Position": 2000, "Torque_Enable": 0}
        state = {str(number): start | values for number in (1, 2, 3)}
        (self.folder / "state").write_text(json.dumps(state))


def use_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let programs that are started find the host of imitact, and the stand-in for LeRobot."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HOST), str(FAKE)]))
