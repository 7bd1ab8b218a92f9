"""`imitact record --robot`: a person's episodes on a robot, as a dataset."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from imitact.cli.console import print_result
from imitact.control.ages import AgeBounds
from imitact.core.ranges import Count, Pixels, Range, Seed
from imitact.datasets.video_config import VideoConfig
from imitact.storage.output_guard import check_output


@dataclass(frozen=True)
class RecordRobot:
    """Record a person's episodes on a robot, as a LeRobotDataset v3.0.

    Each begins once the leader is engaged. Keys: space engages, k keeps, d drops, r records again,
    m marks, s stops, q ends; a USB pedal that types one of them does as well.
    """

    out: Path
    """Folder of the dataset. Later, the same command continues."""

    robot: str
    """robot.toml, sim:cube, or bench:aloha, an emulated ALOHA."""

    task: str = ""
    """Instruction stored with the episodes; what they show. Required."""

    episodes: Count = 50
    """Episodes that the dataset is to have."""

    leader: str = ""
    """Leader: browser, keyboard, DATA:3 for a recorded episode, or expert for the scripted expert
    of a simulated cube or insertion. Empty: the robot's own."""

    approach: Literal["ramp", "wait", "offset"] | None = None
    """Where the robot is not where its leader is: ramp goes there slowly, wait waits for the
    person, offset keeps the difference. None: as the leader needs it."""

    deadman: Literal["toggle", "hold"] = "toggle"
    """The space key engages a leader without a deadman of its own: toggle until it is pressed
    again; hold only while it is held."""

    seconds: Annotated[float, Range(0.1, 1_000_000)] = 60.0
    """Longest episode, s."""

    cameras: tuple[str, ...] = ("top",)
    """Cameras of a simulated ALOHA scene."""

    height: Pixels = 480
    """Height of a frame of a simulated scene in pixels."""

    width: Pixels = 640
    """Width of a frame of a simulated scene in pixels."""

    real_time: bool = False
    """A simulation goes with the clock on the wall, as a person who leads it needs; otherwise on a
    virtual clock, as fast as it goes."""

    first_seed: Seed = 0
    """Seed of the first episode of a simulation; the others follow."""

    video: VideoConfig = field(default_factory=VideoConfig)
    """Compression of the frames."""

    ages: AgeBounds = field(default_factory=AgeBounds)
    """How old values may be before the robot is held."""

    self_collision: bool = True
    """Hold ALOHA's arms before they touch each other or themselves. self_collision = false in
    robot.toml turns it off as well."""

    rerun: str = ""
    """Send the session to Rerun as it happens: a file FILE.rrd, or spawn to open its viewer."""

    log: Path | None = None
    """Folder of the log. None: a new one in OUT.runs, beside the dataset."""


def run(settings: RecordRobot) -> None:
    """Record, and print what the dataset holds."""
    check_output(settings.out, "recording")
    from imitact.api.teleoperate import record_robot
    from imitact.cli.robot_console import robot_console
    from imitact.cli.run import statistics_lines
    from imitact.robots.registry import SimOptions

    sim = SimOptions(
        real_time=settings.real_time,
        seed=settings.first_seed,
        cameras=settings.cameras,
        height=settings.height,
        width=settings.width,
    )
    with robot_console(
        with_episodes=True,
        with_leader=not settings.leader,
        deadman=settings.deadman,
        rerun=settings.rerun,
    ) as console:
        report = record_robot(
            settings.out,
            robot=settings.robot,
            task=settings.task,
            leader=settings.leader,
            approach=settings.approach,
            episodes=settings.episodes,
            seconds=settings.seconds,
            video=settings.video,
            ages=settings.ages,
            self_collision=settings.self_collision,
            sim=sim,
            log=settings.log,
            person=console.person,
            on_poll=console.poll,
            on_line=console.line,
        )
        console.send_log(report.log)
    print_result(
        f"episodes: {report.kept} kept, {report.dropped} dropped; {report.words}",
        *statistics_lines(report.statistics),
        f"log:     {report.log}",
        f"check:   imitact check {settings.out}",
    )
