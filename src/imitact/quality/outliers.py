"""Each episode among the others: the same one twice, or one unlike all of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imitact.core.types import FloatArray, Spec
from imitact.quality.findings import Finding
from imitact.quality.motion import Floats

_SIGMA = 1.4826
"""Standard deviations in a median absolute deviation, of normal values."""


@dataclass(frozen=True)
class CrowdLimits:
    """When an episode is unlike the others."""

    deviations: float = 8.0
    """Distance from the median in robust standard deviations (1.4826 times the median absolute
    deviation); 8, since what people do is not normal: a task begun left or right has two heaps."""

    length_part: float = 0.5
    """And at least this part of the median length, or of the median way."""

    start_rad: float = 0.3
    """And for where an episode starts, at least so far, in rad, or in parts of how far the value
    usually goes in an episode."""

    fewest: int = 8
    """Episodes without which nobody is unlike the others."""


@dataclass(frozen=True)
class _Member:
    """What is kept of an episode, whatever its length."""

    index: int
    length: int
    way: float
    start: Floats


class Crowd:
    """Gathers the episodes, then tells which are there twice and which stand apart."""

    def __init__(self, spec: Spec, scale: tuple[Floats, Floats], limits: CrowdLimits) -> None:
        self._spec, self._scale, self._limits = spec, scale, limits
        self._members: list[_Member] = []
        self._first: dict[bytes, int] = {}
        self._twice: list[tuple[int, int, int]] = []

    def add(self, index: int, state: FloatArray, action: FloatArray) -> None:
        """One episode of finite numbers."""
        print_ = hashlib.sha256()
        for rows in (state, action):
            print_.update(np.ascontiguousarray(rows, dtype="<f4").tobytes())
        before = self._first.setdefault(print_.digest(), index)
        if before != index:
            self._twice.append((index, before, len(state)))
        way = float(np.abs(np.diff(action / self._scale[1], axis=0)).sum())
        start = state[0].astype(np.float64) / self._scale[0]
        self._members.append(_Member(index, len(state), way, start))

    def findings(self) -> list[Finding]:
        found = [
            Finding(
                "duplicate",
                "warning",
                f"all its states and actions are those of episode {before}",
                "Leave one of the two out: twice, it counts double, and held out it is no test",
                index,
                (0, length),
                fix="drop",
            )
            for index, before, length in self._twice
        ]
        copies = {index for index, _, _ in self._twice}
        others = [m for m in self._members if m.index not in copies]
        if len(others) < self._limits.fewest:
            return found
        lengths = np.array([m.length for m in others], dtype=np.float64)
        ways = np.array([m.way for m in others])
        starts = np.stack([m.start for m in others])
        rate = self._spec.rate_hz
        for values, kind, words, factor, unit in (
            (lengths, "outlier-length", "it lasts", 1 / rate, "s"),
            (ways, "outlier-motion", "its actions go a way of", 1.0, "rad, all dimensions"),
        ):
            usual, limit = self._far(values, self._limits.length_part * float(np.median(values)))
            for row in np.flatnonzero(np.abs(values - usual) > limit):
                found.append(
                    Finding(
                        kind,
                        "warning",
                        f"{words} {values[row] * factor:.3g} {unit}, the others' median is "
                        f"{usual * factor:.3g}",
                        "Watch it: a demonstration that was broken off, or waited for something?",
                        others[row].index,
                        value=float(values[row] * factor),
                        unit=unit,
                    )
                )
        for dimension, name in enumerate(self._spec.state_names):
            column = starts[:, dimension]
            usual, limit = self._far(column, self._limits.start_rad)
            scale = float(self._scale[0][dimension])
            for row in np.flatnonzero(np.abs(column - usual) > limit):
                found.append(
                    Finding(
                        "outlier-start",
                        "note",
                        f"it starts at {column[row] * scale:.3g}, the others at "
                        f"{usual * scale:.3g} (median)",
                        "Watch its beginning: was the arm brought back to its start?",
                        others[row].index,
                        (0, 1),
                        name,
                        value=float(column[row] * scale),
                        unit=self._spec.state_units[dimension],
                    )
                )
        return found

    def _far(self, values: NDArray[np.float64], least: float) -> tuple[float, float]:
        """The median, and the distance from it beyond which a value stands apart."""
        usual = float(np.median(values))
        sigma = _SIGMA * float(np.median(np.abs(values - usual)))
        return usual, max(self._limits.deviations * sigma, least)
