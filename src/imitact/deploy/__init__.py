"""Deployment: a policy as one file that runs without torch."""
