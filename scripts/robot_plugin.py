"""A third-party plugin of LeRobot, by its type: `imitact robot check` and `imitact run`.

    python scripts/robot_plugin.py --lerobot-python PATH

tests/support/lerobot_plugins has an arm on a CAN bus and a teleoperator, as two packages that are
installed beside LeRobot. LeRobot itself finds and makes them, and no line of imitact names them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from imitact.robots.config import read_config  # noqa: E402
from imitact.robots.lerobot import describe  # noqa: E402
from tests.support.drawn_policy import drawn_policy  # noqa: E402

PLUGINS = ROOT / "tests" / "support" / "lerobot_plugins"
ROBOT = """
kind = "lerobot"
rate_hz = 30.0

[lerobot]
type = "tiny_arm"
python = "{python}"
calibration = "{folder}"
settings = {{ channel = "can1", motors = "{folder}/motors.json", frames = true }}

[lerobot_leader]
type = "tiny_dials"
python = "{python}"
calibration = "{folder}"
"""
LIMITS = """
[limits."{joint}.pos"]
lower = -90.0
upper = 90.0
velocity = 180.0
acceleration = 2000.0
jerk = 80000.0
"""
JOINTS = ("base", "elbow", "jaw")


def main() -> int:
    """Check and run; the exit status says whether both worked, and the motors are limp."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--lerobot-python", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=5.0)
    args = parser.parse_args()
    os.environ["PYTHONPATH"] = str(PLUGINS)  # of the programs that are started
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = args.lerobot_python.absolute()
        text = ROBOT.format(python=python, folder=folder)
        text += "".join(LIMITS.format(joint=joint) for joint in JOINTS)
        text += "\n[rest]\n" + "".join(f'"{joint}.pos" = 0.0\n' for joint in JOINTS)
        robot = folder / "robot.toml"
        robot.write_text(text)
        config = read_config(robot)
        assert config.lerobot is not None
        (device,) = describe(str(python), [("robot", config.lerobot)], config.rate_hz)
        policy = drawn_policy(device.spec, np.array([10.0, -10.0, 5.0]), folder)
        imitact = [sys.executable, "-m", "imitact.cli.main"]
        for command in (
            ["robot", "check", str(robot)],
            ["run", str(policy), "--robot", str(robot), "--seconds", f"{args.seconds:g}"],
        ):
            done = subprocess.run([*imitact, *command], cwd=folder, check=False)
            if done.returncode:
                print(f"FAIL imitact {' '.join(command)} exits with {done.returncode}")
                return 1
        motors = json.loads((folder / "motors.json").read_text())
        limp = not any(motor["torque"] for motor in motors.values())
        at_rest = all(abs(motor["position"]) < 1 for motor in motors.values())
        print(f"{'ok  ' if limp and at_rest else 'FAIL'} parked and limp: {motors}")
    return 0 if limp and at_rest else 1


if __name__ == "__main__":
    sys.exit(main())
