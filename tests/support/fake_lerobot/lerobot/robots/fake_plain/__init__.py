# ruff: noqa: RUF012
"""A robot without a motor bus, such as one over the network: it connects and lets go as a whole."""

import json
from pathlib import Path

from lerobot.robots.config import RobotConfig


class FakePlain:
    def __init__(self, config):
        self._state, self.is_connected = Path(config.state), False
        self._values = {"x.vel": 0.0, "arm.pos": 1.0}

    action_features = {"x.vel": float, "arm.pos": float}
    observation_features = {**action_features, "front": (None, None, 3)}
    is_calibrated = True

    def _keep(self, torque):
        self._state.write_text(json.dumps({"1": {"Torque_Enable": torque}}))

    def connect(self, calibrate=True):
        self.is_connected = True
        self._keep(1)

    def get_observation(self):
        return dict(self._values)

    def send_action(self, action):
        self._values = dict(action)
        return action

    def disconnect(self):
        if not self.is_connected:
            raise ConnectionError("not connected")
        self.is_connected = False
        self._keep(0)


class FakeBase(FakePlain):
    observation_features = FakePlain.action_features


RobotConfig.choices["fake_plain"] = FakePlain
RobotConfig.choices["fake_plain_base"] = FakeBase
