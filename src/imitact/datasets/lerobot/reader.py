"""LeRobot reader: a dataset in the LeRobotDataset v3.0 layout."""

from __future__ import annotations

import hashlib
import math
import os
import string
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from imitact.core.errors import BadInput, DamagedFile
from imitact.core.types import Dataset, Episode, ExtraColumn, Frame, Spec, overridable
from imitact.datasets import images
from imitact.datasets.lerobot import layout, parquet
from imitact.datasets.lerobot.checksums import DatasetChecksums, missing_checksums
from imitact.datasets.lerobot.features import read_extra_columns, read_features
from imitact.datasets.lerobot.layout import ACTION, INFO, RESTORE, STATE, layout_errors_as_damage
from imitact.datasets.read_config import OnDamage
from imitact.datasets.row_blocks import checked_stop
from imitact.datasets.video import check_whole, read_frames
from imitact.storage.checksum import file_sha256

_MAX_NAME_BYTES = 255
"""Longest file or folder name of today's file systems."""

_MAX_EPISODES = 1_000_000
"""Above this count, missing episodes are not reported one by one: the count itself is wrong."""


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


class LeRobotDataset(Dataset):
    """A dataset in the LeRobotDataset v3.0 layout, recorded by imitact or by another program.

    Opening checks that each file an episode needs exists and is whole, without decoding a frame;
    states, actions and frames are read when they are used. Nothing is ever written. Files of an
    unfinished episode (of a recording that was killed) are ignored.

    Files with a SHA-256 (`checksums.py`) are compared with it: a video before its first frame is
    decoded, all others when they are read.

    Cameras are the features of dtype video or image; `observation.images.top` is the camera "top".
    Units are known in recordings of imitact, else "unknown".

    Args:
        path: folder that holds `meta/info.json`.
        on_damage: called with each damage of an episode or its files, which may then be
            incomplete or have no ticks; by default the first damage is raised. Damage of
            `meta/info.json`, which affects every episode, is raised in any case.
    """

    VERSIONS: ClassVar[tuple[str, ...]] = layout.V30
    """Prefixes of the layout versions that this class reads."""

    _descriptions: ClassVar[str] = "meta/episodes"
    """File or folder with the descriptions of episodes."""

    _advice: ClassVar[str] = (
        "If its recording was never finished, `imitact check DATASET --fix OUT` recovers what is "
        "whole; else copy the dataset again from its origin"
    )

    def __init__(self, path: Path | str, on_damage: OnDamage | None = None) -> None:
        self._path = Path(path)
        self._on_damage = on_damage or _raise
        self._info = layout.read_info(self._path, self.VERSIONS)
        self._facts = layout.read_facts(self._path, self._info["total_episodes"])
        with layout_errors_as_damage(self._path / layout.IMITACT):
            units = self._facts.get("settings", {}).get("units", {})
            units = {what: tuple(map(str, names)) for what, names in units.items()}
        with layout_errors_as_damage(self._path / INFO):
            rate_hz = float(self._info["fps"])
            self._features = read_features(self._info["features"], rate_hz, units, self._path)
        self.stored = self._features.stored
        """How each camera is stored, by its name."""
        self._image_keys = {stored.key for stored in self.stored.values() if stored.as_images}
        self._video_keys = {n: s.key for n, s in self.stored.items() if not s.as_images}
        self._checksums = DatasetChecksums(self._path)
        self._files = self._read_files()
        self._check_checksums()
        self._check_files()

    @property
    def spec(self) -> Spec:
        return self._features.spec

    @overridable
    def lengths(self) -> tuple[int, ...]:
        return tuple(files.length for files in self._files)

    @overridable
    def fingerprint(self) -> str:
        """SHA-256 over names, rate, states, actions and videos (or stored images).

        Equal for every copy of the dataset.
        """
        spec = self.spec
        names = (spec.state_names, spec.action_names, spec.cameras, spec.rate_hz)
        hash_ = hashlib.sha256(repr(names).encode())
        videos: dict[Path, str] = {}
        for index, files in enumerate(self._files):
            episode = self.episode(index)
            for rows in (episode.state, episode.action):
                hash_.update(repr(rows.shape).encode())
                hash_.update(np.ascontiguousarray(rows, dtype="<f4").tobytes())
            for camera in spec.cameras:
                if camera.name not in files.videos:
                    for image in episode.stored_images(camera.name):
                        hash_.update(hashlib.sha256(image).digest())
                    continue
                video, from_s = files.videos[camera.name]
                if video not in videos:
                    videos[video] = file_sha256(video)
                    self._checksums.compare(video, videos[video])
                hash_.update(repr(from_s).encode() + bytes.fromhex(videos[video]))
        return hash_.hexdigest()

    def episode(self, index: int) -> LeRobotEpisode:
        if not 0 <= index < len(self._files):
            raise BadInput(f"no episode {index} in {self._path}; it has {len(self._files)}")
        return LeRobotEpisode(self, index)

    @property
    def path(self) -> Path:
        return self._path

    @property
    def layout(self) -> str:
        return "lerobot"

    @property
    def notices(self) -> tuple[str, ...]:
        return self._features.notices

    @property
    def left_out(self) -> Mapping[str, str]:
        read = {STATE, ACTION, *layout.INDEX_COLUMNS, *self.extra_columns}
        read |= {stored.key for stored in self.stored.values()}
        unread = sorted(set(self._info["features"]) - read)
        return dict.fromkeys(unread, "neither a column of numbers nor a camera")

    @overridable
    def extra_columns(self) -> Mapping[str, ExtraColumn]:
        with layout_errors_as_damage(self._path / INFO):
            converted = self._facts.get("settings", {}).get("extras")
            return read_extra_columns(self._info["features"], converted)

    @property
    def frames_in_video(self) -> bool:
        return not self._image_keys

    @property
    def facts(self) -> Mapping[str, Any]:
        return self._facts

    @cached_property
    def task_texts(self) -> Mapping[int, str]:
        """Task descriptions by number, as far as the dataset has them."""
        return parquet.read_task_texts(self._path / layout.TASKS, self._checksums)

    @cached_property
    def _video_users(self) -> Counter[Path]:
        """Number of episodes in each video."""
        return Counter(video for files in self._files for video, _ in files.videos.values())

    # --- opening ---------------------------------------------------------------------------------

    def _read_files(self) -> list[EpisodeFiles]:
        """Read the descriptions of all episodes."""
        total, ticks = self._info["total_episodes"], self._info["total_frames"]
        found = dict(self._described())
        if len(found) < total:
            lacking = (i for i in range(total) if i not in found)
            first = next(lacking)
            damage = DamagedFile(
                f"{self._path / self._descriptions} describes {len(found)} of {total} episodes; "
                f"the first that is missing is {first}. {self._advice}"
            )
            if total > _MAX_EPISODES:
                raise damage
            self._on_damage(damage, [first, *lacking])
        ordered = [found.get(i, NOT_DESCRIBED) for i in range(total)]
        described = sum(files.length for files in ordered)
        if described != ticks and NOT_DESCRIBED not in ordered:
            damage = (
                f"{self._path / INFO} counts {ticks} ticks, its episodes {described}. {RESTORE}"
            )
            self._on_damage(DamagedFile(damage), ())
        return ordered

    def _described(self) -> Iterator[tuple[int, EpisodeFiles]]:
        """Yield number and files of each described episode; NOT_DESCRIBED for a damaged row."""
        names = ["episode_index", "length", "data/chunk_index", "data/file_index"]
        for key in self._video_keys.values():
            names += [f"videos/{key}/{n}" for n in ("chunk_index", "file_index", "from_timestamp")]
        for file in sorted((self._path / self._descriptions).glob("*/*.parquet")):
            with self._reporting(()):
                table = parquet.read_table(file, names, self._checksums, optional=["tasks"])
                with layout_errors_as_damage(file):
                    rows = table.to_pylist()
                for row in rows:
                    yield from self._described_in(row, file)

    def _described_in(
        self, row: Mapping[str, Any], where: Path
    ) -> Iterator[tuple[int, EpisodeFiles]]:
        with layout_errors_as_damage(where):
            index = int(row["episode_index"])
        if not 0 <= index < self._info["total_episodes"]:
            return  # of an unfinished episode
        files = NOT_DESCRIBED
        with self._reporting([index]), layout_errors_as_damage(where):
            length = int(row["length"])
            if length < 1:
                raise ValueError(f"an episode of {length} ticks")
            tasks = row.get("tasks") or ()
            tasks = (tasks,) if isinstance(tasks, str) else tuple(map(str, tasks))
            files = EpisodeFiles(*self._places_of(index, row), length, tasks)
        yield index, files

    def _places_of(
        self, index: int, row: Mapping[str, Any]
    ) -> tuple[Path, dict[str, tuple[Path, float]]]:
        """Return data file and videos of an episode from its row of metadata."""
        videos = {}
        for camera, key in self._video_keys.items():
            numbers = layout.stored_numbers(row, f"videos/{key}")
            video = self._formatted("video_path", layout.VIDEOS, video_key=key, **numbers)
            from_s = float(row[f"videos/{key}/from_timestamp"])
            if not math.isfinite(from_s):
                raise ValueError(f"the video of camera {camera} begins at {from_s} s")
            videos[camera] = (video, from_s)
        numbers = layout.stored_numbers(row, "data")
        return self._formatted("data_path", layout.DATA, **numbers), videos

    def _formatted(self, setting: str, default: str, **numbers: int | str) -> Path:
        """Return the path from a template of `meta/info.json`."""
        with layout_errors_as_damage(self._path / INFO):
            template = self._info.get(setting) or default
            for _, name, form, _ in string.Formatter().parse(template):
                if name and len(form or "") > 4:  # a width of a billion is a gigabyte of path
                    raise ValueError(f"{setting} is {template}")
            path = template.format(**numbers)
            if max(map(len, os.fsencode(path).split(b"/"))) > _MAX_NAME_BYTES:
                raise ValueError(f"{setting} makes names longer than a file can have")
            return self._path / path

    def _check_checksums(self) -> None:
        """Check that no checksums are missing, and those of the files of the whole dataset."""
        described = {i: f.data for i, f in enumerate(self._files) if f is not NOT_DESCRIBED}
        if not described:
            return
        with self._reporting(()):
            last = described[max(described)]
            self._checksums.check_dataset(last, (layout.STATS, layout.TASKS))
        expected = False  # episodes of older versions have none, every later one does
        for index in range(len(self._facts.get("episodes", ()))):
            if index in described:
                with self._reporting([index]):
                    stored = self._checksums.of_episode(described[index]) is not None
                    if expected and not stored:
                        raise missing_checksums(described[index])
                    expected = stored

    def _check_files(self) -> None:
        """Check that data files and videos exist, are whole, and hold as many ticks as needed."""
        by_data: defaultdict[Path, list[int]] = defaultdict(list)
        by_video: defaultdict[Path, list[int]] = defaultdict(list)
        for index, files in enumerate(self._files):
            if files is not NOT_DESCRIBED:
                by_data[files.data].append(index)
            for video, _ in files.videos.values():
                by_video[video].append(index)
        for data, episodes in by_data.items():
            needed = sum(self._files[i].length for i in episodes)
            with self._reporting(episodes):
                opened = parquet.open_parquet(data, self._checksums)
                held = opened.metadata.num_rows
                parquet.check_columns(data, sorted(self._image_keys), opened.schema_arrow.names)
                if held < needed:
                    damage = f"{data} holds {held} ticks, its episodes {needed}. {RESTORE}"
                    # Reading each of several episodes shows which of them lack ticks.
                    affected = episodes if len(episodes) == 1 else ()
                    self._on_damage(DamagedFile(damage), affected)
        for video, episodes in by_video.items():
            with self._reporting(episodes):
                check_whole(video)

    @contextmanager
    def _reporting(self, episodes: Sequence[int]) -> Iterator[None]:
        """Pass damage of these episodes to `on_damage`."""
        try:
            yield
        except DamagedFile as error:
            self._on_damage(error, episodes)


class LeRobotEpisode(Episode):
    """One episode of a LeRobotDataset; its numbers are read once, its frames at each call."""

    def __init__(self, dataset: LeRobotDataset, index: int) -> None:
        self._dataset, self._index = dataset, index
        self._files, self._checksums = dataset._files[index], dataset._checksums

    @property
    def index(self) -> int:
        return self._index

    @property
    def state(self) -> NDArray[np.float32]:
        return self._rows[0]

    @property
    def action(self) -> NDArray[np.float32]:
        return self._rows[1]

    @property
    def times_s(self) -> NDArray[np.float64]:
        return self._rows[2]

    def frames(self, camera: str, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Yield the frames of ticks `start` to `stop`, decoded from the key frame before."""
        spec = self._dataset.spec.camera(camera)
        size = (spec.height, spec.width)
        stop = checked_stop(self._index, self._files.length, start, stop)
        if camera in self._files.videos:
            video, from_s = self._files.videos[camera]
            self._checksums.check(video)
            times_s = (from_s + self._rows[2][start:stop]).tolist()
            return read_frames(video, times_s, (*size, 3))
        return (
            images.decode(image, size, self._where(camera, tick), RESTORE, lenient=True)
            for tick, image in enumerate(self.stored_images(camera, start, stop), start)
        )

    @overridable
    def task(self) -> str:
        tasks = self._files.tasks
        if len(tasks) == 1:
            return tasks[0]
        texts = self._dataset.task_texts
        table = self._read_table([], ["task_index"])
        if texts and "task_index" in table.column_names and table.num_rows:
            with layout_errors_as_damage(self._files.data):
                first = np.argmin(table["frame_index"].to_numpy())
                return texts.get(int(table["task_index"][int(first)].as_py()), "")
        return tasks[0] if tasks else ""

    @property
    def tasks(self) -> tuple[str, ...]:
        return self._files.tasks

    @property
    def origin(self) -> Mapping[str, Any]:
        origins = self._dataset.facts.get("episodes", [])
        if self._index < len(origins) and isinstance(origins[self._index], dict):
            return origins[self._index]
        return {"name": str(self._index)}

    @property
    def own_videos(self) -> Mapping[str, Path]:
        users = self._dataset._video_users
        videos = self._files.videos.items()
        return {c: video for c, (video, from_s) in videos if users[video] == 1 and from_s == 0.0}

    def extra_values(self, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        if not names:
            return {}
        table, about = self.columns(names), self._dataset.extra_columns
        where = f"{self._dataset.path}, episode {self._index}"
        with layout_errors_as_damage(self._dataset.path):
            return {n: parquet.extra_values(table[n], about[n], f"{where}: {n}") for n in names}

    def stored_images(
        self, camera: str, start: int = 0, stop: int | None = None
    ) -> Iterator[bytes]:
        """Yield the images of ticks `start` to `stop` as stored, of a camera without videos."""
        key = self._dataset.stored[camera].key
        rows = self._image_rows[start:stop].tolist()
        cells = parquet.read_cells(self._files.data, key, rows, self._checksums)
        for tick, cell in enumerate(cells, start):
            image, path = cell, None
            if isinstance(cell, dict):
                image, path = cell.get("bytes"), cell.get("path")
            if not isinstance(image, bytes):
                held = f"only the path {path}" if path else f"a {type(image).__name__}"
                raise DamagedFile(
                    f"{self._where(camera, tick)} holds {held[:80]} instead of an image. {RESTORE}"
                )
            yield image

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Read any columns of the data files, one row per tick, in order."""
        table = self._read_table(names)
        with layout_errors_as_damage(self._files.data):
            return table.take(self._order(table["frame_index"].to_numpy())).select(list(names))

    @cached_property
    def _rows(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
        """State (T, S), action (T, A) and time of each tick since the first (T,), in s."""
        file, spec = self._files.data, self._dataset.spec
        table = self.columns([STATE, ACTION, "timestamp"])
        with layout_errors_as_damage(file):
            state = parquet.vectors(table[STATE], spec.state_size, STATE, file)
            action = parquet.vectors(table[ACTION], spec.action_size, ACTION, file)
            times_s = table["timestamp"].to_numpy().astype(np.float64)
            if not np.all(np.isfinite(times_s)):
                raise ValueError("a timestamp is not finite")
        return state, action, times_s

    @cached_property
    def _image_rows(self) -> NDArray[np.int64]:
        """Row of the data file that holds each tick, (T,)."""
        file = self._files.data
        table = parquet.read_table(file, ["episode_index", "frame_index"], self._checksums)
        with layout_errors_as_damage(file):
            own = np.flatnonzero(table["episode_index"].to_numpy() == self._index)
            return own[self._order(table["frame_index"].to_numpy()[own])]

    def _read_table(self, names: Sequence[str], optional: Sequence[str] = ()) -> pa.Table:
        columns = [*names, "frame_index", "episode_index"]
        return parquet.read_table(self._files.data, columns, self._checksums, optional, self._index)

    def _order(self, ticks: NDArray[Any]) -> NDArray[np.int64]:
        """Return the permutation that sorts the ticks; refuse any but 0 to T - 1."""
        length = self._files.length
        order = np.argsort(ticks, kind="stable")
        if len(ticks) != length or not np.array_equal(ticks[order], np.arange(length)):
            raise DamagedFile(
                f"{self._files.data} holds {len(ticks)} ticks of episode {self._index}, "
                f"its metadata declare {length}, numbered from 0. {RESTORE}"
            )
        return order

    def _where(self, camera: str, tick: int) -> str:
        key = self._dataset.stored[camera].key
        return f"{self._files.data}: {key} of episode {self._index} at tick {tick}"


def _raise(error: DamagedFile, episodes: Sequence[int]) -> None:
    raise error
