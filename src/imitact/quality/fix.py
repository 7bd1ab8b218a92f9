"""Dataset fix: a copy without bad episodes and idle ticks, in LeRobot's layout.

The dataset may have any layout and is only read. The copy appears when it is complete.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from imitact.core.errors import BadInput
from imitact.core.types import Dataset, ExtraColumn, Spec
from imitact.core.words import counted
from imitact.datasets.episode_encoder import encode_episode
from imitact.datasets.lerobot.features import storable_columns
from imitact.datasets.lerobot.video_segments import episode_ranges
from imitact.datasets.lerobot.writer import UNKNOWN_TASK, LeRobotWriter
from imitact.datasets.video_config import VideoConfig
from imitact.quality.findings import Finding
from imitact.storage.atomic import make_folder
from imitact.storage.atomic_folder import atomic_folder, check_output_folder
from imitact.storage.checksum import with_checksum

_LAYOUT = "lerobot"
_STAGING = ".staging"


@dataclass(frozen=True)
class KeptTicks:
    """Ticks `start` to `stop` (exclusive) of episode `index` of the dataset."""

    index: int
    start: int
    stop: int


@dataclass(frozen=True)
class FixPlan:
    """What a copy keeps.

    Attributes:
        kept: the ticks that it has, in the order of the dataset.
        dropped: episodes that it lacks, each with the kinds of finding that caused it.
        lengths: lengths of all episodes of the dataset.
        rewritten: kinds of finding whose values the copy has right, each with its episodes.
    """

    kept: tuple[KeptTicks, ...]
    dropped: Mapping[int, tuple[str, ...]]
    lengths: tuple[int, ...]
    rewritten: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def is_whole(self, ticks: KeptTicks) -> bool:
        """Whether these are all ticks of their episode."""
        return (ticks.start, ticks.stop) == (0, self.lengths[ticks.index])

    @property
    def trimmed(self) -> tuple[KeptTicks, ...]:
        """The episodes that lose ticks."""
        return tuple(ticks for ticks in self.kept if not self.is_whole(ticks))

    @property
    def has_changes(self) -> bool:
        """Whether the copy differs from the dataset."""
        return bool(self.dropped or self.trimmed or self.rewritten)

    def lines(self) -> list[str]:
        """The changes, one line each."""
        dropped = sorted(self.dropped.items())
        lines = [f"left out: episode {index} ({', '.join(kinds)})" for index, kinds in dropped]
        for kind, episodes in self.rewritten.items():
            lines.append(f"repaired: {episode_ranges(episodes)} ({kind})")
        for ticks in self.trimmed:
            length = self.lengths[ticks.index]
            counts = {"start": ticks.start, "end": length - ticks.stop}
            ends = [
                f"{counted(count, 'tick')} at its {end}" for end, count in counts.items() if count
            ]
            lines.append(
                f"cut: episode {ticks.index}, {' and '.join(ends)}; {counted(length, 'tick')} "
                "before"
            )
        return lines


def plan_fix(lengths: Sequence[int], findings: Sequence[Finding]) -> FixPlan:
    """Plan the copy that applies the fixes of these findings."""
    dropped: dict[int, tuple[str, ...]] = {}
    rewritten: dict[str, set[int]] = {}
    bounds = {index: [0, length] for index, length in enumerate(lengths)}
    for finding in findings:
        if finding.episode is None:
            continue
        if finding.fix == "drop":
            kinds = dropped.get(finding.episode, ())
            dropped[finding.episode] = (*kinds, *({finding.kind} - {*kinds}))
        elif finding.fix == "rewrite":
            rewritten.setdefault(finding.kind, set()).add(finding.episode)
        elif finding.fix == "trim" and finding.ticks is not None:
            bound = bounds[finding.episode]
            first, stop = finding.ticks
            if first == 0:
                bound[0] = max(bound[0], stop)
            else:
                bound[1] = min(bound[1], first)
    kept = tuple(KeptTicks(i, *bound) for i, bound in bounds.items() if i not in dropped)
    repaired = {kind: tuple(sorted(some - dropped.keys())) for kind, some in rewritten.items()}
    repaired = {kind: some for kind, some in repaired.items() if some}
    return FixPlan(kept, dropped, tuple(lengths), repaired)


def write_fixed(
    dataset: Dataset,
    plan: FixPlan,
    out: Path,
    on_progress: Callable[[int], object] = lambda done: None,
) -> list[str]:
    """Write the planned copy of a dataset.

    States, actions, cameras and extra columns are kept, with episodes renumbered and time stamps
    of tick / rate. Videos that imitact recorded are copied where no tick is cut; all others are
    encoded again, with the settings of the recording, or losslessly where the dataset stores
    images.

    Args:
        out: folder of the copy; it must be empty or not exist.
        on_progress: called with the number of episodes that are done.

    Returns:
        One line for each feature that the copy does not have.

    Raises:
        BadInput: the plan keeps nothing, or `out` cannot be used.
    """
    if not plan.kept:
        raise BadInput(
            f"a copy of {dataset.path} would be empty: each of its "
            f"{counted(len(plan.lengths), 'episode')} has a finding for which it is left out. Fix "
            "the common cause instead"
        )
    check_output_folder(out, dataset.path)
    columns, refused = storable_columns(dataset.extra_columns)
    with atomic_folder(out, "copy") as building:
        make_folder(building / _STAGING)
        _write_episodes(dataset, plan, columns, building, on_progress)
        shutil.rmtree(building / _STAGING)
    left_out = {**dataset.left_out, **refused}
    return [f"not copied: {name}: {reason}" for name, reason in left_out.items()]


def _write_episodes(
    dataset: Dataset,
    plan: FixPlan,
    columns: Mapping[str, ExtraColumn],
    building: Path,
    on_progress: Callable[[int], object],
) -> None:
    settings = dataset.facts.get("settings", {})
    is_recording = "video" in settings and len(dataset.facts["episodes"]) == len(plan.lengths)
    video = VideoConfig(**settings["video"]) if is_recording else _default_video(dataset)
    staging = building / _STAGING
    tasks = [*dict.fromkeys(dataset.episode(t.index).task or UNKNOWN_TASK for t in plan.kept)]
    writer = LeRobotWriter(
        building, dataset.spec, task=tasks, video=video, staging=staging, extra_columns=columns
    )
    facts = _new_facts(dataset, columns)
    if is_recording:
        facts = {**dataset.facts, "failed": dataset.facts.get("failed", [])}
        facts["settings"] = {**settings, **_spec_settings(dataset.spec)}
    has_origins = is_recording or dataset.layout != _LAYOUT
    origins: list[Mapping[str, Any]] = []
    for done, ticks in enumerate(plan.kept, 1):
        episode = dataset.episode(ticks.index)
        own = episode.own_videos if is_recording and plan.is_whole(ticks) else {}
        videos, stats = encode_episode(
            episode, dataset.spec, video, staging, ticks.start, ticks.stop, own
        )
        if has_origins:
            origins.append(_trimmed_origin(episode.origin, ticks.start))
        manifest = {**facts, "episodes": origins, "mended": plan.lines()}
        if facts["format"] != 1:
            manifest = with_checksum(manifest)
        kept = slice(ticks.start, ticks.stop)
        values = {name: rows[kept] for name, rows in episode.extra_values([*columns]).items()}
        numbers, task = (episode.state[kept], episode.action[kept]), episode.task or UNKNOWN_TASK
        writer.append(*numbers, videos, stats, manifest, task, values)
        on_progress(done)


def _default_video(dataset: Dataset) -> VideoConfig:
    if not dataset.frames_in_video:
        return VideoConfig(codec="lossless")
    has_odd_size = any(c.height % 2 or c.width % 2 for c in dataset.spec.cameras)
    return VideoConfig(chroma="444" if has_odd_size else "420")


def _trimmed_origin(origin: Mapping[str, Any], start: int) -> Mapping[str, Any]:
    """The origin of an episode without its first `start` ticks."""
    if "first_ticks" not in origin:
        return origin
    ticks = {stage: max(0, tick - start) for stage, tick in origin["first_ticks"].items()}
    return {**origin, "first_ticks": ticks}


def _spec_settings(spec: Spec) -> dict[str, Any]:
    """Return what a Spec has that LeRobot's own files have no place for."""
    environment = {"environment_size": spec.environment_size} if spec.environment_size else {}
    units = {"state": list(spec.state_units), "action": list(spec.action_units)}
    return {"units": units, **environment}


def _new_facts(dataset: Dataset, columns: Mapping[str, ExtraColumn]) -> dict[str, Any]:
    """Contents of meta/imitact.json for the copy of another dataset, without its episodes."""
    settings = {**_spec_settings(dataset.spec), "stages": []}
    if columns:
        settings["extras"] = {name: asdict(column) for name, column in columns.items()}
    if dataset.layout != _LAYOUT:
        settings["conversion"] = {"from": dataset.layout, "read": dict(dataset.read_options)}
    return {"format": 1, "settings": settings, "episodes": [], "failed": []}
