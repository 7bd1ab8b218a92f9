"""`imitact replay`: the actions of a recorded episode on a robot."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from imitact.cli.console import print_result
from imitact.control.ages import AgeBounds
from imitact.core.ranges import CountOrNone, Seed

RESUME_HINT = ""


@dataclass(frozen=True)
class Replay:
    """Command a robot the actions of a recorded episode, within the limits of the safety filter."""

    data: Annotated[Positional[Path], arg(metavar="DATA")]
    """Folder of the dataset."""

    robot: str
    """robot.toml, sim:cube, or bench:aloha, an emulated ALOHA."""

    episode: CountOrNone = 0
    """Number of the episode."""

    first_seed: Seed = 0
    """Seed of a simulation: that of the episode, where it was recorded in one."""

    ages: AgeBounds = field(default_factory=AgeBounds)
    """How old values may be before the robot is held."""

    self_collision: bool = True
    """Hold ALOHA's arms before they touch each other or themselves. self_collision = false in
    robot.toml turns it off as well."""

    rerun: str = ""
    """Send the session to Rerun as it happens: a file FILE.rrd, or spawn to open its viewer."""

    log: Path | None = None
    """Folder of the log. None: a new one in runs/robot."""


OPTIONS = Replay


def run(settings: Replay) -> None:
    """Replay, and print how it went."""
    from imitact.api.run_robot import replay_robot
    from imitact.cli.robot_console import robot_console
    from imitact.cli.run import outcome_lines, statistics_lines

    with robot_console(rerun=settings.rerun) as console:
        report = replay_robot(
            settings.data,
            robot=settings.robot,
            episode=settings.episode,
            first_seed=settings.first_seed,
            ages=settings.ages,
            self_collision=settings.self_collision,
            log=settings.log,
            on_poll=console.poll,
            on_line=console.line,
        )
        console.send_log(report.log)
    print_result(
        f"ended:   {report.words}",
        *outcome_lines(report.outcomes),
        *statistics_lines(report.statistics),
        f"log:     {report.log}",
    )
