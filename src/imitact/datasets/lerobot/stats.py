"""LeRobot statistics: min, max, mean, std, count and quantiles of the features of a dataset.

The keys are those of LeRobot 0.6 (datasets/compute_stats.py). Means and standard deviations are
exact over all frames. Quantiles are exact within an episode; those of several episodes are their
mean weighted by ticks, as in LeRobot. Training does not use these statistics:
`imitact.core.feature_statistics` computes its own from the episodes chosen for training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.types import Frame

FeatureStats = dict[str, NDArray[Any]]
"""Statistic name to (D,) float64, or (3, 1, 1) for a camera; "count" to (1,) int64."""

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}

_MIN_SAMPLES, _MAX_SAMPLES = 100, 10_000  # sampled frames per episode, if it has as many
_POWER = 0.75  # growth of their number with the length of the episode
_LARGE_PX = 300  # frames this high or wide are thinned out ...
_THINNED_PX = 150  # ... to about this size


def row_stats(values: NDArray[Any]) -> FeatureStats:
    """Return the statistics of rows (T, D) or (T,), without those that are not finite.

    JSON has no NaN. Where no row is finite, they are those of a row of zeros.
    """
    rows = values.reshape(len(values), -1).astype(np.float64)
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        rows = rows[finite] if finite.any() else np.zeros((1, rows.shape[1]))
    return {
        "min": rows.min(axis=0),
        "max": rows.max(axis=0),
        "mean": rows.mean(axis=0),
        "std": rows.std(axis=0),
        "count": np.array([len(rows)], dtype=np.int64),
        **{name: np.quantile(rows, q, axis=0) for name, q in QUANTILES.items()},
    }


def sampled_ticks(length: int) -> frozenset[int]:
    """Return the ticks whose frames LeRobot samples from an episode of `length` ticks."""
    count = min(length, max(_MIN_SAMPLES, min(int(length**_POWER), _MAX_SAMPLES)))
    return frozenset(int(t) for t in np.round(np.linspace(0, length - 1, count)))


class PixelCounts:
    """Statistics of the frames of one camera, from 3 x 256 counts: no frame is kept.

    Of `length` ticks, LeRobot's samples are counted; None counts every frame.
    """

    def __init__(self, length: int | None = None) -> None:
        self._sampled = None if length is None else sampled_ticks(length)
        self._counts = np.zeros((3, 256), dtype=np.int64)
        self._tick = self._frames = 0

    def add(self, frame: Frame) -> None:
        """Take the frame of the next tick; of a large one every n-th row and column, as LeRobot."""
        self._tick += 1
        if self._sampled is not None and self._tick - 1 not in self._sampled:
            return
        height, width, _ = frame.shape
        if max(height, width) >= _LARGE_PX:
            step = max(height, width) // _THINNED_PX
            frame = frame[::step, ::step]
        for channel in range(3):
            self._counts[channel] += np.bincount(frame[..., channel].ravel(), minlength=256)
        self._frames += 1

    def result(self) -> FeatureStats:
        """Return the statistics per channel, scaled to 0 to 1, each (3, 1, 1)."""
        levels = np.arange(256) / 255.0
        total = self._counts.sum(axis=1)
        mean = self._counts @ levels / total
        variance = self._counts @ np.square(levels) / total - np.square(mean)
        below = np.cumsum(self._counts, axis=1)
        seen = [np.flatnonzero(c) for c in self._counts]
        values = {
            "min": [levels[s[0]] for s in seen],
            "max": [levels[s[-1]] for s in seen],
            "mean": mean,
            "std": np.sqrt(np.maximum(variance, 0.0)),
        }
        for name, q in QUANTILES.items():
            values[name] = [levels[np.searchsorted(b, q * b[-1])] for b in below]
        shaped = {name: np.reshape(value, (3, 1, 1)) for name, value in values.items()}
        return {**shaped, "count": np.array([self._frames], dtype=np.int64)}


def merge_stats(one: FeatureStats, other: FeatureStats) -> FeatureStats:
    """Return the statistics of both together."""
    n, m = float(one["count"][0]), float(other["count"][0])
    total = n + m
    mean = (one["mean"] * n + other["mean"] * m) / total
    variance = (
        n * (np.square(one["std"]) + np.square(one["mean"] - mean))
        + m * (np.square(other["std"]) + np.square(other["mean"] - mean))
    ) / total
    return {
        "min": np.minimum(one["min"], other["min"]),
        "max": np.maximum(one["max"], other["max"]),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": one["count"] + other["count"],
        **{name: (one[name] * n + other[name] * m) / total for name in QUANTILES},
    }


def merge_all_stats(
    one: Mapping[str, FeatureStats], other: Mapping[str, FeatureStats]
) -> dict[str, FeatureStats]:
    """Merge the statistics of each feature; a feature that only one has keeps its own."""
    both = {name: merge_stats(one[name], other[name]) for name in one if name in other}
    return {**one, **other, **both}


def stats_as_json(stats: Mapping[str, FeatureStats]) -> dict[str, Any]:
    """Return statistics as plain JSON values, as in stats.json."""
    return {name: {k: v.tolist() for k, v in feature.items()} for name, feature in stats.items()}
