"""Append episodes to a dataset in the LeRobotDataset v3.0 layout, each whole or not at all.

An episode is one Parquet file, one MP4 file a camera and one Parquet file of metadata: legal in
v3.0, where metadata say which file holds which episode, and what makes an append a handful of
renames, as dear for the thousandth episode as for the first. They are put in place in this order:
videos, data, checksums, statistics, imitact.json, metadata, info.json. A reader counts episodes in
info.json, so until that last rename the new episode does not exist for it; metadata come just
before, since parts of LeRobot count episodes there. The checksums (digests.py) are those of all the
other files, so what is written is made in memory first, videos excepted.
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
from imitact.core.types import Spec
from imitact.core.version import __version__
from imitact.datasets.lerobot.checksums import DIGESTS, FOLDER, DatasetChecksums, Named
from imitact.datasets.lerobot.reader import (
    ACTION,
    CAMERA_PREFIX,
    DATA,
    EPISODES,
    FILES_PER_CHUNK,
    IMITACT,
    INFO,
    STATE,
    STATS,
    TASKS,
    VIDEOS,
    as_promised,
    finished,
)
from imitact.datasets.lerobot.stats import FeatureStats, merged_all, of_rows, plain
from imitact.datasets.video import VideoConfig, exact_rate
from imitact.storage.atomic import (
    disk_full_guard,
    json_bytes,
    make_folder,
    move_into_place,
    write_bytes,
    write_json,
)
from imitact.storage.checksum import file_sha256

NAMELESS = "unknown"
"""The words of a task that nobody put into words; LeRobot wants some."""

_INDICES = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""The columns every LeRobot dataset has beside its features."""


class LeRobotWriter:
    """Appends episodes to `out`; opening it again goes on after the last one that is finished.

    out:     created if it is not there.
    task:    what the episodes show, in words; all of it where they show several things, each once.
    staging: a folder on the same disk; what is not finished lies there, and nowhere else.

    Opening removes the files of an episode that was not finished. Only one writer may be open.
    """

    def __init__(
        self,
        out: Path,
        spec: Spec,
        *,
        task: str | Sequence[str],
        video: VideoConfig,
        staging: Path,
    ) -> None:
        for camera in spec.cameras:
            if "/" in camera.name:
                raise BadInput(f"camera {camera.name!r}: LeRobot's layout allows no '/' in names")
            video.check_size(camera.height, camera.width, camera.name)
        tasks = (task,) if isinstance(task, str) else tuple(task)
        if not tasks or not all(tasks):
            raise BadInput("the task has no words; say what the episodes show")
        if len(set(tasks)) < len(tasks):
            raise BadInput(f"the tasks {list(tasks)} name one twice; give each once")
        self.out = out
        self._spec = spec
        self._tasks = tasks
        self._shown = 0  # place in them of what the episode shows that is being written
        self._video = video
        self._staging = staging
        self._episodes, self._frames = finished(out)
        self._stats: dict[str, FeatureStats] = {}
        remove_unfinished(out, staging)
        digests = DatasetChecksums(out)
        for index in range(self._episodes):
            self._fold(_read_stats(out, index, digests))
        if self._episodes:
            digests.check_dataset(out / DATA.format(**_where(self._episodes - 1)), [TASKS])

    @property
    def episodes(self) -> int:
        """How many are finished."""
        return self._episodes

    def append(
        self,
        state: NDArray[np.floating[Any]],
        action: NDArray[np.floating[Any]],
        videos: Mapping[str, Path],
        pixels: Mapping[str, FeatureStats],
        facts: Mapping[str, Any],
        task: str = "",
    ) -> None:
        """Add one episode of T ticks.

        state, action: (T, S) and (T, A); stored as float32.
        videos:        camera name to a finished, flushed MP4 file in the staging folder, of T
                       frames whose first has time 0; it is moved.
        pixels:        camera name to the statistics of its frames.
        facts:         what meta/imitact.json is to hold once this episode is finished.
        task:          which of the writer's tasks it shows; none is the first.
        """
        if task and task not in self._tasks:
            raise BadInput(f"the episode shows {task!r}; the writer's tasks are {[*self._tasks]}")
        self._shown = self._tasks.index(task) if task else 0
        length = len(state)
        spec = self._spec
        want = ((length, spec.state_size), (length, spec.action_size))
        if (state.shape, action.shape) != want or length < 1:
            raise SpecMismatch(
                f"state {state.shape}, action {action.shape}; expected {want}, T >= 1"
            )
        index = self._episodes
        where = _where(index)
        sums: dict[str, str] = {}
        with disk_full_guard(self.out):
            for camera in spec.cameras:
                name = VIDEOS.format(video_key=CAMERA_PREFIX + camera.name, **where)
                sums[name] = file_sha256(videos[camera.name])
                move_into_place(videos[camera.name], self.out / name)

        columns = self._columns(state, action)
        data = table_bytes(pa.table(columns))
        sums[DATA.format(**where)] = _sha256(data)
        self._write(DATA.format(**where), data)

        stats = {name: of_rows(_to_numpy(column)) for name, column in columns.items()}
        stats |= {CAMERA_PREFIX + c.name: pixels[c.name] for c in spec.cameras}
        metadata = table_bytes(self._metadata(length, stats, where))
        sums[EPISODES.format(**where)] = _sha256(metadata)

        if index == 0:
            self._write(TASKS, table_bytes(tasks_table(self._tasks)))
        self._fold(stats)
        self._episodes += 1
        self._frames += length
        whole = {STATS: json_bytes(plain(self._stats)), INFO: json_bytes(self._info())}
        after = {name: _sha256(value) for name, value in whole.items()}
        after[TASKS] = file_sha256(self.out / TASKS)
        self._write(DIGESTS.format(**where), json_bytes(Named(sums, after).to_dict()))
        self._write(STATS, whole[STATS])
        write_json(self.out / IMITACT, facts, self._staging)
        self._write(EPISODES.format(**where), metadata)
        self._write(INFO, whole[INFO])

    def _columns(
        self, state: NDArray[np.floating[Any]], action: NDArray[np.floating[Any]]
    ) -> dict[str, pa.Array]:
        length = len(state)
        frame = np.arange(length, dtype=np.int64)
        rate = exact_rate(self._spec.rate_hz)
        return {
            STATE: _vectors(state),
            ACTION: _vectors(action),
            "timestamp": pa.array((frame / float(rate)).astype(np.float32)),
            "frame_index": pa.array(frame),
            "episode_index": pa.array(np.full(length, self._episodes, dtype=np.int64)),
            "index": pa.array(self._frames + frame),
            "task_index": pa.array(np.full(length, self._shown, dtype=np.int64)),
        }

    def _metadata(
        self, length: int, stats: Mapping[str, FeatureStats], where: Mapping[str, int]
    ) -> pa.Table:
        row: dict[str, Any] = {
            "episode_index": self._episodes,
            "tasks": [self._tasks[self._shown]],
            "length": length,
            **{f"data/{n}": v for n, v in where.items()},
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + length,
        }
        for camera in self._spec.cameras:
            key = f"videos/{CAMERA_PREFIX}{camera.name}"
            row |= {f"{key}/{n}": v for n, v in where.items()}
            row[f"{key}/from_timestamp"] = 0.0
            row[f"{key}/to_timestamp"] = float(length / exact_rate(self._spec.rate_hz))
        for name, feature in stats.items():
            row |= {f"stats/{name}/{n}": v.tolist() for n, v in feature.items()}
        row |= {f"meta/episodes/{n}": v for n, v in where.items()}
        return pa.table({name: [value] for name, value in row.items()})

    def _info(self) -> dict[str, Any]:
        spec, video = self._spec, self._video
        rate = int(spec.rate_hz) if float(spec.rate_hz).is_integer() else spec.rate_hz
        features: dict[str, Any] = {
            STATE: _vector_feature(spec.state_names),
            ACTION: _vector_feature(spec.action_names),
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
        for name in _INDICES:
            dtype = "float32" if name == "timestamp" else "int64"
            features[name] = {"dtype": dtype, "shape": [1], "names": None}
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

    def _fold(self, stats: Mapping[str, FeatureStats]) -> None:
        # In the order of the episodes, so that going on later gives the same bits.
        self._stats = merged_all(self._stats, stats) if self._stats else dict(stats)


def _where(index: int) -> dict[str, int]:
    return {"chunk_index": index // FILES_PER_CHUNK, "file_index": index % FILES_PER_CHUNK}


def tasks_table(words: Sequence[str]) -> pa.Table:
    """meta/tasks.parquet: the words of the tasks, whose numbers are their places."""
    # LeRobot reads this file with pandas and takes the task's words for the index, which
    # pandas finds only by this note in the schema.
    index = {
        "name": "task",
        "field_name": "task",
        "pandas_type": "unicode",
        "numpy_type": "object",
        "metadata": None,
    }
    column = {
        "name": "task_index",
        "field_name": "task_index",
        "pandas_type": "int64",
        "numpy_type": "int64",
        "metadata": None,
    }
    note = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [column, index],
        "creator": {"library": "imitact", "version": __version__},
        "pandas_version": "2.0.0",
    }
    numbers = pa.array(range(len(words)), pa.int64())
    table = pa.table({"task_index": numbers, "task": list(words)})
    return table.replace_schema_metadata({"pandas": json.dumps(note)})


def table_bytes(table: pa.Table) -> bytes:
    many = table.num_rows > 1
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        # Metadata are a hundred columns of one row: indexing each would double the file.
        use_dictionary=many,
        write_statistics=many,
        write_page_checksum=True,  # for whoever reads the file without our checksums
    )
    return sink.getvalue().to_pybytes()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read_stats(out: Path, index: int, digests: DatasetChecksums) -> dict[str, FeatureStats]:
    """The statistics of one finished episode, from its metadata."""
    file = out / EPISODES.format(**_where(index))
    try:
        held = pa.BufferReader(digests.read(file)) if digests.knows(file) else file
        row = pq.read_table(held, page_checksum_verification=True).to_pylist()[0]
    except (OSError, pa.ArrowException, ValueError, IndexError) as error:
        raise DamagedFile(
            f"{file} cannot be read ({error}), so recording cannot go on in {out}; "
            "copy the dataset again from where it came, or record into another folder"
        ) from error
    stats: dict[str, FeatureStats] = {}
    with as_promised(file):
        for name, value in row.items():
            if name.startswith("stats/"):
                feature, _, statistic = name.removeprefix("stats/").rpartition("/")
                stats.setdefault(feature, {})[statistic] = np.array(value)
    return stats


def remove_unfinished(out: Path, staging: Path) -> None:
    """Remove the files of an episode that imitact did not finish writing to its dataset `out`.

    Its statistics go too: those of the finished episodes are put back (by way of `staging`).
    """
    episodes, _ = finished(out)
    if episodes:
        _restore_stats(out, episodes, staging)
    for folder in ("data", "meta/episodes", "videos/*", FOLDER):
        for file in sorted(out.glob(f"{folder}/chunk-*/file-*.*")):
            place = f"{file.parent.name}/{file.name}"
            found = re.fullmatch(r"chunk-(\d+)/file-(\d+)\.(parquet|mp4|json)", place)
            if found and int(found[1]) * FILES_PER_CHUNK + int(found[2]) >= episodes:
                file.unlink()


def _restore_stats(out: Path, episodes: int, staging: Path) -> None:
    """Write stats.json of the finished episodes where another is there, and that can be told."""
    digests = DatasetChecksums(out)
    last = digests.named(out / DATA.format(**_where(episodes - 1)))
    there = out / STATS
    if last is None or (there.is_file() and file_sha256(there) == last.dataset.get(STATS)):
        return
    stats: dict[str, FeatureStats] = {}
    for index in range(episodes):
        more = _read_stats(out, index, digests)
        stats = merged_all(stats, more) if stats else more
    make_folder(staging)
    write_json(there, plain(stats), staging)


def _vectors(rows: NDArray[np.floating[Any]]) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(rows, dtype=np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])


def _to_numpy(column: pa.Array) -> NDArray[Any]:
    if isinstance(column, pa.FixedSizeListArray):
        return column.flatten().to_numpy().reshape(len(column), -1)
    return column.to_numpy()


def _vector_feature(names: tuple[str, ...]) -> dict[str, Any]:
    return {"dtype": "float32", "shape": [len(names)], "names": list(names)}
