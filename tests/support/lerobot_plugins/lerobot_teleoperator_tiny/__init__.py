"""A third-party teleoperator for LeRobot, as a plugin: three dials, read from a file."""

from .config_tiny_dials import TinyDialsConfig
from .tiny_dials import TinyDials

__all__ = ["TinyDials", "TinyDialsConfig"]
