"""Devices by their names."""

from lerobot.registry import make_device as make_robot_from_config

__all__ = ["make_robot_from_config"]
