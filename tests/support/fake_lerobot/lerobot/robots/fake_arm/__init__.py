"""A device that registers itself when it is imported."""

from lerobot.fake_device import FakeArm
from lerobot.robots.config import RobotConfig

RobotConfig.choices["fake_arm"] = FakeArm
