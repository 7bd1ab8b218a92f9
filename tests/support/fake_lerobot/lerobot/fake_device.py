"""An arm of three motors, as a robot or as a teleoperator."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from lerobot.motors.motors_bus import MotorNormMode, SerialMotorsBus


class FakeArm:
    def __init__(self, config):
        self.config, self.id = config, config.id
        self.calibration_fpath = Path(config.calibration_dir) / f"{config.id}.json"
        self.calibration = {}
        if self.calibration_fpath.is_file():
            table = json.loads(self.calibration_fpath.read_text())
            self.calibration = {name: SimpleNamespace(**one) for name, one in table.items()}
        units = {"pan": MotorNormMode.DEGREES, "lift": MotorNormMode.DEGREES,
                 "gripper": MotorNormMode.RANGE_0_100}  # fmt: skip
        motors = {
            name: SimpleNamespace(id=number, model="sts3215", norm_mode=unit)
            for number, (name, unit) in enumerate(units.items(), 1)
        }
        self.bus = SerialMotorsBus(config, motors, self.calibration)

    def __str__(self):
        return f"{self.id} FakeArm"

    def __del__(self):
        if self.is_connected:  # as LeRobot's
            self.disconnect()

    @property
    def action_features(self):
        return {f"{name}.pos": float for name in self.bus.motors}

    observation_features = action_features

    @property
    def is_connected(self):
        return self.bus.is_connected

    @property
    def is_calibrated(self):
        return bool(self.calibration)

    def connect(self, calibrate=True):
        self.bus.connect()
        if not self.is_calibrated and calibrate:
            input("Move the arm to the middle and press ENTER")
        self.configure()

    def configure(self):
        for motor in self.bus.motors:
            self.bus.write("Torque_Enable", motor, 0)
        self.bus.enable_torque()

    def get_observation(self):
        return {f"{name}.pos": one for name, one in self.bus.sync_read("Present_Position").items()}

    def send_action(self, action):
        self.bus.sync_write("Goal_Position", {k.removesuffix(".pos"): v for k, v in action.items()})
        return action

    def disconnect(self):
        for motor in self.bus.motors:
            self.bus.write("Torque_Enable", motor, 0)
        self.bus.port_handler.closePort()


class FakeLeader(FakeArm):
    def configure(self):
        for motor in self.bus.motors:
            self.bus.write("Torque_Enable", motor, 0)

    def get_action(self):
        return self.get_observation()
