"""Subsets: chosen episodes of a dataset, renumbered, and the split for validation."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

from imitact.core.errors import BadInput
from imitact.core.types import Dataset, Episode, Spec, overridable


class Subset(Dataset):
    """Episodes of a dataset in the order of `indices`, numbered from 0; itself a Dataset.

    Each may be chosen once; all properties but the episodes are those of the dataset.
    """

    def __init__(self, dataset: Dataset, indices: Sequence[int]) -> None:
        count = len(dataset.lengths)
        for index in indices:
            if not 0 <= index < count:
                raise BadInput(f"no episode {index} to choose; the dataset has {count}")
        if len(set(indices)) != len(indices):
            raise BadInput("an episode was chosen twice; choose each at most once")
        self.dataset = dataset
        self.indices = tuple(int(index) for index in indices)
        for name in ("path", "layout", "read_options", "notices", "left_out", "extra_columns"):
            setattr(self, name, getattr(dataset, name))

    @property
    def spec(self) -> Spec:
        return self.dataset.spec

    @property
    def frames_in_video(self) -> bool:
        return self.dataset.frames_in_video

    @overridable
    def lengths(self) -> tuple[int, ...]:
        lengths = self.dataset.lengths
        return tuple(lengths[index] for index in self.indices)

    @overridable
    def fingerprint(self) -> str:
        """SHA-256 over the fingerprint of the dataset and the chosen indices."""
        text = f"{self.dataset.fingerprint} {self.indices}"
        return hashlib.sha256(text.encode()).hexdigest()

    def episode(self, index: int) -> Episode:
        if not 0 <= index < len(self.indices):
            raise BadInput(f"no episode {index} in this subset of {len(self.indices)}")
        episode = self.dataset.episode(self.indices[index])
        return cast("Episode", _RenumberedEpisode(index, episode))

    @property
    def facts(self) -> Mapping[str, Any]:
        facts, count = self.dataset.facts, len(self.dataset.lengths)
        episodes = facts.get("episodes")
        if not isinstance(episodes, list) or len(episodes) != count:
            return facts
        return {**facts, "episodes": [episodes[index] for index in self.indices]}


class _RenumberedEpisode:
    """An episode under its number in a Subset; all else is the episode's own."""

    def __init__(self, index: int, episode: Episode) -> None:
        self.index = index
        self._episode = episode

    def __getattr__(self, name: str) -> Any:
        return getattr(self._episode, name)


def split_validation(dataset: Dataset, val_episodes: int) -> tuple[Subset, Subset]:
    """Split a dataset into training and validation episodes: the last ones are for validation.

    Random ones would be worse for demonstrations from evenly spread starts: each leaves a hole
    around its start, where the policy then fails (docs/architecture.md). The neighbours of the
    last ones cover their starts. In a teleoperated session, the last ones are the latest.

    Raises:
        BadInput: no episode would be left for training.
    """
    count = len(dataset.lengths)
    if not 0 <= val_episodes < count:
        raise BadInput(
            f"{val_episodes} of {count} episodes were to be held out for validation; at least one "
            "must be left for training"
        )
    kept = count - val_episodes
    return Subset(dataset, range(kept)), Subset(dataset, range(kept, count))
