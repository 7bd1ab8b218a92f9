"""Robot identity: the arms of a robot, opened and probed, and compared with what was recorded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imitact.core.errors import RobotError
from imitact.robots.aloha_comparison import compare
from imitact.robots.aloha_hardware import SERVO_NAMES
from imitact.robots.aloha_probe import ServoFacts, fingerprint, probe_arm
from imitact.robots.check_cameras import MakeCamera, save_references
from imitact.robots.config import ArmConfig, RobotConfig, read_config, set_values
from imitact.robots.dynamixel_bus import DynamixelBus, NoAnswer, PortInUse
from imitact.robots.robot_finding import RobotFinding, failure

SAME_OFFSET_TICKS = 8
"""How far a homing offset may be from the recorded one to be the same servo's; a shadow's is
written anew where its pair differs by more than 3."""


@dataclass
class OpenArm:
    """One arm while it is checked."""

    table: str
    side: str
    config: ArmConfig
    bus: DynamixelBus
    facts: dict[int, ServoFacts]

    @property
    def where(self) -> str:
        return f"{self.side} {'leader' if self.table == 'leaders' else 'follower'}"


def all_arms(config: RobotConfig) -> list[tuple[str, str, ArmConfig]]:
    return [
        (table, side, arm)
        for table, arms in (("arms", config.arms), ("leaders", config.leaders))
        for side, arm in arms.items()
    ]


def open_arms(config: RobotConfig, patience: float) -> tuple[list[OpenArm], list[RobotFinding]]:
    """Open all ports and probe the servos; return the arms that opened, and why others did not."""
    arms: list[OpenArm] = []
    devices: dict[str, str] = {}
    found: list[RobotFinding] = []
    for table, side, config_of_arm in all_arms(config):
        bus = DynamixelBus(
            config_of_arm.port,
            config_of_arm.baud,
            where=f"{side} {'leader' if table == 'leaders' else 'follower'}",
            names=SERVO_NAMES,
            patience=patience,
        )
        arm = OpenArm(table, side, config_of_arm, bus, {})
        device = os.path.realpath(config_of_arm.port)
        if device in devices:
            found.append(
                RobotFinding(
                    "port-twice",
                    "error",
                    arm.where,
                    f"{config_of_arm.port} is the same adapter as that of the {devices[device]}",
                    "an adapter of its own",
                    "Look below /dev/serial/by-id",
                )
            )
            continue
        devices[device] = arm.where
        try:
            bus.open()
            arm.facts = probe_arm(bus)
        except RobotError as error:
            bus.close()
            found.append(failure(_name_of(error), arm.where, error))
            continue
        arms.append(arm)
    return arms, found


def _name_of(error: RobotError) -> str:
    if isinstance(error, PortInUse):
        return "port-in-use"
    return "servo-missing" if isinstance(error, NoAnswer) else "port"


def check_identity(arms: Sequence[OpenArm]) -> list[RobotFinding]:
    """Compare each arm with the recorded fingerprints: left and right exchanged, other servos."""
    found: list[RobotFinding] = []
    for arm in arms:
        if len(arm.facts) < len(SERVO_NAMES):
            continue
        came = fingerprint(arm.facts)
        recorded = {
            other.side: other.config.fingerprint
            for other in arms
            if other.table == arm.table and other.config.fingerprint
        }
        if arm.side not in recorded:
            found.append(
                RobotFinding(
                    "fingerprint-missing",
                    "note",
                    arm.where,
                    "its fingerprint is not recorded",
                    "one, with which exchanged arms are noticed",
                    "`imitact robot check --record` keeps it in robot.toml",
                )
            )
            continue
        others = [side for side in recorded if side != arm.side and _same(came, recorded[side])]
        if _same(came, recorded[arm.side]):
            if others:
                found.append(
                    RobotFinding(
                        "fingerprint-alike",
                        "note",
                        arm.where,
                        f"its fingerprint equals that of the {others[0]} arm",
                        "",
                        "Exchanged arms would not be noticed; take ports below /dev/serial/by-id, "
                        "which name the adapter",
                    )
                )
        elif others:
            found.append(
                RobotFinding(
                    "left-right-swapped",
                    "error",
                    arm.where,
                    f"on {arm.config.port} is the arm that was recorded as {others[0]}",
                    arm.side,
                    "Exchange the ports in robot.toml, or the plugs",
                )
            )
        else:
            found.append(_changed(arm, came))
    return found


def _changed(arm: OpenArm, came: tuple[int, ...]) -> RobotFinding:
    count = len(SERVO_NAMES)
    changed = [
        f"{what} {old} to {new} of {SERVO_NAMES[i % count + 1]}"
        for i, (new, old) in enumerate(zip(came, arm.config.fingerprint, strict=True))
        for what in ("firmware" if i < count else "homing offset",)
        if (new != old if i < count else abs(new - old) > SAME_OFFSET_TICKS)
    ]
    return RobotFinding(
        "fingerprint",
        "warning",
        arm.where,
        f"its servos changed since they were recorded: {', '.join(changed)}",
        "",
        "If it was repaired, check its joints with --move, then record it again with --record; "
        "else this port is another arm",
    )


def _same(came: Sequence[int], recorded: Sequence[int]) -> bool:
    count = len(SERVO_NAMES)
    apart = np.abs(np.subtract(came[count:], recorded[count:]))
    return tuple(came[:count]) == tuple(recorded[:count]) and int(apart.max()) <= SAME_OFFSET_TICKS


def record_identity(
    path: Path | str, *, make_camera: MakeCamera | None = None, patience: float = 1.0
) -> RobotConfig:
    """Record the fingerprint of each arm, and what each camera sees, in and beside a robot.toml.

    Returns:
        The robot that the file now describes.

    Raises:
        RobotError: an arm or a camera does not answer; nothing was changed.
        BadInput: the file cannot be read.
    """
    config, path = read_config(path), Path(path)
    arms, failures = open_arms(config, patience)
    for arm in arms:
        arm.bus.close()
        if len(arm.facts) < len(SERVO_NAMES):
            failures += compare(arm.where, arm.config, arm.facts)[:1]
    if failures:
        raise RobotError(failures[0].line)
    references = save_references(config.cameras, path.parent, make_camera=make_camera)
    for arm in arms:
        values = {"fingerprint": list(fingerprint(arm.facts))}
        config = set_values(path, f"{arm.table}.{arm.side}", values)
    for name, file in references.items():
        config = set_values(path, f"cameras.{name}", {"reference": file})
    return config
