"""Marks: which episodes a recording on a robot marked, and at which ticks a person took over."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imitact.core import tick_columns as columns
from imitact.core.types import Dataset
from imitact.datasets.joined import Joined
from imitact.datasets.without_cameras import WithoutCameras


def marked_episodes(dataset: Dataset) -> dict[int, tuple[str, ...]]:
    """Return why episodes are marked, by their numbers: skipped ticks, holds, faults, notes.

    Only recordings of a robot by imitact have marks.
    """
    found: dict[int, tuple[str, ...]] = {}
    for index in range(len(dataset.lengths)):
        reasons = getattr(dataset.episode(index), "origin", {}).get("marked")
        if isinstance(reasons, list) and reasons:
            found[index] = tuple(map(str, reasons))
    return found


def intervention_ticks(dataset: Dataset, index: int) -> NDArray[np.bool_]:
    """Return the ticks of an episode, (T,), at which a person had taken over from a policy.

    An episode that a person led from its first tick to its last is a demonstration, and has none.
    """
    none = np.zeros(dataset.lengths[index], np.bool_)
    if isinstance(dataset, WithoutCameras):
        return intervention_ticks(dataset.dataset, index)
    if isinstance(dataset, Joined):
        return intervention_ticks(*dataset.place(index))
    if columns.ENGAGED not in dataset.extra_columns:
        return none
    engaged = dataset.episode(index).extra_values([columns.ENGAGED])[columns.ENGAGED].ravel() == 1
    return none if engaged.all() else engaged
