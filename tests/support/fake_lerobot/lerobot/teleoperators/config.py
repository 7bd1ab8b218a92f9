"""The registry of devices."""

from lerobot.registry import Config


class TeleoperatorConfig(Config):
    pass
