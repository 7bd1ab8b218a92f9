from lerobot.motors.motors_bus import MotorNormMode

__all__ = ["MotorNormMode"]
