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

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imitact.core.errors import BadInput, DamagedFile, SpecMismatch
from imitact.core.types import ExtraColumn, Spec
from imitact.core.version import __version__
from imitact.datasets.lerobot.checksums import (
    CHECKSUM_FOLDER,
    CHECKSUMS,
    DatasetChecksums,
    EpisodeChecksums,
)
from imitact.datasets.lerobot.features import stored_type
from imitact.datasets.lerobot.layout import (
    ACTION,
    CAMERA_PREFIX,
    DATA,
    EPISODES,
    FILES_PER_CHUNK,
    IMITACT,
    INDEX_COLUMNS,
    INFO,
    STATE,
    STATS,
    TASKS,
    VIDEOS,
    file_numbers,
    finished,
    layout_errors_as_damage,
)
from imitact.datasets.lerobot.stats import FeatureStats, merge_all_stats, row_stats, stats_as_json
from imitact.datasets.video_config import VideoConfig, exact_rate
from imitact.storage.atomic import (
    disk_full_guard,
    json_bytes,
    make_folder,
    move_into_place,
    write_bytes,
    write_json,
)
from imitact.storage.checksum import file_sha256

UNKNOWN_TASK = "unknown"
"""Task description of an episode that has none; LeRobot requires one."""


class LeRobotWriter:
    """Appends episodes to the dataset in `out`; opened again, it continues after the last one.

    Opening removes the files of an unfinished episode. Only one writer may be open.

    Args:
        out: folder of the dataset, created where it is missing.
        spec: names, units, cameras and rate of the episodes.
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
        self._episodes, self._frames = finished(out)
        self._stats: dict[str, FeatureStats] = {}
        remove_unfinished(out, staging)
        checksums = DatasetChecksums(out)
        for index in range(self._episodes):
            self._merge_stats(_read_stats(out, index, checksums))
        if self._episodes:
            last = out / DATA.format(**file_numbers(self._episodes - 1))
            checksums.check_dataset(last, [TASKS])

    @property
    def episodes(self) -> int:
        """Number of finished episodes."""
        return self._episodes

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
        length = len(state)
        spec = self._spec
        want = ((length, spec.state_size), (length, spec.action_size))
        if (state.shape, action.shape) != want or length < 1:
            raise SpecMismatch(
                f"state has shape {state.shape} and action {action.shape}; expected {want[0]} and "
                f"{want[1]}, with at least 1 tick"
            )
        extra_values = extra_values or {}
        for name in self._extra_columns:
            if len(extra_values[name]) != length:
                raise SpecMismatch(
                    f"{name} has {len(extra_values[name])} rows, the episode has {length} ticks"
                )
        index = self._episodes
        task_index = self._tasks.index(task) if task else 0
        numbers = file_numbers(index)
        sums: dict[str, str] = {}
        with disk_full_guard(self.out):
            for camera in spec.cameras:
                name = VIDEOS.format(video_key=CAMERA_PREFIX + camera.name, **numbers)
                sums[name] = file_sha256(videos[camera.name])
                move_into_place(videos[camera.name], self.out / name)

        columns = self._columns(state, action, task_index, extra_values)
        stats = {name: row_stats(_to_numpy(column)) for name, column in columns.items()}
        data = table_bytes(pa.table(columns))
        sums[DATA.format(**numbers)] = _sha256(data)
        self._write(DATA.format(**numbers), data)

        stats |= {CAMERA_PREFIX + c.name: pixels[c.name] for c in spec.cameras}
        metadata = table_bytes(self._metadata(length, task_index, stats))
        sums[EPISODES.format(**numbers)] = _sha256(metadata)

        if index == 0:
            self._write(TASKS, table_bytes(tasks_table(self._tasks)))
        self._merge_stats(stats)
        self._episodes += 1
        self._frames += length
        whole = {STATS: json_bytes(stats_as_json(self._stats)), INFO: json_bytes(self._info())}
        after = {name: _sha256(value) for name, value in whole.items()}
        after[TASKS] = file_sha256(self.out / TASKS)
        checksums = EpisodeChecksums(sums, after)
        self._write(CHECKSUMS.format(**numbers), json_bytes(checksums.to_dict()))
        self._write(STATS, whole[STATS])
        write_json(self.out / IMITACT, facts, self._staging)
        self._write(EPISODES.format(**numbers), metadata)
        self._write(INFO, whole[INFO])

    def _columns(
        self,
        state: NDArray[np.floating[Any]],
        action: NDArray[np.floating[Any]],
        task_index: int,
        extra_values: Mapping[str, NDArray[Any]],
    ) -> dict[str, pa.Array]:
        length = len(state)
        frame = np.arange(length, dtype=np.int64)
        rate = exact_rate(self._spec.rate_hz)
        columns = {
            STATE: _vectors(state),
            ACTION: _vectors(action),
            "timestamp": pa.array((frame / float(rate)).astype(np.float32)),
            "frame_index": pa.array(frame),
            "episode_index": pa.array(np.full(length, self._episodes, dtype=np.int64)),
            "index": pa.array(self._frames + frame),
            "task_index": pa.array(np.full(length, task_index, dtype=np.int64)),
        }
        for name, column in self._extra_columns.items():
            values = np.ascontiguousarray(extra_values[name], stored_type(column))
            flat = pa.array(values.ravel())
            width = column.width or 1
            columns[name] = flat if width == 1 else pa.FixedSizeListArray.from_arrays(flat, width)
        return columns

    def _metadata(
        self, length: int, task_index: int, stats: Mapping[str, FeatureStats]
    ) -> pa.Table:
        numbers = file_numbers(self._episodes)
        row: dict[str, Any] = {
            "episode_index": self._episodes,
            "tasks": [self._tasks[task_index]],
            "length": length,
            **{f"data/{n}": v for n, v in numbers.items()},
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + length,
        }
        for camera in self._spec.cameras:
            key = f"videos/{CAMERA_PREFIX}{camera.name}"
            row |= {f"{key}/{n}": v for n, v in numbers.items()}
            row[f"{key}/from_timestamp"] = 0.0
            row[f"{key}/to_timestamp"] = float(length / exact_rate(self._spec.rate_hz))
        row |= stats_columns(stats)
        row |= {f"meta/episodes/{n}": v for n, v in numbers.items()}
        return pa.table({name: [value] for name, value in row.items()})

    def _info(self) -> dict[str, Any]:
        spec, video = self._spec, self._video
        rate = int(spec.rate_hz) if float(spec.rate_hz).is_integer() else spec.rate_hz
        features: dict[str, Any] = {
            STATE: _feature("float32", len(spec.state_names), list(spec.state_names)),
            ACTION: _feature("float32", len(spec.action_names), list(spec.action_names)),
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
        for name in INDEX_COLUMNS:
            features[name] = _feature("float32" if name == "timestamp" else "int64", 1)
        for name, column in self._extra_columns.items():
            features[name] = _feature(np.dtype(stored_type(column)).name, column.width or 1)
        return {
            "codebase_version": "v3.0",
            "fps": rate,
            "features": features,
            "total_episodes": self._episodes,
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "data_path": DATA,
            "video_path": VIDEOS,
            "robot_type": None,
            "splits": {"train": f"0:{self._episodes}"},
        }

    def _write(self, name: str, data: bytes) -> None:
        write_bytes(self.out / name, data, self._staging)

    def _merge_stats(self, stats: Mapping[str, FeatureStats]) -> None:
        # In the order of the episodes, so that continuing later gives the same bits.
        self._stats = merge_all_stats(self._stats, stats) if self._stats else dict(stats)


def tasks_table(tasks: Sequence[str]) -> pa.Table:
    """Return the table of `meta/tasks.parquet`: task descriptions, numbered by position."""
    # LeRobot reads this file with pandas and takes the task as the index, which pandas finds only
    # by this note in the schema.
    columns = [("task_index", "int64", "int64"), ("task", "unicode", "object")]
    note = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {
                "name": name,
                "field_name": name,
                "pandas_type": pandas_type,
                "numpy_type": numpy_type,
                "metadata": None,
            }
            for name, pandas_type, numpy_type in columns
        ],
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


def stats_columns(stats: Mapping[str, FeatureStats]) -> dict[str, Any]:
    """Return statistics as columns of an episode's metadata, "stats/FEATURE/STATISTIC"."""
    return {
        f"stats/{name}/{statistic}": value.tolist()
        for name, feature in stats.items()
        for statistic, value in feature.items()
    }


def remove_unfinished(out: Path, staging: Path) -> None:
    """Remove the files of an unfinished episode from a dataset that imitact is writing.

    Statistics that already include it are replaced, by way of `staging`, with those of the
    finished episodes.
    """
    episodes, _ = finished(out)
    if episodes:
        _restore_stats(out, episodes, staging)
    first = tuple(file_numbers(episodes).values())
    for folder in ("data", "meta/episodes", "videos/*", CHECKSUM_FOLDER):
        for file in sorted(out.glob(f"{folder}/chunk-*/file-*.*")):
            found = re.fullmatch(
                r"chunk-(\d+)/file-(\d+)\.(parquet|mp4|json)", f"{file.parent.name}/{file.name}"
            )
            if found and (int(found[1]), int(found[2])) >= first:
                file.unlink()


def _restore_stats(out: Path, episodes: int, staging: Path) -> None:
    """Rewrite stats.json from the finished episodes where its checksum differs from theirs."""
    checksums = DatasetChecksums(out)
    last = checksums.of_episode(out / DATA.format(**file_numbers(episodes - 1)))
    file = out / STATS
    if last is None or (file.is_file() and file_sha256(file) == last.dataset.get(STATS)):
        return
    stats: dict[str, FeatureStats] = {}
    for index in range(episodes):
        more = _read_stats(out, index, checksums)
        stats = merge_all_stats(stats, more) if stats else more
    make_folder(staging)
    write_json(file, stats_as_json(stats), staging)


def _read_stats(out: Path, index: int, checksums: DatasetChecksums) -> dict[str, FeatureStats]:
    """Read the statistics of one finished episode from its metadata."""
    file = out / EPISODES.format(**file_numbers(index))
    try:
        held = pa.BufferReader(checksums.read(file)) if checksums.has(file) else file
        row = pq.read_table(held, page_checksum_verification=True).to_pylist()[0]
    except (OSError, pa.ArrowException, ValueError, IndexError) as error:
        raise DamagedFile(
            f"{file} cannot be read ({error}), so recording cannot go on in {out}; "
            "copy the dataset again from its origin, or record into another folder"
        ) from error
    stats: dict[str, FeatureStats] = {}
    with layout_errors_as_damage(file):
        for name, value in row.items():
            if name.startswith("stats/"):
                feature, _, statistic = name.removeprefix("stats/").rpartition("/")
                stats.setdefault(feature, {})[statistic] = np.array(value)
    return stats


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _vectors(rows: NDArray[np.floating[Any]]) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(rows, dtype=np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])


def _to_numpy(column: pa.Array) -> NDArray[Any]:
    if isinstance(column, pa.FixedSizeListArray):
        return column.flatten().to_numpy().reshape(len(column), -1)
    return column.to_numpy()


def _feature(dtype: str, size: int, names: list[str] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [size], "names": names}


def _quoted(texts: Sequence[str]) -> str:
    return ", ".join(f'"{text}"' for text in texts)
