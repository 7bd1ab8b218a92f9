"""Checkpoints of the released ACT and of LeRobot, read and written."""
