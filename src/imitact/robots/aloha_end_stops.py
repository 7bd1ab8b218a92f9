"""End stops of ALOHA grippers: measured by closing and opening each one gently, or by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from imitact.core.clock import Clock, WallClock
from imitact.core.errors import RobotError, unknown_name
from imitact.robots.aloha import AlohaArm
from imitact.robots.aloha_gripper import LEAST_TRAVEL_RAD
from imitact.robots.aloha_hardware import GRIPPER, tick_rad
from imitact.robots.aloha_torque import turn_off
from imitact.robots.config import ArmConfig, RobotConfig, read_config, set_values
from imitact.robots.dynamixel_registers import (
    BUS_WATCHDOG,
    CURRENT_POSITION_MODE,
    CURRENT_UNIT_MA,
    GOAL_CURRENT,
    GOAL_POSITION,
    OPERATING_MODE,
    PRESENT_POSITION,
    TORQUE_ENABLE,
)

GENTLE_MA = 270.0
"""Current while a gripper is measured, mA: half of what it grips with."""

_STEP_TICKS = 13
_STEP_S = 0.02
"""The goal moves by 0.02 rad every 20 ms, 1 rad/s."""

_LAG_TICKS = 100
"""Distance of the goal at which the gripper counts as stopped: 0.15 rad."""

_STILL_TICKS = 2
_STILL_S = 0.3
"""It must have moved less than so much for so long."""

_LONGEST_TICKS = 4096
"""A gripper that finds no stop within a turn has lost its fingers."""


def arm_to_measure(arm: ArmConfig, side: str, *, patience: float = 1.0) -> AlohaArm:
    """Return the driver of an arm whose end stops are not known yet; its gripper values mean
    nothing until they are."""
    gripper = replace(arm.gripper, variant="aloha", closed_rad=None, open_rad=None)
    return AlohaArm(replace(arm, gripper=gripper), side, patience=patience)


def measure_end_stops(
    arm: AlohaArm, *, clock: Clock | None = None, current_ma: float = GENTLE_MA
) -> tuple[float, float]:
    """Close and open a follower's gripper gently; return the angles closed and open, rad.

    The arm is connected, its gripper empty and without torque; only the gripper moves, and is limp
    again at the end, whatever happens.

    Raises:
        RobotError: the gripper has torque, finds no stop, or hardly moves.
    """
    clock = WallClock() if clock is None else clock
    bus = arm.bus
    if arm.is_leader:
        raise RobotError(
            f"{arm.where}: a leader's gripper is moved by hand; use watch_end_stops for it"
        )
    if bus.read(GRIPPER, TORQUE_ENABLE, tries=3):
        raise RobotError(f"{arm.where}: the gripper has torque; release the arm first")
    if bus.read(GRIPPER, OPERATING_MODE, tries=3) != CURRENT_POSITION_MODE:
        bus.write(GRIPPER, OPERATING_MODE, CURRENT_POSITION_MODE)
    bus.write(GRIPPER, BUS_WATCHDOG, 0)
    bus.write(GRIPPER, GOAL_CURRENT, round(current_ma / CURRENT_UNIT_MA))
    bus.write(GRIPPER, GOAL_POSITION, bus.read(GRIPPER, PRESENT_POSITION, tries=3))
    try:
        bus.write(GRIPPER, TORQUE_ENABLE, 1)
        closed, opened = (_find_stop(arm, clock, direction) for direction in (-1, 1))
    finally:
        failed = turn_off(bus, (GRIPPER,))
    if failed:
        raise RobotError(f"{arm.where}: the gripper did not confirm that its torque is off")
    return _checked(arm, tick_rad(closed), tick_rad(opened))


def _find_stop(arm: AlohaArm, clock: Clock, direction: int) -> int:
    """Return the position, ticks, at which the gripper stops in a direction."""
    bus = arm.bus
    begin = goal = still = bus.read(GRIPPER, PRESENT_POSITION, tries=3)
    still_since_s = due_s = clock.now_s()
    while abs(goal - begin) < _LONGEST_TICKS:
        due_s += _STEP_S
        clock.wait_until(due_s)
        present = bus.read(GRIPPER, PRESENT_POSITION, tries=3)
        if abs(present - still) > _STILL_TICKS:
            still, still_since_s = present, clock.now_s()
        is_behind = abs(goal - present) >= _LAG_TICKS
        if is_behind and clock.now_s() - still_since_s >= _STILL_S:
            return present
        if not is_behind:
            goal += direction * _STEP_TICKS
            bus.write(GRIPPER, GOAL_POSITION, goal)
    raise RobotError(
        f"{arm.where}: the gripper turned a whole turn without a stop; are its fingers mounted?"
    )


def watch_end_stops(
    arm: AlohaArm, is_done: Callable[[float, float], bool], *, clock: Clock | None = None
) -> tuple[float, float]:
    """Watch a limp gripper that a person closes and opens; return both ends, rad.

    Args:
        arm: a connected leader or follower without torque.
        is_done: called every 20 ms with the least and largest angle so far; True ends it.

    Raises:
        RobotError: the gripper hardly moved, or stopped answering.
    """
    clock = WallClock() if clock is None else clock
    low = high = tick_rad(arm.bus.read(GRIPPER, PRESENT_POSITION, tries=3))
    due_s = clock.now_s()
    while not is_done(low, high):
        due_s += _STEP_S
        clock.wait_until(due_s)
        present = tick_rad(arm.bus.read(GRIPPER, PRESENT_POSITION, tries=3))
        low, high = min(low, present), max(high, present)
    return _checked(arm, low, high)


def _checked(arm: AlohaArm, closed_rad: float, open_rad: float) -> tuple[float, float]:
    if open_rad - closed_rad < LEAST_TRAVEL_RAD:
        raise RobotError(
            f"{arm.where}: the gripper moved from {closed_rad:.3f} to {open_rad:.3f} rad only, "
            f"expected at least {LEAST_TRAVEL_RAD:g} rad; take out what it holds and look for what "
            "blocks it"
        )
    return closed_rad, open_rad


def record_end_stops(
    path: Path | str, side: str, stops_rad: tuple[float, float], *, is_leader: bool = False
) -> RobotConfig:
    """Keep the measured end stops of one gripper in a robot.toml; return what it then describes.

    Raises:
        BadInput: the file cannot be read, or has no such arm; it is left as it was.
    """
    table = "leaders" if is_leader else "arms"
    arms = getattr(read_config(path), table)
    if side not in arms:
        raise unknown_name(f"arm in [{table}]", side, list(arms))
    closed_rad, open_rad = (round(stop, 4) for stop in stops_rad)
    values = {"variant": "measured", "closed_rad": closed_rad, "open_rad": open_rad}
    return set_values(path, f"{table}.{side}.gripper", values)
