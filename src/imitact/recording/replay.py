"""Replay: the actions of a recorded episode, tick by tick, for a robot that fits them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imitact.core import tick_columns as columns
from imitact.core.errors import BadInput
from imitact.core.types import Dataset, Spec
from imitact.core.words import counted

MAX_GROWTH = 10
"""Ticks of a replay for each row of its episode beyond which the column of skipped ticks is
wrong."""


def episode_actions(dataset: Dataset, index: int, spec: Spec, name: str) -> NDArray[np.float64]:
    """Return the actions of an episode, (T, A), one for each tick.

    A tick that was skipped while it was recorded has the action of the row before, which the robot
    went on to follow.

    Args:
        dataset: with the episode.
        index: its number.
        spec: of the robot that is to be commanded.
        name: of the dataset, for messages.

    Raises:
        BadInput: there is no such episode, an action is not finite, or its column of skipped ticks
            is wrong.
        SpecMismatch: the robot has other joints or units, or another rate; each is named.
    """
    count = len(dataset.lengths)
    if not 0 <= index < count:
        raise BadInput(f"episode is {index}; {name} has the episodes 0 to {count - 1}")
    dataset.spec.check_same(spec, "the robot", name, parts=("action names", "action units", "rate"))
    episode = dataset.episode(index)
    actions = np.array(episode.action, np.float64)
    finite = np.isfinite(actions).all(axis=1)
    if not len(actions) or not finite.all():
        what = (
            f"has no finite action at tick {int(np.argmin(finite))}" if len(actions) else "is empty"
        )
        raise BadInput(f"episode {index} of {name} {what}; replay another episode")
    if columns.SKIPPED not in dataset.extra_columns:
        return actions
    skipped = np.asarray(episode.extra_values([columns.SKIPPED])[columns.SKIPPED]).ravel()
    later = skipped[1:].astype(np.int64)
    if later.size and (later.min() < 0 or later.sum() > MAX_GROWTH * len(actions)):
        raise BadInput(
            f"episode {index} of {name} has {counted(later.sum(), 'skipped tick')} for "
            f"{counted(len(actions), 'row')} ({columns.SKIPPED}), which is wrong; replay another "
            "episode"
        )
    return np.repeat(actions, [*(1 + later), 1], axis=0)
