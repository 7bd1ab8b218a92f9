"""Tuning: the execution of a policy's action chunks that succeeds most often."""
