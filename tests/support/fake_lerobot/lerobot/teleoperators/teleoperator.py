"""The base of teleoperators."""

from lerobot.registry import Device as Teleoperator

__all__ = ["Teleoperator"]
