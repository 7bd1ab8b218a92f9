"""The arm: motors in a file, which go to their goals at once."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from lerobot.motors import MotorNormMode
from lerobot.robots.robot import Robot

from .config_tiny_arm import TinyArmConfig

JOINTS = ("base", "elbow", "jaw")


class TinyCanBus:
    """Motors that are no servos on a serial line; a dead one does not answer."""

    def __init__(self, path):
        self._path = Path(path)
        self.motors = {
            joint: SimpleNamespace(id=number, norm_mode=MotorNormMode.DEGREES)
            for number, joint in enumerate(JOINTS, 1)
        }
        self.is_connected = False

    def _motors(self):
        start = {"position": 0.0, "torque": False, "dead": False}
        if not self._path.is_file():
            return {joint: dict(start) for joint in JOINTS}
        return json.loads(self._path.read_text())

    def _keep(self, motors):
        whole = self._path.with_suffix(".new")
        whole.write_text(json.dumps(motors))
        whole.replace(self._path)

    def positions(self):
        motors = self._motors()
        if dead := [joint for joint, motor in motors.items() if motor["dead"]]:
            raise ConnectionError(f"no answer on the CAN bus from {', '.join(dead)}")
        return {joint: motor["position"] for joint, motor in motors.items()}

    def go(self, goals):
        motors = self._motors()
        for joint, goal in goals.items():
            if motors[joint]["torque"]:
                motors[joint]["position"] = float(goal)
        self._keep(motors)

    def _set_torque(self, joints, is_on):
        motors = self._motors()
        for joint in [joints] if isinstance(joints, str) else (joints or JOINTS):
            if motors[joint]["dead"]:
                raise ConnectionError(f"no answer on the CAN bus from {joint}")
            motors[joint]["torque"] = is_on
        self._keep(motors)

    def enable_torque(self, motors=None):
        self._set_torque(motors, True)

    def disable_torque(self, motors=None):
        self._set_torque(motors, False)


class TinyArm(Robot):
    """The device class that LeRobot finds by the name of its configuration."""

    config_class = TinyArmConfig
    name = "tiny_arm"

    def __init__(self, config):
        super().__init__(config)
        self.config = config
        self.bus = TinyCanBus(config.motors)
        self._count = 0

    @property
    def action_features(self):
        more = {"base.vel": float} if self.config.velocity else {}
        return {**{f"{joint}.pos": float for joint in JOINTS}, **more}

    @property
    def observation_features(self):
        frames = {"front": (48, 64, 3)} if self.config.frames else {}
        return {**{f"{joint}.pos": float for joint in JOINTS}, **frames}

    @property
    def is_connected(self):
        return self.bus.is_connected

    @property
    def is_calibrated(self):
        return True

    def connect(self, calibrate=True):
        self.bus.positions()
        self.bus.is_connected = True
        self.configure()

    def calibrate(self):
        pass

    def configure(self):
        self.bus.enable_torque()

    def get_observation(self):
        values = {f"{joint}.pos": one for joint, one in self.bus.positions().items()}
        if self.config.frames:
            self._count += 1
            values["front"] = np.full((48, 64, 3), self._count % 256, np.uint8)
        return values

    def send_action(self, action):
        goals = {name: value for name, value in action.items() if name.endswith(".pos")}
        self.bus.go({name.removesuffix(".pos"): value for name, value in goals.items()})
        return goals

    def disconnect(self):
        self.bus.disable_torque()
        self.bus.is_connected = False
