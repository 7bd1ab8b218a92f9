"""`imitact run`: a policy on a robot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from imitact.cli.console import print_result
from imitact.control.ages import AgeBounds
from imitact.core.answer_delay import DELAY_RANGE
from imitact.core.ranges import Count, Seconds, Seed
from imitact.core.words import counted
from imitact.datasets.video_config import VideoConfig
from imitact.storage.output_guard import check_output

if TYPE_CHECKING:
    from imitact.robots.simulated import Outcome

RESUME_HINT = "finished episodes are kept"


@dataclass(frozen=True)
class Run:
    """Run a policy on a robot, within the limits of the safety filter."""

    policy: Annotated[Positional[Path], arg(metavar="POLICY")]
    """Policy: the folder of a training or of its policy, a checkpoint, an exported file, or
    ws://HOST:PORT, where imitact serve runs."""

    robot: str
    """robot.toml, sim:cube, or bench:aloha, an emulated ALOHA."""

    record: Path | None = None
    """Folder of a dataset that takes the episodes."""

    task: str = ""
    """Instruction stored with recorded episodes."""

    shadow: bool = False
    """Everything but the motion: nothing is sent to the robot, and its torque stays as it is."""

    episodes: Count = 1
    """Episodes, each from the start pose."""

    seconds: Seconds = 0.0
    """Longest episode, s; 0 has no end on hardware, and 8 s in a simulation."""

    chunking: str | None = None
    """How chunks become actions: replay:N, replay:N~F or ensemble:M/E. None: as tuned, else
    replay:50."""

    delay_ticks: Annotated[int | str | None, DELAY_RANGE] = None
    """Ticks from a query to its answer: simulated on a virtual clock, where 3..9 draws one of 3 to
    9 for each answer; on a robot what is expected at first, of 3..9 the 9. None: as tuned, else
    0."""

    leader: str | None = None
    """Leader with which a person may take over, as for imitact teleop; "" is the robot's own.
    None: nobody takes over."""

    first_seed: Seed = 1000
    """Seed of the first episode of a simulation; the others follow."""

    rerun: str = ""
    """Send the run to Rerun as it happens: a file FILE.rrd, or spawn to open its viewer."""

    video: VideoConfig = field(default_factory=VideoConfig)
    """Compression of recorded frames."""

    ages: AgeBounds = field(default_factory=AgeBounds)
    """How old values may be before the robot is held."""

    self_collision: bool = True
    """Hold ALOHA's arms before they touch each other or themselves. self_collision = false in
    robot.toml turns it off as well."""

    log: Path | None = None
    """Folder of the log. None: beside --record, else a new one in runs/robot."""


OPTIONS = Run


def run(settings: Run) -> None:
    """Run, and print how it went."""
    if settings.record is not None:
        check_output(settings.record, "recording", option="--record")
    from imitact.api.run_robot import run_robot
    from imitact.cli.robot_console import robot_console

    with robot_console(
        with_episodes=settings.record is not None,
        with_leader=settings.leader == "",
        rerun=settings.rerun,
    ) as console:
        report = run_robot(
            settings.policy,
            robot=settings.robot,
            record=settings.record,
            task=settings.task,
            shadow=settings.shadow,
            episodes=settings.episodes,
            seconds=settings.seconds,
            chunking=settings.chunking,
            delay_ticks=settings.delay_ticks,
            leader=settings.leader,
            first_seed=settings.first_seed,
            video=settings.video,
            ages=settings.ages,
            self_collision=settings.self_collision,
            log=settings.log,
            person=console.person,
            on_poll=console.poll,
            on_line=console.line,
        )
        console.send_log(report.log)
    print_result(
        f"ended:   {report.words}",
        *outcome_lines(report.outcomes),
        *(
            [f"kept:    {counted(report.kept, 'episode')} in {settings.record}"]
            if settings.record
            else []
        ),
        *statistics_lines(report.statistics),
        f"log:     {report.log}",
    )


def outcome_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """Return how the episodes of a simulated world ended."""
    if not outcomes:
        return []
    successes = sum(outcome.success for outcome in outcomes)
    return [f"success: {successes} of {counted(len(outcomes), 'episode')}"]


def statistics_lines(statistics: Mapping[str, Any]) -> list[str]:
    """Return lateness, skipped ticks, and holds and acts of the safety filter with their words."""
    late = statistics["lateness"]
    lines = [f"ticks:   {statistics['ticks']}, {statistics['skipped']} skipped"]
    if late["p50_s"] is not None:
        lines.append(f"late:    p50 {late['p50_s'] * 1e3:.1f} ms, p99 {late['p99_s'] * 1e3:.1f} ms")
    for title, name in (("held:   ", "hold"), ("filter: ", "safety")):
        counts = statistics["holds" if name == "hold" else name]
        words = statistics[f"{name}_words"]
        lines.append(f"{title} {'' if counts else 'nothing'}".rstrip())
        lines += [
            f"  {kind.replace('_', ' ')}, {counted(count, 'tick')}"
            + (f": {words[kind]}" if words.get(kind) else "")
            for kind, count in counts.items()
        ]
    return lines
