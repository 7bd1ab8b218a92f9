"""Subsets: some episodes of a dataset, renumbered; the last ones held back for validation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput
from imitact.core.types import Dataset, Episode, Frame, Spec


class Subset:
    """Some episodes of a Source, in the order given, numbered from 0; itself a Source."""

    def __init__(self, source: Dataset, indices: Sequence[int]) -> None:
        count = len(source.lengths)
        for index in indices:
            if not 0 <= index < count:
                raise BadInput(f"no episode {index} to choose; the dataset has {count}")
        if len(set(indices)) != len(indices):
            raise BadInput("an episode was chosen twice")
        self.source = source
        self.indices = tuple(int(index) for index in indices)

    @property
    def spec(self) -> Spec:
        return self.source.spec

    @property
    def lengths(self) -> tuple[int, ...]:
        lengths = self.source.lengths
        return tuple(lengths[index] for index in self.indices)

    @property
    def fingerprint(self) -> str:
        """Of the Source and the choice."""
        text = f"{self.source.fingerprint} {self.indices}"
        return hashlib.sha256(text.encode()).hexdigest()

    def episode(self, index: int) -> Episode:
        if not 0 <= index < len(self.indices):
            raise BadInput(f"no episode {index} in this choice of {len(self.indices)}")
        return _Renumbered(index, self.source.episode(self.indices[index]))


class _Renumbered:
    """An Episode under its number in a Subset."""

    def __init__(self, index: int, episode: Episode) -> None:
        self._index = index
        self._episode = episode

    @property
    def index(self) -> int:
        return self._index

    @property
    def state(self) -> NDArray[np.float32]:
        return self._episode.state

    @property
    def action(self) -> NDArray[np.float32]:
        return self._episode.action

    def frames(self, camera: str, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        return self._episode.frames(camera, start, stop)


def split_validation(source: Dataset, held_out: int) -> tuple[Subset, Subset]:
    """(train, held): the last `held_out` episodes are held back.

    The last ones, not some at random: of demonstrations from even starts they are those whose
    starts the others cover best, while a random one leaves a hole around its start, in which the
    policy then fails (docs/architecture.md); of a teleoperated session they are the latest.
    """
    count = len(source.lengths)
    if not 0 <= held_out < count:
        raise BadInput(
            f"{held_out} of {count} episodes were to be held out; at least one must be left"
        )
    kept = count - held_out
    return Subset(source, range(kept)), Subset(source, range(kept, count))
