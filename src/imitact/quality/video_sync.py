"""Video sync check: frames compared with joints, to find late, frozen, blank or broken videos.

The motion of a video is the change of its pixels from frame to frame, that of the robot the speed
of its joints. The delay at which the two correlate best is the delay of the video.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import DamagedFile
from imitact.core.types import Episode, FloatArray, Spec
from imitact.quality.findings import Finding
from imitact.quality.motion import Floats, true_runs

_DROP = "Leave the episode out or record it again"
_SAMPLED_PX = 60
"""Approximate number of rows or columns that are compared: motion is large, and reading every
pixel is slow."""


@dataclass(frozen=True)
class VideoLimits:
    """Limits for the agreement of frames and joints."""

    noise_levels: int = 8
    """Change of a pixel, of 255 levels, that is noise of sensor and compression, not motion."""

    lag_s: float = 0.1
    """Largest delay of a video, either way, s; USB cameras have 0.03 to 0.1."""

    search_s: float = 0.5
    """Largest delay that is tried, s."""

    min_correlation: float = 0.35
    """Least correlation of the two motions at the best delay; below it no delay is reported."""

    correlation_margin: float = 0.1
    """Least lead of that correlation over those of all delays within `lag_s`."""

    frozen_s: float = 0.4
    """Longest time that a video may show no motion while joints that it sees move, s."""

    frozen_fraction: float = 0.05
    """Least fraction of the episode's visible motion in that time; a camera that sees a resting arm
    is not frozen. Still stretches in 20 demonstrations of the cube have less than 0.0001."""

    blank_levels: int = 16
    """A frame whose pixels are all below this level, of 255, is black."""

    blank_s: float = 0.2
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


@dataclass(frozen=True)
class LagCorrelation:
    """Sums for the correlation of two motions by delay, (L,) each; they add up over episodes."""

    products: Floats
    video_squares: Floats
    joint_squares: Floats

    def __add__(self, other: LagCorrelation) -> LagCorrelation:
        return LagCorrelation(
            self.products + other.products,
            self.video_squares + other.video_squares,
            self.joint_squares + other.joint_squares,
        )

    @property
    def correlation(self) -> Floats:
        """Correlation by delay, (L,); 0 where nothing moves."""
        size = np.sqrt(self.video_squares * self.joint_squares)
        return np.where(size > 0, self.products / np.where(size > 0, size, 1.0), 0.0)


def correlate_motion(change: Floats, speed: Floats, lags: NDArray[np.int64]) -> LagCorrelation:
    """Correlate the motions of one episode by delay; at a delay of 3, frames are 3 ticks late."""
    # Roots, so that one fast movement does not dominate; without components slower than the tried
    # delays, which correlate at all of them. On demonstrations of the cube, the right delay then
    # leads one that is 7 ticks off by 0.22 to 0.30, instead of 0.01 to 0.03.
    window = len(lags) // 2
    video, joints = (_band_pass(np.sqrt(values), window) for values in (change, speed))
    products, video_squares, joint_squares = (np.zeros(len(lags)) for _ in range(3))
    for row, lag in enumerate(lags):
        v = video[max(0, lag) : len(video) + min(0, lag)]
        j = joints[max(0, -lag) : len(joints) + min(0, -lag)]
        v, j = v - v.mean(), j - j.mean()
        products[row], video_squares[row], joint_squares[row] = v @ j, v @ v, j @ j
    return LagCorrelation(products, video_squares, joint_squares)


def _band_pass(values: Floats, window: int) -> Floats:
    """Mean over three ticks, because key frames differ from others, minus that over `window`."""
    smooth = _moving_average(values, 3)
    return smooth - _moving_average(smooth, window)


def _moving_average(values: Floats, window: int) -> Floats:
    return np.convolve(values, np.full(window, 1 / window), mode="same")


@dataclass(frozen=True)
class _StillStretch:
    """A stretch of an episode without motion in its video.

    Attributes:
        index: number of the episode.
        first: first tick.
        stop: tick after the last.
        travel: path length of each joint in the stretch, (S,).
        episode_travel: path length of each joint in the episode, (S,).
    """

    index: int
    first: int
    stop: int
    travel: Floats
    episode_travel: Floats


class CameraSync:
    """Collects the motion of one camera over all episodes, then compares it with the joints."""

    def __init__(self, name: str, spec: Spec, scale: Floats, limits: VideoLimits) -> None:
        self._name, self._spec, self._scale, self._limits = name, spec, scale, limits
        reach = max(3, round(limits.search_s * spec.rate_hz))
        self._lags = np.arange(-reach, reach + 1)
        self._found: list[Finding] = []
        self._total: LagCorrelation | None = None
        self._lag_of: dict[int, int] = {}  # of the episodes that are clearly out of range
        self._measured = 0  # episodes whose delay can be measured
        self._still: list[_StillStretch] = []
        size = spec.state_size
        self._normal, self._right = np.zeros((size, size)), np.zeros(size)
        self._changed = False
        self._moved: list[int] = []

    def add(self, index: int, state: FloatArray, motion: FrameMotion) -> None:
        """Add an episode of finite states."""
        limits, rate_hz = self._limits, self._spec.rate_hz
        if motion.damage or len(motion.blank) != len(state):
            tick = len(motion.blank)
            text = motion.damage.split(". ")[0] or f"it has {tick} frames for {len(state)} ticks"
            self._found.append(
                Finding.of("video-unreadable", text, index, ticks=(tick, tick + 1), part=self._name)
            )
            return
        for first, stop in true_runs(motion.blank):
            seconds = (stop - first) / rate_hz
            is_error = seconds >= limits.blank_s
            text = f"{stop - first} frames are black or of a single colour"
            self._found.append(
                Finding.of(
                    "blank-frames",
                    text,
                    index,
                    severity="error" if is_error else "warning",
                    ticks=(first, stop),
                    part=self._name,
                    value=seconds,
                    unit="s",
                    fix="drop" if is_error else "",
                )
            )
        if motion.blank.any() or len(state) < 3:
            return
        speeds = np.abs(np.diff(state.astype(np.float64) / self._scale, axis=0))
        self._normal += speeds.T @ speeds
        self._right += speeds.T @ motion.change
        self._changed |= bool(motion.change.any())
        travel = speeds.sum(axis=0)
        if travel.sum() > 0:
            self._moved.append(index)
        for first, stop in true_runs(motion.change == 0):
            if (stop - first) / rate_hz >= limits.frozen_s:
                self._still.append(
                    _StillStretch(index, first, stop + 1, speeds[first:stop].sum(axis=0), travel)
                )
        if len(motion.change) >= 4 * len(self._lags) // 2:
            sums = correlate_motion(motion.change, speeds.sum(axis=1), self._lags)
            self._add_correlation(index, sums)

    def _add_correlation(self, index: int, sums: LagCorrelation) -> None:
        self._total = sums if self._total is None else self._total + sums
        lag, is_out_of_range = self._best_lag(sums.correlation)
        if is_out_of_range:
            self._lag_of[index] = lag
        if is_out_of_range or sums.correlation.max() >= self._limits.min_correlation:
            self._measured += 1

    def _best_lag(self, correlation: Floats) -> tuple[int, bool]:
        """The best delay in ticks, and whether it is clearly beyond `lag_s`."""
        best = int(np.argmax(correlation))
        in_range = np.abs(self._lags) <= self._limits.lag_s * self._spec.rate_hz
        is_out_of_range = (
            not in_range[best]
            and correlation[best] >= self._limits.min_correlation
            and correlation[best] - correlation[in_range].max() >= self._limits.correlation_margin
        )
        return int(self._lags[best]), bool(is_out_of_range)

    def findings(self) -> list[Finding]:
        found = [*self._found]
        rate_hz, limits = self._spec.rate_hz, self._limits
        common = None
        if self._total is not None and len(self._lag_of) >= max(3, self._measured / 2):
            lag, is_out_of_range = self._best_lag(self._total.correlation)
            if is_out_of_range:
                common = lag
                text = (
                    f"its frames are {_lag_text(lag, rate_hz)} the joints in "
                    f"{len(self._lag_of)} of {self._measured} episodes, expected within "
                    f"{limits.lag_s:g} s"
                )
                found.append(
                    Finding.of("video-lag", text, part=self._name, value=lag / rate_hz, unit="s")
                )
        for index, lag in self._lag_of.items():
            if common is not None and abs(lag - common) <= 2:
                continue
            text = (
                f"its frames are {_lag_text(lag, rate_hz)} the joints, expected within "
                f"{limits.lag_s:g} s"
            )
            found.append(
                Finding.of(
                    "video-out-of-step", text, index, part=self._name, value=lag / rate_hz, unit="s"
                )
            )
        if common is None:  # a late video shows every rest while the joints move again
            found += [f for f in self._frozen_findings() if f.episode not in self._lag_of]
        return found

    def _frozen_findings(self) -> list[Finding]:
        if not self._changed:
            if not self._moved:
                return []
            text = f"its frames never change, though joints move in {len(self._moved)} episodes"
            return [Finding.of("video-still", text, part=self._name)]
        visibility = nonnegative_least_squares(self._normal, self._right)
        found = []
        for still in self._still:
            total = max(visibility @ still.episode_travel, 1e-12)
            fraction = float(visibility @ still.travel / total)
            if fraction < self._limits.frozen_fraction:
                continue
            seconds = (still.stop - still.first) / self._spec.rate_hz
            text = (
                f"nothing moves in its frames for {seconds:.2f} s, in which the joints that it "
                f"sees make {100 * fraction:.0f} % of their movement"
            )
            found.append(
                Finding.of(
                    "video-frozen",
                    text,
                    still.index,
                    ticks=(still.first, still.stop),
                    part=self._name,
                    value=seconds,
                    unit="s",
                )
            )
        return found


def _lag_text(lag: int, rate_hz: float) -> str:
    side = "behind" if lag > 0 else "ahead of"
    return f"{abs(lag) / rate_hz:.2f} s ({abs(lag)} ticks) {side}"


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
