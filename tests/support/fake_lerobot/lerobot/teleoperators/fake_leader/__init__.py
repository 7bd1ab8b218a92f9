"""A device that registers itself when it is imported."""

from lerobot.fake_device import FakeLeader
from lerobot.teleoperators.config import TeleoperatorConfig

TeleoperatorConfig.choices["fake_leader"] = FakeLeader
