"""The version of imitact."""

__version__ = "0.1.0"
