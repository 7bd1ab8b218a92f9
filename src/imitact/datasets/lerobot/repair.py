"""Repair of a LeRobotDataset v3.0 whose recording was never finished, as a copy.

LeRobot writes the footer of a Parquet file when it begins the next one, or in `finalize`. Killed
before that, it leaves its last data file and the metadata of its last episodes without a footer,
and nobody can read those (lerobot#2495, lerobot#3522). The videos are whole.

An episode can be recovered if its data file has a footer. Its metadata say where its frames are if
they can be read. Otherwise the frames are counted: the videos of a camera, one after the other,
hold a frame for every tick of the dataset, in the order of the column `index`. A count is only
believed where the videos have as many frames as `total_frames` counts ticks: the frames of a
discarded take may remain at the end of an episode's (lerobot#4109), and move all that follow. With
more frames only the first episode is certain, with fewer none. Where a video is missing, those
before it must end where an episode does. An episode is lost, and reported, if its first frame would
not be a key frame or its frames are not at their times.

The dataset itself is only read.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imitact.core.errors import BadInput, DamagedFile
from imitact.core.types import Frame
from imitact.core.words import counted
from imitact.datasets import images
from imitact.datasets.episode_encoder import frame_stats
from imitact.datasets.lerobot import layout, parquet
from imitact.datasets.lerobot.checksums import DatasetChecksums
from imitact.datasets.lerobot.features import Features, read_features
from imitact.datasets.lerobot.layout import (
    INFO,
    MAX_EPISODES,
    TASKS,
    file_numbers,
    is_shown,
    layout_errors_as_damage,
)
from imitact.datasets.lerobot.reader import LeRobotDataset
from imitact.datasets.lerobot.stats import FeatureStats, merge_all_stats, row_stats, stats_as_json
from imitact.datasets.lerobot.video_segments import (
    Segment,
    ShiftedSegments,
    check_segments,
    episode_ranges,
)
from imitact.datasets.lerobot.writer import episode_row, table_bytes, tasks_table
from imitact.datasets.video import frame_times, read_frames
from imitact.storage.atomic import fsync, make_folder, write_bytes
from imitact.storage.atomic_folder import atomic_folder, check_output_folder
from imitact.storage.checksum import file_sha256
from imitact.storage.json_file import read_json_object

OnEpisode = Callable[[int], object]
"""Called with the number of episodes that are done."""


@dataclass(frozen=True)
class VideoSegment:
    """The frames of an episode in a video, from the one numbered `first`."""

    video: Path
    first: int
    from_s: float
    to_s: float


@dataclass(frozen=True)
class StoredEpisode:
    """An episode whose ticks are all in a readable data file.

    `first` is the number of its first tick in the whole dataset; -1 if they are not consecutive.
    """

    index: int
    data: Path
    length: int
    first: int


@dataclass(frozen=True)
class RecoverableEpisode(StoredEpisode):
    """An episode that can be copied, with its frames by the key of the video feature."""

    tasks: tuple[str, ...]
    task_numbers: tuple[int, ...]
    segments: Mapping[str, VideoSegment]
    stats: Mapping[str, FeatureStats]


@dataclass(frozen=True)
class RepairPlan:
    """What can be recovered of a dataset.

    Attributes:
        total: number of episodes in the dataset.
        lost: what cannot be recovered, and why: one line per file or episode.
        remains: what the dataset still holds of the lost episodes, one line each.
        broken: files that cannot be read.
    """

    root: Path
    info: Mapping[str, Any]
    total: int
    recoverable: tuple[RecoverableEpisode, ...]
    lost: tuple[str, ...]
    remains: tuple[str, ...]
    broken: tuple[Path, ...]
    task_texts: Mapping[int, str]

    @property
    def is_whole(self) -> bool:
        """Whether there is nothing to repair."""
        return not self.lost and not self.broken

    def lines(self) -> list[str]:
        """Return the plan as lines of text."""
        ticks = sum(one.length for one in self.recoverable)
        counts = f"{len(self.recoverable)} of {counted(self.total, 'episode')}"
        return [
            f"recovered: {counts}, {ticks} of {counted(self.info['total_frames'], 'tick')}",
            *(f"lost: {line}" for line in self.lost),
            *(f"remains: {line}" for line in self.remains),
        ]


def is_unfinished(root: Path) -> bool:
    """Whether a folder holds a LeRobotDataset v3.0 that LeRobot did not finish recording."""
    try:
        if not layout.version_of(root).startswith(layout.V30) or (root / layout.IMITACT).is_file():
            return False
    except BadInput:  # of a damaged info.json, which opening the dataset reports
        return False
    if layout.lies_as_other_version(root):
        return False
    metadata = _shown(root, "meta/episodes/*/*.parquet")
    files = [*metadata, *_shown(root, "data/*/*.parquet")]
    return not metadata or any(map(parquet.has_no_footer, files))


def plan_repair(root: Path, on_episode: OnEpisode = lambda done: None) -> RepairPlan:
    """Find every episode that can be recovered; each of its frames is decoded once.

    Raises:
        BadInput: not a dataset in the v3.0 layout, or a recording of imitact, which is finished at
            every moment.
    """
    version = layout.version_of(root)
    if version.startswith(layout.V21):
        raise BadInput(
            f"{root} has layout {version}, where every episode has files of its own and "
            "none waits to be finished; `imitact check --fix OUT` leaves out those that are damaged"
        )
    info = layout.read_info(root)
    if (root / layout.IMITACT).is_file():
        raise BadInput(
            f"{root} was recorded by imitact, which finishes every episode at once; `imitact check "
            "--fix OUT` leaves out those that are damaged"
        )
    with layout_errors_as_damage(root / INFO):
        features = read_features(info["features"], float(info["fps"]), {}, root)
        keys = [key for key, f in info["features"].items() if f.get("dtype") == "video"]
        per_chunk = int(info.get("chunks_size") or layout.FILES_PER_CHUNK)
    rows, unreadable = _read_metadata(root, keys)
    stored, broken, wrong = _read_data(root)
    total_frames = info["total_frames"]
    videos = {key: _read_videos(root, key, per_chunk, stored, total_frames) for key in keys}
    places = {key: _described_places(root, key, rows, stored, videos[key], info) for key in keys}
    try:
        texts = parquet.read_task_texts(root / TASKS, DatasetChecksums(root))
    except DamagedFile:
        texts, unreadable = {}, [*unreadable, root / TASKS]

    recoverable: list[RecoverableEpisode] = []
    for done, (index, one) in enumerate(sorted(stored.items()), 1):
        row = rows.get(index, {})
        try:
            segments = {
                key: _find_segment(
                    key, videos[key], places[key].get(index), one, info["fps"], total_frames
                )
                for key in keys
            }
            table = _read_episode(one)
            stats = _compute_stats(table, info, features, segments, one)
            with layout_errors_as_damage(one.data):
                stored_numbers = table["task_index"] if "task_index" in table.column_names else ()
                numbers = (*dict.fromkeys(int(number.as_py()) for number in stored_numbers),)
        except DamagedFile as error:
            wrong[index] = str(error)
        else:
            known = [texts.get(number, f"task {number}") for number in numbers] or ["unknown"]
            tasks = tuple(row.get("tasks") or known)
            recoverable.append(
                RecoverableEpisode(
                    **vars(one), tasks=tasks, task_numbers=numbers, segments=segments, stats=stats
                )
            )
        on_episode(done)

    numbers = [index for index in (0, *stored, *wrong) if index < MAX_EPISODES]
    total = max(info["total_episodes"], max(numbers) + 1)
    lost = []
    missing = set(range(total)) - set(stored) - set(wrong)
    for file, why, episodes in _lost_with_files(root, broken, stored, rows, missing, total):
        held = episode_ranges(episodes) if episodes else "no episode that is missing elsewhere"
        lost.append(f"{file.relative_to(root)} {why}: {held}")
        missing -= set(episodes)
    if missing:
        lost.append(f"{episode_ranges(sorted(missing))}: in no data file")
    lost += [f"episode {index}: {why}" for index, why in sorted(wrong.items())]
    return RepairPlan(
        root,
        info,
        total,
        tuple(recoverable),
        tuple(lost),
        tuple(_remains(root, videos, recoverable)) if lost else (),
        (*unreadable, *broken),
        texts,
    )


def write_repaired(plan: RepairPlan, out: Path, on_episode: OnEpisode = lambda done: None) -> None:
    """Write a dataset of the recoverable episodes to `out`, numbered without gaps.

    Data are copied with all columns and videos byte for byte; metadata and statistics are computed.
    The copy is read back and compared before it appears.
    """
    if not plan.recoverable:
        raise BadInput(f"nothing of {plan.root} can be recovered; the lines above give the reasons")
    check_output_folder(out, plan.root)
    with atomic_folder(out, "copy") as building:
        data_files = _write_data(plan, building)
        video_files = _write_videos(plan, building)
        _write_metadata(plan, building, data_files, video_files)
        _compare(plan, building, on_episode)


# --- reading ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _VideoFile:
    """A video of a camera.

    Attributes:
        times_s: time of each frame, (N,) in s.
        key_frames: whether decoding can begin at each frame, (N,).
        first: number of its first frame among all frames of the camera; -1 if unknown.
        counted: how many of its frames, from the first on, a count can assign.
        damage: why it cannot be read; empty for a readable video.
    """

    path: Path
    times_s: NDArray[np.float64]
    key_frames: NDArray[np.bool_]
    first: int = -1
    counted: int = 0
    damage: str = ""


def _read_metadata(root: Path, keys: Sequence[str]) -> tuple[dict[int, dict[str, Any]], list[Path]]:
    """Return the rows of metadata by episode, and the files that cannot be read."""
    optional = [f"videos/{key}/{n}" for key in keys for n in ("chunk_index", "file_index")]
    optional += [f"videos/{key}/from_timestamp" for key in keys]
    optional += ["tasks", "length", "data/chunk_index", "data/file_index"]
    rows: dict[int, dict[str, Any]] = {}
    unreadable: list[Path] = []
    for file in _shown(root, "meta/episodes/*/*.parquet"):
        try:
            with layout_errors_as_damage(file):
                for row in parquet.read_rows(
                    file, ["episode_index"], DatasetChecksums(root), optional, MAX_EPISODES
                ):
                    rows[int(row["episode_index"])] = row
        except DamagedFile:
            unreadable.append(file)
    return rows, unreadable


def _read_data(root: Path) -> tuple[dict[int, StoredEpisode], dict[Path, str], dict[int, str]]:
    """Return episodes by number, and the reasons why files are unreadable or episodes not whole."""
    stored: dict[int, StoredEpisode] = {}
    broken: dict[Path, str] = {}
    wrong: dict[int, str] = {}
    names = ["episode_index", "frame_index", "index"]
    for file in _shown(root, "data/*/*.parquet"):
        try:
            table = parquet.read_table(file, names, DatasetChecksums(root))
            with layout_errors_as_damage(file):
                episodes, ticks, numbers = (table[name].to_numpy() for name in names)
                for index in map(int, np.unique(episodes)):
                    if not 0 <= index < MAX_EPISODES:
                        wrong[index] = f"{file} has a tick with that number, which is impossible"
                        continue
                    own = episodes == index
                    length = int(own.sum())
                    if not np.array_equal(np.sort(ticks[own]), np.arange(length)):
                        wrong[index] = f"{file} holds {length} of its ticks, not numbered from 0"
                        continue
                    rows = np.sort(numbers[own])
                    is_run = np.array_equal(rows, rows[0] + np.arange(length))
                    first = int(rows[0]) if is_run else -1
                    stored[index] = StoredEpisode(index, file, length, first)
        except DamagedFile as error:
            broken[file] = (
                "has no footer" if parquet.has_no_footer(file) else f"cannot be read ({error})"
            )
    return stored, broken, {i: why for i, why in wrong.items() if i not in stored}


def _read_videos(
    root: Path,
    key: str,
    per_chunk: int,
    stored: Mapping[int, StoredEpisode],
    total_frames: int,
) -> list[_VideoFile]:
    """Return the videos of a feature in order, with the numbers of their frames where known."""
    files = _shown(root, f"videos/{key}/chunk-*/file-*.mp4")
    due = [
        root
        / layout.VIDEOS.format(video_key=key, chunk_index=n // per_chunk, file_index=n % per_chunk)
        for n in range(len(files))
    ]
    videos: list[_VideoFile] = []
    for file in files:
        try:
            videos.append(_VideoFile(file, *frame_times(file)))
        except DamagedFile as error:
            videos.append(_VideoFile(file, np.zeros(0), np.zeros(0, np.bool_), damage=str(error)))
    is_complete = files == due and not any(video.damage for video in videos)
    spans = [(one.first, one.first + one.length) for one in stored.values() if one.first >= 0]
    excess = sum(len(video.times_s) for video in videos) - total_frames
    if is_complete and excess:
        begun = max((stop for start, stop in spans if start == 0), default=0)
        if excess > 0 and videos:
            videos[0] = replace(videos[0], first=0, counted=min(begun, len(videos[0].times_s)))
        return videos
    ends = {end for span in spans for end in span}
    first = 0
    for number, video in enumerate(videos):
        end = first + len(video.times_s)
        splits = any(start < end < stop for start, stop in spans)  # as LeRobot never does
        lacks_end = not is_complete and end not in ends
        if video.damage or video.path != due[number] or splits or lacks_end:
            break
        videos[number] = replace(video, first=first, counted=len(video.times_s))
        first = end
    return videos


def _described_places(
    root: Path,
    key: str,
    rows: Mapping[int, Mapping[str, Any]],
    stored: Mapping[int, StoredEpisode],
    videos: Sequence[_VideoFile],
    info: Mapping[str, Any],
) -> dict[int, tuple[_VideoFile, float] | DamagedFile]:
    """Return video and start, in s, of each episode whose metadata give them, or what is wrong."""
    places: dict[int, tuple[_VideoFile, float] | DamagedFile] = {}
    users: dict[Path, list[Segment]] = {}
    by_path = {video.path: video for video in videos if not video.damage}
    for index, row in rows.items():
        if row.get(f"videos/{key}/from_timestamp") is None:
            continue
        try:
            with layout_errors_as_damage(root / "meta/episodes"):
                numbers = layout.stored_numbers(row, f"videos/{key}")
                from_s = float(row[f"videos/{key}/from_timestamp"])
                length = stored[index].length if index in stored else int(row.get("length") or 0)
            path = root / layout.VIDEOS.format(video_key=key, **numbers)
            if path not in by_path:
                raise DamagedFile(f"{path} is missing or cannot be read")
        except DamagedFile as error:
            places[index] = error
        else:
            places[index] = by_path[path], from_s
            users.setdefault(path, []).append(Segment(index, from_s, length))
    for path, segments in users.items():
        try:
            check_segments(path, by_path[path].times_s, segments, info["fps"])
        except ShiftedSegments as error:
            for one in segments:
                places[one.episode] = by_path[path], one.from_s - error.shift_s
        except DamagedFile as error:
            places |= dict.fromkeys((one.episode for one in segments), error)
    return places


def _find_segment(
    key: str,
    videos: Sequence[_VideoFile],
    place: tuple[_VideoFile, float] | DamagedFile | None,
    one: StoredEpisode,
    rate_hz: float,
    total_frames: int,
) -> VideoSegment:
    """Return where the frames of an episode are: by its metadata, else by count."""
    if isinstance(place, DamagedFile):
        raise place
    if place is not None:
        video, from_s = place
        at = int(np.searchsorted(video.times_s, from_s - 0.5 / rate_hz))
    else:
        spans = ((v, one.first - v.first) for v in videos if 0 <= v.first <= one.first)
        video, at = next(((v, at) for v, at in spans if at < v.counted), (None, 0))
        if video is None:
            count = sum(len(video.times_s) for video in videos)
            raise DamagedFile(
                f"no video of {key} is known to hold its frames: there are "
                f"{counted(count, 'frame')} for {counted(total_frames, 'tick')}"
            )
        if not video.key_frames[at]:
            raise DamagedFile(
                f"frame {at} of {video.path} should be its first, by count, but is not a key frame"
            )
    if at + one.length > len(video.times_s):
        raise DamagedFile(
            f"{video.path} ends {counted(at + one.length - len(video.times_s), 'frame')} too early"
        )
    to_s = float(video.times_s[at + one.length - 1]) + 1 / rate_hz
    return VideoSegment(video.path, at, float(video.times_s[at]), to_s)


def _read_episode(one: StoredEpisode) -> pa.Table:
    """Return every column of an episode, in the order of ticks, with the metadata of its file."""
    table = parquet.read_table(one.data, None, DatasetChecksums(one.data.parent), episode=one.index)
    with layout_errors_as_damage(one.data):
        return table.take(np.argsort(table["frame_index"].to_numpy(), kind="stable"))


def _compute_stats(
    table: pa.Table,
    info: Mapping[str, Any],
    features: Features,
    segments: Mapping[str, VideoSegment],
    one: StoredEpisode,
) -> dict[str, FeatureStats]:
    """Return the statistics of an episode; refuse one with a frame that cannot be decoded.

    Depth maps, and columns that are not numbers, have none.
    """
    stats: dict[str, FeatureStats] = {}
    cameras = {
        stored.key: features.spec.camera(name)
        for name, stored in features.stored.items()
        if stored.kind != "array"
    }
    with layout_errors_as_damage(one.data):
        times_s = table["timestamp"].to_numpy().astype(np.float64)
        for key, feature in info["features"].items():
            if key in cameras:
                size = (cameras[key].height, cameras[key].width)
                if key in segments:
                    at = (segments[key].from_s + times_s).tolist()
                    frames = read_frames(segments[key].video, at, (*size, 3))
                else:
                    where = f"{one.data}: {key} of episode {one.index}"
                    frames = _decoded(table[key], size, where)
                stats[key] = frame_stats(frames, one.length)
            elif feature.get("dtype") not in ("video", "image") and key in table.column_names:
                numbers = _numbers(table[key])
                if numbers is not None:
                    with np.errstate(invalid="ignore", over="ignore"):  # of NaN and infinity
                        stats[key] = row_stats(numbers)
    return stats


def _decoded(cells: pa.ChunkedArray, size: tuple[int, int], where: str) -> Iterator[Frame]:
    for tick, cell in enumerate(cells):
        place = f"{where} at tick {tick}"
        yield images.decode(cell.as_py()["bytes"], size, place, layout.RESTORE, lenient=True)


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64] | None:
    """Return a column of numbers or vectors as (T, D); None for any other column."""
    flat = parquet.flat_values(column)
    kind = flat.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        return None
    return flat.to_numpy(zero_copy_only=False).astype(np.float64).reshape(len(column), -1)


# --- what is lost --------------------------------------------------------------------------------


def _lost_with_files(
    root: Path,
    broken: Mapping[Path, str],
    stored: Mapping[int, StoredEpisode],
    rows: Mapping[int, Mapping[str, Any]],
    missing: set[int],
    total: int,
) -> list[tuple[Path, str, list[int]]]:
    """Return each unreadable data file, the reason, and the missing episodes that it held.

    Metadata name the file of an episode; without them it is one of those whose numbers lie
    between the episodes of the files before and after it.
    """
    found = []
    for file, why in broken.items():
        named = [i for i in missing if i in rows and _data_file(root, rows[i]) == file]
        before = max((i for i, one in stored.items() if one.data < file), default=-1)
        after = min((i for i, one in stored.items() if one.data > file), default=total)
        between = [index for index in missing if before < index < after and index not in rows]
        found.append((file, why, sorted({*named, *between})))
    return found


def _data_file(root: Path, row: Mapping[str, Any]) -> Path | None:
    """Return the data file that a row of metadata names."""
    chunk, number = row.get("data/chunk_index"), row.get("data/file_index")
    if not isinstance(chunk, int) or not isinstance(number, int):
        return None
    return root / layout.DATA.format(chunk_index=chunk, file_index=number)


def _remains(
    root: Path,
    videos: Mapping[str, Sequence[_VideoFile]],
    recoverable: Sequence[RecoverableEpisode],
) -> list[str]:
    """Return where frames of lost episodes still are: in videos, or in images for one."""
    lines = []
    for key, files in videos.items():
        for video in files:
            name = video.path.relative_to(root)
            if video.damage:
                lines.append(f"{name}, which cannot be read")
                continue
            lost = np.ones(len(video.times_s) + 2, np.bool_)
            lost[0] = lost[-1] = False
            for one in recoverable:
                segment = one.segments[key]
                if segment.video == video.path:
                    lost[1 + segment.first : 1 + segment.first + one.length] = False
            edges = np.flatnonzero(np.diff(lost.astype(np.int8)))
            for start, stop in edges.reshape(-1, 2).tolist():
                from_s, to_s = video.times_s[start], video.times_s[stop - 1]
                lines.append(f"{name}, frames {start} to {stop - 1} ({from_s:.2f} to {to_s:.2f} s)")
    for folder in _shown(root, "images/*/episode[-_]*"):
        count = sum(1 for file in folder.iterdir() if file.is_file() and is_shown(file, root))
        lines.append(f"{folder.relative_to(root)}, {counted(count, 'image')} that are in no video")
    lines += [f"{file.relative_to(root)}, in no episode" for file in _shown(root, "*/*.mp4")]
    return lines


def _shown(root: Path, pattern: str) -> list[Path]:
    """Return the files of a dataset that match a pattern, sorted, without hidden companions."""
    return sorted(file for file in root.glob(pattern) if is_shown(file, root))


# --- the copy ------------------------------------------------------------------------------------


def _write_data(plan: RepairPlan, building: Path) -> list[int]:
    """Write the data files, one row group per episode; return the file number of each episode."""
    files: list[int] = []
    start = 0
    for number, data in enumerate(dict.fromkeys(one.data for one in plan.recoverable)):
        path = building / layout.DATA.format(**file_numbers(number))
        make_folder(path.parent)
        schema = parquet.open_parquet(data, DatasetChecksums(data.parent)).schema_arrow
        with pq.ParquetWriter(path, schema, compression="snappy") as writer:
            for new, one in enumerate(plan.recoverable):
                if one.data != data:
                    continue
                table = _read_episode(one)
                for name, values in (
                    ("episode_index", np.full(one.length, new)),
                    ("index", start + np.arange(one.length)),
                ):
                    at = table.column_names.index(name)
                    field = table.schema.field(at)
                    table = table.set_column(at, field, pa.array(values, field.type))
                writer.write_table(table)
                files.append(number)
                start += one.length
        fsync(path)
    return files


def _write_videos(plan: RepairPlan, building: Path) -> dict[Path, int]:
    """Copy the videos of recoverable episodes; return the new file number of each."""
    numbers: dict[Path, int] = {}
    for key in plan.recoverable[0].segments:
        used = dict.fromkeys(one.segments[key].video for one in plan.recoverable)
        for number, video in enumerate(used):
            path = building / layout.VIDEOS.format(video_key=key, **file_numbers(number))
            make_folder(path.parent)
            shutil.copyfile(video, path)
            fsync(path)
            if file_sha256(path) != file_sha256(video):
                raise DamagedFile(f"{path} differs from {video} after copying; check the disk")
            numbers[video] = number
    return numbers


def _write_metadata(
    plan: RepairPlan, building: Path, data_files: Sequence[int], video_files: Mapping[Path, int]
) -> None:
    """Write the files of `meta`, as LeRobot does."""
    rows: list[dict[str, Any]] = []
    stats: dict[str, FeatureStats] = {}
    start = 0
    for new, (one, number) in enumerate(zip(plan.recoverable, data_files, strict=True)):
        segments = one.segments.items()
        row = episode_row(
            index=new,
            tasks=one.tasks,
            length=one.length,
            start=start,
            data=number,
            videos={key: (video_files[s.video], s.from_s, s.to_s) for key, s in segments},
            stats=one.stats,
            metadata=0,
        )
        rows.append(row)
        stats = merge_all_stats(stats, one.stats)
        start += one.length
    table = pa.table({name: [row[name] for row in rows] for name in rows[0]})
    write_bytes(building / layout.EPISODES.format(**file_numbers(0)), table_bytes(table))
    # Data keep their task numbers.
    used = (number for one in plan.recoverable for number in one.task_numbers)
    last = max([*used, *plan.task_texts], default=0)
    if last > MAX_EPISODES:
        raise DamagedFile(f"{plan.root / 'data'} refers to task {last}; no dataset has so many")
    texts = [plan.task_texts.get(number, f"task {number}") for number in range(last + 1)]
    write_bytes(building / TASKS, table_bytes(tasks_table(texts)))
    # LeRobot's own statistics of features without any here (depth); they include lost episodes.
    kept: dict[str, Any] = {}
    with contextlib.suppress(DamagedFile):
        old = read_json_object(plan.root / layout.STATS)
        kept = {name: value for name, value in old.items() if name not in stats}
    # As LeRobot writes it, with NaN for statistics of NaN.
    text = json.dumps({**stats_as_json(stats), **kept}, indent=2, ensure_ascii=False)
    write_bytes(building / layout.STATS, text.encode())
    episodes = len(plan.recoverable)
    info = {
        **plan.info,
        "total_episodes": episodes,
        "total_frames": start,
        "total_tasks": len(texts),
        "data_path": layout.DATA,
        "video_path": layout.VIDEOS if plan.recoverable[0].segments else None,
        "splits": {"train": f"0:{episodes}"},
        "chunks_size": layout.FILES_PER_CHUNK,
    }
    write_bytes(building / INFO, json.dumps(info, indent=4, ensure_ascii=False).encode())


def _compare(plan: RepairPlan, building: Path, on_episode: OnEpisode) -> None:
    """Read the copy back: states and actions must be equal, and the last frames readable."""
    copy = LeRobotDataset(building)
    for new, one in enumerate(plan.recoverable):
        table, episode = _read_episode(one), copy.episode(new)
        for name, rows in ((layout.STATE, episode.state), (layout.ACTION, episode.action)):
            numbers = parquet.vectors(table[name], rows.shape[1], name, one.data)
            if not np.array_equal(numbers, rows, equal_nan=True):
                raise DamagedFile(f"{building}: {name} of episode {new} differs from {one.data}")
        for camera in copy.spec.cameras:
            for _ in episode.frames(camera.name, one.length - 1):
                pass
        on_episode(new + 1)
