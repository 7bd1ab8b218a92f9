"""LeRobot setup: the robot of a robot.toml of kind "lerobot", with leader, limits and cameras."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput, unknown_name
from imitact.core.joint_limits import NO_LIMIT, JointLimits
from imitact.core.types import Camera
from imitact.parallel.mailbox import Mailbox
from imitact.robots.cameras import Cameras
from imitact.robots.config import LeRobotConfig, LimitConfig, RobotConfig
from imitact.robots.host import START_TIMEOUT_S, RobotHost
from imitact.robots.host_process import HostConfig
from imitact.robots.hosted import HostedDriver
from imitact.robots.lerobot import OPEN_TIMEOUT_S, Kind, LeRobotDevice, LeRobotMaker, describe
from imitact.robots.lerobot_process import IMPORT_TIMEOUT_S, check_python
from imitact.robots.setup import HostSetup
from imitact.robots.timed_frames import frame_mailbox

TOP_DEG = (180.0, 2300.0, 86_000.0)
"""Velocity, acceleration and jerk that commands of a joint in degrees may have at most: about those
of an ALOHA, 3.14 rad/s, 40 rad/s² and 1500 rad/s³. An STS3215 turns at 270 deg/s without a load."""

DEG_A_PERCENT = 1.35
"""A joint of -100 to 100 % turns about 270 deg, so that 1 % is that many degrees."""

TOP_GRIPPER = (NO_LIMIT,) * 3
"""The same of a gripper of 0 to 100 %: none, as of ALOHA's. LeRobot caps the torque of SO-101's at
half (Max_Torque_Limit 500, so_follower.py), and Koch's by its goal current."""

END_MARGIN_DEG = 3.0
"""Distance of the limits from the calibrated ends of a joint, deg."""


class LeRobotSetup(HostSetup):
    """A robot of LeRobot in a host process; its start waits for LeRobot's import."""

    patience: float = 1.0

    def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start cameras and host; LeRobot's import and a check of every motor take their time.

        Raises:
            RobotError: one of them failed; all are ended.
        """
        super().start(max(timeout_s, IMPORT_TIMEOUT_S + OPEN_TIMEOUT_S * self.patience))


def lerobot_setup(
    config: RobotConfig,
    cameras: Cameras | None = None,
    frames: Sequence[tuple[Camera, Mailbox]] = (),
    *,
    with_leaders: bool = True,
    on_line: Callable[[str], object] = lambda line: None,
    patience: float = 1.0,
    also_ends: Callable[[], object] = lambda: None,
) -> LeRobotSetup:
    """Make the robot of a robot.toml of kind "lerobot"; LeRobot is started once to describe it.

    Args:
        config: the robot.toml.
        cameras: that imitact itself reads.
        frames: of these cameras.
        with_leaders: whether its leader is connected.
        on_line: receives lines of progress and faults.
        patience: factor of the drivers' time-outs.
        also_ends: called after the setup was closed.

    Raises:
        BadInput: a setting cannot be used, or a joint or camera is not there.
        RobotError: LeRobot cannot be started.
    """
    assert config.lerobot is not None
    leader_config = config.lerobot_leader if with_leaders else None
    devices: list[tuple[Kind, LeRobotConfig]] = [("robot", config.lerobot)]
    if leader_config is not None:
        devices.append(("leader", leader_config))
    on_line("starting LeRobot; its import takes 5 s, on a busy computer up to 100 s")
    described = describe(config.lerobot.python, devices, config.rate_hz)
    robot = described[0]
    names = robot.spec.action_names
    for table, given in (("limits", config.limits), ("rest", config.rest)):
        for name in given:
            if name not in names:
                raise unknown_name(f"joint in [{table}]", name, names)
    taken = {camera.name for camera, _ in frames}
    if twice := sorted(taken & {camera.name for camera in robot.spec.cameras}):
        raise BadInput(f"camera {', '.join(twice)} is in [cameras] and in LeRobot's settings too")
    own = {camera.name: frame_mailbox(camera.height, camera.width) for camera in robot.spec.cameras}

    def hosted(kind: Kind, device: LeRobotDevice, one: LeRobotConfig) -> HostedDriver:
        boxes = own if kind == "robot" else {}
        python = check_python(one.python or (config.lerobot.python if config.lerobot else ""))
        return HostedDriver(
            one.type,
            LeRobotMaker(python, kind, one, config.rate_hz, boxes, patience),
            device.driver_spec,
            _rest(config, names) if kind == "robot" else None,
            reopens=kind == "leader" or device.keeps_torque,
        )

    hosts = [
        hosted(kind, device, one) for (kind, one), device in zip(devices, described, strict=True)
    ]
    limit_s = config.parking.hold_limit_s
    host = RobotHost(
        config.name or config.lerobot.type,
        hosts[:1],
        hosts[1:],
        rate_hz=config.rate_hz,
        cameras=[*((c, own[c.name]) for c in robot.spec.cameras), *frames],
        config=HostConfig(
            park_speed=config.parking.speed / 0.3,
            hold_limit_s=limit_s if limit_s else math.inf,
            order_timeout_s=10.0 * min(patience, 6.0),
        ),
        on_line=on_line,
    )
    setup = LeRobotSetup(
        host,
        cameras=cameras,
        limits=device_limits(robot, config.limits),
        config=config,
        also_ends=also_ends,
    )
    setup.patience = patience
    return setup


def device_limits(device: LeRobotDevice, given: Mapping[str, LimitConfig]) -> JointLimits | None:
    """Return what a device may do: its calibrated ranges, cut by what robot.toml says.

    Args:
        device: of LeRobot.
        given: limits by joint; they can only be tighter.

    Returns:
        None where a joint has neither a calibrated range nor limits of its own.
    """
    bounds: dict[str, list[float]] = {
        name: [] for name in ("lower", "upper", "velocity", "acceleration", "jerk")
    }
    spec = device.spec
    for name, unit, ends in zip(spec.action_names, spec.action_units, device.ranges, strict=True):
        limit = given.get(name, LimitConfig())
        low, high = (-math.inf, math.inf) if ends is None else _narrowed(*ends, unit)
        tops = _tops(unit, low)
        values = {
            "lower": low, "upper": high,
            **dict(zip(("velocity", "acceleration", "jerk"), tops, strict=True)),
        }  # fmt: skip
        for bound, value in values.items():
            own = getattr(limit, bound)
            if own is not None:
                value = max(value, own) if bound == "lower" else min(value, own)
            if not math.isfinite(value):
                return None
            bounds[bound].append(value)
    arrays: dict[str, NDArray[np.float64]] = {
        name: np.array(values) for name, values in bounds.items()
    }
    return JointLimits(spec.action_names, spec.action_units, **arrays)


def _tops(unit: str, low: float) -> tuple[float, ...]:
    if unit == "deg":
        return TOP_DEG
    if unit == "%" and math.isfinite(low):
        return TOP_GRIPPER if low >= 0 else tuple(top / DEG_A_PERCENT for top in TOP_DEG)
    return (math.inf,) * 3


def _narrowed(low: float, high: float, unit: str) -> tuple[float, float]:
    """Cut a calibrated range: the ends of a joint are where it was pushed against its stop."""
    margin = END_MARGIN_DEG if unit == "deg" and high - low > 4 * END_MARGIN_DEG else 0.0
    return low + margin, high - margin


def _rest(config: RobotConfig, names: Sequence[str]) -> NDArray[np.float64] | None:
    if not config.rest:
        return None
    if missing := [name for name in names if name not in config.rest]:
        raise BadInput(f"[rest] lacks {', '.join(missing)}; give all joints, or no [rest]")
    return np.array([config.rest[name] for name in names])
