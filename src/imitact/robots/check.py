"""Robot check: ports, servos, calibration, rates and cameras of a robot before it moves.

Nothing moves, and no torque or register changes, unless motion is asked for (`check_motion`). Each
defect has a name in `RobotFinding.name`; what an arm is compared with is in `aloha_probe.compare`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imitact.core.errors import BadInput, RobotError
from imitact.core.words import counted
from imitact.robots.aloha_comparison import compare
from imitact.robots.aloha_hardware import (
    FOLLOWER,
    GRIPPER,
    LEADER,
    SERVO_NAMES,
    ServoPlan,
    tick_rad,
)
from imitact.robots.check_cameras import MakeCamera, check_cameras
from imitact.robots.check_identity import OpenArm, check_identity, open_arms
from imitact.robots.config import RobotConfig
from imitact.robots.dynamixel_registers import (
    MODELS,
    PRESENT_POSITION,
    PRESENT_TEMPERATURE,
    PRESENT_VOLTAGE,
)
from imitact.robots.robot_finding import RobotFinding, failure, worst_first

SUPPLY_V = 12.0
LEAST_SUPPLY_V = 11.0
"""Of ALOHA's arms: 12 V. Below 11 V at rest the supply is weak, or its cable is thin."""

WARM_C = 60.0
"""Temperature at rest, degrees Celsius, that asks for a pause: 20 below an XM servo's limit."""

SLOW_READ_S = 0.008
"""Time of one read in a hundred above which an arm does not keep up with 50 Hz: read, command and
health check must fit into 20 ms twice."""

READS = 200
"""Reads of each arm, all arms at once, from which the rate is measured."""

STOP_TOLERANCE_RAD = 0.15
"""How far a gripper may be beyond its end stops."""

Confirm = Callable[[str], bool]
"""Asks a person a question; True for yes."""


@dataclass(frozen=True)
class CheckConfig:
    """Settings of a robot check."""

    move: bool = False
    """Also move each joint by 5 degrees, with its leader, and each gripper. Arms must be free, in
    their rest pose, and watched."""

    camera_s: float = 2.0
    """Time during which the cameras are watched, all at once, s."""

    reads: int = READS
    """Reads of each arm from which its rate is measured."""


def check_robot(
    config: RobotConfig,
    settings: CheckConfig | None = None,
    *,
    confirm: Confirm | None = None,
    make_camera: MakeCamera | None = None,
    folder: Path | str = ".",
    patience: float = 1.0,
) -> list[RobotFinding]:
    """Return everything that is found, the worst first.

    Args:
        config: the robot. Those of LeRobot are checked by `check_lerobot`.
        settings: what to do.
        confirm: asks a person whether leader and follower moved alike; without one, only whether
            each joint follows is judged. Used with `settings.move`.
        make_camera: makes the source of a camera from its name and settings.
        folder: of robot.toml, for the images that cameras are compared with.
        patience: factor of all time-outs; more than 1 for tests on a busy machine.
    """
    settings = CheckConfig() if settings is None else settings
    found: list[RobotFinding] = []
    if config.kind == "aloha":
        arms, failures = open_arms(config, patience)
        found += failures
        try:
            for arm in arms:
                found += _check_arm(arm)
            found += check_identity(arms)
            whole = [arm for arm in arms if len(arm.facts) == len(SERVO_NAMES)]
            found += _check_rates(whole, settings.reads)
        finally:
            for arm in arms:
                arm.bus.close()
        if settings.move:
            found += _check_motion(config, found, confirm, patience)
    if config.kind == "lerobot":
        from imitact.robots.check_lerobot import check_lerobot

        found += check_lerobot(config, settings.reads, patience)
        if settings.move:
            found += _check_motion(config, found, confirm, patience)
    found += check_cameras(
        config.cameras, settings.camera_s, make_camera=make_camera, folder=Path(folder)
    )
    return worst_first(found)


def _check_arm(arm: OpenArm) -> list[RobotFinding]:
    found = _check_port(arm)
    baud = None if arm.facts else arm.bus.find_baud((1, 2, 9))
    compared = compare(arm.where, arm.config, arm.facts, found_baud=baud)
    if exchanged := _exchanged_role(arm):
        compared = [finding for finding in compared if finding.name not in _OF_ROLE]
        found.append(exchanged)
    found += compared
    try:
        found += _check_supply(arm)
    except RobotError as error:
        found.append(failure("servo-missing", arm.where, error))
    return found + _check_gripper(arm)


_OF_ROLE = ("model", "drive-mode", "position-limits", "wrap", "position-outside")
"""Findings that all follow where a leader is on a follower's port."""


def _check_port(arm: OpenArm) -> list[RobotFinding]:
    found = []
    latency_s = arm.bus.latency_s
    if latency_s > 0.0015:
        found.append(
            RobotFinding(
                "latency-timer",
                "warning",
                arm.where,
                f"the latency timer of {arm.config.port} is {latency_s * 1000:.0f} ms, which every "
                "answer waits for",
                "1 ms",
                'Add ATTR{device/latency_timer}="1" to the adapter\'s udev rule',
            )
        )
    if Path(arm.config.port).name.startswith(("ttyUSB", "ttyACM")):
        found.append(
            RobotFinding(
                "port-name",
                "warning",
                arm.where,
                f"its port is {arm.config.port}, which may be another arm after the next start",
                "a path below /dev/serial/by-id",
                "Take the path of this adapter from ls -l /dev/serial/by-id",
            )
        )
    return found


def _exchanged_role(arm: OpenArm) -> RobotFinding | None:
    """Return a finding where the arm is a leader in a follower's place, or the other way."""
    if not arm.facts:
        return None
    own, other = (LEADER, FOLLOWER) if arm.table == "leaders" else (FOLLOWER, LEADER)

    def fits(plan: Mapping[int, ServoPlan]) -> int:
        return sum(fact.model in plan[servo].models for servo, fact in arm.facts.items())

    if fits(other) <= fits(own) or fits(other) < len(arm.facts) - 1:
        return None
    came = "follower (ViperX)" if arm.table == "leaders" else "leader (WidowX)"
    return RobotFinding(
        "leader-follower-swapped",
        "error",
        arm.where,
        f"on {arm.config.port} is a {came}",
        f"a {arm.where.split()[-1]}",
        "Exchange the two ports in robot.toml",
    )


def _check_supply(arm: OpenArm) -> list[RobotFinding]:
    """Check supply voltage and temperature of every servo that answers."""
    if not arm.facts:
        return []
    volts, found = {}, []
    for servo, fact in arm.facts.items():
        where = f"{arm.where}: {SERVO_NAMES[servo]} (servo {servo})"
        volts[servo] = arm.bus.read(servo, PRESENT_VOLTAGE, tries=3) / 10
        temperature = arm.bus.read(servo, PRESENT_TEMPERATURE, tries=3)
        hot = MODELS[fact.model].hot_c if fact.model in MODELS else 72.0
        if temperature >= WARM_C:
            found.append(
                RobotFinding(
                    "temperature",
                    "error" if temperature >= hot - 5 else "warning",
                    where,
                    f"it has {temperature} °C",
                    f"less than {WARM_C:g}; it switches itself off at {hot:g}",
                    "Let it cool down; if it gets warm at rest, look for what it works against",
                )
            )
    low = min(volts, key=lambda servo: volts[servo])
    if volts[low] < LEAST_SUPPLY_V:
        model = MODELS.get(arm.facts[low].model)
        least = model.least_voltage_v if model else LEAST_SUPPLY_V
        found.append(
            RobotFinding(
                "voltage",
                "error" if volts[low] < least + 0.5 else "warning",
                f"{arm.where}: {SERVO_NAMES[low]} (servo {low})",
                f"it has {volts[low]:.1f} V without load",
                f"at least {LEAST_SUPPLY_V:g} V of {SUPPLY_V:g}",
                "Check the power supply and the plugs to this arm",
            )
        )
    return found


def _check_gripper(arm: OpenArm) -> list[RobotFinding]:
    table = f"{arm.table}.{arm.side}.gripper"
    try:
        scale = arm.config.gripper_scale()
    except BadInput as error:
        return [failure("gripper-stops", arm.where, error)]
    if scale is None:
        return [
            RobotFinding(
                "gripper-stops",
                "error",
                arm.where,
                f"the end stops of its gripper are not in robot.toml, [{table}]",
                "closed_rad and open_rad",
                "`imitact robot measure robot.toml` measures them; or name the variant of ALOHA "
                'whose grippers it has, such as variant = "aloha"',
            )
        ]
    fact = arm.facts.get(GRIPPER)
    if fact is None:
        return []
    angle = tick_rad(fact.position)
    low, high = scale.closed_rad - STOP_TOLERANCE_RAD, scale.open_rad + STOP_TOLERANCE_RAD
    if low <= angle <= high:
        return []
    is_mirrored = low <= -angle <= high
    return [
        RobotFinding(
            "gripper-range",
            "error",
            f"{arm.where}: gripper (servo {GRIPPER})",
            f"it is at {angle:.2f} rad",
            f"{scale.closed_rad:.2f} (closed) to {scale.open_rad:.2f} rad (open)",
            "It is within its range if mirrored: check the bit 0 of its Drive_Mode and how the "
            "horn is mounted, or it slams open"
            if is_mirrored
            else "This gripper is not of that variant, or its horn was mounted anew: "
            "`imitact robot measure` measures its end stops",
        )
    ]


# ---------------------------------------------------------------------------------- rates


def _check_rates(arms: Sequence[OpenArm], reads: int) -> list[RobotFinding]:
    """Read all arms at once, as a robot does, and judge how long the reads take."""
    found: dict[str, RobotFinding] = {}

    def measure(arm: OpenArm) -> None:
        found[arm.where] = _measure_reads(arm, reads)

    threads = [threading.Thread(target=measure, args=(arm,)) for arm in arms]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[arm.where] for arm in arms]


def _measure_reads(arm: OpenArm, reads: int) -> RobotFinding:
    times, missing = [], 0
    try:
        for _ in range(reads):
            begin_s = time.perf_counter()
            missing += len(arm.bus.sync_read(tuple(SERVO_NAMES), PRESENT_POSITION).missing)
            times.append(time.perf_counter() - begin_s)
    except RobotError as error:
        return failure("port", arm.where, error)
    p50, p99 = (1000 * np.quantile(times, q) for q in (0.5, 0.99))
    came = f"a read of nine servos takes {p50:.1f} ms at the median and {p99:.1f} ms at the 99th "
    came += f"percentile, {missing} of {reads * len(SERVO_NAMES)} answers were missing"
    if missing > reads * len(SERVO_NAMES) // 1000:
        return RobotFinding(
            "answers-missing",
            "warning",
            arm.where,
            came,
            "none missing",
            "Look for a loose cable, in particular at joints that move; a USB cable of another "
            "length or port helps as well",
        )
    if p99 > 1000 * SLOW_READ_S:
        return RobotFinding(
            "read-rate",
            "warning",
            arm.where,
            came,
            f"less than {1000 * SLOW_READ_S:g} ms",
            "Set the latency timer to 1 ms and Return_Delay_Time to 0, close other programs, and "
            "plug the adapter into the computer itself",
        )
    return RobotFinding("read-rate", "note", arm.where, came)


def _check_motion(
    config: RobotConfig,
    found: Sequence[RobotFinding],
    confirm: Confirm | None,
    patience: float,
) -> list[RobotFinding]:
    from imitact.robots.check_motion import check_motion

    if errors := [finding for finding in found if finding.severity == "error"]:
        return [
            RobotFinding(
                "not-moved",
                "note",
                "robot",
                f"nothing was moved, because of {counted(len(errors), 'error')}",
                "",
                "Mend them, then check again with --move",
            )
        ]
    if config.kind == "lerobot":
        from imitact.robots.check_lerobot import check_lerobot_motion

        return check_lerobot_motion(config, confirm, patience)
    moved: list[RobotFinding] = []
    for side, follower in config.arms.items():
        moved += check_motion(side, follower, config.leaders.get(side), confirm, patience=patience)
    return moved
