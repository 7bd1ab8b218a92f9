"""The dials."""

import json
from pathlib import Path

from lerobot.teleoperators.teleoperator import Teleoperator

from .config_tiny_dials import TinyDialsConfig

NAMES = ("base.pos", "elbow.pos", "jaw.pos")


class TinyDials(Teleoperator):
    """The device class that LeRobot finds by the name of its configuration."""

    config_class = TinyDialsConfig
    name = "tiny_dials"

    def __init__(self, config):
        super().__init__(config)
        self._path = Path(config.dials)
        self.is_connected = False

    # LeRobot's base classes have these as abstract properties and methods.
    action_features = dict.fromkeys(NAMES, float)
    feedback_features = {}  # noqa: RUF012
    is_connected = False
    is_calibrated = True

    def connect(self, calibrate=True):
        self.is_connected = True

    def calibrate(self):
        pass

    def configure(self):
        pass

    def get_action(self):
        kept = json.loads(self._path.read_text()) if self._path.is_file() else {}
        return {**dict.fromkeys(NAMES, 0.0), **kept}

    def send_feedback(self, feedback):
        pass

    def disconnect(self):
        self.is_connected = False
