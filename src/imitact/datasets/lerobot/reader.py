"""LeRobot reader: a dataset in the LeRobotDataset v3.0 layout."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from imitact.core.errors import BadInput, DamagedFile
from imitact.core.types import Dataset, Episode, ExtraColumn, Frame, Spec, overridable
from imitact.core.words import counted
from imitact.datasets import images
from imitact.datasets.frame_arrays import as_uint8, top_of_range, without_maps
from imitact.datasets.key_selection import Keys
from imitact.datasets.lerobot import layout, parquet
from imitact.datasets.lerobot.checksums import DatasetChecksums, missing_checksums
from imitact.datasets.lerobot.descriptions import (
    NOT_DESCRIBED,
    EpisodeDescriptions,
    reporting,
)
from imitact.datasets.lerobot.features import (
    Features,
    StoredCamera,
    read_extra_columns,
    read_features,
)
from imitact.datasets.lerobot.layout import INFO, RESTORE, is_shown, layout_errors_as_damage
from imitact.datasets.lerobot.unread_files import (
    UNDESCRIBED,
    is_camera_column,
    undescribed_cameras,
    videos_without_episode,
)
from imitact.datasets.lerobot.video_segments import check_videos
from imitact.datasets.read_config import OnDamage, ReadConfig
from imitact.datasets.row_blocks import checked_stop
from imitact.datasets.video import frame_times, match_frames, read_frames
from imitact.datasets.video_config import exact_rate
from imitact.storage.checksum import file_sha256


class LeRobotDataset(Dataset):
    """A dataset in the LeRobotDataset v3.0 layout, recorded by imitact or by another program.

    Opening checks that each file an episode needs exists and is whole, without decoding a frame;
    states, actions and frames are read when they are used. Nothing is ever written. Files of an
    unfinished episode (of a recording that was killed) are ignored.

    Files with a SHA-256 (`checksums.py`) are compared with it: a video before its first frame is
    decoded, all others when they are read.

    Cameras are the features of dtype video or image, and frames stored as numbers;
    `observation.images.top` is the camera "top". Units are known in recordings of imitact, else
    "unknown".

    Args:
        path: folder that holds `meta/info.json`.
        on_damage: called with each damage of an episode or its files, which may then be
            incomplete or have no ticks; by default the first damage is raised. Damage of
            `meta/info.json`, which affects every episode, is raised in any case.
        read: the features to read (`READ_OPTIONS`).
    """

    READ_OPTIONS: ClassVar[tuple[str, ...]] = (
        *("state", "action", "environment", "cameras", "tolerance_s"),
    )

    VERSIONS: ClassVar[tuple[str, ...]] = layout.V30
    """Prefixes of the layout versions that this class reads."""

    DESCRIPTIONS: ClassVar[type[EpisodeDescriptions]] = EpisodeDescriptions
    """Reads where episodes are stored."""

    def __init__(
        self,
        path: Path | str,
        on_damage: OnDamage | None = None,
        read: ReadConfig | None = None,
    ) -> None:
        self._path = Path(path)
        self.read = read or ReadConfig()
        self.read.refuse_unused("lerobot", self.READ_OPTIONS)
        self._on_damage = on_damage or _raise
        self._info = layout.read_info(self._path, self.VERSIONS)
        self._facts = layout.read_facts(self._path, self._info["total_episodes"])
        with layout_errors_as_damage(self._path / layout.IMITACT):
            settings = self._facts.get("settings", {})
            units = {k: tuple(map(str, names)) for k, names in settings.get("units", {}).items()}
            environment_size = int(settings.get("environment_size", 0))

        def features(maps: Mapping[str, str]) -> Features:
            with layout_errors_as_damage(self._path / INFO):
                described, rate_hz = self._info["features"], float(self._info["fps"])
                return read_features(
                    described, rate_hz, units, self._path, self.read, environment_size, maps
                )

        self._features = features({})
        self._image_keys = {s.key for s in self.stored.values() if s.kind != "video"}
        self._video_keys = {n: s.key for n, s in self.stored.items() if s.kind == "video"}
        self._white: dict[str, int] = {}
        self._video_times: dict[Path, NDArray[np.float64]] = {}
        self._checksums = DatasetChecksums(self._path)
        self._not_read = undescribed_cameras(self._path, self._info["features"])
        self._undescribed_cameras = [*self._not_read]
        descriptions = self.DESCRIPTIONS(
            self._path,
            self._info,
            self._facts,
            self._video_keys,
            self._checksums,
            self._on_damage,
        )
        self._files = descriptions.read()
        self._not_read |= descriptions.not_read
        self._lacks_episodes = descriptions.lacks_episodes
        self._check_checksums()
        self._check_files()
        self._check_videos()
        if maps := self._maps():
            self._features = features(maps)

    @property
    def stored(self) -> Mapping[str, StoredCamera]:
        """How each camera is stored, by its name."""
        return self._features.stored

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
        if spec.environment_size:
            names += (spec.environment_size,)
        hash_ = hashlib.sha256(repr(names).encode())
        videos: dict[Path, str] = {}
        for index, files in enumerate(self._files):
            episode = self.episode(index)
            for rows in (episode.state, episode.action):
                hash_.update(repr(rows.shape).encode())
                hash_.update(np.ascontiguousarray(rows, dtype="<f4").tobytes())
            for camera in spec.cameras:
                if camera.name not in files.videos:
                    for image in episode.stored_frames(camera.name):
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
    def read_options(self) -> Mapping[str, Any]:
        return self.read.given()

    @property
    def unread_cameras(self) -> tuple[str, ...]:
        return (*self._features.unread_cameras, *self._undescribed_cameras)

    @property
    def notices(self) -> tuple[str, ...]:
        not_read = (f"{what}: not read, {why}" for what, why in self._not_read.items())
        return (*self._features.notices, *not_read)

    @property
    def left_out(self) -> Mapping[str, str]:
        read = {*self._features.keys.vectors, *layout.INDEX_COLUMNS, *self.extra_columns}
        read |= {stored.key for stored in self.stored.values()}
        unread = sorted(set(self._info["features"]) - read)
        features = {key: self._features.left_out.get(key, "not selected") for key in unread}
        return {**features, **self._not_read}

    @overridable
    def extra_columns(self) -> Mapping[str, ExtraColumn]:
        with layout_errors_as_damage(self._path / INFO):
            converted = self._facts.get("settings", {}).get("extras")
            return read_extra_columns(self._info["features"], converted, self._features.keys)

    @property
    def frames_in_video(self) -> bool:
        return not self._image_keys

    @property
    def keys(self) -> Keys:
        """The features that form state and action."""
        return self._features.keys

    def width(self, key: str) -> int:
        """Values per tick of a feature of numbers."""
        return math.prod(self._info["features"][key].get("shape") or ())

    @property
    def facts(self) -> Mapping[str, Any]:
        return self._facts

    @cached_property
    def task_texts(self) -> Mapping[int, str]:
        """Task descriptions by number, as far as the dataset has them."""
        return parquet.read_task_texts(self._path / layout.TASKS, self._checksums)

    def video_times(self, video: Path) -> NDArray[np.float64]:
        """Time of each frame of a video, (N,) in s, ascending; read once."""
        if video not in self._video_times:
            self._video_times[video] = frame_times(video)[0]
        return self._video_times[video]

    def white(self, camera: str) -> int:
        """Which number is white in the frames of a camera that are numbers: 1 or 255."""
        if camera not in self._white:
            frames = (f for i in range(len(self._files)) for f in self.episode(i).arrays(camera))
            self._white[camera] = top_of_range(frames)
        return self._white[camera]

    def _maps(self) -> dict[str, str]:
        """Why features in the shape of frames are no cameras, by the values of the first frame."""
        arrays = {n: s.shape for n, s in self.stored.items() if s.kind == "array"}
        first = next((i for i, f in enumerate(self._files) if f is not NOT_DESCRIBED), None)
        if not arrays or first is None:
            return {}

        def dtype_of(name: str) -> Any:
            return self._info["features"][self.stored[name].key]["dtype"]

        try:
            _, maps = without_maps(
                arrays, dtype_of, lambda name: next(self.episode(first).arrays(name, 0, 1))
            )
        except DamagedFile:  # reported where the frames are read
            return {}
        return {self.stored[name].key: why for name, why in maps.items()}

    @cached_property
    def _video_users(self) -> Counter[Path]:
        """Number of episodes in each video."""
        return Counter(video for files in self._files for video, _ in files.videos.values())

    # --- opening ---------------------------------------------------------------------------------

    def _check_checksums(self) -> None:
        """Check that no checksums are missing, and those of the files of the whole dataset."""
        described = {i: f.data for i, f in enumerate(self._files) if f is not NOT_DESCRIBED}
        if not described:
            return
        with reporting(self._on_damage, ()):
            last = described[max(described)]
            self._checksums.check_dataset(last, (layout.STATS, layout.TASKS))
        expected = False  # episodes of older versions have none, every later one does
        for index in range(len(self._facts.get("episodes", ()))):
            if index in described:
                with reporting(self._on_damage, [index]):
                    stored = self._checksums.of_episode(described[index]) is not None
                    if expected and not stored:
                        raise missing_checksums(described[index])
                    expected = stored

    def _check_files(self) -> None:
        """Check that data files exist, are whole, and hold as many ticks as needed."""
        by_data: defaultdict[Path, list[int]] = defaultdict(list)
        unused: dict[Path, int] = {}
        columns: dict[str, pa.DataType] = {}
        for index, files in enumerate(self._files):
            if files is not NOT_DESCRIBED:
                by_data[files.data].append(index)
        for data, episodes in by_data.items():
            needed = sum(self._files[i].length for i in episodes)
            with reporting(self._on_damage, episodes):
                opened = parquet.open_parquet(data, self._checksums)
                held = opened.metadata.num_rows
                if held > 2 * self._info["total_frames"] + 1_000_000:
                    raise DamagedFile(f"{data} promises {held:,} ticks. {RESTORE}")
                stored = opened.schema_arrow
                parquet.check_columns(data, sorted(self._image_keys), stored.names)
                columns.update(zip(stored.names, stored.types, strict=True))
                if held < needed:
                    damage = (
                        f"{data} holds {counted(held, 'tick')}, its episodes {needed}. {RESTORE}"
                    )
                    # Reading each of several episodes shows which of them lack ticks.
                    affected = episodes if len(episodes) == 1 else ()
                    self._on_damage(DamagedFile(damage), affected)
                unused[data] = held - needed
        is_complete = NOT_DESCRIBED not in self._files and not self._lacks_episodes
        if not self._facts and is_complete:
            files = (self._path / "data").rglob("*.parquet")
            others = (f for f in sorted(files) if is_shown(f, self._path) and f not in by_data)
            self._note_unused(unused, "ticks")
            for file in others:
                self._not_read[str(file.relative_to(self._path))] = "no episode has it"
            used = {video for files in self._files for video, _ in files.videos.values()}
            keys = {*self._video_keys.values()}
            self._not_read |= videos_without_episode(self._path, keys, used)
        for name in sorted(columns.keys() - {*self._info["features"], *layout.INDEX_COLUMNS}):
            if name.startswith("__"):  # pandas' index
                continue
            self._not_read[name] = UNDESCRIBED
            if is_camera_column(name, columns[name]):
                self._undescribed_cameras.append(name)

    def _check_videos(self) -> None:
        """Check that each video has the frames of its episodes; repair places that are certain."""
        found = check_videos(
            [files.videos for files in self._files],
            self.lengths,
            self._features,
            self._path / INFO,
            self._on_damage,
        )
        for index, files in enumerate(self._files) if found.shifts_s else ():
            videos = {
                camera: (video, from_s - found.shifts_s.get(video, 0.0))
                for camera, (video, from_s) in files.videos.items()
            }
            self._files[index] = replace(files, videos=videos)
        if NOT_DESCRIBED not in self._files:
            self._note_unused(found.unused, "frames")

    def _note_unused(self, unused: Mapping[Path, int], what: str) -> None:
        """Note what files hold beside their episodes, as of discarded takes."""
        some = {file: count for file, count in unused.items() if count > 0}
        if some:
            first = next(iter(some)).relative_to(self._path)
            others = f" and {len(some) - 1} others" if len(some) > 1 else ""
            name = f"{sum(some.values())} {what} in {first}{others}"
            self._not_read[name] = "they belong to no episode, as those of a discarded take"


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
        size, stored = (spec.height, spec.width), self._dataset.stored[camera]
        stop = checked_stop(self._index, self._files.length, start, stop)
        if stored.kind == "video":
            video, _ = self._files.videos[camera]
            self._checksums.check(video)
            times_s = self._frame_times(camera)[start:stop].tolist()
            return read_frames(video, times_s, (*size, 3), stored.shape.channels == 1)
        if stored.kind == "array":
            white = self._dataset.white(camera)
            return (
                stored.shape.to_rgb(as_uint8(values, white, self._where(camera, tick)))
                for tick, values in enumerate(self.arrays(camera, start, stop), start)
            )
        return (
            self._decoded(image, size, camera, tick)
            for tick, image in enumerate(self.stored_images(camera, start, stop), start)
        )

    def _decoded(self, image: bytes, size: tuple[int, int], camera: str, tick: int) -> Frame:
        where = self._where(camera, tick)
        if self._dataset.stored[camera].shape.channels == 1 and images.has_16_bits(image):
            raise BadInput(
                f"{where} is a grey image of 16 bits, as of a depth map; --read.cameras names the "
                "cameras to read"
            )
        return images.decode(image, size, where, RESTORE, lenient=True)

    def _frame_times(self, camera: str) -> NDArray[np.float64]:
        """Return the time in its video of the frame of each tick, (T,) in s."""
        video, from_s = self._files.videos[camera]
        return match_frames(
            self._dataset.video_times(video),
            self._rows[2],
            from_s,
            float(exact_rate(self._dataset.spec.rate_hz)),
            self._dataset.read.tolerance_s,
        )

    def frame_offsets_s(self, camera: str) -> NDArray[np.float64] | None:
        if camera not in self._files.videos:
            return None
        video, from_s = self._files.videos[camera]
        taken_s = self._frame_times(camera)
        is_there = np.isin(taken_s, self._dataset.video_times(video))
        return np.where(is_there, taken_s - from_s - self._rows[2], np.nan)

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

    def stored_frames(self, camera: str) -> Iterator[bytes]:
        """Yield the bytes of each frame as stored, of a camera without videos."""
        if self._dataset.stored[camera].kind == "array":
            return (values.tobytes() for values in self.arrays(camera))
        return self.stored_images(camera)

    def arrays(
        self, camera: str, start: int = 0, stop: int | None = None
    ) -> Iterator[NDArray[Any]]:
        """Yield the frames of ticks `start` to `stop` as stored, of a camera stored as numbers."""
        stored = self._dataset.stored[camera]
        shape = stored.shape.stored_shape
        rows = self._image_rows[start:stop].tolist()
        cells = parquet.read_cells(
            self._files.data, stored.key, rows, self._checksums, parquet.cell_values
        )
        for tick, values in enumerate(cells, start):
            if values.size != math.prod(shape):
                raise DamagedFile(
                    f"{self._where(camera, tick)} has {counted(values.size, 'value')}, expected "
                    f"{math.prod(shape)} for the shape {list(shape)} in {INFO}. {RESTORE}"
                )
            yield values.reshape(shape)

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
        file, keys = self._files.data, self._dataset.keys
        observed = (*keys.state, *keys.environment)
        table = self.columns([*dict.fromkeys((*observed, *keys.action, "timestamp"))])
        with layout_errors_as_damage(file):
            state, action = (
                np.hstack(
                    [parquet.vectors(table[k], self._dataset.width(k), k, file) for k in part]
                )
                for part in (observed, keys.action)
            )
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
                f"{self._files.data} holds {counted(len(ticks), 'tick')} of episode {self._index}, "
                f"its metadata declare {length}, numbered from 0. {RESTORE}"
            )
        return order

    def _where(self, camera: str, tick: int) -> str:
        key = self._dataset.stored[camera].key
        return f"{self._files.data}: {key} of episode {self._index} at tick {tick}"


def _raise(error: DamagedFile, episodes: Sequence[int]) -> None:
    raise error
