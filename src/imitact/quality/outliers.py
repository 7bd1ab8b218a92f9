"""Outlier check: episodes of unusual length, motion or start."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imitact.core.types import FloatArray, Spec
from imitact.quality.findings import Finding
from imitact.quality.motion import MAD_TO_SIGMA, Floats


@dataclass(frozen=True)
class OutlierLimits:
    """Limits beyond which an episode is an outlier."""

    deviations: float = 8.0
    """Distance from the median in robust standard deviations (1.4826 times the median absolute
    deviation); 8, because human demonstrations often have two clusters, not one."""

    min_fraction: float = 0.5
    """Least distance from the median length, or the median path length, as a fraction of it."""

    start_rad: float = 0.3
    """Least distance of a start from the median start, rad; for other units, as a fraction of the
    usual travel in an episode."""

    min_episodes: int = 8
    """Least number of episodes for this check."""


@dataclass(frozen=True)
class _EpisodeSummary:
    """What is kept of an episode.

    Attributes:
        index: its number.
        length: in ticks.
        path_length: sum of all movements of all actions, in scaled units.
        start: first state in scaled units, (S,).
    """

    index: int
    length: int
    path_length: float
    start: Floats


class OutlierCheck:
    """Collects the episodes of a dataset, then finds outliers among them."""

    def __init__(self, spec: Spec, scale: tuple[Floats, Floats], limits: OutlierLimits) -> None:
        self._spec, self._scale, self._limits = spec, scale, limits
        self._summaries: list[_EpisodeSummary] = []

    def add(self, index: int, state: FloatArray, action: FloatArray) -> None:
        """Add an episode of finite values."""
        path_length = float(np.abs(np.diff(action / self._scale[1], axis=0)).sum())
        start = state[0].astype(np.float64) / self._scale[0]
        self._summaries.append(_EpisodeSummary(index, len(state), path_length, start))

    def findings(self) -> list[Finding]:
        found: list[Finding] = []
        episodes = self._summaries
        if len(episodes) < self._limits.min_episodes:
            return found
        lengths = np.array([s.length for s in episodes], dtype=np.float64)
        path_lengths = np.array([s.path_length for s in episodes])
        starts = np.stack([s.start for s in episodes])
        rate_hz = self._spec.rate_hz
        for values, kind, what, factor, unit in (
            (lengths, "outlier-length", "it lasts", 1 / rate_hz, "s"),
            (path_lengths, "outlier-motion", "its actions move by", 1.0, "rad, all dimensions"),
        ):
            least = self._limits.min_fraction * float(np.median(values))
            median, limit = self._median_and_limit(values, least)
            for row in np.flatnonzero(np.abs(values - median) > limit):
                text = (
                    f"{what} {values[row] * factor:.3g} {unit}; the median is {median * factor:.3g}"
                )
                found.append(
                    Finding.of(
                        kind,
                        text,
                        episodes[row].index,
                        value=float(values[row] * factor),
                        unit=unit,
                    )
                )
        for dimension, name in enumerate(self._spec.state_names):
            column = starts[:, dimension]
            median, limit = self._median_and_limit(column, self._limits.start_rad)
            scale = float(self._scale[0][dimension])
            for row in np.flatnonzero(np.abs(column - median) > limit):
                text = (
                    f"it starts at {column[row] * scale:.3g}; the median start is "
                    f"{median * scale:.3g}"
                )
                found.append(
                    Finding.of(
                        "outlier-start",
                        text,
                        episodes[row].index,
                        ticks=(0, 1),
                        part=name,
                        value=float(column[row] * scale),
                        unit=self._spec.state_units[dimension],
                    )
                )
        return found

    def _median_and_limit(self, values: NDArray[np.float64], least: float) -> tuple[float, float]:
        """The median, and the distance from it beyond which a value is an outlier."""
        median = float(np.median(values))
        sigma = MAD_TO_SIGMA * float(np.median(np.abs(values - median)))
        return median, max(self._limits.deviations * sigma, least)
