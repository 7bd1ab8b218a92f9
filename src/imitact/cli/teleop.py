"""`imitact teleop`: a person leads, the robot follows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from imitact.cli.console import print_result
from imitact.control.ages import AgeBounds
from imitact.core.ranges import Seconds

RESUME_HINT = ""


@dataclass(frozen=True)
class Teleop:
    """Let a robot follow its leader, within the limits of the safety filter."""

    robot: Annotated[Positional[str], arg(metavar="ROBOT")]
    """robot.toml, sim:cube, or bench:aloha, an emulated ALOHA."""

    leader: str = ""
    """Leader: browser, keyboard, or DATA:3 for a recorded episode. Empty: the robot's own."""

    approach: Literal["ramp", "wait", "offset"] | None = None
    """Where the robot is not where its leader is: ramp goes there slowly, wait waits for the
    person, offset keeps the difference. None: as the leader needs it."""

    deadman: Literal["toggle", "hold"] = "toggle"
    """The space key engages a leader without a deadman of its own: toggle until it is pressed
    again; hold only while it is held."""

    seconds: Seconds = 0.0
    """Time after which it ends, s; 0 has no end."""

    ages: AgeBounds = field(default_factory=AgeBounds)
    """How old values may be before the robot is held."""

    self_collision: bool = True
    """Hold ALOHA's arms before they touch each other or themselves. self_collision = false in
    robot.toml turns it off as well."""

    rerun: str = ""
    """Send the session to Rerun as it happens: a file FILE.rrd, or spawn to open its viewer."""

    log: Path | None = None
    """Folder of the log. None: a new one in runs/robot."""


OPTIONS = Teleop


def run(settings: Teleop) -> None:
    """Teleoperate, and print how it went."""
    from imitact.api.teleoperate import teleoperate
    from imitact.cli.robot_console import robot_console
    from imitact.cli.run import statistics_lines

    with robot_console(
        with_leader=not settings.leader, deadman=settings.deadman, rerun=settings.rerun
    ) as console:
        report = teleoperate(
            settings.robot,
            leader=settings.leader,
            approach=settings.approach,
            seconds=settings.seconds,
            ages=settings.ages,
            self_collision=settings.self_collision,
            log=settings.log,
            on_poll=console.poll,
            on_line=console.line,
        )
        console.send_log(report.log)
    print_result(*statistics_lines(report.statistics), f"log:     {report.log}")
