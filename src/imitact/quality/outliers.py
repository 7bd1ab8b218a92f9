"""Outlier check: episodes of unusual length, motion or start."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from imitact.core.ranges import Count, Length, Ranged
from imitact.core.types import FloatArray, Spec, shown_unit
from imitact.quality.findings import Finding
from imitact.quality.motion import MAD_TO_SIGMA, Floats


@dataclass(frozen=True)
class OutlierLimits(Ranged):
    """Limits beyond which an episode is an outlier."""

    deviations: Length = 8.0
    """Distance from the median in robust standard deviations (1.4826 times the median absolute
    deviation); 8, because human demonstrations often have two clusters, not one."""

    min_fraction: Length = 0.5
    """Least distance from the median length, or the median path length, as a fraction of it."""

    start_rad: Length = 0.3
    """Least distance of a start from the median start, rad; for other units, as a fraction of the
    usual travel in an episode."""

    min_episodes: Count = 8
    """Least number of episodes for this check."""


class OutlierCheck:
    """Collects the episodes of a dataset, then finds outliers among them."""

    def __init__(self, spec: Spec, scale: tuple[Floats, Floats], limits: OutlierLimits) -> None:
        self._spec, self._scale, self._limits = spec, scale, limits
        self._episodes: list[int] = []
        self._lengths: list[float] = []  # in ticks
        self._path_lengths: list[float] = []  # of all actions together, in scaled units
        self._starts: list[Floats] = []  # first states in scaled units, (S,)

    def add(self, index: int, state: FloatArray, action: FloatArray) -> None:
        """Add an episode of finite values."""
        self._episodes.append(index)
        self._lengths.append(float(len(state)))
        path_length = np.abs(np.diff(action / self._scale[1], axis=0)).sum()
        self._path_lengths.append(float(path_length))
        self._starts.append(state[0].astype(np.float64) / self._scale[0])

    def findings(self) -> list[Finding]:
        found: list[Finding] = []
        spec, limits = self._spec, self._limits
        if len(self._episodes) < limits.min_episodes:
            return found
        usual_path = float(np.median(self._path_lengths)) or 1.0
        for numbers, kind, text, factor, unit in (
            (self._lengths, "outlier-length", "it lasts {0:.3g} s; the median is {1:.3g} s",
             1 / spec.rate_hz, "s"),
            (self._path_lengths, "outlier-motion", "its actions move {0:.3g} times as far as those "
             "of the median episode", 1 / usual_path, ""),
        ):  # fmt: skip
            values = np.array(numbers)
            least = limits.min_fraction * float(np.median(values))
            for index, value, median in self._outliers(values, least, factor):
                what = text.format(value, median)
                found.append(Finding.of(kind, what, index, value=value, unit=unit))
        starts = np.stack(self._starts)
        for dimension, name in enumerate(spec.state_names):
            column, scale = starts[:, dimension], float(self._scale[0][dimension])
            place = {"ticks": (0, 1), "part": name, "unit": shown_unit(spec.state_units[dimension])}
            for index, value, median in self._outliers(column, limits.start_rad, scale):
                text = f"it starts at {value:.3g}; the median start is {median:.3g}"
                found.append(Finding.of("outlier-start", text, index, value=value, **place))
        return found

    def _outliers(
        self, values: Floats, least: float, factor: float
    ) -> Iterator[tuple[int, float, float]]:
        """Episode, value and median of each value too far from it; both are times `factor`."""
        median = float(np.median(values))
        sigma = MAD_TO_SIGMA * float(np.median(np.abs(values - median)))
        limit = max(self._limits.deviations * sigma, least)
        for row in np.flatnonzero(np.abs(values - median) > limit):
            yield self._episodes[row], float(values[row] * factor), median * factor
