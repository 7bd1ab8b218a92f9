"""LeRobot writer: appends episodes to a LeRobotDataset v3.0, each of them whole or not at all.

An episode is one Parquet file, one MP4 file per camera and one Parquet file of metadata. Layout
v3.0 allows that, since metadata name the file of each episode, and it makes an append a handful of
renames, as fast for the thousandth episode as for the first. Files are moved into place in this
order: videos, data, checksums, statistics, imitact.json, metadata, info.json. A reader counts
episodes in info.json, so a new episode exists with that last rename; metadata come just before it,
since parts of LeRobot count episodes there. The checksums (`checksums.py`) cover all other files,
so those are made in memory first, except for videos.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imitact.core.errors import BadInput, SpecMismatch
from imitact.core.types import ExtraColumn, Spec
from imitact.core.version import __version__
from imitact.core.words import counted
from imitact.datasets.lerobot import layout, parquet
from imitact.datasets.lerobot.checksums import CHECKSUMS, DatasetChecksums, EpisodeChecksums
from imitact.datasets.lerobot.features import stored_type
from imitact.datasets.lerobot.layout import ACTION, CAMERA_PREFIX, DATA, STATE, file_numbers
from imitact.datasets.lerobot.stats import FeatureStats, merge_all_stats, row_stats, stats_as_json
from imitact.datasets.row_blocks import check_shapes
from imitact.datasets.video_config import VideoConfig, exact_rate
from imitact.storage import atomic
from imitact.storage.checksum import bytes_sha256, file_sha256

UNKNOWN_TASK = "unknown"
"""Task description of an episode that has none; LeRobot requires one."""


class LeRobotWriter:
    """Appends episodes to the dataset in `out`; opened again, it continues after the last one.

    Opening creates the folder where it is missing, and removes the files of an unfinished episode.
    Only one writer may be open.

    Args:
        task: task description, or all of them where episodes show several tasks, each once.
        video: how the videos were compressed.
        staging: folder on the same disk for unfinished files.
        extra_columns: columns of numbers to store beside state, action and frames.
    """

    def __init__(
        self,
        out: Path,
        spec: Spec,
        *,
        task: str | Sequence[str],
        video: VideoConfig,
        staging: Path,
        extra_columns: Mapping[str, ExtraColumn] | None = None,
    ) -> None:
        for camera in spec.cameras:
            if "/" in camera.name:
                raise BadInput(f'camera "{camera.name}": LeRobot\'s layout allows no "/" in names')
            video.check_size(camera.height, camera.width, camera.name)
        tasks = (task,) if isinstance(task, str) else tuple(task)
        if not tasks or not all(tasks):
            raise BadInput("the task is empty; describe what the episodes show")
        if len(set(tasks)) < len(tasks):
            raise BadInput(f"the tasks ({_quoted(tasks)}) name one twice; give each once")
        self.out = out
        self._spec = spec
        self._tasks = tasks
        self._video = video
        self._staging = staging
        self._extra_columns = dict(extra_columns or {})
        self.episodes, self._frames = layout.finished(out)
        """Numbers of finished episodes and of their ticks."""
        remove_unfinished(out, staging)
        checksums = DatasetChecksums(out)
        self._stats = _finished_stats(out, self.episodes, checksums)
        if self.episodes:
            last = out / DATA.format(**file_numbers(self.episodes - 1))
            checksums.check_dataset(last, [layout.TASKS])

    def append(
        self,
        state: NDArray[np.floating[Any]],
        action: NDArray[np.floating[Any]],
        videos: Mapping[str, Path],
        pixels: Mapping[str, FeatureStats],
        facts: Mapping[str, Any],
        task: str = "",
        extra_values: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Append one episode of T ticks.

        Args:
            state: (T, S), stored as float32.
            action: (T, A), stored as float32.
            videos: camera to a finished, flushed MP4 file of T frames from time 0 in the staging
                folder; it is moved.
            pixels: camera to the statistics of its frames.
            facts: content of `meta/imitact.json` once this episode is finished.
            task: which of the writer's tasks the episode shows; empty: the first.
            extra_values: values of the extra columns, T rows each.

        Raises:
            BadInput: another task.
            SpecMismatch: arrays of another size.
        """
        if task and task not in self._tasks:
            raise BadInput(
                f'the episode shows the task "{task}", which is not among the writer\'s '
                f"({_quoted(self._tasks)})"
            )
        length, spec = len(state), self._spec
        check_shapes(spec, state, action)
        extra_values = extra_values or {}
        for name in self._extra_columns:
            if len(extra_values[name]) != length:
                raise SpecMismatch(
                    f"{name} has {counted(len(extra_values[name]), 'row')}, the episode has "
                    f"{counted(length, 'tick')}"
                )
        index = self.episodes
        task_index = self._tasks.index(task) if task else 0
        numbers = file_numbers(index)
        sums: dict[str, str] = {}
        with atomic.disk_full_guard(self.out):
            for camera in spec.cameras:
                key = CAMERA_PREFIX + camera.name
                name = layout.VIDEOS.format(video_key=key, **numbers)
                sums[name] = file_sha256(videos[camera.name])
                atomic.move_into_place(videos[camera.name], self.out / name)

        columns = self._columns(state, action, task_index, extra_values)
        stats = {name: row_stats(values) for name, values in columns.items()}
        data = table_bytes(pa.table({name: _column(v) for name, v in columns.items()}))
        sums[DATA.format(**numbers)] = bytes_sha256(data)
        self._write(DATA.format(**numbers), data)

        stats |= {CAMERA_PREFIX + c.name: pixels[c.name] for c in spec.cameras}
        to_s = float(length / exact_rate(spec.rate_hz))
        row = episode_row(
            index=index,
            tasks=[self._tasks[task_index]],
            length=length,
            start=self._frames,
            data=index,
            videos={CAMERA_PREFIX + c.name: (index, 0.0, to_s) for c in spec.cameras},
            stats=stats,
            metadata=index,
        )
        metadata = table_bytes(pa.table({name: [value] for name, value in row.items()}))
        sums[layout.EPISODES.format(**numbers)] = bytes_sha256(metadata)

        if index == 0:
            self._write(layout.TASKS, table_bytes(tasks_table(self._tasks)))
        # In the order of the episodes, so that continuing later gives the same bits.
        self._stats = merge_all_stats(self._stats, stats)
        self.episodes += 1
        self._frames += length
        whole = {
            layout.STATS: atomic.json_bytes(stats_as_json(self._stats)),
            layout.INFO: atomic.json_bytes(self._info()),
        }
        after = {name: bytes_sha256(value) for name, value in whole.items()}
        after[layout.TASKS] = file_sha256(self.out / layout.TASKS)
        checksums = EpisodeChecksums(sums, after)
        self._write(CHECKSUMS.format(**numbers), atomic.json_bytes(checksums.to_dict()))
        self._write(layout.STATS, whole[layout.STATS])
        self._write(layout.IMITACT, atomic.json_bytes(facts))
        self._write(layout.EPISODES.format(**numbers), metadata)
        self._write(layout.INFO, whole[layout.INFO])

    def _columns(
        self,
        state: NDArray[np.floating[Any]],
        action: NDArray[np.floating[Any]],
        task_index: int,
        extra_values: Mapping[str, NDArray[Any]],
    ) -> dict[str, NDArray[Any]]:
        """Return the columns of an episode, (T,) or (T, width) with a width above 1."""
        frame = np.arange(len(state), dtype=np.int64)
        columns = {
            STATE: np.ascontiguousarray(state, np.float32),
            ACTION: np.ascontiguousarray(action, np.float32),
            "timestamp": (frame / float(exact_rate(self._spec.rate_hz))).astype(np.float32),
            "frame_index": frame,
            "episode_index": np.full_like(frame, self.episodes),
            "index": self._frames + frame,
            "task_index": np.full_like(frame, task_index),
        }
        for name, column in self._extra_columns.items():
            shape = (-1, column.width) if column.width and column.width > 1 else -1
            values = np.ascontiguousarray(extra_values[name], stored_type(column))
            columns[name] = values.reshape(shape)
        return columns

    def _info(self) -> dict[str, Any]:
        spec, video = self._spec, self._video
        rate = int(spec.rate_hz) if float(spec.rate_hz).is_integer() else spec.rate_hz
        features: dict[str, Any] = {
            STATE: _feature("float32", spec.state_size, list(spec.state_names)),
            ACTION: _feature("float32", spec.action_size, list(spec.action_names)),
        }
        for camera in spec.cameras:
            features[CAMERA_PREFIX + camera.name] = {
                "dtype": "video",
                "shape": [camera.height, camera.width, 3],
                "names": ["height", "width", "channels"],
                "info": {
                    "video.height": camera.height,
                    "video.width": camera.width,
                    "video.codec": video.stored_codec,
                    "video.pix_fmt": video.stored_pixels,
                    "video.fps": rate,
                    "video.channels": 3,
                    "video.g": video.gop,
                    "video.crf": 0 if video.codec == "lossless" else video.crf,
                    "video.preset": video.used_preset,
                    "has_audio": False,
                    "is_depth_map": False,
                },
            }
        for name in layout.INDEX_COLUMNS:
            features[name] = _feature("float32" if name == "timestamp" else "int64", 1)
        for name, column in self._extra_columns.items():
            features[name] = _feature(np.dtype(stored_type(column)).name, column.width or 1)
        return {
            "codebase_version": "v3.0",
            "fps": rate,
            "features": features,
            "total_episodes": self.episodes,
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": layout.FILES_PER_CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "data_path": DATA,
            "video_path": layout.VIDEOS,
            "robot_type": None,
            "splits": {"train": f"0:{self.episodes}"},
        }

    def _write(self, name: str, data: bytes) -> None:
        atomic.write_bytes(self.out / name, data, self._staging)


def episode_row(
    *,
    index: int,
    tasks: Sequence[str],
    length: int,
    start: int,
    data: int,
    videos: Mapping[str, tuple[int, float, float]],
    stats: Mapping[str, FeatureStats],
    metadata: int,
) -> dict[str, Any]:
    """Return the row of metadata of an episode.

    Args:
        start: number of its first tick in the whole dataset.
        data: position of its data file among all data files.
        videos: feature to the position of its video file and where the episode begins and ends in
            it, in s.
        metadata: position of the metadata file that holds this row.
    """
    row: dict[str, Any] = {
        "episode_index": index,
        "tasks": list(tasks),
        "length": length,
        **{f"data/{n}": v for n, v in file_numbers(data).items()},
        "dataset_from_index": start,
        "dataset_to_index": start + length,
    }
    for key, (video, from_s, to_s) in videos.items():
        row |= {f"videos/{key}/{n}": v for n, v in file_numbers(video).items()}
        row |= {f"videos/{key}/from_timestamp": from_s, f"videos/{key}/to_timestamp": to_s}
    for name, feature in stats.items():
        row |= {f"stats/{name}/{statistic}": v.tolist() for statistic, v in feature.items()}
    return row | {f"meta/episodes/{n}": v for n, v in file_numbers(metadata).items()}


def tasks_table(tasks: Sequence[str]) -> pa.Table:
    """Return the table of `meta/tasks.parquet`: task descriptions, numbered by position."""
    # LeRobot reads this file with pandas and takes the task as the index, which pandas finds only
    # by this note in the schema.
    keys = ("name", "field_name", "pandas_type", "numpy_type", "metadata")
    columns = (
        ("task_index", "task_index", "int64", "int64", None),
        ("task", "task", "unicode", "object", None),
    )
    note = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [dict(zip(keys, column, strict=True)) for column in columns],
        "creator": {"library": "imitact", "version": __version__},
        "pandas_version": "2.0.0",
    }
    numbers = pa.array(range(len(tasks)), pa.int64())
    table = pa.table({"task_index": numbers, "task": list(tasks)})
    return table.replace_schema_metadata({"pandas": json.dumps(note)})


def table_bytes(table: pa.Table) -> bytes:
    """Return a table as the bytes of a Parquet file."""
    many = table.num_rows > 1
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        # Metadata are a hundred columns of one row: indexing each would double the file.
        use_dictionary=many,
        write_statistics=many,
        write_page_checksum=True,  # for readers that do not know our checksums
    )
    return sink.getvalue().to_pybytes()


def remove_unfinished(out: Path, staging: Path) -> None:
    """Remove the files of an unfinished episode from a dataset that imitact is writing.

    Statistics that already include it are replaced, by way of `staging`, with those of the
    finished episodes.
    """
    episodes, _ = layout.finished(out)
    if episodes:
        checksums = DatasetChecksums(out)
        last = checksums.of_episode(out / DATA.format(**file_numbers(episodes - 1)))
        file = out / layout.STATS
        # Of an episode that a killed writer did not finish, or missing.
        if last and not (file.is_file() and file_sha256(file) == last.dataset.get(layout.STATS)):
            stats = stats_as_json(_finished_stats(out, episodes, checksums))
            atomic.write_json(file, stats, staging)
    first = tuple(file_numbers(episodes).values())
    for template in (DATA, layout.EPISODES, layout.VIDEOS, CHECKSUMS):
        folder = template.partition("/chunk-")[0].format(video_key="*")
        for file in sorted(out.glob(f"{folder}/chunk-*/file-*.*")):
            found = re.fullmatch(
                r"chunk-(\d+)/file-(\d+)\.(parquet|mp4|json)", f"{file.parent.name}/{file.name}"
            )
            if found and (int(found[1]), int(found[2])) >= first:
                file.unlink()


def _finished_stats(
    out: Path, episodes: int, checksums: DatasetChecksums
) -> dict[str, FeatureStats]:
    """Return the statistics of the finished episodes, read from their metadata."""
    stats: dict[str, FeatureStats] = {}
    for index in range(episodes):
        file = out / layout.EPISODES.format(**file_numbers(index))
        table = parquet.read_table(file, None, checksums)
        one: dict[str, FeatureStats] = {}
        with layout.layout_errors_as_damage(file):
            for name, value in table.to_pylist()[0].items():
                if name.startswith("stats/"):
                    feature, _, statistic = name.removeprefix("stats/").rpartition("/")
                    one.setdefault(feature, {})[statistic] = np.array(value)
        stats = merge_all_stats(stats, one)
    return stats


def _column(values: NDArray[Any]) -> pa.Array:
    flat = pa.array(values.ravel())
    return flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _feature(dtype: str, size: int, names: list[str] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [size], "names": names}


def _quoted(texts: Sequence[str]) -> str:
    return ", ".join(f'"{text}"' for text in texts)
