"""A copy of a dataset with the safe remedies applied: episodes left out, idle ticks cut off.

The source is only read. The copy appears when all of it is on the disk.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imitact.core.errors import BadInput
from imitact.core.types import Camera
from imitact.datasets.lerobot.reader import LeRobotDataset, LeRobotEpisode
from imitact.datasets.lerobot.stats import PixelCounts, sampled_ticks
from imitact.datasets.lerobot.writer import NAMELESS, LeRobotWriter
from imitact.datasets.video import VideoConfig, VideoWriter
from imitact.quality.findings import Finding
from imitact.storage.atomic import fsync, make_folder
from imitact.storage.atomic_folder import atomic_folder, check_output_folder
from imitact.storage.checksum import with_checksum

_OWN = {"observation.state", "action", "timestamp", "frame_index", "episode_index", "index",
        "task_index"}  # fmt: skip
_STAGING = ".staging"


@dataclass(frozen=True)
class KeptTicks:
    """Ticks start to stop of an episode of the source, which are kept."""

    index: int
    start: int
    stop: int


@dataclass(frozen=True)
class FixPlan:
    """What a copy is to hold.

    kept:  in the order of the source.
    left:  episode to the kinds of finding for which it is left out.
    """

    kept: tuple[KeptTicks, ...]
    left: Mapping[int, tuple[str, ...]]
    lengths: tuple[int, ...]

    @property
    def cut(self) -> tuple[KeptTicks, ...]:
        """Those of which ticks are cut off."""
        return tuple(p for p in self.kept if (p.start, p.stop) != (0, self.lengths[p.index]))

    @property
    def changes(self) -> bool:
        """Whether the copy differs from the source."""
        return bool(self.left or self.cut)

    def lines(self) -> list[str]:
        """What is done, for a reader."""
        told = [
            f"left out: episode {index} ({', '.join(kinds)})"
            for index, kinds in sorted(self.left.items())
        ]
        for part in self.cut:
            length = self.lengths[part.index]
            ends = [
                f"{count} ticks at its {end}"
                for count, end in ((part.start, "start"), (length - part.stop, "end"))
                if count
            ]
            told.append(f"cut: episode {part.index}, {' and '.join(ends)}; {length} ticks before")
        return told


def plan(lengths: Sequence[int], findings: Sequence[Finding]) -> FixPlan:
    """What the safe remedies of these findings come to."""
    left: dict[int, tuple[str, ...]] = {}
    bounds = {index: [0, length] for index, length in enumerate(lengths)}
    for finding in findings:
        if finding.episode is None:
            continue
        if finding.fix == "drop":
            kinds = left.get(finding.episode, ())
            left[finding.episode] = (*kinds, *({finding.kind} - {*kinds}))
        elif finding.fix == "trim" and finding.ticks is not None:
            bound = bounds[finding.episode]
            first, stop = finding.ticks
            if first == 0:
                bound[0] = max(bound[0], stop)
            else:
                bound[1] = min(bound[1], first)
    kept = tuple(KeptTicks(i, *bound) for i, bound in bounds.items() if i not in left)
    return FixPlan(kept, left, tuple(lengths))


def mend(
    source: LeRobotDataset,
    todo: FixPlan,
    out: Path,
    on_progress: Callable[[int], object] = lambda done: None,
) -> list[str]:
    """Write the copy to `out`; gives what it does not hold of the source beside what was planned.

    States, actions and cameras are kept, under new numbers without gaps, all on time stamps of
    1/rate. The videos of imitact's own recordings are copied where no tick was cut off, all others
    are encoded again, with the settings of the recording or the usual ones.

    Refuses an `out` that holds something, a plan that keeps nothing.
    """
    if not todo.kept:
        raise BadInput(
            f"nothing of {source.path} would be left: each of its {len(todo.lengths)} episodes has "
            "a finding for which it is left out; the cause is not one episode's"
        )
    check_output_folder(out, source.path)
    # In the order in which the episodes show them, each once.
    tasks = [*dict.fromkeys(source.episode(part.index).task or NAMELESS for part in todo.kept)]
    with atomic_folder(out, "copy") as building:
        make_folder(building / _STAGING)
        _write(source, todo, building, tasks, on_progress)
        shutil.rmtree(building / _STAGING)
    extra = sorted(source.feature_names - _OWN - {s.key for s in source.stored.values()})
    return [f"not copied: {name}; only states, actions and cameras are" for name in extra]


def _write(
    source: LeRobotDataset,
    todo: FixPlan,
    building: Path,
    tasks: list[str],
    on_progress: Callable[[int], object],
) -> None:
    settings = source.meta.get("settings", {})
    recorded = "video" in settings and len(source.meta["episodes"]) == len(todo.lengths)
    video = VideoConfig(**settings["video"]) if recorded else _usual(source)
    staging = building / _STAGING
    writer = LeRobotWriter(building, source.spec, task=tasks, video=video, staging=staging)
    told: list[Any] = []
    for done, part in enumerate(todo.kept):
        episode = source.episode(part.index)
        whole = (part.start, part.stop) == (0, todo.lengths[part.index])
        own = source.own_videos(part.index) if recorded and whole else {}
        videos, pixels = {}, {}
        for number, camera in enumerate(source.spec.cameras):
            videos[camera.name] = staging / f"{number}.mp4"
            counts = PixelCounts()
            if camera.name in own:
                shutil.copyfile(own[camera.name], videos[camera.name])
                fsync(videos[camera.name])
                sampled = sampled_ticks(part.stop)
                for tick, frame in enumerate(episode.frames(camera.name)):
                    if tick in sampled:
                        counts.add(frame)
            else:
                _encode(
                    episode, camera, part, source.spec.rate_hz, video, videos[camera.name], counts
                )
            pixels[camera.name] = counts.result()
        if recorded:
            told.append(_moved(source.meta["episodes"][part.index], part.start))
        facts = _facts(source, told, recorded, todo)
        ticks = slice(part.start, part.stop)
        task = episode.task or NAMELESS
        writer.append(episode.state[ticks], episode.action[ticks], videos, pixels, facts, task)
        on_progress(done + 1)


def _encode(
    episode: LeRobotEpisode,
    camera: Camera,
    part: KeptTicks,
    rate_hz: float,
    video: VideoConfig,
    path: Path,
    counts: PixelCounts,
) -> None:
    sampled = sampled_ticks(part.stop - part.start)
    with VideoWriter(path, camera.height, camera.width, rate_hz, video) as writer:
        for tick, frame in enumerate(episode.frames(camera.name, part.start, part.stop)):
            writer.add(frame)
            if tick in sampled:
                counts.add(frame)


def _usual(source: LeRobotDataset) -> VideoConfig:
    if any(stored.as_pictures for stored in source.stored.values()):
        return VideoConfig(codec="lossless")  # as those are: nothing is lost by copying
    odd = any(c.height % 2 or c.width % 2 for c in source.spec.cameras)
    return VideoConfig(chroma="444" if odd else "420")


def _moved(episode: Mapping[str, Any], start: int) -> dict[str, Any]:
    """What imitact.json tells of an episode, with its first `start` ticks cut off."""
    ticks = episode.get("first_ticks", {})
    return {**episode, "first_ticks": {s: max(0, t - start) for s, t in ticks.items()}}


def _facts(
    source: LeRobotDataset, told: list[Any], recorded: bool, todo: FixPlan
) -> dict[str, Any]:
    """What meta/imitact.json of the copy holds: units above all, which LeRobot has no place for."""
    spec = source.spec
    units = {"units": {"state": list(spec.state_units), "action": list(spec.action_units)}}
    before = source.meta if recorded else {"format": 1, "settings": {**units, "stages": []}}
    facts = {**before, "episodes": list(told), "failed": before.get("failed", []),
             "mended": todo.lines()}  # fmt: skip
    return facts if facts["format"] == 1 else with_checksum(facts)
