"""LeRobot check: a robot and its leader that LeRobot drives; it moves where that is asked for."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence

import numpy as np

from imitact.core.clock import Clock, WallClock
from imitact.core.errors import ImitactError, RobotError
from imitact.robots.check_driver_motion import check_driver_motion
from imitact.robots.config import LeRobotConfig, RobotConfig
from imitact.robots.lerobot import Kind, LeRobotDriver
from imitact.robots.lerobot_process import LeRobotProcess, check_python
from imitact.robots.lerobot_setup import device_limits
from imitact.robots.robot_finding import RobotFinding, failure

WARM_C = 60.0
"""Temperature at which a servo of these arms is called warm: the STS3215 shuts down at 70, the
XL330 and XL430 at 70 and 72 degrees Celsius."""

_OUTSIDE = {"deg": 2.0, "%": 1.0}


def check_lerobot(config: RobotConfig, reads: int, patience: float = 1.0) -> list[RobotFinding]:
    """Return what is found at the devices of a robot.toml of kind "lerobot".

    LeRobot's own connection compares motors, models, firmware and calibration; an arm on the port
    of another one has another calibration, which is refused.

    Args:
        config: the robot.
        reads: of each device, from which its rate is measured.
        patience: factor of all time-outs.
    """
    assert config.lerobot is not None
    devices: list[tuple[str, Kind, LeRobotConfig]] = [("lerobot", "robot", config.lerobot)]
    if config.lerobot_leader is not None:
        devices.append(("lerobot_leader", "leader", config.lerobot_leader))
    found: list[RobotFinding] = []
    for table, kind, device in devices:
        where = f"{device.type} ([{table}])"
        try:
            process = LeRobotProcess(check_python(device.python or config.lerobot.python))
            process.start()
        except RobotError as error:
            found.append(failure("lerobot-missing", where, error))
            continue
        driver = LeRobotDriver(process, kind, device, config.rate_hz, patience=patience)
        try:
            driver.connect()
            found += _check_values(driver, where, reads, config.rate_hz)
            if kind == "robot":
                found += _check_motors(driver, where)
                found += _check_rest(config, driver, where)
        except ImitactError as error:
            is_swapped = "exchange the ports" in str(error)
            name = "left-right-swapped" if is_swapped else "lerobot-connection"
            found.append(failure(name, where, error))
        finally:
            driver.close()
            process.stop()
    return found


def check_lerobot_motion(
    config: RobotConfig,
    confirm: Callable[[str], bool] | None,
    patience: float = 1.0,
    clock: Clock | None = None,
) -> list[RobotFinding]:
    """Move each joint of a robot of LeRobot by 5 degrees and back, then turn its torque off.

    A leader of LeRobot has no torque: a person moves it, and compares (`check_driver_motion`).

    Args:
        config: the robot, of kind "lerobot"; it lies in its rest pose.
        confirm: asks a person; None asks nobody.
        patience: factor of all time-outs.
        clock: of the steps; None takes the wall clock.
    """
    assert config.lerobot is not None
    clock = WallClock() if clock is None else clock
    devices: list[tuple[Kind, LeRobotConfig]] = [("robot", config.lerobot)]
    if config.lerobot_leader is not None and confirm is not None:
        devices.append(("leader", config.lerobot_leader))
    where = f"{config.lerobot.type} ([lerobot])"
    found: list[RobotFinding] = []
    with contextlib.ExitStack() as endings:
        try:
            drivers: list[LeRobotDriver] = []
            for kind, device in devices:
                process = LeRobotProcess(check_python(device.python or config.lerobot.python))
                process.start()
                endings.callback(process.stop)
                driver = LeRobotDriver(process, kind, device, config.rate_hz, patience=patience)
                driver.connect()
                endings.callback(driver.close)
                drivers.append(driver)
            robot, *leaders = drivers
            limits = device_limits(robot.device, config.limits)
            if limits is None:
                words = "nothing was moved: no limits are known for each of its joints"
                remedy = "Give them in robot.toml, [limits.JOINT]"
                return [RobotFinding("not-moved", "warning", where, words, "", remedy)]
            endings.callback(_released, robot, where, found)
            robot.enable()
            leader = leaders[0] if leaders else None
            found += check_driver_motion(robot, leader, limits, where, clock, confirm)
        except ImitactError as error:
            found.append(failure("motion", where, error))
    return found


def _released(robot: LeRobotDriver, where: str, found: list[RobotFinding]) -> None:
    try:
        silent = ", ".join(robot.release())
    except RobotError as error:
        silent = str(error)
    if silent:
        words = f"not confirmed that the torque is off: {silent}"
        remedy = "Support the arm and switch its power off"
        found.append(RobotFinding("release", "error", where, words, "", remedy))


def _check_values(
    driver: LeRobotDriver, where: str, reads: int, rate_hz: float
) -> list[RobotFinding]:
    spec, times_s = driver.spec, []
    values = driver.read()
    for _ in range(reads):
        begin_s = time.monotonic()
        values = driver.read()
        times_s.append(time.monotonic() - begin_s)
    p50, p99 = (float(np.percentile(times_s, q)) * 1000 for q in (50, 99))
    came = f"a read takes {p50:.1f} ms, at most {p99:.1f} ms in 99 of 100"
    is_slow = p99 > 1000 / rate_hz
    found = [
        RobotFinding(
            "read-rate",
            "warning" if is_slow else "note",
            where,
            came,
            f"less than a tick of {1000 / rate_hz:.0f} ms" if is_slow else "",
            "End other programs, or lower rate_hz" if is_slow else "",
        )
    ]
    for name, unit, value in zip(spec.state_names, spec.state_units, values, strict=True):
        most = {"deg": 180.0, "%": 100.0}.get(unit)
        if most is not None and abs(value) > most + _OUTSIDE[unit]:
            found.append(
                RobotFinding(
                    "wrap",
                    "error",
                    f"{where}: {name}",
                    f"it is at {value:.0f} {unit}",
                    f"at most {most:.0f}",
                    "A servo's turn ends within the range: calibrate the arm again from the middle "
                    "of its range",
                )
            )
    return found


def _check_motors(driver: LeRobotDriver, where: str) -> list[RobotFinding]:
    found: list[RobotFinding] = []
    for _ in driver.spec.state_names:
        try:
            joint, health = driver.check_next()
        except RobotError as error:
            if "tell their health" in str(error):
                return [RobotFinding("health-unknown", "note", where, str(error))]
            found.append(failure("servo-missing", where, error))
            continue
        if health.errors:
            found.append(
                RobotFinding(
                    "servo-error",
                    "error",
                    f"{where}: {joint}",
                    f"it reports {', '.join(health.errors)}",
                    "no errors",
                    "Free the joint, and turn its power off and on",
                )
            )
        if health.temperature_c is not None and health.temperature_c >= WARM_C:
            came = f"{health.temperature_c:.0f} degrees Celsius"
            remedy = "Let it cool down"
            found.append(
                RobotFinding(
                    "temperature",
                    "warning",
                    f"{where}: {joint}",
                    came,
                    f"below {WARM_C:.0f}",
                    remedy,
                )
            )
    return found


def _check_rest(config: RobotConfig, driver: LeRobotDriver, where: str) -> list[RobotFinding]:
    missing = [name for name in driver.spec.action_names if name not in config.rest]
    if not missing:
        return []
    came = "no rest pose" if len(missing) == len(driver.spec.action_names) else "a part of one"
    return [
        RobotFinding(
            "rest-missing",
            "warning",
            where,
            f"[rest] gives {came}, so it cannot be parked",
            "all joints",
            "Lay the arm down, and write its joints to [rest]; they are now "
            f"{_now(driver, missing)}",
        )
    ]


def _now(driver: LeRobotDriver, names: Sequence[str]) -> str:
    """Return where joints are, as lines of TOML that are joined by commas."""
    values = dict(zip(driver.spec.state_names, driver.read(), strict=True))
    return ", ".join(
        f'"{name}" = {values[name]:.1f}' if name in values else f'"{name}"' for name in names
    )
