"""Environments: the ALOHA simulation and any Gymnasium environment."""
