"""The registries of devices and the making of plugins, as LeRobot 0.6.1 has them.

`ChoiceRegistry` is of draccus, `make_device_from_device_class` and `register_third_party_plugins`
are in lerobot/utils/import_utils.py.
"""

from __future__ import annotations

import importlib
import importlib.metadata

PREFIXES = ("lerobot_robot_", "lerobot_camera_", "lerobot_teleoperator_")


class Device:
    """Base of a device."""

    def __init__(self, config):
        self.id = config.id


class Config:
    """Base of a registry; each has `choices` of its own."""

    id = None
    calibration_dir = None

    def __init_subclass__(cls):
        if Config in cls.__bases__:
            cls.choices = {}

    @classmethod
    def get_known_choices(cls):
        return cls.choices

    @classmethod
    def register_subclass(cls, name):
        def register(subclass):
            cls.choices[name] = subclass
            return subclass

        return register


def make_device(config):
    """Make the device of a configuration: of a stand-in, or of a plugin by the names of classes."""
    if hasattr(config, "make"):
        return config.make(config)
    module = importlib.import_module(type(config).__module__.rpartition(".")[0])
    return getattr(module, type(config).__name__.removesuffix("Config"))(config)


def register_third_party_plugins():
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata.get("Name") or ""
        if name.startswith(PREFIXES):
            try:
                importlib.import_module(name)
            except Exception as error:
                print(f"Could not import third-party plugin: {name}: {error}")
