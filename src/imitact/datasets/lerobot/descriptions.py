"""Episode descriptions: where each episode of a LeRobotDataset is stored, from its metadata."""

from __future__ import annotations

import math
import os
import string
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from imitact.core.errors import DamagedFile
from imitact.core.words import counted
from imitact.datasets.lerobot import layout, parquet
from imitact.datasets.lerobot.checksums import DatasetChecksums
from imitact.datasets.lerobot.layout import INFO, RESTORE, is_shown, layout_errors_as_damage
from imitact.datasets.lerobot.video_segments import episode_ranges
from imitact.datasets.read_config import MAX_EPISODE_TICKS, OnDamage

_MAX_NAME_BYTES = 255
"""Longest file or folder name of today's file systems."""


@dataclass(frozen=True)
class EpisodeFiles:
    """Where an episode of `length` ticks is stored."""

    data: Path
    videos: Mapping[str, tuple[Path, float]]
    """Camera to its video file and the start of the episode in it, in s."""

    length: int
    tasks: tuple[str, ...]


NOT_DESCRIBED = EpisodeFiles(Path(), {}, 0, ())
"""An episode that the metadata do not describe."""


@contextmanager
def reporting(on_damage: OnDamage, episodes: Sequence[int]) -> Iterator[None]:
    """Pass damage of these episodes to `on_damage`."""
    try:
        yield
    except DamagedFile as error:
        on_damage(error, episodes)


class EpisodeDescriptions:
    """Reads the descriptions of all episodes of a dataset in the v3.0 layout.

    Attributes:
        not_read: episodes that the dataset describes and does not count, and why, once read.
        lacks_episodes: whether there are such.
    """

    where: ClassVar[str] = "meta/episodes"
    """File or folder with the descriptions of episodes."""

    advice: ClassVar[str] = (
        "If its recording was never finished, `imitact check DATASET --fix OUT` recovers what is "
        "whole; else copy the dataset again from its origin"
    )
    """What to do about an episode that is not described."""

    def __init__(
        self,
        path: Path,
        info: Mapping[str, Any],
        facts: Mapping[str, Any],
        video_keys: Mapping[str, str],
        checksums: DatasetChecksums,
        on_damage: OnDamage,
    ) -> None:
        """Prepare; nothing is read.

        Args:
            path: folder of the dataset.
            info: its `meta/info.json`.
            facts: what imitact wrote about it; empty for a dataset of another program.
            video_keys: feature of each camera whose frames are in videos.
            checksums: of its files.
            on_damage: called with each damage and the episodes that it affects.
        """
        self.path, self.info, self.video_keys = path, info, video_keys
        self._facts, self._checksums, self._on_damage = facts, checksums, on_damage
        self._paths: dict[tuple[int | str, ...], Path] = {}
        self.not_read: dict[str, str] = {}
        self.lacks_episodes = False

    def read(self) -> list[EpisodeFiles]:
        """Read the descriptions of all episodes."""
        total, ticks = self.info["total_episodes"], self.info["total_frames"]
        found: dict[int, EpisodeFiles] = {}
        for index, files in self.described():
            if found.setdefault(index, files) != files:
                damage = f"{self.path / self.where} describes episode {index} twice"
                self._on_damage(DamagedFile(f"{damage}, and differently. {RESTORE}"), [index])
        count = self._count(found)
        if lacking := [i for i in range(min(count, layout.MAX_EPISODES)) if i not in found]:
            described = f"{len(found)} of {counted(total, 'episode')}; the first that is missing is"
            if count > total:
                described = f"{episode_ranges(sorted(found))}, {INFO} counts {total}; missing is"
            damage = DamagedFile(
                f"{self.path / self.where} describes {described} {lacking[0]}. {self.advice}"
            )
            if count > layout.MAX_EPISODES:
                raise damage
            self._on_damage(damage, lacking)
        ordered = [found.get(i, NOT_DESCRIBED) for i in range(count)]
        described = sum(files.length for files in ordered)
        if described != ticks and NOT_DESCRIBED not in ordered:
            damage = (
                f"{self.path / INFO} counts {counted(ticks, 'tick')}, its episodes {described}. "
                f"{RESTORE}"
            )
            self._on_damage(DamagedFile(damage), ())
        return ordered

    def _count(self, described: Collection[int]) -> int:
        """Return the number of episodes: as counted, or more where the numbers have gaps.

        A recording that was killed leaves the episode that follows the last counted one described;
        imitact replaces it. Where numbers have gaps, episodes were taken out by hand, and those
        beyond the count are as good as the others.
        """
        total = self.info["total_episodes"]
        beyond = sorted(index for index in described if index >= total)
        if not beyond or self._facts:
            return total
        if len(described) == beyond[-1] + 1:
            reason = (
                f"{INFO} counts {counted(total, 'episode')}, as where a recording was not finished"
            )
            self.lacks_episodes = True
            self.not_read[episode_ranges(beyond)] = reason
            return total
        return beyond[-1] + 1

    def described(self) -> Iterator[tuple[int, EpisodeFiles]]:
        """Yield number and files of each described episode; NOT_DESCRIBED for a damaged row."""
        names = ["episode_index", "length", "data/chunk_index", "data/file_index"]
        for key in self.video_keys.values():
            names += [f"videos/{key}/{n}" for n in ("chunk_index", "file_index", "from_timestamp")]
        files = sorted((self.path / self.where).glob("*/*.parquet"))
        for file in (file for file in files if is_shown(file, self.path)):
            with reporting(self._on_damage, ()):
                # Rows of unfinished episodes may be there, too.
                most = 2 * self.info["total_episodes"] + 1000
                for row in parquet.read_rows(file, names, self._checksums, ["tasks"], most):
                    yield from self.described_in(row, file)

    def described_in(
        self, row: Mapping[str, Any], where: Path
    ) -> Iterator[tuple[int, EpisodeFiles]]:
        with layout_errors_as_damage(where):
            index = int(row["episode_index"])
            if index < 0:
                raise ValueError(f"an episode numbered {index}")
        files = NOT_DESCRIBED
        with reporting(self._on_damage, [index]), layout_errors_as_damage(where):
            length = int(row["length"])
            if not 1 <= length <= MAX_EPISODE_TICKS:
                raise ValueError(f"an episode of {counted(length, 'tick')}")
            tasks = row.get("tasks") or ()
            tasks = (tasks,) if isinstance(tasks, str) else tuple(map(str, tasks))
            files = EpisodeFiles(*self.places_of(index, row), length, tasks)
        yield index, files

    def places_of(
        self, index: int, row: Mapping[str, Any]
    ) -> tuple[Path, dict[str, tuple[Path, float]]]:
        """Return data file and videos of an episode from its row of metadata."""
        videos = {}
        for camera, key in self.video_keys.items():
            numbers = layout.stored_numbers(row, f"videos/{key}")
            video = self.formatted("video_path", layout.VIDEOS, video_key=key, **numbers)
            from_s = float(row[f"videos/{key}/from_timestamp"])
            if not math.isfinite(from_s):
                raise ValueError(f"the video of camera {camera} begins at {from_s} s")
            videos[camera] = (video, from_s)
        numbers = layout.stored_numbers(row, "data")
        return self.formatted("data_path", layout.DATA, **numbers), videos

    def formatted(self, setting: str, default: str, **numbers: int | str) -> Path:
        """Return the path from a template of `meta/info.json`, which stays inside the dataset."""
        asked = (setting, *numbers.values())
        if asked in self._paths:
            return self._paths[asked]
        with layout_errors_as_damage(self.path / INFO):
            template = self.info.get(setting) or default
            for _, name, form, _ in string.Formatter().parse(template):
                # Not "episode_index.__class__", nor a width of a billion, a gigabyte of path.
                if name is not None and (name not in numbers or len(form or "") > 4):
                    raise ValueError(
                        f"{setting} is {template[:200]}; its fields are {', '.join(numbers)}"
                    )
            path = template.format(**numbers)
            if max(map(len, os.fsencode(path).split(b"/"))) > _MAX_NAME_BYTES:
                raise ValueError(f"{setting} makes names longer than a file can have")
            if not layout.is_inside(path):
                raise ValueError(f"{setting} leads out of the dataset, to {path[:200]}")
            self._paths[asked] = self.path / path
        return self._paths[asked]
