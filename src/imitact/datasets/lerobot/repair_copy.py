"""Repair copy: a new dataset of the episodes that a repair recovers, compared with its source."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imitact.core.errors import BadInput, DamagedFile
from imitact.datasets.lerobot import layout, parquet
from imitact.datasets.lerobot.checksums import DatasetChecksums
from imitact.datasets.lerobot.layout import INFO, MAX_EPISODES, TASKS, file_numbers
from imitact.datasets.lerobot.reader import LeRobotDataset
from imitact.datasets.lerobot.repair_plan import OnEpisode, RepairPlan, read_episode
from imitact.datasets.lerobot.stats import FeatureStats, merge_all_stats, stats_as_json
from imitact.datasets.lerobot.writer import episode_row, table_bytes, tasks_table
from imitact.storage.atomic import fsync, make_folder, write_bytes
from imitact.storage.atomic_folder import atomic_folder, check_output_folder
from imitact.storage.checksum import file_sha256
from imitact.storage.json_file import read_json_object


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
                table = read_episode(one)
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
        table, episode = read_episode(one), copy.episode(new)
        for name, rows in ((layout.STATE, episode.state), (layout.ACTION, episode.action)):
            numbers = parquet.vectors(table[name], rows.shape[1], name, one.data)
            if not np.array_equal(numbers, rows, equal_nan=True):
                raise DamagedFile(f"{building}: {name} of episode {new} differs from {one.data}")
        for camera in copy.spec.cameras:
            for _ in episode.frames(camera.name, one.length - 1):
                pass
        on_episode(new + 1)
