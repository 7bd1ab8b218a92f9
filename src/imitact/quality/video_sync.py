"""Video sync check: frames compared with joints, to find late, frozen, blank or broken videos.

The motion of a video is the change of its pixels from frame to frame, that of the robot the speed
of its joints. The delay at which the two correlate best is the delay of the video.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import DamagedFile
from imitact.core.ranges import Range, Ranged, Seconds, Share
from imitact.core.types import Episode, FloatArray, Spec
from imitact.core.words import counted
from imitact.quality.findings import Finding
from imitact.quality.motion import Floats, aligned, true_runs

_SAMPLED_PX = 60
"""Approximate number of rows or columns that are compared: motion is large, and reading every
pixel is slow."""


@dataclass(frozen=True)
class VideoLimits(Ranged):
    """Limits for the agreement of frames and joints."""

    noise_levels: Annotated[int, Range(0, 255)] = 8
    """Change of a pixel, of 255 levels, that is noise of sensor and compression, not motion."""

    lag_s: Annotated[float, Range(0, 60)] = 0.1
    """Largest delay of a video, either way, s; USB cameras have 0.03 to 0.1."""

    search_s: Annotated[float, Range(0, 60)] = 0.5
    """Largest delay that is tried, s."""

    min_correlation: Share = 0.35
    """Least correlation of the two motions at the best delay; below it no delay is reported."""

    correlation_margin: Share = 0.1
    """Least lead of that correlation over those of all delays within `lag_s`."""

    frozen_s: Seconds = 0.4
    """Longest time that a video may show no motion while joints that it sees move, s."""

    frozen_fraction: Share = 0.05
    """Least fraction of the episode's visible motion in that time; a camera that sees a resting arm
    is not frozen. Still stretches in 20 demonstrations of the cube have less than 0.0001."""

    blank_levels: Annotated[int, Range(0, 256)] = 16
    """A frame whose pixels are all below this level, of 255, is black."""

    blank_s: Seconds = 0.2
    """Duration of black or single-coloured frames from which on it is an error, s; less is a
    warning."""


@dataclass(frozen=True)
class FrameMotion:
    """Motion in the frames of one camera in an episode of T ticks.

    Attributes:
        change: mean change of pixels from tick t to t + 1 beyond the noise, in levels, (T - 1,).
        blank: whether each frame is black or of a single colour, (T,).
        damage: why decoding ended before the last tick; empty where it did not.
    """

    change: Floats
    blank: NDArray[np.bool_]
    damage: str = ""


def measure_motion(episode: Episode, camera: str, limits: VideoLimits) -> FrameMotion:
    """Decode the frames of one camera, one at a time, and measure the motion in them."""
    change: list[float] = []
    blank: list[bool] = []
    previous: NDArray[np.int16] | None = None
    damage = ""
    try:
        for frame in episode.frames(camera):
            step = max(1, min(frame.shape[:2]) // _SAMPLED_PX)
            sampled = frame[::step, ::step, 1].astype(np.int16)  # green: most of the brightness
            low, high = int(sampled.min()), int(np.percentile(sampled, 99))
            blank.append(high < limits.blank_levels or high - low <= 2)
            if previous is not None:
                beyond_noise = np.abs(sampled - previous) - limits.noise_levels
                change.append(float(np.maximum(beyond_noise, 0).mean()))
            previous = sampled
    except DamagedFile as error:
        damage = str(error)
    return FrameMotion(np.array(change), np.array(blank, dtype=bool), damage)


def correlate_motion(change: Floats, speed: Floats, lags: NDArray[np.int64]) -> Floats:
    """Sums for the correlation of two motions by delay, (3, L); positive where frames are late.

    Rows: products, squares of the video's motion, squares of the joints'. They add up.
    """
    # Roots, so that one fast movement does not dominate; without components slower than the tried
    # delays, which correlate at all of them. On demonstrations of the cube, the right delay then
    # leads one that is 7 ticks off by 0.22 to 0.30, instead of 0.01 to 0.03.
    window = len(lags) // 2
    video, joints = (_band_pass(np.sqrt(values), window) for values in (change, speed))
    sums = np.zeros((3, len(lags)))
    for row, lag in enumerate(lags):
        j, v = aligned(joints, video, int(lag))
        v, j = v - v.mean(), j - j.mean()
        sums[:, row] = v @ j, v @ v, j @ j
    return sums


def _correlation(sums: Floats) -> Floats:
    """Correlation by delay, (L,), from the sums of `correlate_motion`; 0 where nothing moves."""
    size = np.sqrt(sums[1] * sums[2])
    return np.where(size > 0, sums[0] / np.where(size > 0, size, 1.0), 0.0)


def _band_pass(values: Floats, window: int) -> Floats:
    """Mean over three ticks, because key frames differ from others, minus that over `window`."""
    smooth = _moving_average(values, 3)
    return smooth - _moving_average(smooth, window)


def _moving_average(values: Floats, window: int) -> Floats:
    return np.convolve(values, np.full(window, 1 / window), mode="same")


@dataclass(frozen=True)
class _StillStretch:
    """Ticks `first` to `stop` (exclusive) of an episode, without motion in its video."""

    index: int
    first: int
    stop: int
    travel: Floats  # path length of each joint in these ticks, (S,)
    episode_travel: Floats  # in the whole episode, (S,)


class CameraSync:
    """Collects the motion of one camera over all episodes, then compares it with the joints."""

    def __init__(self, name: str, spec: Spec, scale: Floats, limits: VideoLimits) -> None:
        self._name, self._spec, self._scale, self._limits = name, spec, scale, limits
        reach = max(3, round(limits.search_s * spec.rate_hz))
        self._lags = np.arange(-reach, reach + 1)
        self._found: list[Finding] = []
        self._total = np.zeros((3, len(self._lags)))
        self._lag_of: dict[int, int] = {}  # of the episodes that are clearly out of range
        self._measured = 0  # episodes whose delay can be measured
        self._still: list[_StillStretch] = []
        size = spec.state_size
        self._normal, self._right = np.zeros((size, size)), np.zeros(size)
        self._changed = False
        self._moved = 0  # episodes in which joints move

    def add(self, index: int, state: FloatArray, motion: FrameMotion) -> None:
        """Add an episode of finite states."""
        limits, rate_hz = self._limits, self._spec.rate_hz
        if motion.damage or len(motion.blank) != len(state):
            tick = len(motion.blank)
            text = (
                motion.damage.split(". ")[0]
                or f"it has {counted(tick, 'frame')} for {counted(len(state), 'tick')}"
            )
            self._report("video-unreadable", text, index, ticks=(tick, tick + 1))
            return
        for first, stop in true_runs(motion.blank):
            seconds = (stop - first) / rate_hz
            is_error = seconds >= limits.blank_s
            text = f"{counted(stop - first, 'frame')} are black or of a single colour"
            changed = {} if is_error else {"severity": "warning", "fix": ""}
            self._report("blank-frames", text, index, seconds, ticks=(first, stop), **changed)
        if motion.blank.any() or len(state) < 3:
            return
        speeds = np.abs(np.diff(state.astype(np.float64) / self._scale, axis=0))
        self._normal += speeds.T @ speeds
        self._right += speeds.T @ motion.change
        self._changed |= bool(motion.change.any())
        travel = speeds.sum(axis=0)
        self._moved += bool(travel.sum() > 0)
        for first, stop in true_runs(motion.change == 0):
            if (stop - first) / rate_hz >= limits.frozen_s:
                self._still.append(
                    _StillStretch(index, first, stop + 1, speeds[first:stop].sum(axis=0), travel)
                )
        if len(motion.change) >= 4 * len(self._lags) // 2:
            sums = correlate_motion(motion.change, speeds.sum(axis=1), self._lags)
            self._total += sums
            lag, is_out_of_range = self._best_lag(sums)
            if is_out_of_range:
                self._lag_of[index] = lag
            self._measured += bool(_correlation(sums).max() >= limits.min_correlation)

    def _report(
        self, kind: str, text: str, index: int | None, seconds: float | None = None, **values: Any
    ) -> None:
        unit = "" if seconds is None else "s"
        values |= {"part": self._name, "value": seconds, "unit": unit}
        self._found.append(Finding.of(kind, text, index, **values))

    def _best_lag(self, sums: Floats) -> tuple[int, bool]:
        """The best delay in ticks, and whether it is clearly beyond `lag_s`."""
        correlation = _correlation(sums)
        best = int(np.argmax(correlation))
        in_range = np.abs(self._lags) <= self._limits.lag_s * self._spec.rate_hz
        is_out_of_range = (
            not in_range[best]
            and correlation[best] >= self._limits.min_correlation
            and correlation[best] - correlation[in_range].max() >= self._limits.correlation_margin
        )
        return int(self._lags[best]), bool(is_out_of_range)

    def findings(self) -> list[Finding]:
        """Findings of all episodes; call it once, after the last `add`."""
        rate_hz = self._spec.rate_hz
        expected = f"expected within {self._limits.lag_s:g} s"
        common, is_out_of_range = self._best_lag(self._total)
        is_common = is_out_of_range and len(self._lag_of) >= max(3, self._measured / 2)
        if is_common:
            text = (
                f"its frames are {_lag_text(common, rate_hz)} the joints in {len(self._lag_of)} of "
                f"{counted(self._measured, 'episode')}, {expected}"
            )
            self._report("video-lag", text, None, common / rate_hz)
        for index, lag in self._lag_of.items():
            if not is_common or abs(lag - common) > 2:
                text = f"its frames are {_lag_text(lag, rate_hz)} the joints, {expected}"
                self._report("video-out-of-step", text, index, lag / rate_hz)
        if not is_common:  # a late video shows every rest while the joints move again
            self._report_frozen()
        return self._found

    def _report_frozen(self) -> None:
        if not self._changed:
            if self._moved:
                text = (
                    "its frames never change, though joints move in "
                    f"{counted(self._moved, 'episode')}"
                )
                self._report("video-still", text, None)
            return
        visibility = nonnegative_least_squares(self._normal, self._right)
        for still in self._still:
            total = max(visibility @ still.episode_travel, 1e-12)
            fraction = float(visibility @ still.travel / total)
            if fraction < self._limits.frozen_fraction or still.index in self._lag_of:
                continue
            seconds = (still.stop - still.first) / self._spec.rate_hz
            text = (
                f"nothing moves in its frames for {seconds:.2f} s, in which the joints that it "
                f"sees make {100 * fraction:.0f} % of their movement"
            )
            ticks = (still.first, still.stop)
            self._report("video-frozen", text, still.index, seconds, ticks=ticks)


def _lag_text(lag: int, rate_hz: float) -> str:
    side = "behind" if lag > 0 else "ahead of"
    return f"{abs(lag) / rate_hz:.2f} s ({counted(abs(lag), 'tick')}) {side}"


def nonnegative_least_squares(normal: Floats, right: Floats, rounds: int = 200) -> Floats:
    """Minimize x·normal·x/2 - right·x over x >= 0 by coordinate descent.

    With normal = AᵀA and right = Aᵀb this is the nonnegative least-squares solution of A·x = b.
    Here x is how much of each joint's speed a camera sees, which cannot be negative.
    """
    x = np.zeros(len(right))
    for _ in range(rounds):
        for at in np.flatnonzero(np.diag(normal) > 0):
            residual = right[at] - normal[at] @ x + normal[at, at] * x[at]
            x[at] = max(0.0, residual / normal[at, at])
    return x
