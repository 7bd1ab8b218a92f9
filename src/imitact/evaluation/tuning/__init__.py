"""Tuning: which execution of the action chunks succeeds most often."""
