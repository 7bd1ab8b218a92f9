"""Plugins."""

from lerobot.registry import register_third_party_plugins

__all__ = ["register_third_party_plugins"]
