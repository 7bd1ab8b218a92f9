"""Statistics: mean, standard deviation and range of each dimension, accumulated in blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput, DamagedFile, NotFinite

_FIELDS = ("mean", "std", "min", "max")


@dataclass(frozen=True)
class Stats:
    """Statistics of N rows of D values, in the units of the rows.

    Attributes:
        mean: float64 (D,).
        std: float64 (D,), of the population (divides by N), as in LeRobot.
        min: float64 (D,).
        max: float64 (D,).
        count: N.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    min: NDArray[np.float64]
    max: NDArray[np.float64]
    count: int

    def __post_init__(self) -> None:
        for name in _FIELDS:
            value = np.array(getattr(self, name), dtype=np.float64)
            if value.ndim != 1 or value.shape != np.shape(self.mean):
                raise BadInput(
                    f"statistics: {name} has shape {value.shape}, mean {np.shape(self.mean)}; "
                    "both must be (D,)"
                )
            if not np.all(np.isfinite(value)):
                raise NotFinite(f"statistics: {name} is not finite: {value}")
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        if np.any(self.std < 0):
            raise BadInput(f"statistics: std is negative: {self.std}")
        if self.count < 1:
            raise BadInput(f"statistics: count is {self.count}; it must be at least 1")

    @property
    def size(self) -> int:
        """The number of dimensions, D."""
        return int(self.mean.shape[0])

    def to_dict(self) -> dict[str, Any]:
        """Return lists and numbers, from which `from_dict` restores the same Stats exactly."""
        return {**{n: getattr(self, n).tolist() for n in _FIELDS}, "count": self.count}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "statistics") -> Stats:
        """Restore Stats; missing or unknown keys and values that are not numbers are refused."""
        expected = {*_FIELDS, "count"}
        if set(data) != expected:
            raise DamagedFile(
                f"{where} has the keys {', '.join(sorted(data)) or 'none'}, expected "
                f"{', '.join(sorted(expected))}"
            )
        try:
            columns = {n: np.asarray(data[n], dtype=np.float64) for n in _FIELDS}
            count = int(data["count"])
        except (TypeError, ValueError) as error:
            raise DamagedFile(f"{where}: a value is not a number ({error})") from error
        return cls(**columns, count=count)


class Accumulator:
    """Accumulates Stats over blocks of rows of any size.

    Means and squared deviations are combined pairwise (Chan, Golub and LeVeque 1979). A sum of
    squares would lose the deviation of, say, a joint at 100 rad that moves by 1e-6.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise BadInput(f"statistics have {size} dimensions; at least 1 is needed")
        self._count = 0
        self._mean = np.zeros(size)
        self._squares = np.zeros(size)
        self._min = np.full(size, np.inf)
        self._max = np.full(size, -np.inf)

    def add(self, rows: NDArray[Any]) -> None:
        """Add a block of rows, (N, D); N may be 0. Values that are not finite are refused."""
        size = self._mean.shape[0]
        if rows.ndim != 2 or rows.shape[1] != size:
            raise BadInput(f"rows have shape {rows.shape}, expected (N, {size})")
        if rows.shape[0] == 0:
            return
        block = rows.astype(np.float64)
        if not np.all(np.isfinite(block)):
            row, column = np.argwhere(~np.isfinite(block))[0]
            raise NotFinite(f"row {row}, dimension {column} is {block[row, column]}")
        count, mean = block.shape[0], block.mean(axis=0)
        squares = np.square(block - mean).sum(axis=0)
        total = self._count + count
        shift = mean - self._mean
        self._squares = self._squares + squares + np.square(shift) * (self._count * count / total)
        self._mean = self._mean + shift * (count / total)
        self._min = np.minimum(self._min, block.min(axis=0))
        self._max = np.maximum(self._max, block.max(axis=0))
        self._count = total

    def result(self) -> Stats:
        """Return the Stats of all rows so far; BadInput where there were none."""
        if self._count == 0:
            raise BadInput("there are no statistics, because no rows were added")
        std = np.sqrt(self._squares / self._count)
        return Stats(self._mean, std, self._min, self._max, self._count)
