"""Motion check of any driver: each joint moves a little, with its leader in a person's hand.

For arms whose leaders have no torque: a person moves the leader's joint, which shows its name and
its direction; then the robot moves the same joint the same way, and the person compares.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from imitact.control.contract import Ages
from imitact.control.safety_filter import SafetyFilter
from imitact.core.clock import Clock
from imitact.core.joint_limits import JointLimits
from imitact.core.robot import Driver, Reading
from imitact.robots.robot_finding import RobotFinding

MOVES = {"rad": float(np.deg2rad(5.0)), "deg": 5.0, "%": 5.0, "1": 0.1}
"""How far a joint moves, by unit: 5 degrees; a gripper a twentieth or a tenth of its way."""

MOVE_S = 1.0
SETTLE_S = 0.5

TOLERANCE = 0.6
"""Share of the move by which a joint may miss it, for gravity and friction."""

LEAD = 1.0
"""Share of the move from which on a leader's joint counts as moved by hand."""

Confirm = Callable[[str], bool]


def check_driver_motion(
    driver: Driver,
    leader: Driver | None,
    limits: JointLimits,
    where: str,
    clock: Clock,
    confirm: Confirm | None = None,
) -> list[RobotFinding]:
    """Move each joint of a robot that has torque by `MOVES` and back; return what is wrong.

    Every command passes a safety filter with these limits.

    Args:
        driver: of the robot, enabled.
        leader: limp, with the same joints; used where somebody can be asked.
        limits: of the robot.
        where: of the robot, for the findings.
        clock: of the steps.
        confirm: asks a person; None asks nobody, and judges the robot's encoders alone.
    """
    spec = driver.spec
    rows = [spec.state_names.index(name) if name in spec.state_names else -1
            for name in spec.action_names]  # fmt: skip
    found: list[RobotFinding] = []
    for index, (name, unit) in enumerate(zip(spec.action_names, spec.action_units, strict=True)):
        if unit not in MOVES or rows[index] < 0:
            words = f"it is commanded in {unit or 'no unit'}, or not measured"
            found.append(RobotFinding("not-moved", "note", f"{where}: {name}", words))
            continue
        command = np.asarray(driver.read(), np.float64)[rows]
        sign = 0.0
        if leader is not None and confirm is not None:
            sign, said = _led(leader, name, MOVES[unit], where, confirm)
            found += said
        move = _move(limits, command, index, MOVES[unit], sign)
        if move is None:
            words = "there is no room for a move within its limits"
            found.append(RobotFinding("not-moved", "warning", f"{where}: {name}", words))
            continue
        moved, words = _there_and_back(driver, limits, command, index, move, clock)
        at = f"{where}: {name}"
        if words:
            found.append(
                RobotFinding("held", "error", at, f"the safety filter acted: {words}", "no act")
            )
        elif not abs(moved - move) <= TOLERANCE * abs(move):
            remedy = "Look for what blocks it, a loose horn, a wrong calibration or no torque"
            came, wanted = f"it moved by {moved:+.2f} {unit}", f"{move:+.2f}"
            found.append(RobotFinding("does-not-follow", "error", at, came, wanted, remedy))
        elif confirm is not None and not confirm(_question(name, move, sign)):
            came = "a person saw it move another way" + (" than its leader" if sign else "")
            remedy = "Calibrate both arms again with LeRobot, in the same poses"
            found.append(RobotFinding("joint-mirrored", "error", at, came, "the same way", remedy))
    return found


def _question(name: str, move: float, sign: float) -> str:
    if sign and move * sign > 0:
        return f"Did {name} of the robot move the way in which you moved its leader, and back?"
    if sign:
        return f"Did {name} of the robot move against the way of its leader, and back?"
    return f"Did {name} move a little and back, and nothing else?"


def _led(
    leader: Driver, name: str, least: float, where: str, confirm: Confirm
) -> tuple[float, list[RobotFinding]]:
    """Let a person move a leader's joint; return its direction, 0 where none is known."""
    names = leader.spec.action_names
    before = np.asarray(leader.read(), np.float64)
    if not confirm(f"Move {name} of the leader by hand by about 10 degrees and hold it. Done?"):
        return 0.0, []
    moved = np.asarray(leader.read(), np.float64) - before
    sizes = np.abs(moved) / [MOVES.get(unit, np.inf) for unit in leader.spec.action_units]
    most = int(np.argmax(sizes))
    at = f"{where}: leader"
    if sizes[most] < LEAD:
        words = f"no joint moved by {least:g} while {name} was to be moved by hand"
        remedy = "Is the leader's torque off, and is it the leader of this robot?"
        return 0.0, [RobotFinding("leader-still", "error", at, words, "", remedy)]
    if names[most] != name:
        remedy = "Exchange the ports or the ids of the arms; within one arm, the ids of its motors"
        words = f"{names[most]} moved while {name} was moved by hand"
        return 0.0, [RobotFinding("joints-swapped", "error", at, words, name, remedy)]
    return float(np.sign(moved[most])), []


def _move(
    limits: JointLimits, command: NDArray[np.float64], index: int, size: float, sign: float
) -> float | None:
    """Return how far a joint moves: the leader's way, or else the one that has room."""
    for way in (sign or 1.0, -(sign or 1.0)):
        end = command[index] + way * size
        if limits.lower[index] <= end <= limits.upper[index]:
            return way * size
    return None


def _there_and_back(
    driver: Driver,
    limits: JointLimits,
    command: NDArray[np.float64],
    index: int,
    move: float,
    clock: Clock,
) -> tuple[float, str]:
    """Move one joint and bring it back; return how far it moved, and how the filter acted."""
    rate_hz = driver.spec.rate_hz
    safety = SafetyFilter(limits.reaching(command), rate_hz, spec=driver.spec)
    safety.begin(command)
    row = driver.spec.state_names.index(driver.spec.action_names[index])
    steps, settle = round(MOVE_S * rate_hz), round(SETTLE_S * rate_hz)
    shares = np.clip(np.arange(1, steps + settle + 1) / steps, 0.0, 1.0)
    shares = shares**3 * (10 - 15 * shares + 6 * shares**2)
    due_s, start, moved, said = clock.now_s(), float("nan"), float("nan"), ""
    for count, share in enumerate([*shares, *(1 - shares)], start=1):
        begin_s = clock.now_s()
        measured = np.asarray(driver.read(), np.float64)
        if count == 1:
            start = float(measured[row])
        elif count == len(shares) + 1:
            moved = float(measured[row]) - start
        goal = command.copy()
        goal[index] += move * float(share)
        reading = Reading(measured, begin_s, clock.now_s(), count)
        verdict = safety.check(
            goal, reading, Ages(0.0, {}), {}
        )  # slow reads have their own finding
        said = said or verdict.words
        driver.write(verdict.action)
        due_s += 1 / rate_hz
        clock.wait_until(due_s)
    return moved, said
