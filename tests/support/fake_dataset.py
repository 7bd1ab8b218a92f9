"""Fake dataset: a small Dataset that is computed, not stored, for tests of everything above it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from imitact.core.types import Camera, Dataset, Episode, Frame, Spec, overridable


@dataclass(frozen=True)
class FakeEpisode(Episode):
    """A slow sine wave; the first pixels of every frame encode its episode and tick."""

    index: int = 0
    length: int = 0
    height: int = 64
    width: int = 64
    size: int = 3

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
class FakeDataset(Dataset):
    """Episodes of the given lengths; picklable, so that worker processes can have it."""

    lengths: tuple[int, ...] = (7, 4, 9)
    cameras: tuple[str, ...] = ("top",)
    height: int = 64
    width: int = 64
    size: int = 3
    fingerprint: str = "fake"
    environment_size: int = 0

    @property
    def spec(self) -> Spec:
        names = tuple(f"joint_{i}" for i in range(self.size))
        units = ("rad",) * (self.size - 1) + ("1",)
        cameras = tuple(Camera(name, self.height, self.width) for name in self.cameras)
        return Spec(names, names, units, units, cameras, 50.0, self.environment_size)

    def episode(self, index: int) -> FakeEpisode:
        return FakeEpisode(index, self.lengths[index], self.height, self.width, self.size)


def properties(kind: type) -> set[str]:
    """Return the properties of Dataset or Episode that a subclass may override."""
    return {
        name
        for name, value in vars(kind).items()
        if isinstance(value, overridable) and not name.startswith("_")
    }


def whole_dataset(ticks: int) -> tuple[Dataset, Episode]:
    """Return a dataset, and its episode of that many ticks, with a value in every property."""

    class Whole(Dataset):
        def episode(self, index: int) -> Episode:
            return episode

    class WholeEpisode(Episode):
        pass

    dataset, episode = Whole(), WholeEpisode()
    for kind, one in ((Dataset, dataset), (Episode, episode)):
        for name in properties(kind):
            setattr(one, name, {"value of": name})
    dataset.lengths = (ticks,)
    return dataset, episode
