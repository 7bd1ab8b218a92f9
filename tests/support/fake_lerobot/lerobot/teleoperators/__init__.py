"""Devices by their names."""

from lerobot.registry import make_device as make_teleoperator_from_config

__all__ = ["make_teleoperator_from_config"]
