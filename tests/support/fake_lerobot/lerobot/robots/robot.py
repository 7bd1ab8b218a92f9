"""The base of robots."""

from lerobot.registry import Device as Robot

__all__ = ["Robot"]
