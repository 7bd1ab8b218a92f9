"""Motion check: each joint moves by 5 degrees, with its leader, and comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from imitact.core.clock import Clock, WallClock
from imitact.core.errors import RobotError
from imitact.robots.aloha import AlohaArm
from imitact.robots.aloha_hardware import arm_limits
from imitact.robots.config import ArmConfig
from imitact.robots.robot_finding import RobotFinding, failure

MOVE_RAD = np.deg2rad(5.0)
MOVE_S = 1.0
SETTLE_S = 0.5
STEP_S = 0.02

TOLERANCE_RAD = np.deg2rad(2.0)
"""How far a joint may be from where it was told to go: gravity and friction."""

MARGIN_RAD = np.deg2rad(1.0)
"""Distance from the end of the range that a move keeps."""

GRIPPER_MOVE = 0.2
"""Share of its travel by which a gripper is opened or closed."""

MIRRORED_REMEDY = (
    "Check bit 0 of the Drive_Mode of this servo on both arms, and how its horn is mounted"
)


def check_motion(
    side: str,
    follower: ArmConfig,
    leader: ArmConfig | None,
    confirm: Callable[[str], bool] | None,
    *,
    clock: Clock | None = None,
    patience: float = 1.0,
) -> list[RobotFinding]:
    """Move each joint of a follower, and of its leader, by 5 degrees and back.

    A servo turns by its own encoder, so that it can follow and turn the wrong way all the same:
    whether leader and follower moved alike, only a person sees. Where an arm had no torque before,
    it has none afterwards.

    Args:
        confirm: asks a person; None asks nobody.
    """
    clock = WallClock() if clock is None else clock
    arms: list[AlohaArm] = []
    found: list[RobotFinding] = []
    limp: list[AlohaArm] = []
    try:
        for config in (follower, leader):
            if config is not None:
                # The bus is silent while the other arm starts and a person answers.
                arm = AlohaArm(replace(config, watchdog_s=0.0), side, patience=patience)
                arms.append(arm)
                arm.connect()
                if not any(fact.torque for fact in arm.facts.values()):
                    limp.append(arm)
                arm.enable()
        for index, name in enumerate(arms[0].spec.action_names):
            found += _move_joint(arms, index, name, clock)
            if confirm is not None and not confirm(_question(name, len(arms))):
                found.append(_denied(arms[0], name, len(arms)))
    except RobotError as error:
        found.append(failure("motion", f"{side} arm", error))
    finally:
        for arm in arms:
            if arm in limp and (silent := arm.release()):
                found.append(
                    RobotFinding(
                        "release",
                        "error",
                        arm.where,
                        f"{', '.join(silent)} did not confirm that the torque is off",
                        "",
                        "Support the arm and switch its power off",
                    )
                )
            arm.close()
    return found


def _question(name: str, count: int) -> str:
    if name.endswith("gripper"):
        return f"Did the fingers of {name} open, then close?"
    if count == 1:
        return f"Did {name} move by 5 degrees and back?"
    return f"Did {name} of leader and follower move by 5 degrees the same way, and back?"


def _denied(arm: AlohaArm, name: str, count: int) -> RobotFinding:
    is_grip = name.endswith("gripper")
    return RobotFinding(
        "gripper-mirrored" if is_grip else "joint-mirrored",
        "error",
        f"{arm.where}: {name}",
        "a person saw it move another way" + ("" if count == 1 or is_grip else " than its leader"),
        "fingers that open" if is_grip else "the same way",
        MIRRORED_REMEDY,
    )


def _move_joint(
    arms: Sequence[AlohaArm], index: int, name: str, clock: Clock
) -> list[RobotFinding]:
    """Move one joint of all arms and back; return what did not follow."""
    starts = [np.asarray(arm.read(), np.float64) for arm in arms]
    commands = [arm.goals() for arm in arms]
    moves = _moves(arms, commands, index)
    found = []
    _ramp(arms, commands, index, moves, clock, is_back=False)
    for arm, start, move in zip(arms, starts, moves, strict=True):
        if arm.is_leader and name.endswith("gripper"):
            continue  # it is limp
        found += _judge(arm, name, index, arm.read() - start, move)
    _ramp(arms, commands, index, moves, clock, is_back=True)
    return found


def _moves(
    arms: Sequence[AlohaArm], commands: Sequence[NDArray[np.float64]], index: int
) -> list[float]:
    """Return how far each arm moves the joint: all the same way, within the range of each."""
    size = GRIPPER_MOVE if index == 6 else float(MOVE_RAD)
    ranges = [arm_limits(arm.side, arm.arm) for arm in arms]
    for sign in (1, -1):
        ends = [command[index] + sign * size for command in commands]
        margin = 0.0 if index == 6 else float(MARGIN_RAD)
        if all(
            limit.lower[index] + margin <= end <= limit.upper[index] - margin
            for end, limit in zip(ends, ranges, strict=True)
        ):
            return [sign * size] * len(arms)
    # Each arm the way that leads into its own range.
    middles = [(limit.lower[index] + limit.upper[index]) / 2 for limit in ranges]
    return [
        float(np.copysign(size, middle - command[index]))
        for middle, command in zip(middles, commands, strict=True)
    ]


def _ramp(
    arms: Sequence[AlohaArm],
    commands: Sequence[NDArray[np.float64]],
    index: int,
    moves: Sequence[float],
    clock: Clock,
    *,
    is_back: bool,
) -> None:
    due_s = clock.now_s()
    steps = round(MOVE_S / STEP_S)
    for step in range(1, steps + round(SETTLE_S / STEP_S) + 1):
        share = min(1.0, step / steps)
        share = share * share * (3 - 2 * share)  # starts and ends at rest
        for arm, command, move in zip(arms, commands, moves, strict=True):
            goal = command.copy()
            goal[index] += move * (1 - share if is_back else share)
            arm.write(goal)
        due_s += STEP_S
        clock.wait_until(due_s)
        if step % 5 == 0:
            for arm in arms:
                arm.read()


def _judge(
    arm: AlohaArm, name: str, index: int, moved: NDArray[np.float64], move: float
) -> list[RobotFinding]:
    is_grip = index == 6
    unit = 1.0 if is_grip else 180 / np.pi
    tolerance = 0.5 * GRIPPER_MOVE if is_grip else float(TOLERANCE_RAD)
    word = "of its travel" if is_grip else "degrees"
    if abs(moved[index] - move) > tolerance:
        return [
            RobotFinding(
                "does-not-follow",
                "error",
                f"{arm.where}: {name}",
                f"it moved by {moved[index] * unit:+.2f} {word}",
                f"{move * unit:+.2f}",
                "Look for what blocks it, a loose horn, or a servo without torque",
            )
        ]
    others = [
        (other, float(value))
        for other, value in zip(arm.spec.action_names[:6], moved[:6], strict=True)
        if other != name and abs(value) > TOLERANCE_RAD
    ]
    return [
        RobotFinding(
            "moves-with-it",
            "warning",
            f"{arm.where}: {name}",
            f"{other} moved by {value * 180 / np.pi:+.2f} degrees with it",
            "no motion",
            "Are the two cables exchanged, or does the arm touch something?",
        )
        for other, value in others
    ]
