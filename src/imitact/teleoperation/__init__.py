"""Teleoperation: leaders that a person moves."""
