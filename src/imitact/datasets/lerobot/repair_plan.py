"""Repair plan: the episodes of an unfinished dataset that can be copied, and what is lost of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from imitact.core.words import counted
from imitact.datasets.lerobot import parquet
from imitact.datasets.lerobot.checksums import DatasetChecksums
from imitact.datasets.lerobot.layout import is_shown, layout_errors_as_damage
from imitact.datasets.lerobot.stats import FeatureStats

OnEpisode = Callable[[int], object]
"""Called with the number of episodes that are done."""


@dataclass(frozen=True)
class VideoSegment:
    """The frames of an episode in a video, from the one numbered `first`."""

    video: Path
    first: int
    from_s: float
    to_s: float


@dataclass(frozen=True)
class StoredEpisode:
    """An episode whose ticks are all in a readable data file.

    `first` is the number of its first tick in the whole dataset; -1 if they are not consecutive.
    """

    index: int
    data: Path
    length: int
    first: int


@dataclass(frozen=True)
class RecoverableEpisode(StoredEpisode):
    """An episode that can be copied, with its frames by the key of the video feature."""

    tasks: tuple[str, ...]
    task_numbers: tuple[int, ...]
    segments: Mapping[str, VideoSegment]
    stats: Mapping[str, FeatureStats]


@dataclass(frozen=True)
class RepairPlan:
    """What can be recovered of a dataset.

    Attributes:
        total: number of episodes in the dataset.
        lost: what cannot be recovered, and why: one line per file or episode.
        remains: what the dataset still holds of the lost episodes, one line each.
        broken: files that cannot be read.
    """

    root: Path
    info: Mapping[str, Any]
    total: int
    recoverable: tuple[RecoverableEpisode, ...]
    lost: tuple[str, ...]
    remains: tuple[str, ...]
    broken: tuple[Path, ...]
    task_texts: Mapping[int, str]

    @property
    def is_whole(self) -> bool:
        """Whether there is nothing to repair."""
        return not self.lost and not self.broken

    def lines(self) -> list[str]:
        """Return the plan as lines of text."""
        ticks = sum(one.length for one in self.recoverable)
        counts = f"{len(self.recoverable)} of {counted(self.total, 'episode')}"
        return [
            f"recovered: {counts}, {ticks} of {counted(self.info['total_frames'], 'tick')}",
            *(f"lost: {line}" for line in self.lost),
            *(f"remains: {line}" for line in self.remains),
        ]


def read_episode(one: StoredEpisode) -> pa.Table:
    """Return every column of an episode, in the order of ticks, with the metadata of its file."""
    table = parquet.read_table(one.data, None, DatasetChecksums(one.data.parent), episode=one.index)
    with layout_errors_as_damage(one.data):
        return table.take(np.argsort(table["frame_index"].to_numpy(), kind="stable"))


def shown_files(root: Path, pattern: str) -> list[Path]:
    """Return the files of a dataset that match a pattern, sorted, without hidden companions."""
    return sorted(file for file in root.glob(pattern) if is_shown(file, root))
