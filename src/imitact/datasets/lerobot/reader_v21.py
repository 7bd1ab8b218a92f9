"""LeRobot reader for v2.1: one Parquet file, and one MP4 file per camera, for each episode.

LeRobot 0.1 to 0.3 wrote this layout; v2.0 differs from it in the statistics only, which are not
read. Features, ticks and frames are those of v3.0; only the places of files differ.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from imitact.datasets.lerobot.descriptions import EpisodeDescriptions, EpisodeFiles, reporting
from imitact.datasets.lerobot.layout import RESTORE, V21, layout_errors_as_damage, version_of
from imitact.datasets.lerobot.reader import LeRobotDataset
from imitact.datasets.read_config import OnDamage, ReadConfig
from imitact.storage.json_file import check_json_memory, parse_json_object, read_bytes

EPISODES = "meta/episodes.jsonl"
TASKS = "meta/tasks.jsonl"
DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEOS = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
EPISODES_PER_CHUNK = 1000


class V21Descriptions(EpisodeDescriptions):
    """Reads the descriptions of all episodes of a dataset in the v2.1 or v2.0 layout."""

    where: ClassVar[str] = EPISODES
    advice: ClassVar[str] = (
        "`imitact check DATASET --fix OUT` writes a copy of the others; else copy the dataset "
        "again from its origin"
    )

    def described(self) -> Iterator[tuple[int, EpisodeFiles]]:
        with reporting(self._on_damage, ()):
            for where, row in _read_lines(self.path / EPISODES):
                yield from self.described_in(row, where)

    def places_of(
        self, index: int, row: Mapping[str, Any]
    ) -> tuple[Path, dict[str, tuple[Path, float]]]:
        size = int(self.info.get("chunks_size") or EPISODES_PER_CHUNK)
        numbers = {"episode_chunk": index // size, "episode_index": index}
        videos = {
            camera: (self.formatted("video_path", VIDEOS, video_key=key, **numbers), 0.0)
            for camera, key in self.video_keys.items()
        }
        return self.formatted("data_path", DATA, **numbers), videos


class LeRobotV21Dataset(LeRobotDataset):
    """A dataset in the LeRobotDataset v2.1 or v2.0 layout; arguments as LeRobotDataset."""

    VERSIONS: ClassVar[tuple[str, ...]] = V21

    DESCRIPTIONS: ClassVar[type[EpisodeDescriptions]] = V21Descriptions

    @cached_property
    def task_texts(self) -> Mapping[int, str]:
        file = self.path / TASKS
        texts: dict[int, str] = {}
        if file.is_file():
            for where, row in _read_lines(file):
                with layout_errors_as_damage(where):
                    texts[int(row["task_index"])] = str(row["task"])
        return texts


def open_lerobot(
    path: Path | str, on_damage: OnDamage | None = None, read: ReadConfig | None = None
) -> LeRobotDataset:
    """Open the LeRobot dataset in a folder, whichever version it has."""
    is_v21 = version_of(path).startswith(V21)
    return (LeRobotV21Dataset if is_v21 else LeRobotDataset)(path, on_damage, read)


def _read_lines(file: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield each line of a file of JSON objects, with file name and line number for errors."""
    data = read_bytes(file, advice=RESTORE)
    check_json_memory(data, file, advice=RESTORE)
    for number, line in enumerate(io.BytesIO(data), 1):
        if not line.strip():
            continue
        where = file.with_name(f"{file.name}, line {number}")
        yield where, parse_json_object(line, where, advice=RESTORE)
