"""Selections: chosen episodes, and every n-th tick, of a dataset in any layout."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from imitact.core.types import Dataset, Episode, Frame, Spec, overridable
from imitact.datasets.read_config import ReadConfig
from imitact.datasets.subset import DatasetView, Subset, parse_episodes


def select(dataset: Dataset, read: ReadConfig, episodes: Sequence[int]) -> Dataset:
    """Return the ticks that `read` chooses of some episodes of a dataset."""
    selected = Subset(dataset, episodes) if read.episodes else dataset
    if read.every > 1:
        selected = Thinned(selected, read.every)
    if selected is not dataset:
        vars(selected).update(read_options=read.given())
    return selected


def chosen_episodes(count: int, read: ReadConfig) -> tuple[int, ...]:
    """Return the numbers of the episodes that `read` chooses among `count`."""
    if not read.episodes:
        return tuple(range(count))
    return parse_episodes(read.episodes, count, "--read.episodes")


class Thinned(DatasetView):
    """Ticks 0, n, 2n, ... of every episode of a dataset, at the rate divided by n.

    Each kept tick keeps its state, action and frames; the actions between are left out.
    """

    def __init__(self, dataset: Dataset, every: int) -> None:
        super().__init__(dataset)
        self.every = every

    @overridable
    def spec(self) -> Spec:
        return replace(self.dataset.spec, rate_hz=self.dataset.spec.rate_hz / self.every)

    @overridable
    def lengths(self) -> tuple[int, ...]:
        return tuple(-(-length // self.every) for length in self.dataset.lengths)

    @overridable
    def fingerprint(self) -> str:
        """SHA-256 over the fingerprint of the dataset and n."""
        text = f"{self.dataset.fingerprint} every {self.every}"
        return hashlib.sha256(text.encode()).hexdigest()

    def episode(self, index: int) -> Episode:
        episode = self.dataset.episode(index)
        return cast("Episode", _ThinnedEpisode(episode, self.every, self.lengths[index]))

    @property
    def facts(self) -> Mapping[str, Any]:
        facts = self.dataset.facts
        episodes = facts.get("episodes")
        if not isinstance(episodes, list):
            return facts
        return {**facts, "episodes": [_thinned_origin(each, self.every) for each in episodes]}


class _ThinnedEpisode:
    """Every n-th tick of an episode; what is not by tick is the episode's own."""

    own_videos: Mapping[str, Any] = {}

    def __init__(self, episode: Episode, every: int, length: int) -> None:
        self._episode, self._every, self._length = episode, every, length

    def __getattr__(self, name: str) -> Any:
        return getattr(self._episode, name)

    @property
    def state(self) -> NDArray[np.float32]:
        return self._episode.state[:: self._every]

    @property
    def action(self) -> NDArray[np.float32]:
        return self._episode.action[:: self._every]

    @property
    def times_s(self) -> NDArray[np.float64] | None:
        times_s = self._episode.times_s
        return None if times_s is None else times_s[:: self._every]

    def frame_offsets_s(self, camera: str) -> NDArray[np.float64] | None:
        offsets_s = self._episode.frame_offsets_s(camera)
        return None if offsets_s is None else offsets_s[:: self._every]

    @property
    def origin(self) -> Mapping[str, Any]:
        return _thinned_origin(self._episode.origin, self._every)

    def extra_values(self, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        values = self._episode.extra_values(names)
        return {name: column[:: self._every] for name, column in values.items()}

    def frames(self, camera: str, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Frames of ticks `start` to `stop`; those between are decoded and dropped."""
        stop = self._length if stop is None else stop
        if stop <= start:
            return iter(())
        last = (stop - 1) * self._every
        frames = self._episode.frames(camera, start * self._every, last + 1)
        return islice(frames, 0, None, self._every)


def _thinned_origin(origin: Mapping[str, Any], every: int) -> Mapping[str, Any]:
    """Return an origin whose first tick of each stage is the first kept tick at or after it."""
    first_ticks = origin.get("first_ticks")
    if not isinstance(first_ticks, Mapping):
        return origin
    thinned = {
        stage: -(-tick // every) if isinstance(tick, int) else tick
        for stage, tick in first_ticks.items()
    }
    return {**origin, "first_ticks": thinned}
