"""Evaluation: how often a policy succeeds, and how certain that is."""
