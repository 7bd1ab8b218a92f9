"""Robot preparation: a robot is checked by its name, and the end stops of its grippers measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from imitact.api.session_parts import OnLine, patience_of
from imitact.core.errors import BadInput, RobotError
from imitact.core.words import counted
from imitact.robots.aloha import AlohaArm
from imitact.robots.aloha_end_stops import (
    arm_to_measure,
    measure_end_stops,
    record_end_stops,
    watch_end_stops,
)
from imitact.robots.aloha_hardware import GRIPPER, tick_rad
from imitact.robots.check import CheckConfig, Confirm, check_robot
from imitact.robots.check_identity import record_identity
from imitact.robots.check_motion import MIRRORED_REMEDY
from imitact.robots.config import ArmConfig, RobotConfig, read_config
from imitact.robots.dynamixel_registers import PRESENT_POSITION
from imitact.robots.registry import BENCH_PREFIX, SIM_PREFIX, VIRTUAL_PREFIX
from imitact.robots.robot_finding import RobotFinding

BUSY = (
    "The servos are emulated and wait for a core of this computer: end other programs before you "
    "look for a fault"
)

_SLOW = ("port", "servo-missing", "answers-missing", "read-rate", "camera-rate", "camera-age")
"""Findings to which a computer that is too busy leads as well."""

IsDone = Callable[[float, float], bool]
"""Called every 20 ms with the least and the largest angle of a gripper so far, rad; True ends."""


def check_named_robot(
    robot: str,
    *,
    move: bool = False,
    record: bool = False,
    confirm: Confirm | None = None,
    on_line: OnLine = lambda line: None,
) -> list[RobotFinding]:
    """Check the robot of a robot.toml, or an emulated one; return what was found, the worst first.

    Args:
        robot: robot.toml, or bench:KIND.
        move: also move each joint by 5 degrees.
        record: keep fingerprints and reference images beside robot.toml, where the check found no
            error; otherwise a `not-recorded` finding says why not.
        confirm: asks a person what moved; None asks nobody.

    Raises:
        BadInput: the robot has no ports, or its description cannot be used.
    """
    with _described(robot, on_line) as (config, path):
        patience = patience_of(config)
        found = check_robot(
            config,
            CheckConfig(move=move),
            confirm=confirm,
            folder=path.parent,
            patience=patience,
        )
        errors = sum(finding.severity == "error" for finding in found)
        if patience > 1 and any(one.name in _SLOW and one.severity != "note" for one in found):
            found.append(RobotFinding("busy", "note", "robot", BUSY))
        if record and errors:
            # A fingerprint of exchanged arms would hide for ever that they are exchanged.
            found.append(
                RobotFinding(
                    "not-recorded",
                    "note",
                    "robot",
                    f"nothing was recorded, because of {counted(errors, 'error')}",
                    "",
                    "Mend them, then check again with --record",
                )
            )
        elif record:
            record_identity(path, patience=patience)
        return found


@contextmanager
def _described(robot: str, on_line: OnLine) -> Iterator[tuple[RobotConfig, Path]]:
    """Yield the description of a robot and its file; an emulated one runs meanwhile."""
    if robot.startswith((SIM_PREFIX, VIRTUAL_PREFIX)):
        raise BadInput(
            f"{robot} has no ports that could be checked. Give a robot.toml, or {BENCH_PREFIX}aloha"
            " to check an emulated ALOHA"
        )
    if not robot.startswith(BENCH_PREFIX):
        yield read_config(robot), Path(robot)
        return
    from imitact.robots.emulation.bench import Bench

    on_line(f"starting the emulated {robot.removeprefix(BENCH_PREFIX)}")
    with Bench(robot.removeprefix(BENCH_PREFIX)) as bench:
        path = Path(bench.folder) / "robot.toml"
        bench.robot_toml(path)
        yield read_config(path), path


def measure_grippers(
    robot: str,
    *,
    confirm: Confirm,
    is_done: IsDone,
    on_line: OnLine = lambda line: None,
    patience: float | None = None,
) -> dict[str, tuple[float, float]]:
    """Measure the end stops of an ALOHA's grippers, and keep them in its robot.toml.

    A follower's gripper closes and opens gently by itself; a person moves that of a leader. Each is
    kept as soon as it is measured. Nothing else moves, and all joints are limp afterwards.

    Args:
        robot: robot.toml.
        confirm: asks a person whether a gripper may move, and whether it moved rightly.
        is_done: whether the person has closed and opened a leader's gripper, and left it open.
        patience: factor of the time-outs; None takes that of the robot.

    Returns:
        The angles closed and open, rad, by the gripper: "left follower", ...

    Raises:
        BadInput: the robot is no ALOHA, or a person said no.
        RobotError: a gripper finds no stop, hardly moves, is mirrored, or does not answer.
    """
    config = read_config(robot)
    if config.kind != "aloha":
        raise BadInput(
            f'{robot} is of kind "{config.kind}"; end stops are measured of an ALOHA only. '
            "LeRobot's calibration has those of its arms"
        )
    patience = patience_of(config) if patience is None else patience
    measured: dict[str, tuple[float, float]] = {}
    for is_leader, arms in ((False, config.arms), (True, config.leaders)):
        for side, arm in arms.items():
            where = f"{side} {'leader' if is_leader else 'follower'}"
            stops = _measured(where, arm, side, patience, confirm, is_done, on_line)
            record_end_stops(robot, side, stops, is_leader=is_leader)
            on_line(f"{where}: closed at {stops[0]:.3f} rad, open at {stops[1]:.3f} rad")
            measured[where] = stops
    return measured


def _measured(
    where: str,
    config: ArmConfig,
    side: str,
    patience: float,
    confirm: Confirm,
    is_done: IsDone,
    on_line: OnLine,
) -> tuple[float, float]:
    arm = arm_to_measure(config, side, patience=patience)
    try:
        arm.connect()
        if arm.is_leader:
            on_line(
                f"{where}: close its gripper by hand, open it as far as it goes, leave it there "
                "and press Enter"
            )
            stops = watch_end_stops(arm, is_done)
            if _is_nearer_to_closed(arm, stops):
                raise RobotError(
                    f"{where}: it was left where its servo has the smaller angle, expected the "
                    f"larger one, which is open. {MIRRORED_REMEDY}; or leave it open at the end"
                )
            return stops
        if not confirm(f"{where}: its gripper will close and open. Is it empty and free?"):
            raise BadInput(f"{where}: nothing was moved")
        stops = measure_end_stops(arm)
        if not confirm(f"{where}: did the fingers close first, then open?"):
            raise RobotError(f"{where}: the gripper is mirrored. {MIRRORED_REMEDY}")
        return stops
    finally:
        arm.close()


def _is_nearer_to_closed(arm: AlohaArm, stops: tuple[float, float]) -> bool:
    return tick_rad(arm.bus.read(GRIPPER, PRESENT_POSITION, tries=3)) < sum(stops) / 2
