"""Making: a LeRobot robot or teleoperator from its type, id and settings, plugins included."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.metadata
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from typing import Any

CLIP = "max_relative_target"

DISCOVER = "discover_packages_path"
"""LeRobot's option that names a package to import (lerobot/configs/parser.py)."""

PLUGINS = ("lerobot_robot_", "lerobot_teleoperator_", "lerobot_camera_")
"""How the distributions begin that LeRobot imports as plugins (lerobot/utils/import_utils.py)."""


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
    cameras = _register_cameras()
    settings = dict(settings)
    _import_package(settings.pop(DISCOVER, None))
    _register(package, Config, type_name, {*_camera_types(settings)} - {*cameras})
    known = sorted(Config.get_known_choices())
    if type_name not in known:
        failed = _failed_plugins()
        more = f"; these plugins cannot be imported: {', '.join(failed)}" if failed else ""
        raise HostError(
            f'LeRobot has no {kind} "{type_name}"; it and its plugins here have '
            f"{', '.join(known)}{more}"
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


def _register_cameras() -> set[str]:
    """Let configurations name cameras; those whose libraries are missing stay unknown.

    Returns:
        The types of cameras that can be named.
    """
    for name in ("opencv", "zmq", "realsense", "reachy2_camera"):
        with contextlib.suppress(ImportError):
            importlib.import_module(f"lerobot.cameras.{name}")
    try:
        from lerobot.cameras.configs import CameraConfig
    except ImportError:
        return set()
    return set(CameraConfig.get_known_choices())


def _camera_types(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the types of the cameras that settings name, those of a pair of arms included."""
    for name, value in settings.items():
        if not isinstance(value, Mapping):
            continue
        if name != "cameras":
            yield from _camera_types(value)
            continue
        for camera in value.values():
            if isinstance(camera, Mapping) and isinstance(camera.get("type"), str):
                yield camera["type"]


def _import_package(path: Any) -> None:
    """Import a package whose devices register themselves, as LeRobot's option of this name does."""
    if path is None:
        return
    from lerobot.configs.parser import load_plugin

    try:
        load_plugin(str(path))
    except Exception as error:  # whatever its modules raise
        raise HostError(f"{DISCOVER} is {path}: {words(error)}") from error


def _register(package: str, config: Any, type_name: str, cameras: set[str]) -> None:
    """Import LeRobot's own devices, the likeliest first, until one registers; then its plugins.

    Args:
        package: of LeRobot's own devices.
        config: the registry.
        type_name: of the device.
        cameras: types that LeRobot itself does not have.
    """

    def likeness(name: str) -> float:
        return difflib.SequenceMatcher(None, name, type_name).ratio()

    folder = importlib.import_module(package).__path__
    names = [module.name for module in pkgutil.iter_modules(folder) if module.ispkg]
    for name in sorted(names, key=likeness, reverse=True):
        if type_name in config.get_known_choices():
            break
        with contextlib.suppress(Exception):  # a device whose libraries are not installed
            importlib.import_module(f"{package}.{name}")
    if cameras or type_name not in config.get_known_choices():
        from lerobot.utils.import_utils import register_third_party_plugins

        register_third_party_plugins()


def _failed_plugins() -> list[str]:
    """Return the plugins of this environment that LeRobot could not import; it logs why."""
    names = {one.metadata.get("Name") or "" for one in importlib.metadata.distributions()}
    return sorted(name for name in names if name.startswith(PLUGINS) and name not in sys.modules)
