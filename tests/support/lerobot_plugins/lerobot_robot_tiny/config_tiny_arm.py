"""Configuration of the arm: a CAN channel, and no serial port."""

from dataclasses import dataclass

from lerobot.robots.config import RobotConfig


@RobotConfig.register_subclass("tiny_arm")
@dataclass
class TinyArmConfig(RobotConfig):
    channel: str = "can0"
    motors: str = ""
    """JSON file that has what the motors do, so that a test can look at it and change it."""
    frames: bool = False
    velocity: bool = False
    """Whether it takes a velocity, which it never sends, as OpenArm's use_velocity_and_torque."""
