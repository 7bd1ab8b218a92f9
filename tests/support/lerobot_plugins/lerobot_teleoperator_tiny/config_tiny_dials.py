"""Configuration of the dials."""

from dataclasses import dataclass

from lerobot.teleoperators.config import TeleoperatorConfig


@TeleoperatorConfig.register_subclass("tiny_dials")
@dataclass
class TinyDialsConfig(TeleoperatorConfig):
    dials: str = ""
    """JSON file with their values; all are 0 where there is none."""
