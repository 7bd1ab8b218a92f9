"""Subsets: chosen episodes of a dataset, renumbered, and the split for validation."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from imitact.core.errors import BadInput
from imitact.core.types import Dataset, Episode, Spec, overridable
from imitact.core.words import counted


class DatasetView(Dataset):
    """A dataset with all properties of another, but for those that its class defines itself."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        own = vars(type(self))
        for name, value in vars(Dataset).items():
            if isinstance(value, overridable) and name not in own:
                setattr(self, name, getattr(dataset, name))

    @overridable
    def spec(self) -> Spec:
        return self.dataset.spec

    @overridable
    def lengths(self) -> tuple[int, ...]:
        return self.dataset.lengths


class Subset(DatasetView):
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
        super().__init__(dataset)
        self.indices = tuple(int(index) for index in indices)

    @overridable
    def lengths(self) -> tuple[int, ...]:
        lengths = self.dataset.lengths
        return tuple(lengths[index] for index in self.indices)

    @overridable
    def weights(self) -> tuple[int, ...]:
        weights = self.dataset.weights
        return tuple(weights[index] for index in self.indices)

    @overridable
    def fingerprint(self) -> str:
        """SHA-256 over the fingerprint of the dataset and the chosen indices."""
        text = f"{self.dataset.fingerprint} {self.indices}"
        return hashlib.sha256(text.encode()).hexdigest()

    def episode(self, index: int) -> Episode:
        if not 0 <= index < len(self.indices):
            raise BadInput(f"no episode {index} in this subset of {len(self.indices)}")
        episode = self.dataset.episode(self.indices[index])
        return cast("Episode", RenumberedEpisode(index, episode))

    @property
    def facts(self) -> Mapping[str, Any]:
        facts, count = self.dataset.facts, len(self.dataset.lengths)
        episodes = facts.get("episodes")
        if not isinstance(episodes, list) or len(episodes) != count:
            return facts
        return {**facts, "episodes": [episodes[index] for index in self.indices]}


class RenumberedEpisode:
    """An episode under another number; all else is the episode's own."""

    def __init__(self, index: int, episode: Episode) -> None:
        self.index = index
        self._episode = episode

    def __getattr__(self, name: str) -> Any:
        return getattr(self._episode, name)


def split_validation(
    dataset: Dataset, val_episodes: int, choice: str = "last", seed: int = 0
) -> tuple[Subset, Subset]:
    """Split a dataset into training and validation episodes.

    Random episodes are worse for training on demonstrations from evenly spread starts: each leaves
    a hole around its start, where the policy then fails (docs/architecture.md). The neighbours of
    the last ones cover their starts. In a teleoperated session, the last ones are the latest.

    Args:
        val_episodes: number of validation episodes; not used where `choice` lists them.
        choice: "last", "random" (drawn by `seed`), or the episodes themselves: "0:3,7".

    Returns:
        (training, validation), each in the order of the dataset.

    Raises:
        BadInput: no episode would be left for training, or the choice does not fit the dataset.
    """
    count = len(dataset.lengths)
    if choice not in ("last", "random"):
        validation = sorted(parse_episodes(choice, count, "--train.val-choice"))
        val_episodes = len(validation)
    elif choice == "random":
        generator = np.random.Generator(np.random.PCG64([seed, count]))
        validation = sorted(generator.permutation(count)[:val_episodes].tolist())
    else:
        validation = range(count)[max(count - val_episodes, 0) :]
    if not 0 <= val_episodes < count:
        raise BadInput(
            f"{val_episodes} of {counted(count, 'episode')} would be held out for validation; at "
            "least one must be left for training. --train.val-episodes 0 holds none out"
        )
    training = [index for index in range(count) if index not in set(validation)]
    return Subset(dataset, training), Subset(dataset, validation)


def parse_episodes(text: str, count: int, option: str) -> tuple[int, ...]:
    """Return the episode numbers in a text such as "0:10,15": numbers and Python slices.

    Args:
        count: number of episodes of the dataset.
        option: what the text was given as, for errors.

    Raises:
        BadInput: the text is not such a list, chooses nothing, an episode twice, or one that the
            dataset does not have.
    """
    chosen: list[int] = []
    for part in text.replace(" ", "").split(","):
        if not (found := re.fullmatch(r"(-?\d+)|(-?\d+)?:(-?\d+)?(?::0*([1-9]\d*))?", part)):
            raise BadInput(
                f'{option} is "{text}"; expected numbers of episodes and ranges, separated by '
                "commas: 0:10,15 is the first ten and the sixteenth"
            )
        if found[1]:
            index = int(found[1])
            if not -count <= index < count:
                raise BadInput(
                    f"{option} names episode {index}; the dataset has {count}, numbered from 0"
                )
            chosen.append(index % count)
        else:
            start, stop, step = (int(each) if each else None for each in found.groups()[1:])
            chosen += range(count)[start:stop:step]
    if not chosen:
        raise BadInput(f'{option} is "{text}", which chooses none of {counted(count, "episode")}')
    if twice := [index for index, times in Counter(chosen).items() if times > 1]:
        raise BadInput(f'{option} is "{text}", which names episode {twice[0]} twice')
    return tuple(chosen)
