"""Repair of videos: which frames of which video belong to each episode of an unfinished dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import DamagedFile
from imitact.core.words import counted
from imitact.datasets.lerobot import layout
from imitact.datasets.lerobot.layout import layout_errors_as_damage
from imitact.datasets.lerobot.repair_plan import StoredEpisode, VideoSegment, shown_files
from imitact.datasets.lerobot.video_segments import Segment, ShiftedSegments, check_segments
from imitact.datasets.video import frame_times


@dataclass(frozen=True)
class VideoFile:
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


def read_videos(
    root: Path,
    key: str,
    per_chunk: int,
    stored: Mapping[int, StoredEpisode],
    total_frames: int,
) -> list[VideoFile]:
    """Return the videos of a feature in order, with the numbers of their frames where known."""
    files = shown_files(root, f"videos/{key}/chunk-*/file-*.mp4")
    due = [
        root
        / layout.VIDEOS.format(video_key=key, chunk_index=n // per_chunk, file_index=n % per_chunk)
        for n in range(len(files))
    ]
    videos: list[VideoFile] = []
    for file in files:
        try:
            videos.append(VideoFile(file, *frame_times(file)))
        except DamagedFile as error:
            videos.append(VideoFile(file, np.zeros(0), np.zeros(0, np.bool_), damage=str(error)))
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


def described_places(
    root: Path,
    key: str,
    rows: Mapping[int, Mapping[str, Any]],
    stored: Mapping[int, StoredEpisode],
    videos: Sequence[VideoFile],
    info: Mapping[str, Any],
) -> dict[int, tuple[VideoFile, float] | DamagedFile]:
    """Return video and start, in s, of each episode whose metadata give them, or what is wrong."""
    places: dict[int, tuple[VideoFile, float] | DamagedFile] = {}
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


def find_segment(
    key: str,
    videos: Sequence[VideoFile],
    place: tuple[VideoFile, float] | DamagedFile | None,
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
