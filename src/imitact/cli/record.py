"""`imitact record`: demonstrations of an expert in an environment, as a dataset."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from imitact.cli.console import ProgressDisplay, print_progress, print_result
from imitact.cli.options import shallow_dict
from imitact.core.ranges import Count, Pixels, Range, Seed, Workers
from imitact.datasets.video_config import VideoConfig
from imitact.envs.gym import GymConfig
from imitact.envs.registry import env_factory
from imitact.storage.output_guard import check_output

if TYPE_CHECKING:
    from imitact.cli.record_robot import RecordRobot
    from imitact.recording.manifest import RecordingReport
    from imitact.recording.recorder import RecordingProgress

RESUME_HINT = "finished episodes are kept; the same command continues"


@dataclass(frozen=True)
class Record:
    """Record demonstrations of an expert in an environment, as a LeRobotDataset v3.0.

    Only demonstrations that succeed, and hold the success over their last ticks, are saved. With
    --robot NAME a person's episodes on a robot are recorded: `imitact record --robot NAME --help`.
    """

    out: Path
    """Folder of the dataset. Interrupted, the same command continues; with more episodes the
    dataset grows."""

    env: str = "cube"
    """Environment: cube, insertion, gym:NAME (registered with Gymnasium), or FILE.py:NAME of your
    own (docs/own_environment.md)."""

    episodes: Count = 50
    """Demonstrations to save."""

    cameras: tuple[str, ...] = ("top",)
    """Cameras of the ALOHA scene, in the order in which the policy sees them; aloha4 stands for
    the real robot's top, front_close, left_wrist and right_wrist."""

    height: Pixels = 480
    """Height of a frame in pixels."""

    width: Pixels = 640
    """Width of a frame in pixels."""

    expert: str = ""
    """Expert: FILE.py:NAME or MODULE:NAME, called with the environment's Spec or with nothing,
    returns a Policy. Empty: the scripted expert of cube or insertion."""

    task: str = ""
    """Instruction stored with the episodes. Empty: the environment's own."""

    spread: Annotated[float, Range(0, 2)] = 1.0
    """How much the scripted expert's demonstrations vary, from 0 (not at all) to 2."""

    styles: Annotated[int, Range(1, 2)] = 1
    """Ways in which the scripted expert does the task, one drawn for each demonstration: with 2 the
    hands meet on the left or on the right of the table's middle."""

    starts: Literal["even", "random"] = "even"
    """Order of the seeds: even covers the starts of the ALOHA scene with few episodes; random takes
    one seed after another, and leaves gaps."""

    first_seed: Seed = 0
    """First seed to choose from; a seed fixes start and variation."""

    last_seed: Seed = 999
    """Last seed to choose from; evaluations use 1000 and up."""

    hold: Count = 10
    """Ticks over which success must hold. Outside the ALOHA scene the episode ends with them."""

    workers: Workers = 0
    """Processes that record; 0 takes one per core. The dataset does not depend on it."""

    video: VideoConfig = field(default_factory=VideoConfig)
    """Compression of the frames."""

    gym: GymConfig = field(default_factory=GymConfig)
    """Where a gym:NAME has its state, frames and success."""


OPTIONS = Record


def with_preset(robot: str | None = None) -> type:
    """Return the options: with --robot those of a person's episodes on a robot."""
    if robot is None:
        return Record
    from imitact.cli.record_robot import RecordRobot

    return RecordRobot


def make(
    settings: Record, on_progress: Callable[[RecordingProgress], None] = lambda p: None
) -> RecordingReport:
    """Record, showing progress."""
    check_output(settings.out, "recording")
    env_factory(
        settings.env, settings.cameras, settings.height, settings.width, settings.gym
    )  # refuses a misspelt name before anything heavy is imported
    from imitact.api.record import record

    with ExitStack() as stack:
        display: ProgressDisplay | None = None

        def show(progress: RecordingProgress) -> None:
            nonlocal display
            if display is None:
                display = ProgressDisplay("recording", settings.episodes, "demonstrations")
                stack.enter_context(display)
            note = f"{progress.failed} failed" if progress.failed else ""
            display.to(progress.saved, note, left_s=progress.left_s)
            on_progress(progress)

        return record(**shallow_dict(settings), on_progress=show, on_line=print_progress)


def lines(report: RecordingReport) -> list[str]:
    """Return what was recorded: the number of episodes, the failed seeds and the variation."""
    found = [f"demonstrations: {report.saved} in {report.path}"]
    for stage, words in enumerate(report.stages):
        ticks = report.first_ticks(stage)
        if stage and len(ticks):
            found.append(
                f"  {words}: first at tick {ticks.mean():.0f} "
                f"(standard deviation {ticks.std():.1f})"
            )
    styles = [d.variation["style"] for d in report.demonstrations if "style" in d.variation]
    if styles:
        second = round(sum(styles))
        found.append(f"  styles: {len(styles) - second} of the first, {second} of the second")
    found.extend(_variation(report.deviations()))
    seeds = ", ".join(
        f"{f.seed} (stage {f.stage}{f'; {f.error}' if f.error else ''})" for f in report.failures
    )
    found.append(f"  failed and not saved: {f'seeds {seeds}' if seeds else 'none'}")
    return found


_KINDS = (
    (r"duration_ratio$", "durations of phases", 100, "%"),
    (r"_via_.*_m$", "points on the way", 1000, "mm"),
    (r"^meet_.*_m$", "where they meet", 1000, "mm"),
    (r"_m$", "grasps", 1000, "mm"),
    (r"_rad$", "grasps", math.degrees(1), "degrees"),
)
"""What the experts vary: pattern of the names, words, factor to the unit, unit."""


def _variation(deviations: Mapping[str, float]) -> list[str]:
    """Return the standard deviations of what varies, by kind; the dataset has each of them."""
    left = {name: value for name, value in deviations.items() if name != "style"}
    found = []
    for pattern, words, factor, unit in _KINDS:
        values = [left.pop(name) * factor for name in [*left] if re.search(pattern, name)]
        if values:
            found.append(f"{words} {min(values):.1f} to {max(values):.1f} {unit}")
    found += [f"{name} {value:.3g}" for name, value in left.items()]
    return [f"  standard deviations: {', '.join(found)}"] if found else []


def run(settings: Record | RecordRobot) -> None:
    """Record, and print what the dataset holds."""
    if not isinstance(settings, Record):
        from imitact.cli import record_robot

        return record_robot.run(settings)
    print_result(*lines(make(settings)))
