"""Video segments: the frames of each episode in a video, checked against those of the others.

Metadata give the time at which an episode begins in its video; whatever frames are there would be
read as its own. So an episode must have a frame for each of its ticks before the next one begins.
Where one does not, every place in that video is in doubt. Nothing is decoded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import DamagedFile
from imitact.core.words import counted
from imitact.datasets.lerobot.features import Features
from imitact.datasets.lerobot.layout import RESTORE
from imitact.datasets.read_config import OnDamage
from imitact.datasets.video import frame_size, video_track

_ONE_ADVICE = "Copy the dataset again from its origin, or leave the episode out"
_ADVICE = (
    "Which frames belong to which episode cannot be told: copy the dataset again from its origin, "
    "merge its sources again, or leave these episodes out"
)


@dataclass(frozen=True)
class Segment:
    """The frames that an episode is said to have in a video: from `from_s` on, one per tick."""

    episode: int
    from_s: float
    ticks: int


@dataclass(frozen=True)
class VideoCheck:
    """What the headers of all videos show.

    Attributes:
        unused: how many frames of a video belong to no episode, as those of discarded takes.
        shifts_s: by how much every episode is said to begin too late in a video.
    """

    unused: Mapping[Path, int]
    shifts_s: Mapping[Path, float]


class ShiftedSegments(DamagedFile):
    """All frames of the episodes are in their video, but each is said to begin `shift_s` late."""

    def __init__(self, message: str, shift_s: float) -> None:
        super().__init__(message)
        self.shift_s = shift_s


def check_videos(
    episodes: Sequence[Mapping[str, tuple[Path, float]]],
    lengths: Sequence[int],
    features: Features,
    info: Path,
    on_damage: OnDamage,
) -> VideoCheck:
    """Check that every video has the frames of its episodes, in the size of its camera.

    Args:
        episodes: video and start in it, in s, of each camera of each episode.
        lengths: ticks of each episode.
        info: `meta/info.json`, for errors.
        on_damage: called with each damage and the episodes that it affects.

    Raises:
        DamagedFile: all videos of a camera agree on a size, and it is not the one of info.json.
    """
    users: defaultdict[Path, dict[str, list[Segment]]] = defaultdict(dict)
    for index, (videos, length) in enumerate(zip(episodes, lengths, strict=True)):
        for camera, (video, from_s) in videos.items():
            users[video].setdefault(camera, []).append(Segment(index, from_s, length))
    unused: dict[Path, int] = {}
    shifts_s: dict[Path, float] = {}
    sizes: defaultdict[str, dict[Path, tuple[int, int]]] = defaultdict(dict)
    for video, by_camera in users.items():
        segments = [segment for some in by_camera.values() for segment in some]
        affected = sorted({segment.episode for segment in segments})
        try:
            if len(by_camera) > 1:
                raise DamagedFile(
                    f"{video} is said to be the video of the cameras {', '.join(by_camera)}. "
                    f"{RESTORE}"
                )
            track = video_track(video)
            (camera,) = by_camera
            sizes[camera][video] = track.size
            unused[video] = check_segments(video, track.times_s, segments, features.spec.rate_hz)
        except ShiftedSegments as error:
            shifts_s[video] = error.shift_s
            on_damage(error, affected)
        except DamagedFile as error:
            on_damage(error, affected)
    for camera, found in sizes.items():
        _check_sizes(camera, found, users, features, info, on_damage)
    return VideoCheck(unused, shifts_s)


def _check_sizes(
    camera: str,
    sizes: Mapping[Path, tuple[int, int]],
    users: Mapping[Path, Mapping[str, Sequence[Segment]]],
    features: Features,
    info: Path,
    on_damage: OnDamage,
) -> None:
    """Compare the sizes of a camera's videos with that of info.json."""
    stored = features.stored[camera]
    others = [video for video, size in sizes.items() if size != stored.shape.size]
    # A header may be wrong, or lack the size; the decoder's counts.
    found = {video: frame_size(video) for video in others}
    found = {v: size for v, size in found.items() if size not in ((0, 0), stored.shape.size)}
    if len(found) == len(sizes) and len({*found.values()}) == 1:
        ((height, width),) = {*found.values()}
        right = replace(stored.shape, height=height, width=width).stored_shape
        raise DamagedFile(
            f"{info} gives the frames of {stored.key} the shape {[*stored.shape.stored_shape]}, "
            f"but all {counted(len(found), 'video')} of it have {height}x{width} pixels. Set "
            f"features.{stored.key}.shape in meta/info.json to {[*right]}"
        )
    for video, (height, width) in found.items():
        affected = sorted({segment.episode for segment in users[video][camera]})
        wanted = "x".join(map(str, stored.shape.size))
        on_damage(
            DamagedFile(
                f"{video} has frames of {height}x{width} pixels, expected {wanted} as in {info} "
                "and other videos. Leave the episode out or record it again"
            ),
            affected,
        )


def check_segments(
    video: Path, times_s: NDArray[np.float64], segments: Sequence[Segment], rate_hz: float
) -> int:
    """Return how many frames of a video belong to no episode, as those of discarded takes.

    Args:
        times_s: time of each frame, ascending.
        segments: all segments of the video.
        rate_hz: ticks per second.

    Raises:
        ShiftedSegments: the places are wrong by the same time, and the right ones are certain.
        DamagedFile: an episode has fewer frames than ticks.
    """
    half_s = 0.5 / rate_hz
    names = episode_ranges(sorted({s.episode for s in segments}))
    ordered = sorted(segments, key=lambda s: (s.from_s, s.episode))
    begins_s = np.array([s.from_s for s in ordered])
    ticks = np.array([s.ticks for s in ordered])
    frames = np.searchsorted(times_s, [*(begins_s - half_s), np.inf])
    has_room = np.diff(frames) >= ticks
    if bool(has_room.all()) and begins_s[0] > -half_s:
        return len(times_s) - int(ticks.sum())
    if _is_shifted(len(times_s), begins_s, ticks, rate_hz):
        shift_s = float(begins_s[0] - times_s[0])
        raise ShiftedSegments(
            f"{video} has exactly the {counted(len(times_s), 'frame')} of its {names}, but "
            f"from_timestamp in meta/episodes is {shift_s:.3f} s too late for them: when datasets "
            "were merged, it went on counting in a new file. `imitact check DATASET --fix OUT` "
            "writes a copy with the right places",
            shift_s,
        )
    have, advice = ("has", _ONE_ADVICE) if len(segments) == 1 else ("have", _ADVICE)
    places = f"its {names} {have} {counted(int(ticks.sum()), 'tick')}"
    if len(times_s) < ticks.sum():
        raise DamagedFile(f"{video} has {counted(len(times_s), 'frame')}, {places}. {advice}")
    at = int(np.argmin(has_room))
    one = ordered[at]
    end_s = one.from_s + one.ticks / rate_hz
    what = "begins before its first frame"
    if not has_room[at] and at < len(ordered) - 1 and ordered[at + 1].from_s < end_s - half_s:
        what = f"overlaps with episode {ordered[at + 1].episode}"
    elif not has_room[at]:
        what = f"has only {counted(int(np.diff(frames)[at]), 'frame')} there"
    raise DamagedFile(
        f"{video}: episode {one.episode}, {counted(one.ticks, 'tick')} from {one.from_s:.3f} s on "
        f"as meta/ says, {what} ({counted(len(times_s), 'frame')}, {places}). {advice}"
    )


def episode_ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers of episodes in words: "episodes 3, 7 to 9"."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    texts = ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return f"episode{'s' if len(numbers) > 1 else ''} {texts}"


def _is_shifted(
    count: int, begins_s: NDArray[np.float64], ticks: NDArray[np.int64], rate_hz: float
) -> bool:
    """Whether the segments fill a video of `count` frames without gaps, but for a common delay."""
    due_s = (np.cumsum(ticks) - ticks) / rate_hz
    fits = np.abs(begins_s - begins_s[0] - due_s) < 0.5 / rate_hz
    return count == ticks.sum() and begins_s[0] > 0 and bool(fits.all())
