"""Whether the frames of an episode belong to its joints: they move when the joints do.

The motion in a video is how much its pixels change from frame to frame; that of the robot is the
speed of its joints. Shifted against each other they agree best at the delay of the video.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import DamagedFile
from imitact.core.types import Episode, FloatArray, Spec
from imitact.quality.findings import Finding
from imitact.quality.motion import Floats

_DROP = "Leave the episode out or record it again"
_LOOK_PX = 60
"""Rows or columns that are looked at, about: motion is large, and reading every pixel slow."""


@dataclass(frozen=True)
class VideoLimits:
    """When frames and joints disagree."""

    noise_levels: int = 8
    """Change of a pixel, of 255, that is no motion: sensors and compression change that much."""

    lag_s: float = 0.1
    """How late, or early, a video may be, s; USB cameras have 0.03 to 0.1."""

    search_s: float = 0.5
    """Delays up to this are looked for, s."""

    likeness: float = 0.35
    """Least correlation of the two motions at the best delay; less, and it is not told."""

    margin: float = 0.1
    """By how much that correlation must beat those of all delays that are in order."""

    frozen_s: float = 0.4
    """Seconds without any motion that a video may have while joints that it sees move."""

    frozen_part: float = 0.05
    """And this part of the episode's motion must be expected in that time; a camera that sees an
    arm rest is not frozen. In 20 of the cube's demonstrations no still stretch has 0.0001."""

    blank_levels: int = 16
    """A frame whose pixels all lie below this, of 255, is black."""

    blank_s: float = 0.2
    """Seconds of black or one-coloured frames from which on it is an error; fewer are a warning."""


@dataclass(frozen=True)
class Seen:
    """What one camera's frames of one episode of T ticks tell.

    change:  (T - 1,) how much tick t + 1 differs from tick t, in levels over the noise, mean.
    blank:   (T,) whether the frame is black or of one colour.
    damage:  why decoding ended before the last tick, "" where it did not.
    """

    change: Floats
    blank: NDArray[np.bool_]
    damage: str = ""


def watch(episode: Episode, camera: str, limits: VideoLimits) -> Seen:
    """Decode the frames of one camera, one at a time."""
    change: list[float] = []
    blank: list[bool] = []
    before: NDArray[np.int16] | None = None
    damage = ""
    try:
        for frame in episode.frames(camera):
            step = max(1, min(frame.shape[:2]) // _LOOK_PX)
            looked = frame[::step, ::step, 1].astype(np.int16)  # green: most of the brightness
            low, high = int(looked.min()), int(np.percentile(looked, 99))
            blank.append(high < limits.blank_levels or high - low <= 2)
            if before is not None:
                apart = np.abs(looked - before) - limits.noise_levels
                change.append(float(np.maximum(apart, 0).mean()))
            before = looked
    except DamagedFile as error:
        damage = str(error)
    return Seen(np.array(change), np.array(blank, dtype=bool), damage)


@dataclass(frozen=True)
class Likeness:
    """How alike two motions are by delay: sums that add up over episodes, (L,) each."""

    product: Floats
    of_video: Floats
    of_joints: Floats

    def __add__(self, other: Likeness) -> Likeness:
        return Likeness(
            self.product + other.product,
            self.of_video + other.of_video,
            self.of_joints + other.of_joints,
        )

    @property
    def correlation(self) -> Floats:
        """(L,), 0 where nothing moves."""
        size = np.sqrt(self.of_video * self.of_joints)
        return np.where(size > 0, self.product / np.where(size > 0, size, 1.0), 0.0)


def alike(change: Floats, speed: Floats, lags: NDArray[np.int64]) -> Likeness:
    """Of the motions of one episode; a delay of 3: the frames show what the joints did 3 ticks
    before."""
    # Roots, lest one fast movement decide all; without what is slower than the delays looked for,
    # which is alike at all of them. On the cube's demonstrations the right delay leads one that is
    # 7 ticks off by 0.22 to 0.30 so, and by 0.01 to 0.03 otherwise.
    window = len(lags) // 2
    video, joints = (_quick(np.sqrt(values), window) for values in (change, speed))
    product, of_video, of_joints = (np.zeros(len(lags)) for _ in range(3))
    for row, lag in enumerate(lags):
        v = video[max(0, lag) : len(video) + min(0, lag)]
        j = joints[max(0, -lag) : len(joints) + min(0, -lag)]
        v, j = v - v.mean(), j - j.mean()
        product[row], of_video[row], of_joints[row] = v @ j, v @ v, j @ j
    return Likeness(product, of_video, of_joints)


def _quick(values: Floats, window: int) -> Floats:
    """Over three ticks, since key frames differ from the others, less the mean over `window`."""
    smooth = _mean(values, 3)
    return smooth - _mean(smooth, window)


def _mean(values: Floats, window: int) -> Floats:
    return np.convolve(values, np.full(window, 1 / window), mode="same")


@dataclass(frozen=True)
class _Still:
    """A stretch without motion in a video, and how far each joint went in it."""

    index: int
    first: int
    stop: int
    ways: Floats
    all_ways: Floats


class CameraSync:
    """Gathers what is seen of one camera over the episodes, then tells what is wrong with it."""

    def __init__(self, name: str, spec: Spec, scale: Floats, limits: VideoLimits) -> None:
        self._name, self._spec, self._scale, self._limits = name, spec, scale, limits
        reach = max(3, round(limits.search_s * spec.rate_hz))
        self._lags = np.arange(-reach, reach + 1)
        self._found: list[Finding] = []
        self._together: Likeness | None = None
        self._late: dict[int, int] = {}
        self._told = 0  # episodes whose delay can be told, in order or not
        self._stills: list[_Still] = []
        size = spec.state_size
        self._normal, self._right = np.zeros((size, size)), np.zeros(size)
        self._changed = False
        self._moved: list[int] = []

    def add(self, index: int, state: FloatArray, seen: Seen) -> None:
        """One episode of finite states."""
        limits, rate = self._limits, self._spec.rate_hz
        if seen.damage or len(seen.blank) != len(state):
            tick = len(seen.blank)
            self._found.append(
                Finding(
                    "video-unreadable",
                    "error",
                    seen.damage.split(". ")[0] or f"it has {tick} frames for {len(state)} ticks",
                    "Copy the file again from where it came, or leave the episode out",
                    index,
                    (tick, tick + 1),
                    self._name,
                    fix="drop",
                )
            )
            return
        for first, stop in runs(seen.blank):
            seconds = (stop - first) / rate
            bad = seconds >= limits.blank_s
            self._found.append(
                Finding(
                    "blank-frames",
                    "error" if bad else "warning",
                    f"{stop - first} frames are black or of one colour",
                    f"Look at the camera and its cable. {_DROP}",
                    index,
                    (first, stop),
                    self._name,
                    value=seconds,
                    unit="s",
                    fix="drop" if bad else "",
                )
            )
        if seen.blank.any() or len(state) < 3:
            return
        speeds = np.abs(np.diff(state.astype(np.float64) / self._scale, axis=0))
        self._normal += speeds.T @ speeds
        self._right += speeds.T @ seen.change
        self._changed |= bool(seen.change.any())
        ways = speeds.sum(axis=0)
        if ways.sum() > 0:
            self._moved.append(index)
        for first, stop in runs(seen.change == 0):
            if (stop - first) / rate >= limits.frozen_s:
                self._stills.append(
                    _Still(index, first, stop + 1, speeds[first:stop].sum(axis=0), ways)
                )
        if len(seen.change) >= 4 * len(self._lags) // 2:
            self._compare(index, alike(seen.change, speeds.sum(axis=1), self._lags))

    def _compare(self, index: int, likeness: Likeness) -> None:
        self._together = likeness if self._together is None else self._together + likeness
        lag, sure = self._delay(likeness.correlation)
        if sure:
            self._late[index] = lag
        if sure or likeness.correlation.max() >= self._limits.likeness:
            self._told += 1

    def _delay(self, correlation: Floats) -> tuple[int, bool]:
        """The best delay in ticks, and whether it surely is none that is in order."""
        best = int(np.argmax(correlation))
        fine = np.abs(self._lags) <= self._limits.lag_s * self._spec.rate_hz
        sure = (
            not fine[best]
            and correlation[best] >= self._limits.likeness
            and correlation[best] - correlation[fine].max() >= self._limits.margin
        )
        return int(self._lags[best]), bool(sure)

    def findings(self) -> list[Finding]:
        found = [*self._found]
        rate, limits = self._spec.rate_hz, self._limits
        common = None
        if self._together is not None and len(self._late) >= max(3, self._told / 2):
            lag, sure = self._delay(self._together.correlation)
            if sure:
                common = lag
                found.append(
                    Finding(
                        "video-lag",
                        "warning",
                        f"its frames are {_late(lag, rate)} the joints in {len(self._late)} of "
                        f"{self._told} episodes, expected within {limits.lag_s:g} s",
                        "A policy must be run with the same delay: measure it there, or take the "
                        "joints at the time of the frame",
                        part=self._name,
                        value=lag / rate,
                        unit="s",
                    )
                )
        for index, lag in self._late.items():
            if common is not None and abs(lag - common) <= 2:
                continue
            found.append(
                Finding(
                    "video-out-of-step",
                    "error",
                    f"its frames are {_late(lag, rate)} the joints, expected within "
                    f"{limits.lag_s:g} s",
                    f"Frames were lost, or another video lies there. {_DROP}",
                    index,
                    part=self._name,
                    value=lag / rate,
                    unit="s",
                    fix="drop",
                )
            )
        if common is None:  # else every rest of the joints is shown while they move again
            found += [f for f in self._frozen() if f.episode not in self._late]
        return found

    def _frozen(self) -> list[Finding]:
        if not self._changed:
            if not self._moved:
                return []
            return [
                Finding(
                    "video-still",
                    "warning",
                    f"its frames never change, though joints move in {len(self._moved)} episodes",
                    "Does the camera see the robot? Leave it out, or record again",
                    part=self._name,
                )
            ]
        seen = nonnegative(self._normal, self._right)
        found = []
        for still in self._stills:
            part = float(seen @ still.ways / max(seen @ still.all_ways, 1e-12))
            if part < self._limits.frozen_part:
                continue
            seconds = (still.stop - still.first) / self._spec.rate_hz
            found.append(
                Finding(
                    "video-frozen",
                    "error",
                    f"nothing moves in its frames for {seconds:.2f} s, though joints that it sees "
                    f"go {100 * part:.0f} % of their way",
                    f"The camera stopped. {_DROP}",
                    still.index,
                    (still.first, still.stop),
                    self._name,
                    value=seconds,
                    unit="s",
                    fix="drop",
                )
            )
        return found


def _late(lag: int, rate_hz: float) -> str:
    side = "behind" if lag > 0 else "ahead of"
    return f"{abs(lag) / rate_hz:.2f} s ({abs(lag)} ticks) {side}"


def runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(first, stop) of each stretch of True."""
    edges = np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8))
    return [
        (int(s), int(e))
        for s, e in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True)
    ]


def nonnegative(normal: Floats, right: Floats, rounds: int = 200) -> Floats:
    """The x >= 0 that is least in x·normal·x/2 - right·x: by one coordinate after the other.

    With normal = AᵀA and right = Aᵀb it is the least-squares solution of A·x = b; here, how much
    motion each joint's speed shows to a camera, which is never less than none.
    """
    x = np.zeros(len(right))
    for _ in range(rounds):
        for at in np.flatnonzero(np.diag(normal) > 0):
            rest = right[at] - normal[at] @ x + normal[at, at] * x[at]
            x[at] = max(0.0, rest / normal[at, at])
    return x
