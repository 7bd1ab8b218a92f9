"""A tiny Source that is computed, not stored: the smallest world of the data and train tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from imitact.core.types import Camera, Frame, Spec


@dataclass(frozen=True)
class FakeEpisode:
    """A slow wave: every frame tells its episode and tick in its first pixels."""

    index: int
    length: int
    height: int
    width: int
    size: int

    @property
    def state(self) -> np.ndarray:
        along = np.arange(self.length)[:, None] / 10 + self.index
        return np.sin(along + np.arange(self.size)).astype(np.float32)

    @property
    def action(self) -> np.ndarray:
        along = (np.arange(self.length)[:, None] + 1) / 10 + self.index
        return np.sin(along + np.arange(self.size)).astype(np.float32)

    def frames(self, camera: str, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        for tick in range(start, self.length if stop is None else stop):
            rng = np.random.Generator(np.random.PCG64([self.index, tick, len(camera)]))
            frame = rng.integers(0, 256, (self.height, self.width, 3), dtype=np.uint8)
            frame[:2, :2, 0], frame[:2, :2, 1] = self.index, tick
            yield frame


@dataclass(frozen=True)
class FakeSource:
    """Episodes of those lengths; picklable, so that worker processes can have it."""

    lengths: tuple[int, ...] = (7, 4, 9)
    cameras: tuple[str, ...] = ("top",)
    height: int = 64
    width: int = 64
    size: int = 3
    fingerprint: str = "fake"

    @property
    def spec(self) -> Spec:
        names = tuple(f"joint_{i}" for i in range(self.size))
        units = ("rad",) * (self.size - 1) + ("1",)
        cameras = tuple(Camera(name, self.height, self.width) for name in self.cameras)
        return Spec(names, names, units, units, cameras, rate_hz=50.0)

    def episode(self, index: int) -> FakeEpisode:
        return FakeEpisode(index, self.lengths[index], self.height, self.width, self.size)
