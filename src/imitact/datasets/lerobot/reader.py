"""The LeRobotDataset v3.0 layout, read: where things lie, and a Source of what lies there.

docs/formats.md describes the layout. Writing is `lerobot_writer.py`, version 2.1 `lerobot_v21.py`.
"""

from __future__ import annotations

import hashlib
import math
import os
import string
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from imitact.core.errors import BadInput, DamagedFile
from imitact.core.types import Frame, Spec
from imitact.datasets.lerobot.checksums import DatasetChecksums, missing
from imitact.datasets.lerobot.features import (
    ACTION,
    CAMERA_PREFIX,
    MOST_VALUES,
    STATE,
    UNKNOWN_UNIT,
    Stored,
    read_features,
)
from imitact.datasets.lerobot.parquet import (
    RESTORE,
    as_promised,
    contents,
    matrix,
    open_parquet,
    read_cells,
    read_table,
)
from imitact.datasets.pictures import decode_picture
from imitact.datasets.row_blocks import last_of
from imitact.datasets.video import TOLERANCE_S, check_whole, read_frames
from imitact.storage.checksum import CHECKSUM_KEY, verified
from imitact.storage.json_file import parse_json_object, read_bytes, read_json_object

__all__ = [  # of the rooms that this one stands on, what its readers need too
    "ACTION",
    "CAMERA_PREFIX",
    "MOST_VALUES",
    "STATE",
    "UNKNOWN_UNIT",
    "as_promised",
]

INFO = "meta/info.json"
STATS = "meta/stats.json"
TASKS = "meta/tasks.parquet"
IMITACT = "meta/imitact.json"
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEOS = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
FILES_PER_CHUNK = 1000

_LONGEST_NAME = 255
"""Bytes of a file's or folder's name, on the file systems that there are."""

_MOST_LACKING = 1_000_000
"""Of so many episodes those that are missing are told one by one."""

Complain = Callable[[DamagedFile, Sequence[int]], None]
"""Takes a damage, and the numbers of the episodes it concerns; none where it is the dataset's."""


class LeRobotDataset:
    """A dataset in the LeRobotDataset v3.0 layout, whoever wrote it.

    path:     the folder that holds `meta/info.json`.
    complain: takes each damage that opening finds in an episode or its files, where the first is
              raised otherwise. For who looks a dataset over: an episode that it was called with
              may be there in part, or with no ticks at all. What concerns every episode
              (`meta/info.json`) is raised either way.

    Opening checks that every file an episode needs is there and whole, without decoding a frame;
    state, action and frames are read when asked for. Nothing is ever written. Files of an episode
    that was not finished (a recording that was killed) are ignored.

    What imitact recorded is compared with its SHA-256 (digests.py): all but the videos when it is
    opened and read again, a video before its first frame is given.

    Cameras are the video and image features, in the order of `meta/info.json`. An
    `observation.images.top` is the camera "top". Units are known if imitact recorded the dataset,
    else "unknown". Other layouts are refused.
    """

    LAYOUTS: ClassVar[tuple[str, ...]] = ("v3.",)
    """What the layout's version begins with."""

    def __init__(
        self,
        path: Path | str,
        tolerance_s: float = TOLERANCE_S,
        complain: Complain | None = None,
    ) -> None:
        self.path = Path(path)
        self._tolerance_s = tolerance_s
        self._complain = complain or _raise
        self._info = read_info(self.path, self.LAYOUTS)
        self.meta = _read_meta(self.path, self._info["total_episodes"])
        with as_promised(self.path / IMITACT):
            units = self.meta.get("settings", {}).get("units", {})
            units = {what: tuple(map(str, names)) for what, names in units.items()}
        with as_promised(self.path / INFO):
            rate_hz = float(self._info["fps"])
            self._features = read_features(self._info["features"], rate_hz, units, self.path)
        self._video_keys = {
            name: stored.key
            for name, stored in self._features.stored.items()
            if not stored.as_pictures
        }
        self._digests = DatasetChecksums(self.path)
        self._places = self._read_places()
        self._check_files()

    @property
    def spec(self) -> Spec:
        return self._features.spec

    @property
    def lengths(self) -> tuple[int, ...]:
        return self._lengths

    @property
    def fingerprint(self) -> str:
        """SHA-256 over names, rate, states, actions and video files (or the pictures as they are
        stored): equal for any copy."""
        return self._fingerprint

    @property
    def features(self) -> Mapping[str, Mapping[str, Any]]:
        """What `meta/info.json` says of each feature, those too that imitact does not read."""
        return self._info["features"]

    @property
    def feature_names(self) -> frozenset[str]:
        """Keys of all features of `meta/info.json`, those too that imitact does not read."""
        return frozenset(self._info["features"])

    @property
    def stored(self) -> Mapping[str, Stored]:
        """How each camera is stored, by its name."""
        return self._features.stored

    @property
    def notices(self) -> tuple[str, ...]:
        """What of the dataset is left out, and why, in words."""
        return self._features.notices

    @cached_property
    def _lengths(self) -> tuple[int, ...]:
        return tuple(place.length for place in self._places)

    @cached_property
    def _fingerprint(self) -> str:
        hash_ = hashlib.sha256()
        spec = self.spec
        hash_.update(
            repr((spec.state_names, spec.action_names, spec.cameras, spec.rate_hz)).encode()
        )
        videos: dict[Path, bytes] = {}
        for index, place in enumerate(self._places):
            episode = self.episode(index)
            for rows in (episode.state, episode.action):
                hash_.update(repr(rows.shape).encode())
                hash_.update(np.ascontiguousarray(rows, dtype="<f4").tobytes())
            for camera in spec.cameras:
                if camera.name not in place.videos:
                    for picture in episode.pictures(camera.name):
                        hash_.update(hashlib.sha256(picture).digest())
                    continue
                video, from_s = place.videos[camera.name]
                if video not in videos:
                    with video.open("rb") as file:
                        videos[video] = hashlib.file_digest(file, "sha256").digest()
                    self._digests.compare(video, videos[video].hex())
                hash_.update(repr(from_s).encode() + videos[video])
        return hash_.hexdigest()

    def episode(self, index: int) -> LeRobotEpisode:
        if not 0 <= index < len(self._places):
            raise BadInput(f"no episode {index} in {self.path}; it has {len(self._places)}")
        return LeRobotEpisode(self, index)

    def _read_places(self) -> list[Place]:
        total = self._info["total_episodes"]
        told: set[int] = set()
        places = dict(self._described(told))
        lacking: list[int] = []
        if len(places) < total:
            first = next(i for i in range(total) if i not in places)
            damage = DamagedFile(
                f"{self.path / self._described_in} describes {len(places)} of {total} episodes; "
                f"the first that is missing is {first}. {self._advice}"
            )
            if total > _MOST_LACKING:  # a number that nobody recorded: nothing of it is believed
                raise damage
            lacking = [i for i in range(total) if i not in places]
            if untold := [i for i in lacking if i not in told]:
                self._complain(damage, untold)
        ordered = [places.get(i, NOWHERE) for i in range(total)]
        frames = sum(place.length for place in ordered)
        if frames != self._info["total_frames"] and not lacking:
            with self._told(()):
                raise DamagedFile(
                    f"{self.path / INFO} counts {self._info['total_frames']} ticks, its episodes "
                    f"{frames}. {RESTORE}"
                )
        return ordered

    _described_in: ClassVar[str] = "meta/episodes"
    """Where episodes are described."""

    _advice: ClassVar[str] = (
        "If its recording was never finished, `imitact check DATASET --repair OUT` saves what can "
        "be; else copy the dataset again from where it came"
    )

    def _described(self, told: set[int]) -> Iterator[tuple[int, Place]]:
        """Number and place of each episode that is described; what is wrong with the description
        of one is complained of, and its number added to `told`."""
        names = ["episode_index", "length", "data/chunk_index", "data/file_index"]
        for key in self._video_keys.values():
            names += [f"videos/{key}/{n}" for n in ("chunk_index", "file_index", "from_timestamp")]
        for file in sorted((self.path / self._described_in).glob("*/*.parquet")):
            with self._told(()):
                table = read_table(file, names, self._digests, optional=["tasks"])
                with as_promised(file):
                    rows = table.to_pylist()
                for row in rows:
                    yield from self._place_of(row, file, told)

    def _place_of(
        self, row: Mapping[str, Any], where: Path, told: set[int]
    ) -> Iterator[tuple[int, Place]]:
        with as_promised(where):
            index = int(row["episode_index"])
        if not 0 <= index < self._info["total_episodes"]:
            return  # of an episode that was not finished
        try:
            with as_promised(where):
                place = self._place(index, row)
        except DamagedFile as error:
            told.add(index)
            self._complain(error, [index])
        else:
            yield index, place

    def _place(self, index: int, row: Mapping[str, Any]) -> Place:
        """Where an episode lies, by its row of metadata."""
        videos = {}
        for camera, key in self._video_keys.items():
            chunk, file = row[f"videos/{key}/chunk_index"], row[f"videos/{key}/file_index"]
            where = {"chunk_index": int(chunk), "file_index": int(file)}
            video = self._file("video_path", VIDEOS, video_key=key, **where)
            from_s = float(row[f"videos/{key}/from_timestamp"])
            if not math.isfinite(from_s):
                raise ValueError(f"the video of camera {camera!r} begins at {from_s} s")
            videos[camera] = (video, from_s)
        where = {
            "chunk_index": int(row["data/chunk_index"]),
            "file_index": int(row["data/file_index"]),
        }
        return Place(self._file("data_path", DATA, **where), videos, *length_and_tasks(row))

    def _file(self, setting: str, usual: str, **numbers: int | str) -> Path:
        """The path that the pattern of this setting makes of these numbers."""
        with as_promised(self.path / INFO):
            pattern = self._info.get(setting) or usual
            for _, name, form, _ in string.Formatter().parse(pattern):
                if name and len(form or "") > 4:  # a width of a billion would be one of bytes
                    raise ValueError(f"{setting} {pattern!r}")
            place = pattern.format(**numbers)
            if max(map(len, os.fsencode(place).split(b"/"))) > _LONGEST_NAME:
                raise ValueError(f"{setting} makes names longer than a file can have")
            return self.path / place

    def _check_files(self) -> None:
        self._check_digests()
        datas: dict[Path, list[int]] = {}
        videos: dict[Path, list[int]] = {}
        for index, place in enumerate(self._places):
            if place is not NOWHERE:
                datas.setdefault(place.data, []).append(index)
            for video, _ in place.videos.values():
                videos.setdefault(video, []).append(index)
        for data, episodes in datas.items():
            needed = sum(self._places[i].length for i in episodes)
            with self._told(episodes):
                opened = open_parquet(contents(data, self._digests), data)
                held = opened.metadata.num_rows
                lacking = self._picture_keys - set(opened.schema_arrow.names)
                if lacking:
                    raise DamagedFile(f"{data} lacks the columns {sorted(lacking)}. {RESTORE}")
                if held < needed:
                    # Which of its episodes lack ticks, reading each will tell.
                    with self._told(episodes if len(episodes) == 1 else ()):
                        raise DamagedFile(
                            f"{data} holds {held} ticks, its episodes {needed}. {RESTORE}"
                        )
        for video, episodes in videos.items():
            with self._told(episodes):
                check_whole(video)

    @cached_property
    def _picture_keys(self) -> frozenset[str]:
        return frozenset(stored.key for stored in self.stored.values() if stored.as_pictures)

    def _check_digests(self) -> None:
        """That what vouches for the files is there and vouches for those of the whole dataset."""
        known = [(index, p) for index, p in enumerate(self._places) if p is not NOWHERE]
        if not known:
            return
        with self._told(()):
            self._digests.check_dataset(known[-1][1].data, (STATS, TASKS))
        kept = False  # older episodes may have none; going on gives them to every later one
        for index, place in known:
            if index < len(self.meta.get("episodes", ())):
                with self._told([index]):
                    named = self._digests.named(place.data) is not None
                    if kept and not named:
                        raise missing(place.data)
                    kept = named

    @contextmanager
    def _told(self, episodes: Sequence[int]) -> Iterator[None]:
        """Give damage of these episodes to whoever takes complaints."""
        try:
            yield
        except DamagedFile as error:
            self._complain(error, episodes)

    def own_videos(self, index: int) -> dict[str, Path]:
        """Camera name to the video that holds this episode's frames from time 0 and no other's;
        cameras are left out whose video holds other episodes too."""
        videos = self._places[index].videos.items()
        return {c: v for c, (v, from_s) in videos if self._sharing[v] == 1 and from_s == 0.0}

    @cached_property
    def _sharing(self) -> Counter[Path]:
        """How many episodes lie in each video."""
        return Counter(v for p in self._places for v, _ in p.videos.values())

    @cached_property
    def task_words(self) -> Mapping[int, str]:
        """The words of each task by its number, as far as the dataset tells them."""
        return read_task_words(self.path / TASKS, self._digests)


_TASK_COLUMNS = ("task", "__index_level_0__")
"""Where tasks.parquet has the words: as the index of a table of pandas, which may have no name."""


def read_task_words(file: Path, digests: DatasetChecksums) -> dict[int, str]:
    """The words of each task by its number; none where there is no such file."""
    if not file.is_file():
        return {}
    table = read_table(file, ["task_index"], digests, optional=_TASK_COLUMNS)
    with as_promised(file):
        columns = table.to_pydict()
        words = next((columns[name] for name in _TASK_COLUMNS if name in columns), [])
        return {int(n): str(word) for n, word in zip(columns["task_index"], words, strict=False)}


@dataclass(frozen=True)
class Place:
    """Where one episode lies: its data file, and for each camera with videos one of them and its
    start in it, s."""

    data: Path
    videos: Mapping[str, tuple[Path, float]]
    length: int
    tasks: tuple[str, ...]


NOWHERE = Place(Path(), {}, 0, ())
"""The place of an episode that the metadata do not describe."""


def length_and_tasks(row: Mapping[str, Any]) -> tuple[int, tuple[str, ...]]:
    """Length and tasks of an episode, by its row of metadata."""
    length = int(row["length"])
    if length < 1:
        raise ValueError(f"an episode of {length} ticks")
    tasks = row.get("tasks") or ()
    return length, (tasks,) if isinstance(tasks, str) else tuple(map(str, tasks))


def _raise(error: DamagedFile, episodes: Sequence[int]) -> None:
    raise error


class LeRobotEpisode:
    """One episode of a LeRobotSource; its numbers are read at first use, its frames each time."""

    def __init__(self, source: LeRobotDataset, index: int) -> None:
        self._source = source
        self._index = index
        self._place: Place = source._places[index]
        self._digests: DatasetChecksums = source._digests

    @property
    def index(self) -> int:
        return self._index

    @property
    def tasks(self) -> tuple[str, ...]:
        """All that was asked in the episode, in words; none where the dataset does not say."""
        return tuple(self._place.tasks)

    @cached_property
    def task(self) -> str:
        """What was asked, in words; "" where the dataset does not say. Where it changes within the
        episode, what was asked at its first tick."""
        told = self._place.tasks
        if len(told) == 1:
            return told[0]
        words = self._source.task_words
        table = self._table([], ["task_index"])
        if words and "task_index" in table.column_names and table.num_rows:
            with as_promised(self._place.data):
                first = np.argmin(table["frame_index"].to_numpy())
                return words.get(int(table["task_index"][int(first)].as_py()), "")
        return told[0] if told else ""

    @property
    def state(self) -> NDArray[np.float32]:
        return self._rows[0]

    @property
    def action(self) -> NDArray[np.float32]:
        return self._rows[1]

    @property
    def times_s(self) -> NDArray[np.float64]:
        """(T,) the time of each tick since the first, in s, as the dataset tells it."""
        return self._rows[2]

    def frames(self, camera: str, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """The frames of ticks start to stop, decoded from the key frame before `start`."""
        at = self._source.spec.camera(camera)
        stop = self._checked(start, stop)
        if camera in self._place.videos:
            video, from_s = self._place.videos[camera]
            self._digests.check(video)
            times_s = (from_s + self._rows[2][start:stop]).tolist()
            shape = (at.height, at.width, 3)
            return read_frames(video, times_s, shape, self._source._tolerance_s)
        return (
            decode_picture(data, at.height, at.width, self._where(camera, tick))
            for tick, data in enumerate(self.pictures(camera, start, stop), start)
        )

    def pictures(self, camera: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The frames of ticks start to stop of a camera without videos, as they are stored."""
        key = self._source.stored[camera].key
        rows = self._picture_rows[start : self._checked(start, stop)].tolist()
        for tick, cell in enumerate(read_cells(self._place.data, key, rows, self._digests), start):
            data = cell.get("bytes") if isinstance(cell, dict) else cell
            if not isinstance(data, bytes):
                held = f"a path ({cell.get('path')!r})" if isinstance(cell, dict) else repr(cell)
                raise DamagedFile(
                    f"{self._where(camera, tick)} holds {held[:80]} and no picture. {RESTORE}"
                )
            yield data

    def _where(self, camera: str, tick: int) -> str:
        key = self._source.stored[camera].key
        return f"{self._place.data}: {key} of episode {self._index} at tick {tick}"

    def _checked(self, start: int, stop: int | None) -> int:
        return last_of(self._index, self._place.length, start, stop)

    def columns(self, names: Sequence[str]) -> pa.Table:
        """These columns of the data, a row for each tick in order: for what is neither state nor
        action nor frame."""
        table = self._table(names)
        with as_promised(self._place.data):
            return table.take(self._order(table["frame_index"].to_numpy())).select(list(names))

    @cached_property
    def _rows(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
        """State (T, S), action (T, A) and the time of each tick since the first, s, (T,)."""
        file, spec = self._place.data, self._source.spec
        table = self.columns([STATE, ACTION, "timestamp"])
        with as_promised(file):
            state = matrix(table[STATE], spec.state_size, STATE, file)
            action = matrix(table[ACTION], spec.action_size, ACTION, file)
            times_s = table["timestamp"].to_numpy().astype(np.float64)
            if not np.all(np.isfinite(times_s)):
                raise ValueError("a timestamp is not finite")
        return state, action, times_s

    @cached_property
    def _picture_rows(self) -> NDArray[np.int64]:
        """Which row of the data file holds each tick, (T,)."""
        file = self._place.data
        table = read_table(file, ["episode_index", "frame_index"], self._digests)
        with as_promised(file):
            own = np.flatnonzero(table["episode_index"].to_numpy() == self._index)
            return own[self._order(table["frame_index"].to_numpy()[own])]

    def _table(self, names: Sequence[str], optional: Sequence[str] = ()) -> pa.Table:
        """These columns of this episode, and the number of each tick."""
        columns = [*names, "frame_index", "episode_index"]
        return read_table(self._place.data, columns, self._digests, optional, self._index)

    def _order(self, ticks: NDArray[Any]) -> NDArray[np.int64]:
        """What puts these ticks in order; refuses others than 0, 1, 2, ... of the whole episode."""
        length = self._place.length
        order = np.argsort(ticks, kind="stable")
        if len(ticks) != length or not np.array_equal(ticks[order], np.arange(length)):
            raise DamagedFile(
                f"{self._place.data} holds {len(ticks)} ticks of episode {self._index}, "
                f"its metadata promise {length}, numbered from 0. {RESTORE}"
            )
        return order


def read_info(path: Path, layouts: Sequence[str] = LeRobotDataset.LAYOUTS) -> dict[str, Any]:
    """`meta/info.json` of a dataset with at least one episode, in one of these layouts."""
    if not path.is_dir():
        raise BadInput(f"no such folder: {path}")
    file = path / INFO
    if not file.is_file():
        begun = " A recording was begun there but no episode is finished; run it again."
        raise BadInput(
            f"{path} holds no finished dataset: there is no {INFO}."
            + (begun if (path / IMITACT).is_file() else "")
        )
    info = _read_info(path)
    version = str(info.get("codebase_version"))
    if not version.startswith(tuple(layouts)):
        raise BadInput(
            f"{file} has layout {version}, imitact reads v2.0, v2.1 and v3.0; convert it with "
            "LeRobot's own converters"
        )
    for key, kinds in _KINDS.items():
        if key not in info:
            raise DamagedFile(f"{file} lacks {key!r}. {RESTORE}")
        if type(info[key]) not in kinds:
            raise DamagedFile(
                f"{file}: {key!r} is {info[key]!r}, expected {kinds[-1].__name__}. {RESTORE}"
            )
    if info["total_episodes"] < 1:
        raise BadInput(f"{path} holds no episode; record some first")
    return info


_KINDS = {
    "fps": (int, float),
    "features": (dict,),
    "total_episodes": (int,),
    "total_frames": (int,),
}
"""What must be in info.json, and what it may be."""


def finished(path: Path) -> tuple[int, int]:
    """The numbers of finished episodes and of their ticks; 0 and 0 where nothing was finished."""
    file = path / INFO
    if not file.is_file():
        return 0, 0
    info = _read_info(path)
    with as_promised(file):
        return int(info["total_episodes"]), int(info["total_frames"])


def _read_info(path: Path) -> dict[str, Any]:
    """`meta/info.json`; refused where imitact wrote another after the last of its episodes."""
    file = path / INFO
    data = read_bytes(file, advice=RESTORE)
    info = parse_json_object(data, file, advice=RESTORE)
    total = info.get("total_episodes")
    if type(total) is int and total > 0:
        place = {"chunk_index": (total - 1) // FILES_PER_CHUNK}
        last = DATA.format(**place, file_index=(total - 1) % FILES_PER_CHUNK)
        DatasetChecksums(path).check_dataset(path / last, [INFO])
    return info


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object, or Damaged; `imitact.json` vouches for itself from format 2 on."""
    value = read_json_object(file, advice=RESTORE)
    if file.name == Path(IMITACT).name and (value.get("format", 1) != 1 or CHECKSUM_KEY in value):
        return verified(value, file, required=True, advice=RESTORE)
    return value


def _read_meta(path: Path, total: int) -> dict[str, Any]:
    """What imitact stored beside LeRobot's own files, of the finished episodes; {} elsewhere."""
    file = path / IMITACT
    if not file.is_file():
        return {}
    meta = read_json(file)
    with as_promised(file):
        return {**meta, "episodes": list(meta.get("episodes", []))[:total]}
