"""What can be saved of a LeRobotDataset v3.0 whose recording was never finished.

LeRobot writes the footer of a Parquet file when it begins the next one, or when it is told to
finalize. Killed before that, it leaves its last data file, and the metadata of its last episodes,
without: nobody can read those (lerobot#2495, lerobot#3522). The videos are whole.

So an episode is saved whose data file has its footer. Where its frames lie, its metadata tell where
they can be read; else it is counted: the videos of a camera, one after the other, hold a frame for
every tick of the dataset, in the order of the column `index`. From a video on that would then end
within an episode nothing is counted; and an episode whose first frame would be no key frame, or
whose frames are not at their times, is lost, and its number told.

The dataset is only read.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imitact.core.errors import BadInput, DamagedFile
from imitact.datasets.lerobot.checksums import DatasetChecksums
from imitact.datasets.lerobot.features import ACTION, STATE, Features, read_features
from imitact.datasets.lerobot.parquet import as_promised, has_no_footer, open_parquet, read_table
from imitact.datasets.lerobot.reader import (
    DATA,
    EPISODES,
    FILES_PER_CHUNK,
    IMITACT,
    INFO,
    STATS,
    TASKS,
    VIDEOS,
    LeRobotDataset,
    read_info,
    read_task_words,
)
from imitact.datasets.lerobot.reader_v21 import LeRobotV21Dataset, version_of
from imitact.datasets.lerobot.stats import (
    FeatureStats,
    PixelCounts,
    merged_all,
    of_rows,
    plain,
    sampled_ticks,
)
from imitact.datasets.lerobot.writer import table_bytes, tasks_table
from imitact.datasets.pictures import decode_picture
from imitact.datasets.video import TOLERANCE_S, check_whole, frame_times, read_frames
from imitact.storage.atomic import fsync, make_folder
from imitact.storage.atomic_folder import atomic_folder, check_output_folder
from imitact.storage.checksum import file_sha256
from imitact.storage.json_file import read_json_object

Progress = Callable[[int], object]
"""Takes the number of episodes that are done."""

_MOST_EPISODES = 1_000_000
"""A dataset that counts more (or more tasks) counts wrong."""


@dataclass(frozen=True)
class Stretch:
    """Frames `first` to `first + frames` of a video, which are an episode's."""

    video: Path
    first: int
    frames: int
    from_s: float
    to_s: float


@dataclass(frozen=True)
class Saved:
    """An episode that can be saved.

    index:     its number in the dataset.
    stretches: key of a video feature to where its frames lie.
    stats:     LeRobot's statistics of each of its features.
    """

    index: int
    data: Path
    length: int
    tasks: tuple[str, ...]
    stretches: Mapping[str, Stretch]
    stats: Mapping[str, FeatureStats]


@dataclass(frozen=True)
class Survey:
    """What is left of a dataset.

    total:   how many episodes it counted.
    lost:    what cannot be saved, and why: a line a file or an episode.
    remains: what of the lost episodes is still there, in the dataset itself.
    broken:  its files that cannot be read.
    """

    root: Path
    info: Mapping[str, Any]
    total: int
    saved: tuple[Saved, ...]
    lost: tuple[str, ...]
    remains: tuple[str, ...]
    broken: tuple[Path, ...]

    @property
    def is_whole(self) -> bool:
        """Whether there is nothing to repair."""
        return not self.lost and not self.broken

    def lines(self) -> list[str]:
        """All of it, for a reader."""
        ticks = sum(one.length for one in self.saved)
        of = f"{len(self.saved)} of {self.total} episodes, {ticks} of {self.info['total_frames']}"
        return [
            f"saved: {of} ticks",
            *(f"lost: {line}" for line in self.lost),
            *(f"remains: {line}" for line in self.remains),
        ]


def survey(root: Path, on_progress: Progress = lambda done: None) -> Survey:
    """Look for every episode that can be saved; each of its frames is decoded once.

    Refuses what is no dataset in the v3.0 layout, or is imitact's own recording, which is finished
    at every moment.
    """
    if version_of(root).startswith(LeRobotV21Dataset.LAYOUTS):
        raise BadInput(
            f"{root} has layout {version_of(root)}, where every episode has files of its own and "
            "none waits to be finished; `imitact check --fix OUT` leaves out those that are damaged"
        )
    info = read_info(root)
    if (root / IMITACT).is_file():
        raise BadInput(
            f"{root} was recorded by imitact, which finishes every episode at once; `imitact check "
            "--fix OUT` leaves out those that are damaged"
        )
    with as_promised(root / INFO):
        features = read_features(info["features"], float(info["fps"]), {}, root)
        keys = [key for key, f in info["features"].items() if f.get("dtype") == "video"]
        per_chunk = int(info.get("chunks_size") or FILES_PER_CHUNK)
        if info["total_episodes"] > _MOST_EPISODES:
            raise ValueError(f"it counts {info['total_episodes']} episodes")
    rows, unread = _described(root, keys)
    held, broken, wrong = _held(root)
    films = {key: _believed(_films(root, key, per_chunk), held) for key in keys}
    try:
        words = read_task_words(root / TASKS, DatasetChecksums(root))
    except DamagedFile:
        words, unread = {}, [*unread, root / TASKS]

    saved: list[Saved] = []
    for done, (index, one) in enumerate(sorted(held.items())):
        row = rows.get(index, {})
        try:
            stretches = {
                key: _stretch(root, films[key], key, row, one, info["fps"]) for key in keys
            }
            table = _episode(one.data, index)
            stats = _looked_at(table, info, features, stretches, one, index)
        except DamagedFile as error:
            wrong[index] = str(error)
        else:
            tasks = tuple(row.get("tasks") or _tasks(table, words))
            saved.append(Saved(index, one.data, one.length, tasks, stretches, stats))
        on_progress(done + 1)

    numbers = [index for index in (0, *held, *wrong) if index < _MOST_EPISODES]
    total = max(info["total_episodes"], max(numbers) + 1)
    lost = []
    unseen = set(range(total)) - set(held) - set(wrong)
    for file, why, episodes in _behind(root, broken, held, rows, unseen, total):
        lost.append(f"{file.relative_to(root)} {why}: {_ranges(episodes)}")
        unseen -= set(episodes)
    if unseen:
        lost.append(f"{_ranges(sorted(unseen))}: in no data file")
    lost += [f"episode {index}: {why}" for index, why in sorted(wrong.items())]
    remains = _remains(root, films, saved) if lost else ()
    whole = (*unread, *broken)
    return Survey(root, info, total, tuple(saved), tuple(lost), tuple(remains), whole)


def save(found: Survey, out: Path, on_progress: Progress = lambda done: None) -> None:
    """Write a dataset of the saved episodes to `out`, numbered anew where others are missing.

    Data are written again as they are, every column; videos are copied, byte for byte; metadata and
    statistics are made anew. What was written is read back and compared before it is there.
    """
    if not found.saved:
        raise BadInput(f"nothing of {found.root} can be saved; the lines above say why")
    check_output_folder(out, found.root)
    with atomic_folder(out, "copy") as building:
        places = _put_data(found, building)
        films = _put_videos(found, building)
        _put_meta(found, building, places, films)
        _compare(found, building, on_progress)


# -- what there is ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Held:
    """An episode whose ticks are all in a file that can be read.

    first: the number of its first tick in the whole dataset; -1 where they are not numbered so.
    """

    data: Path
    length: int
    first: int


@dataclass(frozen=True)
class _Film:
    """A video. first: the number of its first frame among all of its camera; -1 if unknown."""

    path: Path
    times_s: NDArray[np.float64]
    begins: NDArray[np.bool_]
    first: int
    why: str = ""

    def has(self, frame: int) -> bool:
        """Whether the frame of this number is known to be in it."""
        return 0 <= self.first <= frame < self.first + len(self.times_s)


def _described(root: Path, keys: Sequence[str]) -> tuple[dict[int, dict[str, Any]], list[Path]]:
    """The rows of metadata by episode, and the files of them that cannot be read."""
    told = [f"videos/{key}/{n}" for key in keys for n in ("chunk_index", "file_index")]
    told += [f"videos/{key}/from_timestamp" for key in keys]
    told += ["tasks", "data/chunk_index", "data/file_index"]
    rows: dict[int, dict[str, Any]] = {}
    unread: list[Path] = []
    for file in sorted((root / "meta/episodes").glob("*/*.parquet")):
        try:
            table = read_table(file, ["episode_index"], DatasetChecksums(root), optional=told)
            with as_promised(file):
                rows |= {int(row["episode_index"]): row for row in table.to_pylist()}
        except DamagedFile:
            unread.append(file)
    return rows, unread


def _held(root: Path) -> tuple[dict[int, _Held], dict[Path, str], dict[int, str]]:
    """Episodes by number; data files that cannot be read, and why; episodes that are not whole."""
    held: dict[int, _Held] = {}
    broken: dict[Path, str] = {}
    wrong: dict[int, str] = {}
    names = ["episode_index", "frame_index", "index"]
    for file in sorted((root / "data").glob("*/*.parquet")):
        try:
            table = read_table(file, names, DatasetChecksums(root))
            with as_promised(file):
                episodes, ticks, numbers = (table[name].to_numpy() for name in names)
                for index in map(int, np.unique(episodes)):
                    if not 0 <= index < _MOST_EPISODES:
                        wrong[index] = f"{file} says so of a tick, and no episode has that number"
                        continue
                    own = episodes == index
                    length = int(own.sum())
                    if not np.array_equal(np.sort(ticks[own]), np.arange(length)):
                        wrong[index] = f"{file} holds {length} of its ticks, not numbered from 0"
                        continue
                    rows = np.sort(numbers[own])
                    is_run = np.array_equal(rows, rows[0] + np.arange(length))
                    held[index] = _Held(file, length, int(rows[0]) if is_run else -1)
        except DamagedFile as error:
            broken[file] = "has no footer" if has_no_footer(file) else f"cannot be read ({error})"
    return held, broken, {i: why for i, why in wrong.items() if i not in held}


def _films(root: Path, key: str, chunk: int) -> list[_Film]:
    """The videos of a feature, in order, with the numbers of their frames as far as known."""
    films: list[_Film] = []
    first = 0
    files = sorted((root / "videos" / key).glob("chunk-*/file-*.mp4"))
    for number, file in enumerate(files):
        if file.relative_to(root).as_posix() != VIDEOS.format(
            video_key=key, chunk_index=number // chunk, file_index=number % chunk
        ):
            first = -1  # one before it is missing
        try:
            check_whole(file)
            times_s, begins = frame_times(file)
        except DamagedFile as error:
            films.append(_Film(file, np.zeros(0), np.zeros(0, np.bool_), -1, str(error)))
            first = -1
        else:
            films.append(_Film(file, times_s, begins, first))
            first = first + len(times_s) if first >= 0 else -1
    return films


def _believed(films: Sequence[_Film], held: Mapping[int, _Held]) -> list[_Film]:
    """The films, of which none is counted on from where the count is wrong: where a video would
    end in the middle of an episode, since LeRobot ends none there."""
    believed: list[_Film] = []
    is_wrong = False
    for film in films:
        if film.first >= 0:
            end = film.first + len(film.times_s)
            spans = ((one.first, one.first + one.length) for one in held.values())
            is_wrong |= any(0 <= start < end < stop for start, stop in spans)
        believed.append(replace(film, first=-1) if is_wrong else film)
    return believed


def _stretch(
    root: Path, films: Sequence[_Film], key: str, row: Mapping[str, Any], one: _Held, rate_hz: float
) -> Stretch:
    """Where the frames of an episode lie: as its metadata say, else counted."""
    if row.get(f"videos/{key}/from_timestamp") is not None:
        with as_promised(root / "meta/episodes"):
            where = {n: int(row[f"videos/{key}/{n}"]) for n in ("chunk_index", "file_index")}
            from_s = float(row[f"videos/{key}/from_timestamp"])
        path = root / VIDEOS.format(video_key=key, **where)
        film = next((film for film in films if film.path == path and not film.why), None)
        if film is None:
            raise DamagedFile(f"{path} is missing or cannot be read")
        at = int(np.searchsorted(film.times_s, from_s - TOLERANCE_S))
    else:
        film = next((film for film in films if film.has(one.first)), None)
        if film is None:
            raise DamagedFile(f"no video of {key!r} can be told to hold its frames")
        at = one.first - film.first
        if not film.begins[at]:
            raise DamagedFile(
                f"frame {at} of {film.path} should be its first, by the count, and is none that "
                "an episode can begin with"
            )
    if at + one.length > len(film.times_s):
        raise DamagedFile(
            f"{film.path} ends {at + one.length - len(film.times_s)} frames too early"
        )
    to_s = float(film.times_s[at + one.length - 1]) + 1 / rate_hz
    return Stretch(film.path, at, one.length, float(film.times_s[at]), to_s)


def _episode(data: Path, index: int) -> pa.Table:
    """Every column of an episode, its ticks in order, and the notes of its file."""
    held = open_parquet(data, data)
    table = read_table(data, held.schema_arrow.names, DatasetChecksums(data.parent), episode=index)
    with as_promised(data):
        table = table.take(np.argsort(table["frame_index"].to_numpy(), kind="stable"))
        return table.replace_schema_metadata(held.schema_arrow.metadata)


def _looked_at(
    table: pa.Table,
    info: Mapping[str, Any],
    features: Features,
    stretches: Mapping[str, Stretch],
    one: _Held,
    index: int,
) -> dict[str, FeatureStats]:
    """The statistics of an episode; refuses one with a frame that cannot be decoded.

    Of depth, and of what is no vector of numbers, there are none.
    """
    stats: dict[str, FeatureStats] = {}
    pictured = {stored.key: features.spec.camera(n) for n, stored in features.stored.items()}
    sampled = sampled_ticks(one.length)
    with as_promised(one.data):
        times_s = table["timestamp"].to_numpy().astype(np.float64)
        for key, feature in info["features"].items():
            if key in pictured:
                camera = pictured[key]
                counts = PixelCounts()
                if key in stretches:
                    at = (stretches[key].from_s + times_s).tolist()
                    shape = (camera.height, camera.width, 3)
                    for tick, frame in enumerate(read_frames(stretches[key].video, at, shape)):
                        if tick in sampled:
                            counts.add(frame)
                else:
                    for tick in range(one.length):
                        where = f"{one.data}: {key} of episode {index} at tick {tick}"
                        data = table[key][tick].as_py()["bytes"]
                        frame = decode_picture(data, camera.height, camera.width, where)
                        if tick in sampled:
                            counts.add(frame)
                stats[key] = counts.result()
            elif feature.get("dtype") not in ("video", "image") and key in table.column_names:
                numbers = _numbers(table[key])
                if numbers is not None:
                    with np.errstate(invalid="ignore", over="ignore"):  # of states that are none
                        stats[key] = of_rows(numbers)
    return stats


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64] | None:
    """The values of a column of numbers or of vectors of them, (T, D); None of anything else."""
    flat = column.combine_chunks()
    while isinstance(flat, pa.FixedSizeListArray | pa.ListArray | pa.LargeListArray):
        flat = flat.flatten()
    kind = flat.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        return None
    return flat.to_numpy(zero_copy_only=False).astype(np.float64).reshape(len(column), -1)


def _tasks(table: pa.Table, words: Mapping[int, str]) -> list[str]:
    """What was asked in an episode, by the numbers beside its ticks."""
    if "task_index" not in table.column_names:
        return ["unknown"]
    numbers = dict.fromkeys(int(number) for number in table["task_index"].to_pylist())
    return [words.get(number, f"task {number}") for number in numbers]


# -- what is lost ----------------------------------------------------------------------------------


def _behind(
    root: Path,
    broken: Mapping[Path, str],
    held: Mapping[int, _Held],
    rows: Mapping[int, Mapping[str, Any]],
    unseen: set[int],
    total: int,
) -> list[tuple[Path, str, list[int]]]:
    """Each data file that cannot be read, why, and which of the unseen episodes it holds: as the
    metadata say, else those between the files before and after it."""
    found = []
    for file, why in broken.items():
        told = [index for index in unseen if index in rows and _data_of(root, rows[index]) == file]
        before = max((i for i, one in held.items() if one.data < file), default=-1)
        after = min((i for i, one in held.items() if one.data > file), default=total)
        between = [index for index in unseen if before < index < after and index not in rows]
        found.append((file, why, sorted({*told, *between})))
    return found


def _data_of(root: Path, row: Mapping[str, Any]) -> Path | None:
    """The data file that a row of metadata names."""
    chunk, number = row.get("data/chunk_index"), row.get("data/file_index")
    if not isinstance(chunk, int) or not isinstance(number, int):
        return None
    return root / DATA.format(chunk_index=chunk, file_index=number)


def _remains(root: Path, films: Mapping[str, Sequence[_Film]], saved: Sequence[Saved]) -> list[str]:
    """The frames of lost episodes that are still there: in videos, or not yet in one."""
    lines = []
    for key, some in films.items():
        for film in some:
            name = film.path.relative_to(root)
            if film.why:
                lines.append(f"{name}, which cannot be read")
                continue
            lost = np.ones(len(film.times_s) + 2, np.bool_)
            lost[0] = lost[-1] = False
            for stretch in (one.stretches[key] for one in saved):
                if stretch.video == film.path:
                    lost[1 + stretch.first : 1 + stretch.first + stretch.frames] = False
            edges = np.flatnonzero(np.diff(lost.astype(np.int8)))
            for start, stop in edges.reshape(-1, 2).tolist():
                from_s, to_s = film.times_s[start], film.times_s[stop - 1]
                lines.append(f"{name}, frames {start} to {stop - 1} ({from_s:.2f} to {to_s:.2f} s)")
    for folder in sorted(root.glob("images/*/episode[-_]*")):
        count = sum(1 for file in folder.iterdir() if file.is_file())
        lines.append(f"{folder.relative_to(root)}, {count} pictures that are in no video")
    lines += [f"{file.relative_to(root)}, in no episode" for file in sorted(root.glob("*/*.mp4"))]
    return lines


def _ranges(numbers: Sequence[int]) -> str:
    """ "episodes 3, 7 to 9"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    if not runs:
        return "no episode that others do not hold"
    words = ", ".join(f"{a} to {b}" if b > a else str(a) for a, b in runs)
    return f"episode{'s' if len(numbers) > 1 else ''} {words}"


# -- the copy --------------------------------------------------------------------------------------


def _where(number: int) -> dict[str, int]:
    return {"chunk_index": number // FILES_PER_CHUNK, "file_index": number % FILES_PER_CHUNK}


def _put_data(found: Survey, building: Path) -> list[int]:
    """Write the data files, an episode a row group; gives which file each episode is in."""
    places: list[int] = []
    start = 0
    for number, data in enumerate(dict.fromkeys(one.data for one in found.saved)):
        path = building / DATA.format(**_where(number))
        make_folder(path.parent)
        schema = open_parquet(data, data).schema_arrow
        with pq.ParquetWriter(path, schema, compression="snappy") as writer:
            for new, one in enumerate(found.saved):
                if one.data == data:
                    table = _episode(data, one.index)
                    count = np.arange(one.length)
                    for name, values in (
                        ("episode_index", np.full(one.length, new)),
                        ("index", start + count),
                    ):
                        at = table.column_names.index(name)
                        field = table.schema.field(at)
                        table = table.set_column(at, field, pa.array(values, field.type))
                    writer.write_table(table)
                    places.append(number)
                    start += one.length
        fsync(path)
    return places


def _put_videos(found: Survey, building: Path) -> dict[Path, int]:
    """Copy the videos with frames of saved episodes; gives the number of each of a camera's."""
    numbers: dict[Path, int] = {}
    for key in found.saved[0].stretches:
        used = dict.fromkeys(one.stretches[key].video for one in found.saved)
        for number, video in enumerate(used):
            path = building / VIDEOS.format(video_key=key, **_where(number))
            make_folder(path.parent)
            shutil.copyfile(video, path)
            fsync(path)
            if file_sha256(path) != file_sha256(video):
                raise DamagedFile(
                    f"{path} is not what {video} is: the disk does not keep what it gets"
                )
            numbers[video] = number
    return numbers


def _put_meta(
    found: Survey, building: Path, places: Sequence[int], films: Mapping[Path, int]
) -> None:
    """Write what describes the episodes, as LeRobot does."""
    rows: list[dict[str, Any]] = []
    stats: dict[str, FeatureStats] = {}
    start = 0
    for new, (one, place) in enumerate(zip(found.saved, places, strict=True)):
        row: dict[str, Any] = {
            "episode_index": new,
            "tasks": list(one.tasks),
            "length": one.length,
            **{f"data/{n}": v for n, v in _where(place).items()},
            "dataset_from_index": start,
            "dataset_to_index": start + one.length,
        }
        for key, stretch in one.stretches.items():
            row |= {f"videos/{key}/{n}": v for n, v in _where(films[stretch.video]).items()}
            row[f"videos/{key}/from_timestamp"] = stretch.from_s
            row[f"videos/{key}/to_timestamp"] = stretch.to_s
        for name, feature in one.stats.items():
            row |= {f"stats/{name}/{n}": v.tolist() for n, v in feature.items()}
        rows.append(row | {f"meta/episodes/{n}": 0 for n in ("chunk_index", "file_index")})
        stats = merged_all(stats, one.stats) if stats else dict(one.stats)
        start += one.length
    table = pa.table({name: [row[name] for row in rows] for name in rows[0]})
    _put(building / EPISODES.format(**_where(0)), table_bytes(table))
    words = _all_words(found)
    _put(building / TASKS, table_bytes(tasks_table(words)))
    # LeRobot's own statistics of what has none here (depth), which are those of the lost ones too.
    kept = {n: v for n, v in _old_stats(found.root).items() if n not in stats}
    # As LeRobot writes it, which has NaN where a state is none.
    text = json.dumps({**plain(stats), **kept}, indent=2, ensure_ascii=False)
    _put(building / STATS, text.encode())
    episodes = len(found.saved)
    info = {
        **found.info,
        "total_episodes": episodes,
        "total_frames": start,
        "total_tasks": len(words),
        "data_path": DATA,
        "video_path": VIDEOS if found.saved[0].stretches else None,
        "splits": {"train": f"0:{episodes}"},
        "chunks_size": FILES_PER_CHUNK,
    }
    _put(building / INFO, json.dumps(info, indent=4, ensure_ascii=False).encode())


def _all_words(found: Survey) -> list[str]:
    """The words of every task by its number: the data name tasks by numbers, which are kept."""
    try:
        words = dict(read_task_words(found.root / TASKS, DatasetChecksums(found.root)))
    except DamagedFile:
        words = {}
    numbers = [
        int(number)
        for one in found.saved
        for number in np.unique(_task_numbers(one.data, one.index))
    ]
    last = max([*numbers, *words], default=0)
    if last > _MOST_EPISODES:
        raise DamagedFile(f"{found.root / 'data'} names task {last}; no dataset has so many")
    return [words.get(number, f"task {number}") for number in range(last + 1)]


def _task_numbers(data: Path, index: int) -> NDArray[Any]:
    table = read_table(
        data, ["episode_index"], DatasetChecksums(data.parent), ["task_index"], index
    )
    with as_promised(data):
        if "task_index" not in table.column_names:
            return np.zeros(1, np.int64)
        return table["task_index"].to_numpy()


def _old_stats(root: Path) -> dict[str, Any]:
    try:
        return read_json_object(root / STATS)
    except DamagedFile:
        return {}


def _put(path: Path, data: bytes) -> None:
    make_folder(path.parent)
    path.write_bytes(data)
    fsync(path)


def _compare(found: Survey, building: Path, on_progress: Progress) -> None:
    """Read the copy back: states and actions must be equal, and the last frames there."""
    copy = LeRobotDataset(building)
    for new, one in enumerate(found.saved):
        table, episode = _episode(one.data, one.index), copy.episode(new)
        for name, rows in ((STATE, episode.state), (ACTION, episode.action)):
            numbers = _numbers(table[name])
            if numbers is None or not np.array_equal(
                numbers.astype(np.float32), rows, equal_nan=True
            ):
                raise DamagedFile(f"{building}: {name} of episode {new} is not that of {one.data}")
        for camera in copy.spec.cameras:
            for _ in episode.frames(camera.name, one.length - 1):
                pass
        on_progress(new + 1)
