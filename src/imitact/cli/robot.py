"""`imitact robot`: check a robot before it moves, measure, emulate, park or release one."""

from __future__ import annotations

import select
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from imitact.cli.console import print_progress, print_result
from imitact.core.errors import BadInput
from imitact.core.ranges import Pixels, Range, Seed
from imitact.core.words import counted
from imitact.storage.output_guard import check_output

RESUME_HINT = ""

Act = Literal["check", "measure", "simulate", "park", "release"]


@dataclass(frozen=True)
class EmulationConfig:
    """How a robot is emulated."""

    faults: Path | None = None
    """Plan of what goes wrong, as TOML (docs/robot.md)."""

    task: Literal["cube", "insertion"] = "cube"
    """What lies on ALOHA's table."""

    seed: Seed = 0
    """Seed of the objects' start."""

    cameras: tuple[str, ...] = ("top",)
    """Cameras; those of the scene for ALOHA."""

    height: Pixels = 120
    """Rows of a frame, pixels."""

    width: Pixels = 160
    """Columns of a frame, pixels."""

    camera_hz: Annotated[float, Range(0.1, 240)] = 25.0
    """Frames per second of each camera."""

    hand: bool = False
    """A scripted hand does the task on ALOHA's leaders again and again, each time from the next
    seed."""


@dataclass(frozen=True)
class Robot:
    """Check a robot before it moves, measure its grippers, emulate one, park it, or release it."""

    act: Annotated[Positional[Act], arg(metavar="ACT")]
    """check: ports, servos, calibration, rates and cameras; nothing moves. measure: the end stops
    of an ALOHA's grippers, kept in robot.toml. simulate: emulated servos behind ports, until
    Ctrl-C. park: to its rest pose, slowly, then limp. release: limp where it is; it falls."""

    robot: Annotated[Positional[str], arg(metavar="ROBOT")]
    """robot.toml, or bench:aloha, an emulated ALOHA; for simulate the kind: aloha, so101, koch or
    bi_so."""

    move: bool = False
    """check: also move each joint by 5 degrees against its leader, and each gripper. Arms must be
    free, in their rest pose, and watched."""

    record: bool = False
    """check: keep what tells arms and cameras apart in robot.toml and beside it, when each is known
    to be where it belongs; later checks compare with it."""

    out: Path | None = None
    """simulate: folder of the ports and of robot.toml. None: a temporary one."""

    yes: bool = False
    """release: the arm is supported; ask no question."""

    emulation: EmulationConfig = field(default_factory=EmulationConfig)
    """simulate: what is emulated."""


OPTIONS = Robot


def run(settings: Robot) -> int | None:
    """Do what is asked for; return 3 where a check found errors."""
    acts = {
        "check": check,
        "measure": measure,
        "simulate": simulate,
        "park": park,
        "release": release,
    }
    return acts[settings.act](settings)


def check(settings: Robot) -> int | None:
    """Check a robot, and print what was found, the worst first."""
    from imitact.api.prepare_robot import check_named_robot

    confirm = _asked if settings.move and sys.stdin.isatty() else None
    print_progress("checking; joints will move" if settings.move else "checking; nothing moves")
    found = check_named_robot(
        settings.robot,
        move=settings.move,
        record=settings.record,
        confirm=confirm,
        on_line=print_progress,
    )
    print_result(*(finding.line for finding in found))
    is_recorded = settings.record and not any(one.name == "not-recorded" for one in found)
    if is_recorded:
        print_result(f"recorded: {settings.robot}")
    errors = sum(finding.severity == "error" for finding in found)
    warnings = sum(finding.severity == "warning" for finding in found)
    print_result(f"{settings.robot}: {counted(errors, 'error')}, {counted(warnings, 'warning')}")
    return 3 if errors else None


def measure(settings: Robot) -> None:
    """Measure the end stops of an ALOHA's grippers, and keep them in robot.toml."""
    from imitact.api.prepare_robot import measure_grippers

    if not sys.stdin.isatty():
        raise BadInput(
            "somebody must watch the grippers and move those of the leaders: run it in a terminal"
        )
    measured = measure_grippers(
        settings.robot,
        confirm=_asked,
        is_done=lambda low, high: _is_enter_pressed(),
        on_line=print_progress,
    )
    print_result(f"recorded: {settings.robot}, {len(measured)} grippers")


def _is_enter_pressed() -> bool:
    if not select.select([sys.stdin], [], [], 0)[0]:
        return False
    sys.stdin.readline()
    return True


def _asked(question: str) -> bool:
    print_progress(f"{question} [y/n]")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def simulate(settings: Robot) -> None:
    """Emulate a robot until Ctrl-C."""
    from imitact.robots.emulation.bench import Bench
    from imitact.robots.emulation.bench import simulate as run_bench

    if settings.out is not None:
        check_output(settings.out)
    options = settings.emulation
    if options.hand and settings.robot != "aloha":
        raise BadInput("emulation.hand leads ALOHA's leaders only")
    hand = None

    def ready(bench: Bench) -> None:
        nonlocal hand
        path = Path(bench.folder) / "robot.toml"
        bench.robot_toml(path)
        print_result(f"robot:   {path}")
        for name, port in bench.ports.items():
            print_result(f"  {name}: {port}")
        print_progress("Ctrl-C ends it")
        if options.hand:
            from imitact.robots.emulation.scripted_hand import ScriptedHand

            hand = ScriptedHand(bench, options.task, options.seed, print_progress)

    try:
        run_bench(
            settings.robot,
            options.faults,
            on_ready=ready,
            is_over=lambda: bool(hand and hand.step()),
            task=options.task,
            seed=options.seed,
            cameras=options.cameras,
            height=options.height,
            width=options.width,
            camera_hz=options.camera_hz,
            folder=settings.out,
        )
    except KeyboardInterrupt as error:
        if str(error):  # SIGTERM
            raise
        print_progress("the emulated robot has ended")


def park(settings: Robot) -> None:
    """Bring a robot to its rest pose, and release it."""
    from imitact.api.session_parts import park_robot

    missing = park_robot(settings.robot, on_line=print_progress)
    _report(missing, "parked and released")


def release(settings: Robot) -> None:
    """Release a robot where it is."""
    from imitact.api.session_parts import release_robot

    if not settings.yes:
        if not sys.stdin.isatty():
            raise BadInput("an arm that is released falls; give --yes where it is supported")
        if not _asked("The arms fall when they are released. Are they supported?"):
            raise BadInput("nothing was released")
    _report(release_robot(settings.robot, on_line=print_progress), "released")


def _report(missing: tuple[str, ...], done: str) -> None:
    if missing:
        raise BadInput(
            f"no answer to the release of {', '.join(missing)}: it may still hold. Support the arm "
            "and cut its power"
        )
    print_result(done)
