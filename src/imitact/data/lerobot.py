"""The LeRobotDataset v3.0 layout, read: where things lie, and a Source of what lies there.

docs/formats.md describes the layout. Writing is `lerobot_writer.py`.
"""

from __future__ import annotations

import hashlib
import math
import string
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imitact.contract import BadInput, Camera, Damaged, Frame, Misfit, Spec
from imitact.data.digests import Digests, missing
from imitact.data.video import TOLERANCE_S, check_whole, read_frames
from imitact.data.vouched import KEY, checked, parsed, read_bytes, read_object

INFO = "meta/info.json"
STATS = "meta/stats.json"
TASKS = "meta/tasks.parquet"
IMITACT = "meta/imitact.json"
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEOS = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
FILES_PER_CHUNK = 1000

STATE = "observation.state"
ACTION = "action"
CAMERA_PREFIX = "observation.images."

MOST_VALUES = 10_000
"""A state or action of more is a mistake; it would have to be named in memory."""

_MOST_LACKING = 1_000_000
"""Of so many episodes those that are missing are told one by one."""

UNKNOWN_UNIT = "unknown"
"""The unit of a value whose dataset does not say; LeRobot's layout has no place for units."""

_RESTORE = "Copy the dataset again from where it came, or record it anew."

Complain = Callable[[Damaged, Sequence[int]], None]
"""Takes a damage, and the numbers of the episodes it concerns; none where it is the dataset's."""


class LeRobotSource:
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

    Cameras are the video features, in the order of `meta/info.json`. An `observation.images.top`
    is the camera "top". Units are known if imitact recorded the dataset, else "unknown".
    Datasets that store frames as images, and layouts older than 3.0, are refused.
    """

    def __init__(
        self,
        path: Path | str,
        tolerance_s: float = TOLERANCE_S,
        complain: Complain | None = None,
    ) -> None:
        self.path = Path(path)
        self._tolerance_s = tolerance_s
        self._complain = complain or _raise
        self._info = read_info(self.path)
        features: dict[str, dict[str, Any]] = self._info["features"]
        with as_promised(self.path / INFO):
            self._video_keys = _camera_keys(features, self.path)
        self.meta = _read_meta(self.path, self._info["total_episodes"])
        with as_promised(self.path / IMITACT):
            units = self.meta.get("settings", {}).get("units", {})
            units = {what: tuple(map(str, names)) for what, names in units.items()}
        with as_promised(self.path / INFO):
            self._spec = _spec(features, self._video_keys, float(self._info["fps"]), units)
        self._digests = Digests(self.path)
        self._places = self._read_places()
        self._check_files()

    @property
    def spec(self) -> Spec:
        return self._spec

    @property
    def lengths(self) -> tuple[int, ...]:
        return self._lengths

    @property
    def fingerprint(self) -> str:
        """SHA-256 over names, rate, states, actions and video files: equal for any copy."""
        return self._fingerprint

    @property
    def feature_names(self) -> frozenset[str]:
        """Keys of all features of `meta/info.json`, those too that imitact does not read."""
        return frozenset(self._info["features"])

    @cached_property
    def _lengths(self) -> tuple[int, ...]:
        return tuple(place.length for place in self._places)

    @cached_property
    def _fingerprint(self) -> str:
        hash_ = hashlib.sha256()
        spec = self._spec
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
        return LeRobotEpisode(
            index, self._places[index], self._spec, self._tolerance_s, self._digests
        )

    def _read_places(self) -> list[_Place]:
        total = self._info["total_episodes"]
        names = ["episode_index", "length", "data/chunk_index", "data/file_index"]
        for key in self._video_keys.values():
            names += [f"videos/{key}/{n}" for n in ("chunk_index", "file_index", "from_timestamp")]
        places: dict[int, _Place] = {}
        for file in sorted((self.path / "meta/episodes").glob("*/*.parquet")):
            with self._told(()):
                table = _read_table(file, names, self._digests, optional=["tasks"])
                with as_promised(file):
                    for row in table.to_pylist():
                        index = int(row["episode_index"])
                        if 0 <= index < total:  # beyond: an episode that was not finished
                            places[index] = self._place(row)
        lacking: list[int] = []
        if len(places) < total:
            first = next(i for i in range(total) if i not in places)
            damage = Damaged(
                f"{self.path / 'meta/episodes'} describes {len(places)} of {total} episodes; "
                f"the first that is missing is {first}. {_RESTORE}"
            )
            if total > _MOST_LACKING:  # a number that nobody recorded: nothing of it is believed
                raise damage
            lacking = [i for i in range(total) if i not in places]
            self._complain(damage, lacking)
        ordered = [places.get(i, _NOWHERE) for i in range(total)]
        frames = sum(place.length for place in ordered)
        if frames != self._info["total_frames"] and not lacking:
            with self._told(()):
                raise Damaged(
                    f"{self.path / INFO} counts {self._info['total_frames']} ticks, its episodes "
                    f"{frames}. {_RESTORE}"
                )
        return ordered

    def _place(self, row: Mapping[str, Any]) -> _Place:
        videos = {}
        for camera, key in self._video_keys.items():
            chunk, file = row[f"videos/{key}/chunk_index"], row[f"videos/{key}/file_index"]
            video = self._file("video_path", VIDEOS, int(chunk), int(file), key)
            from_s = float(row[f"videos/{key}/from_timestamp"])
            if not math.isfinite(from_s):
                raise ValueError(f"the video of camera {camera!r} begins at {from_s} s")
            videos[camera] = (video, from_s)
        chunk, file = row["data/chunk_index"], row["data/file_index"]
        data = self._file("data_path", DATA, int(chunk), int(file))
        tasks = row.get("tasks") or [""]
        length = int(row["length"])
        if length < 1:
            raise ValueError(f"an episode of {length} ticks")
        return _Place(data, videos, length, str(tasks[0]))

    def _file(self, setting: str, usual: str, chunk: int, file: int, key: str = "") -> Path:
        with as_promised(self.path / INFO):
            pattern = self._info.get(setting) or usual
            for _, name, form, _ in string.Formatter().parse(pattern):
                if name and len(form or "") > 4:  # a width of a billion would be one of bytes
                    raise ValueError(f"{setting} {pattern!r}")
            return self.path / pattern.format(chunk_index=chunk, file_index=file, video_key=key)

    def _check_files(self) -> None:
        self._check_digests()
        datas: dict[Path, list[int]] = {}
        videos: dict[Path, list[int]] = {}
        for index, place in enumerate(self._places):
            if place is not _NOWHERE:
                datas.setdefault(place.data, []).append(index)
            for video, _ in place.videos.values():
                videos.setdefault(video, []).append(index)
        for data, episodes in datas.items():
            needed = sum(self._places[i].length for i in episodes)
            with self._told(episodes):
                held = _open_parquet(_contents(data, self._digests), data).metadata.num_rows
                if held < needed:
                    # Which of its episodes lack ticks, reading each will tell.
                    with self._told(episodes if len(episodes) == 1 else ()):
                        raise Damaged(
                            f"{data} holds {held} ticks, its episodes {needed}. {_RESTORE}"
                        )
        for video, episodes in videos.items():
            with self._told(episodes):
                check_whole(video)

    def _check_digests(self) -> None:
        """That what vouches for the files is there and vouches for those of the whole dataset."""
        known = [(index, p) for index, p in enumerate(self._places) if p is not _NOWHERE]
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
        except Damaged as error:
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


@dataclass(frozen=True)
class _Place:
    """Where one episode lies: its data file, and for each camera a video and its start in it."""

    data: Path
    videos: Mapping[str, tuple[Path, float]]
    length: int
    task: str


_NOWHERE = _Place(Path(), {}, 0, "")  # of an episode that the metadata do not describe


def _raise(error: Damaged, episodes: Sequence[int]) -> None:
    raise error


class LeRobotEpisode:
    """One episode of a LeRobotSource; its numbers are read at first use, its frames each time."""

    def __init__(
        self, index: int, place: _Place, spec: Spec, tolerance_s: float, digests: Digests
    ) -> None:
        self._index = index
        self._place = place
        self._spec = spec
        self._tolerance_s = tolerance_s
        self._digests = digests

    @property
    def index(self) -> int:
        return self._index

    @property
    def task(self) -> str:
        """What was asked, in words; "" where the dataset does not say."""
        return self._place.task

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
        at = self._spec.camera(camera)
        stop = self._place.length if stop is None else stop
        if not 0 <= start <= stop <= self._place.length:
            raise BadInput(
                f"ticks {start} to {stop} of episode {self._index} do not exist; "
                f"it has {self._place.length}"
            )
        video, from_s = self._place.videos[camera]
        self._digests.check(video)
        times_s = (from_s + self._rows[2][start:stop]).tolist()
        return read_frames(video, times_s, (at.height, at.width, 3), self._tolerance_s)

    @cached_property
    def _rows(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
        """State (T, S), action (T, A) and the time of each tick since the first, s, (T,)."""
        place = self._place
        table = _read_table(
            place.data,
            [STATE, ACTION, "timestamp", "frame_index", "episode_index"],
            self._digests,
            episode=self._index,
        )
        with as_promised(place.data):
            order = table["frame_index"].to_numpy()
            numbered = len(order) == place.length and np.array_equal(
                np.sort(order), np.arange(place.length)
            )
            if not numbered:
                raise Damaged(
                    f"{place.data} holds {len(order)} ticks of episode {self._index}, "
                    f"meta/episodes promises {place.length}, numbered from 0. {_RESTORE}"
                )
            table = table.take(np.argsort(order, kind="stable"))
            state = _matrix(table[STATE], self._spec.state_size, STATE, place.data)
            action = _matrix(table[ACTION], self._spec.action_size, ACTION, place.data)
            times_s = table["timestamp"].to_numpy().astype(np.float64)
            if not np.all(np.isfinite(times_s)):
                raise ValueError("a timestamp is not finite")
        return state, action, times_s


def read_info(path: Path) -> dict[str, Any]:
    """`meta/info.json` of a dataset with at least one episode in a layout that can be read."""
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
    if not version.startswith("v3."):
        raise BadInput(
            f"{file} has layout {version}, imitact reads v3.0; convert it with LeRobot's "
            "own converter from v2.1 to v3.0"
        )
    for key, kinds in _KINDS.items():
        if key not in info:
            raise Damaged(f"{file} lacks {key!r}. {_RESTORE}")
        if type(info[key]) not in kinds:
            raise Damaged(
                f"{file}: {key!r} is {info[key]!r}, expected {kinds[-1].__name__}. {_RESTORE}"
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
    data = read_bytes(file, advice=_RESTORE)
    info = parsed(data, file, advice=_RESTORE)
    total = info.get("total_episodes")
    if type(total) is int and total > 0:
        place = {"chunk_index": (total - 1) // FILES_PER_CHUNK}
        last = DATA.format(**place, file_index=(total - 1) % FILES_PER_CHUNK)
        Digests(path).check_dataset(path / last, [INFO])
    return info


@contextmanager
def as_promised(file: Path) -> Iterator[None]:
    """Where contents that JSON allows and the layout does not (a null, a key too few) would be an
    error of Python's, raise Damaged, naming the file."""
    try:
        yield
    except (
        *(KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError),
        *(RecursionError, pa.ArrowException),
    ) as error:
        told = f"{type(error).__name__}: {error}"
        raise Damaged(
            f"{file} does not hold what its layout promises ({told}). {_RESTORE}"
        ) from error


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object, or Damaged; `imitact.json` vouches for itself from format 2 on."""
    value = read_object(file, advice=_RESTORE)
    if file.name == Path(IMITACT).name and (value.get("format", 1) != 1 or KEY in value):
        return checked(value, file, required=True, advice=_RESTORE)
    return value


def _read_meta(path: Path, total: int) -> dict[str, Any]:
    """What imitact stored beside LeRobot's own files, of the finished episodes; {} elsewhere."""
    file = path / IMITACT
    if not file.is_file():
        return {}
    meta = read_json(file)
    with as_promised(file):
        return {**meta, "episodes": list(meta.get("episodes", []))[:total]}


def _camera_keys(features: Mapping[str, dict[str, Any]], path: Path) -> dict[str, str]:
    """Camera name to feature key, in the order of info.json."""
    keys = {}
    for key, feature in features.items():
        info = feature.get("info") or feature.get("video_info") or {}
        if info.get("is_depth_map") or info.get("video.is_depth_map"):
            continue  # no colours, so no camera of a Spec
        if feature.get("dtype") == "image":
            raise BadInput(
                f"{path}: {key!r} stores its frames as images, imitact reads videos only; "
                "convert it with LeRobot's own tools"
            )
        if feature.get("dtype") == "video":
            name = key.removeprefix(CAMERA_PREFIX).removeprefix("observation.")
            if name in keys:
                raise BadInput(
                    f"{path}: the videos {keys[name]!r} and {key!r} would both be the camera "
                    f"{name!r}; rename one of them with LeRobot's own tools"
                )
            keys[name] = key
    return keys


def _spec(
    features: Mapping[str, dict[str, Any]],
    video_keys: Mapping[str, str],
    rate_hz: float,
    units: Mapping[str, tuple[str, ...]],
) -> Spec:
    state_names = _names(features, STATE, "state")
    action_names = _names(features, ACTION, "action")
    return Spec(
        state_names=state_names,
        action_names=action_names,
        state_units=units.get("state", (UNKNOWN_UNIT,) * len(state_names)),
        action_units=units.get("action", (UNKNOWN_UNIT,) * len(action_names)),
        cameras=tuple(_camera(name, key, features[key]) for name, key in video_keys.items()),
        rate_hz=rate_hz,
    )


def _names(features: Mapping[str, dict[str, Any]], key: str, stem: str) -> tuple[str, ...]:
    """Names of the values: those given as a list or dict, however nested, else stem_0, stem_1."""
    if key not in features:
        raise BadInput(f"the dataset has no {key!r}; it has {sorted(features)}")
    shape = features[key].get("shape") or []
    if len(shape) != 1:
        raise BadInput(f"{key!r} has shape {list(shape)}; imitact reads vectors")
    if not 1 <= shape[0] <= MOST_VALUES:
        raise BadInput(f"{key!r} has {shape[0]} values; imitact reads 1 to {MOST_VALUES}")
    names = tuple(_leaves(features[key].get("names")))
    if len(names) == shape[0] and len(set(names)) == len(names):
        return names
    return tuple(f"{stem}_{i}" for i in range(shape[0]))


def _leaves(names: Any) -> Iterator[str]:
    if isinstance(names, str):
        yield names
    elif isinstance(names, dict):
        # {"motors": ["a", "b"]} names by its values, {"a": 0, "b": 1} by its keys.
        for key, value in names.items():
            yield from _leaves(str(key) if isinstance(value, int) else value)
    elif isinstance(names, list):
        for value in names:
            yield from _leaves(value)


def _camera(name: str, key: str, feature: Mapping[str, Any]) -> Camera:
    shape = list(feature.get("shape") or [])
    if len(shape) != 3 or 3 not in (shape[0], shape[2]):
        raise BadInput(f"{key!r} has shape {shape}; imitact reads colour frames, (H, W, 3)")
    channels_first = shape[2] != 3
    return Camera(name, *(shape[1:] if channels_first else shape[:2]))


def _contents(file: Path, digests: Digests) -> bytes | Path:
    """The bytes that were written, where that can be told: what is compared is what is read."""
    if digests.knows(file):
        return digests.read(file)
    if not file.is_file():
        raise Damaged(f"{file} is missing. {_RESTORE}")
    return file


def _open_parquet(contents: bytes | Path, file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(_source(contents))
    except _UNREADABLE as error:
        raise Damaged(f"{file} is cut short or no Parquet file: {error}. {_RESTORE}") from error


def _source(contents: bytes | Path) -> pa.BufferReader | Path:
    return pa.BufferReader(contents) if isinstance(contents, bytes) else contents


_UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, MemoryError)
"""What pyarrow raises on bytes that are no table: Invalid, NotImplemented, OutOfMemory, ..."""


def _read_table(
    file: Path,
    names: list[str],
    digests: Digests,
    optional: tuple[str, ...] | list[str] = (),
    episode: int = -1,
) -> pa.Table:
    """The named columns; with `episode`, of that episode only."""
    contents = _contents(file, digests)
    there = _open_parquet(contents, file).schema_arrow.names
    lacking = [name for name in names if name not in there]
    if lacking:
        raise Damaged(f"{file} lacks the columns {lacking}; it has {there}. {_RESTORE}")
    columns = [*names, *(name for name in optional if name in there)]
    filters = None if episode < 0 else [("episode_index", "==", episode)]
    try:
        return pq.read_table(
            _source(contents),
            columns=columns,
            filters=filters,
            page_checksum_verification=True,
            use_threads=not isinstance(contents, bytes),  # of our own, which are small
        )
    except _UNREADABLE as error:
        raise Damaged(f"{file} cannot be read: {error}. {_RESTORE}") from error


def _matrix(column: pa.ChunkedArray, size: int, what: str, file: Path) -> NDArray[np.float32]:
    """A column of vectors (or of numbers, for size 1) as float32 (T, size)."""
    count = len(column)
    if column.null_count:
        raise Damaged(f"{file}: {what} is empty at some ticks. {_RESTORE}")
    flat = column.combine_chunks()
    while isinstance(flat, pa.FixedSizeListArray | pa.ListArray | pa.LargeListArray):
        flat = flat.flatten()
    values = flat.to_numpy(zero_copy_only=False)
    if values.size != count * size:
        raise Misfit(
            f"{file}: {what} has {values.size} values over {count} ticks, "
            f"info.json promises {size} each"
        )
    return values.reshape(count, size).astype(np.float32)
