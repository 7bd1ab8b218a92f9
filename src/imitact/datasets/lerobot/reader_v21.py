"""The LeRobotDataset v2.1 layout, read: one Parquet file, and one MP4 file a camera, an episode.

LeRobot 0.1 to 0.3 wrote it (v2.0 is the same for a reader, but for its statistics). Features, ticks
and frames are those of v3.0; only where they lie is told otherwise. docs/formats.md has both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from imitact.datasets.lerobot.parquet import RESTORE, as_promised
from imitact.datasets.lerobot.reader import INFO, Complain, LeRobotDataset, Place, length_and_tasks
from imitact.datasets.video import TOLERANCE_S
from imitact.storage.json_file import parse_json_object, read_bytes, read_json_object

EPISODES = "meta/episodes.jsonl"
TASKS = "meta/tasks.jsonl"
DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEOS = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
EPISODES_PER_CHUNK = 1000


class LeRobotV21Dataset(LeRobotDataset):
    """A dataset in the LeRobotDataset v2.1 or v2.0 layout; see LeRobotSource."""

    LAYOUTS: ClassVar[tuple[str, ...]] = ("v2.1", "v2.0")

    _described_in: ClassVar[str] = EPISODES
    _advice: ClassVar[str] = RESTORE

    def _described(self, told: set[int]) -> Iterator[tuple[int, Place]]:
        with self._told(()):
            for where, row in read_lines(self.path / EPISODES):
                yield from self._place_of(row, where, told)

    def _place(self, index: int, row: Mapping[str, Any]) -> Place:
        size = int(self._info.get("chunks_size") or EPISODES_PER_CHUNK)
        numbers = {"episode_chunk": index // size, "episode_index": index}
        videos = {
            camera: (self._file("video_path", VIDEOS, video_key=key, **numbers), 0.0)
            for camera, key in self._video_keys.items()
        }
        return Place(self._file("data_path", DATA, **numbers), videos, *length_and_tasks(row))

    @cached_property
    def task_words(self) -> Mapping[int, str]:
        file = self.path / TASKS
        words: dict[int, str] = {}
        if file.is_file():
            for where, row in read_lines(file):
                with as_promised(where):
                    words[int(row["task_index"])] = str(row["task"])
        return words


def version_of(path: Path | str) -> str:
    """The layout of the LeRobot dataset in a folder, as "v2.1"; "" where it holds none."""
    file = Path(path) / INFO
    if not file.is_file():
        return ""
    return str(read_json_object(file, advice=RESTORE).get("codebase_version"))


def open_lerobot(
    path: Path | str, tolerance_s: float = TOLERANCE_S, complain: Complain | None = None
) -> LeRobotDataset:
    """The LeRobot dataset in a folder, whichever layout it has."""
    is_old = version_of(path).startswith(LeRobotV21Dataset.LAYOUTS)
    kind = LeRobotV21Dataset if is_old else LeRobotDataset
    return kind(path, tolerance_s, complain)


def read_lines(file: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each line of a file of JSON objects, with the name of the file and its number for errors."""
    for number, line in enumerate(read_bytes(file, advice=RESTORE).splitlines(), 1):
        if not line.strip():
            continue
        where = file.with_name(f"{file.name}, line {number}")
        yield where, parse_json_object(line, where, advice=RESTORE)
