"""`imitact record`: demonstrations from a scripted expert, as a dataset."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from imitact.cli.console import ProgressDisplay, print_result
from imitact.cli.envs import demonstrator, expert, start_order, task_text, world
from imitact.core.cpu import available_cores
from imitact.core.errors import BadInput
from imitact.datasets.video import VideoConfig
from imitact.envs.gym import GYM, GymConfig
from imitact.recording import recorder as recording
from imitact.recording.recorder import RecordingProgress, RecordingReport

MOST_EVEN = 2_000
GO_ON = "finished episodes are kept; the same command goes on"


@dataclass(frozen=True)
class Record:
    """Record demonstrations of a scripted expert in simulation, as a LeRobotDataset v3.0.

    Only demonstrations that succeed, and hold the success over their last 10 ticks, are saved.
    """

    out: Path
    """Folder of the dataset. Interrupted, the same command goes on there; with more episodes the
    dataset grows."""

    env: str = "cube"
    """World: cube (hand a cube over), insertion (put a peg into a socket), or gym:NAME, any
    environment that Gymnasium knows by that name (docs/own_environment.md)."""

    gym: GymConfig = field(default_factory=GymConfig)
    """What a gym:NAME shows where."""

    expert: str = ""
    """Who demonstrates: FILE.py:NAME or MODULE:NAME, called with the world's Spec, gives a Policy;
    none: the scripted expert of cube or insertion."""

    task: str = ""
    """What the episodes show, in words; none: the world's own."""

    hold: int = recording.HOLD_TICKS
    """Ticks over which success must hold. A demonstration in the ALOHA scene goes on to the step
    cap and must hold it at its end; one in gym:NAME ends when it has held so long."""

    episodes: int = 50
    """Demonstrations to save."""

    first_seed: int = 0
    """First of the seeds to choose from; a seed fixes start and variation."""

    last_seed: int = 999
    """Last of them, included; evaluation uses those from 1000 on."""

    starts: Literal["even", "random"] = "even"
    """Which seeds first: `even` tries those whose starts together cover all of the starts best, as
    a person lays the objects out; `random` takes one seed after another, and leaves gaps. Of a
    gym:NAME nobody knows the starts: one seed after another."""

    spread: float = 1.0
    """How much demonstrations vary, as people do, from 0 (not at all) to 2. At 1: durations of
    phases by 15 %, points on the way by 2 cm, grasps by 8 mm and 10 degrees (insertion: 12 mm
    along the object, 4 across, 5 degrees)."""

    cameras: tuple[str, ...] = ("top",)
    """Cameras to record, in the order in which a policy is to see them: left_pillar, right_pillar,
    top, angle, front_close, left_wrist, right_wrist; or aloha4 for the four of the real ALOHA."""

    height: int = 480
    """Rows of a frame, pixels."""

    width: int = 640
    """Columns of a frame, pixels."""

    workers: int = 0
    """Processes that record; 0 takes one a core. The dataset does not depend on it."""

    video: VideoConfig = field(default_factory=VideoConfig)
    """How frames are compressed."""


def make(
    settings: Record, on_progress: Callable[[RecordingProgress], None] = lambda p: None
) -> RecordingReport:
    """Record with progress."""
    env, other, gym = settings.env, settings.expert, settings.gym
    make_env = world(env, settings.cameras, settings.height, settings.width, gym)
    make_expert = expert(env, settings.spread, other, gym)
    if not 0 <= settings.first_seed <= settings.last_seed:
        raise BadInput(
            f"first_seed is {settings.first_seed} and last_seed {settings.last_seed}; expected "
            "0 <= first_seed <= last_seed"
        )
    seeds = range(settings.first_seed, settings.last_seed + 1)
    if settings.starts == "even":
        if len(seeds) > MOST_EVEN:  # the time of putting them in order grows with their square
            raise BadInput(
                f"starts 'even' chooses among at most {MOST_EVEN} seeds, got {len(seeds)}; give "
                "fewer, or use starts 'random'"
            )
        seeds = start_order(env, seeds)
    with ProgressDisplay("recording", settings.episodes, "demonstrations") as waiting:

        def show(progress: RecordingProgress) -> None:
            note = f"{progress.failed} failed" if progress.failed else ""
            waiting.to(progress.saved, note, left_s=progress.left_s)
            on_progress(progress)

        return recording.record(
            settings.out,
            make_env=make_env,
            make_expert=make_expert,
            episodes=settings.episodes,
            task=task_text(env, settings.task),
            seeds=seeds,
            workers=settings.workers or available_cores(),
            video=settings.video,
            on_progress=show,
            extra={**demonstrator(env, settings.spread, other, gym), "starts": settings.starts},
            hold_ticks=settings.hold,
            end_when_held=env.startswith(GYM),
        )


def lines(report: RecordingReport) -> list[str]:
    """What was recorded: how many, what failed, how much they vary."""
    told = [f"demonstrations: {report.saved} in {report.path}"]
    for stage, words in enumerate(report.stages):
        ticks = report.first_ticks(stage)
        if stage and len(ticks):
            told.append(
                f"  {words}: first at tick {ticks.mean():.0f} "
                f"(standard deviation {ticks.std():.1f})"
            )
    told.extend(_variation(report.deviations()))
    seeds = ", ".join(
        f"{f.seed} (stage {f.stage}{f'; {f.trouble}' if f.trouble else ''})"
        for f in report.failures
    )
    told.append(f"  failed and not saved: {f'seeds {seeds}' if seeds else 'none'}")
    return told


_KINDS = (
    (r"duration_ratio$", "durations of phases", 100, "%"),
    (r"_via_.*_m$", "points on the way", 1000, "mm"),
    (r"^meet_.*_m$", "where they meet", 1000, "mm"),
    (r"_m$", "grasps", 1000, "mm"),
    (r"_rad$", "grasps", math.degrees(1), "degrees"),
)
"""What the experts vary: a pattern of its names, what they are, a readable unit."""


def _variation(deviations: Mapping[str, float]) -> list[str]:
    """The standard deviations of what varies, gathered by kind; the dataset has each of them."""
    left = dict(deviations)
    told = []
    for pattern, words, factor, unit in _KINDS:
        values = [left.pop(name) * factor for name in [*left] if re.search(pattern, name)]
        if values:
            told.append(f"{words} {min(values):.1f} to {max(values):.1f} {unit}")
    told += [f"{name} {value:.3g}" for name, value in left.items()]
    return [f"  standard deviations: {', '.join(told)}"] if told else []


def run(settings: Record) -> None:
    """Record, and print what the dataset holds."""
    for line in lines(make(settings)):
        print_result(line)
