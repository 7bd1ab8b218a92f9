"""Stands in for LeRobot: what imitact_lerobot_host uses of it, with servos in memory."""

__version__ = "fake"
