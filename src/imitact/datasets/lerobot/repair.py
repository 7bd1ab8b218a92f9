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

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
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
    is_shown,
    layout_errors_as_damage,
)
from imitact.datasets.lerobot.repair_plan import (
    OnEpisode,
    RecoverableEpisode,
    RepairPlan,
    StoredEpisode,
    VideoSegment,
    read_episode,
    shown_files,
)
from imitact.datasets.lerobot.repair_videos import (
    VideoFile,
    described_places,
    find_segment,
    read_videos,
)
from imitact.datasets.lerobot.stats import FeatureStats, row_stats
from imitact.datasets.lerobot.video_segments import (
    episode_ranges,
)
from imitact.datasets.video import read_frames


def is_unfinished(root: Path) -> bool:
    """Whether a folder holds a LeRobotDataset v3.0 that LeRobot did not finish recording."""
    try:
        if not layout.version_of(root).startswith(layout.V30) or (root / layout.IMITACT).is_file():
            return False
    except BadInput:  # of a damaged info.json, which opening the dataset reports
        return False
    if layout.lies_as_other_version(root):
        return False
    metadata = shown_files(root, "meta/episodes/*/*.parquet")
    files = [*metadata, *shown_files(root, "data/*/*.parquet")]
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
    videos = {key: read_videos(root, key, per_chunk, stored, total_frames) for key in keys}
    places = {key: described_places(root, key, rows, stored, videos[key], info) for key in keys}
    try:
        texts = parquet.read_task_texts(root / TASKS, DatasetChecksums(root))
    except DamagedFile:
        texts, unreadable = {}, [*unreadable, root / TASKS]

    recoverable: list[RecoverableEpisode] = []
    for done, (index, one) in enumerate(sorted(stored.items()), 1):
        row = rows.get(index, {})
        try:
            segments = {
                key: find_segment(
                    key, videos[key], places[key].get(index), one, info["fps"], total_frames
                )
                for key in keys
            }
            table = read_episode(one)
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


def _read_metadata(root: Path, keys: Sequence[str]) -> tuple[dict[int, dict[str, Any]], list[Path]]:
    """Return the rows of metadata by episode, and the files that cannot be read."""
    optional = [f"videos/{key}/{n}" for key in keys for n in ("chunk_index", "file_index")]
    optional += [f"videos/{key}/from_timestamp" for key in keys]
    optional += ["tasks", "length", "data/chunk_index", "data/file_index"]
    rows: dict[int, dict[str, Any]] = {}
    unreadable: list[Path] = []
    for file in shown_files(root, "meta/episodes/*/*.parquet"):
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
    for file in shown_files(root, "data/*/*.parquet"):
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
    videos: Mapping[str, Sequence[VideoFile]],
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
    for folder in shown_files(root, "images/*/episode[-_]*"):
        count = sum(1 for file in folder.iterdir() if file.is_file() and is_shown(file, root))
        lines.append(f"{folder.relative_to(root)}, {counted(count, 'image')} that are in no video")
    lines += [f"{file.relative_to(root)}, in no episode" for file in shown_files(root, "*/*.mp4")]
    return lines
