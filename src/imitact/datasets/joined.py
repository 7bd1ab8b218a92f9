"""Joined datasets: the episodes of several datasets with one Spec, as one dataset."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

from imitact.core.errors import BadInput
from imitact.core.types import UNKNOWN_UNIT, Dataset, Episode, Spec, overridable
from imitact.core.words import counted
from imitact.datasets.open import open_dataset
from imitact.datasets.read_config import ReadConfig
from imitact.datasets.subset import RenumberedEpisode


def open_datasets(
    paths: Sequence[Path | str], read: ReadConfig | None = None, weights: Sequence[int] = ()
) -> Dataset:
    """Open the datasets at one or several paths as one; `read` applies to each of them.

    Args:
        weights: how often an epoch of training draws each tick, for each dataset; none is 1 each.

    Raises:
        BadInput: a dataset cannot be read, is given twice, or the weights do not fit.
        SpecMismatch: joints, units, rate or cameras differ.
        DamagedFile: a file is missing, cut short or altered.
    """
    if not paths:
        raise BadInput("no dataset is given; give at least one")
    if weights and (len(weights) != len(paths) or len(paths) < 2 or min(weights) < 1):
        raise BadInput(
            f"--weights are {', '.join(map(str, weights))} for {counted(len(paths), 'dataset')}; "
            "give each of several datasets a whole number of at least 1, in their order"
        )
    places = [Path(path).resolve() for path in paths]
    if twice := [path for path, at in zip(paths, places, strict=True) if places.count(at) > 1]:
        raise BadInput(f"the dataset {twice[0]} is given twice; give it once, with --weights")
    opened = [open_dataset(path, read) for path in paths]
    if len(opened) == 1:
        return opened[0]
    return Joined(opened, [str(path) for path in paths], weights)


class Joined(Dataset):
    """Several datasets, one after the other.

    Args:
        datasets: at least one; each must have the joints, rate and cameras of the first.
        names: what each is called in errors and notices.
        weights: how often an epoch of training draws each tick, for each dataset; none is 1 each.
    """

    def __init__(
        self, datasets: Sequence[Dataset], names: Sequence[str], weights: Sequence[int] = ()
    ) -> None:
        first, *others = datasets
        for other, name in zip(others, names[1:], strict=True):
            first.spec.check_same(
                other.spec,
                f"the dataset {name}",
                names[0],
                all_cameras=True,
                advice="Only datasets of one robot, at one rate, can be joined. --read.cameras "
                "chooses and orders cameras, --read.every thins ticks",
            )
        self.datasets = tuple(datasets)
        self._starts = (0, *accumulate(len(dataset.lengths) for dataset in datasets))
        columns = {
            name: column
            for name, column in first.extra_columns.items()
            if all(other.extra_columns.get(name) == column for other in others)
        }
        left_out = {name: why for dataset in datasets for name, why in dataset.left_out.items()}
        for dataset in datasets:
            for name in dataset.extra_columns.keys() - columns.keys():
                left_out[name] = "it is not in all of the datasets"
        factors = weights or [1] * len(datasets)
        vars(self).update(
            weights=tuple(
                factor * weight
                for factor, dataset in zip(factors, datasets, strict=True)
                for weight in dataset.weights
            ),
            layout="+".join(dict.fromkeys(dataset.layout for dataset in datasets)),
            read_options=first.read_options,
            frames_in_video=all(dataset.frames_in_video for dataset in datasets),
            notices=tuple(
                f"{name}: {notice}"
                for name, dataset in zip(names, datasets, strict=True)
                for notice in dataset.notices
            ),
            unread_cameras=tuple(
                dict.fromkeys(name for dataset in datasets for name in dataset.unread_cameras)
            ),
            extra_columns=columns,
            left_out=left_out,
        )

    @overridable
    def spec(self) -> Spec:
        return _joined_spec([dataset.spec for dataset in self.datasets])

    @overridable
    def lengths(self) -> tuple[int, ...]:
        return tuple(length for dataset in self.datasets for length in dataset.lengths)

    @overridable
    def fingerprint(self) -> str:
        """SHA-256 over the fingerprints of the datasets and the weights, in order."""
        parts = " ".join(dataset.fingerprint for dataset in self.datasets)
        return hashlib.sha256(f"{parts} {self.weights}".encode()).hexdigest()

    def place(self, index: int) -> tuple[Dataset, int]:
        """Return the dataset of an episode, and its number there."""
        if not 0 <= index < len(self.lengths):
            raise BadInput(f"there is no episode {index}; there are {len(self.lengths)} in all")
        at = bisect_right(self._starts, index) - 1
        return self.datasets[at], index - self._starts[at]

    def episode(self, index: int) -> Episode:
        dataset, own = self.place(index)
        return cast("Episode", RenumberedEpisode(index, dataset.episode(own)))

    @property
    def facts(self) -> Mapping[str, Any]:
        """The recorded facts, where all datasets were recorded with the same settings."""
        first, *others = facts = [dataset.facts for dataset in self.datasets]
        if "settings" not in first or any(
            each.get("settings") != first["settings"] for each in others
        ):
            return {}
        lists = ("episodes", "failed")
        return {**first, **{key: [o for each in facts for o in each.get(key, [])] for key in lists}}


def _joined_spec(specs: Sequence[Spec]) -> Spec:
    """Return the first Spec, with the units that it does not know from those that do."""

    def known(units: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        each = zip(*units, strict=True)
        return tuple(next((u for u in us if u != UNKNOWN_UNIT), UNKNOWN_UNIT) for us in each)

    return replace(
        specs[0],
        state_units=known([spec.state_units for spec in specs]),
        action_units=known([spec.action_units for spec in specs]),
    )
