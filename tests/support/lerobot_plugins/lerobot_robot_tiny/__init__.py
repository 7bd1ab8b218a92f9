"""A third-party robot for LeRobot, as a plugin: three motors on a CAN bus, and a camera."""

from .config_tiny_arm import TinyArmConfig
from .tiny_arm import TinyArm

__all__ = ["TinyArm", "TinyArmConfig"]
