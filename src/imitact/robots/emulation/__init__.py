"""Emulated servo buses, arms and cameras: the test bench for drivers, without hardware."""
