"""Making: a LeRobot robot or teleoperator from its type, id and settings, plugins included."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

CLIP = "max_relative_target"


class HostError(Exception):
    """Something that a person can mend; its text says how."""


def make_device(
    kind: str, type_name: str, id_: str, calibration: str, settings: Mapping[str, Any]
) -> Any:
    """Make a device without connecting it.

    Args:
        kind: "robot" or "leader".
        type_name: LeRobot's name: so101_follower, so101_leader, ..., or a plugin's.
        id_: LeRobot's id, which names the calibration file; empty for none.
        calibration: folder of the calibration file; empty takes LeRobot's own.
        settings: of the device, as on the command line of LeRobot's verbs.

    Raises:
        HostError: there is no such type, or a setting cannot be used.
    """
    import draccus

    _refuse_clip(settings, "")
    if kind == "robot":
        from lerobot.robots import make_robot_from_config as make
        from lerobot.robots.config import RobotConfig as Config

        package = "lerobot.robots"
    else:
        from lerobot.teleoperators import make_teleoperator_from_config as make
        from lerobot.teleoperators.config import TeleoperatorConfig as Config

        package = "lerobot.teleoperators"
    _register_cameras()
    _register(package, Config, type_name)
    known = sorted(Config.get_known_choices())
    if type_name not in known:
        raise HostError(
            f'LeRobot has no {kind} "{type_name}"; it and its plugins here have {", ".join(known)}'
        )
    raw: dict[str, Any] = {"type": type_name, **settings}
    if id_:
        raw["id"] = id_
    if calibration:
        raw["calibration_dir"] = calibration
    try:
        return make(draccus.decode(Config, raw))
    except (draccus.utils.DraccusException, TypeError, ValueError) as error:
        raise HostError(f"the settings of {type_name} cannot be used: {words(error)}") from error


def words(error: BaseException) -> str:
    """Return what an error says, on one line; its type where it says nothing."""
    return " ".join(str(error).split()).rstrip(". ") or type(error).__name__


def _refuse_clip(settings: Mapping[str, Any], where: str) -> None:
    """Refuse LeRobot's own clip: it reads the bus again at each tick, and leaves no record."""
    for name, value in settings.items():
        if name == CLIP and value is not None:
            raise HostError(
                f"{where}{name} is set; take it out: imitact's safety filter limits the commands, "
                "and records what it changes"
            )
        if isinstance(value, Mapping):
            _refuse_clip(value, f"{where}{name}.")


def _register_cameras() -> None:
    """Let configurations name cameras; those whose libraries are missing stay unknown."""
    for name in ("opencv", "zmq", "realsense", "reachy2_camera"):
        with contextlib.suppress(ImportError):
            importlib.import_module(f"lerobot.cameras.{name}")


def _register(package: str, config: Any, type_name: str) -> None:
    """Import LeRobot's own devices, the likeliest first, then its plugins, until one registers."""

    def likeness(name: str) -> float:
        return difflib.SequenceMatcher(None, name, type_name).ratio()

    folder = importlib.import_module(package).__path__
    names = [module.name for module in pkgutil.iter_modules(folder) if module.ispkg]
    for name in sorted(names, key=likeness, reverse=True):
        if type_name in config.get_known_choices():
            return
        with contextlib.suppress(Exception):  # a device whose libraries are not installed
            importlib.import_module(f"{package}.{name}")
    if type_name not in config.get_known_choices():
        from lerobot.utils.import_utils import register_third_party_plugins

        register_third_party_plugins()
