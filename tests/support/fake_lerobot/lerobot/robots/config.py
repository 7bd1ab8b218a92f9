"""The registry of devices."""

from lerobot.registry import Config


class RobotConfig(Config):
    pass
