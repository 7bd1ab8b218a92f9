"""The statistics LeRobot keeps of each feature: of one episode, and of episodes together.

The keys are those of LeRobot 0.6 (datasets/compute_stats.py): min, max, mean, std, count, and
five quantiles. Means and deviations are exact over all frames; quantiles are exact within an
episode, and of several episodes the mean weighted by their ticks, as LeRobot has it. What imitact
trains with is never read from here: `imitact.core.statistics` computes it from the episodes chosen.
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

_SAMPLED = 100  # frames of an episode that are looked at, at least, if it has as many
_POWER = 0.75  # and how their number grows with its length
_LARGE = 300  # pixels: frames this high or wide are thinned out ...
_THINNED = 150  # ... to about this many


def of_rows(values: NDArray[Any]) -> FeatureStats:
    """Statistics of T rows, shape (T, D) or (T,)."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    return {
        "min": rows.min(axis=0),
        "max": rows.max(axis=0),
        "mean": rows.mean(axis=0),
        "std": rows.std(axis=0),
        "count": np.array([len(rows)], dtype=np.int64),
        **{name: np.quantile(rows, q, axis=0) for name, q in QUANTILES.items()},
    }


def sampled_ticks(length: int) -> frozenset[int]:
    """The ticks of an episode whose frames count: as many, and the same, as LeRobot takes."""
    count = min(length, max(_SAMPLED, min(int(length**_POWER), 10_000)))
    return frozenset(int(t) for t in np.round(np.linspace(0, length - 1, count)))


class PixelCounts:
    """Statistics of the frames of one camera, gathered frame by frame: 3 x 256 counts, no frame."""

    def __init__(self) -> None:
        self._counts = np.zeros((3, 256), dtype=np.int64)
        self._frames = 0

    def add(self, frame: Frame) -> None:
        """Count the pixels of a frame; of a large one every n-th row and column, as LeRobot."""
        height, width, _ = frame.shape
        if max(height, width) >= _LARGE:
            step = max(height, width) // _THINNED
            frame = frame[::step, ::step]
        for channel in range(3):
            self._counts[channel] += np.bincount(frame[..., channel].ravel(), minlength=256)
        self._frames += 1

    def result(self) -> FeatureStats:
        """Per channel, scaled to 0 to 1, shape (3, 1, 1)."""
        levels = np.arange(256) / 255.0
        total = self._counts.sum(axis=1)
        mean = self._counts @ levels / total
        variance = self._counts @ np.square(levels) / total - np.square(mean)
        below = np.cumsum(self._counts, axis=1)
        seen = [np.flatnonzero(c) for c in self._counts]
        values = {
            "min": np.array([levels[s[0]] for s in seen]),
            "max": np.array([levels[s[-1]] for s in seen]),
            "mean": mean,
            "std": np.sqrt(np.maximum(variance, 0.0)),
            **{
                name: np.array(
                    [levels[np.searchsorted(b, q * b[-1])] for b in below], dtype=np.float64
                )
                for name, q in QUANTILES.items()
            },
        }
        shaped = {name: value.reshape(3, 1, 1) for name, value in values.items()}
        return {**shaped, "count": np.array([self._frames], dtype=np.int64)}


def merged(one: FeatureStats, other: FeatureStats) -> FeatureStats:
    """Statistics of both together."""
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


def merged_all(
    one: Mapping[str, FeatureStats], other: Mapping[str, FeatureStats]
) -> dict[str, FeatureStats]:
    """`merged` for each feature."""
    return {name: merged(one[name], other[name]) for name in one}


def plain(stats: Mapping[str, FeatureStats]) -> dict[str, Any]:
    """As stats.json has them."""
    return {name: {k: v.tolist() for k, v in feature.items()} for name, feature in stats.items()}
