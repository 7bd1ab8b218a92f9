"""Which arrays of a dataset make up the state, which are cameras: for layouts that name them and
do not say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imitact.core.errors import BadInput
from imitact.core.types import Camera, Spec
from imitact.datasets.read_config import ReadConfig

UNIT = "unknown"


@dataclass(frozen=True)
class Keys:
    """What is read: arrays side by side are the state, one is the action, some are cameras."""

    state: tuple[str, ...]
    action: str
    cameras: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.state, self.action, *self.cameras)


def choose(
    where: Path,
    read: ReadConfig,
    *,
    vectors: Mapping[str, int],
    images: Mapping[str, tuple[int, int]],
    actions: Mapping[str, int],
    usual_action: str,
) -> Keys:
    """The arrays that `read` asks for; the error lists those there are.

    vectors: observation to its values a tick.
    images:  camera to its height and width.
    actions: what may be the action, to its values a tick.
    """
    told = ", ".join(f"{name} ({width})" for name, width in vectors.items()) or "none"
    if not read.state:
        raise BadInput(
            f"{where} does not say which observations make up the state; name them in order with "
            f"--read.state. There are, with their values a tick: {told}"
        )
    _refuse_unknown(where, "observation", read.state, vectors, told)
    _refuse_unknown(where, "camera", read.cameras, images, ", ".join(images) or "none")
    action = read.action or usual_action
    listed = ", ".join(f"{name} ({width})" for name, width in actions.items()) or "none"
    if action not in actions:
        raise BadInput(
            f"{where} has no actions {action!r}; name them with --read.action. There are, with "
            f"their values a tick: {listed}"
        )
    return Keys(read.state, action, read.cameras or tuple(images))


def spec_of(
    keys: Keys,
    *,
    vectors: Mapping[str, int],
    images: Mapping[str, tuple[int, int]],
    actions: Mapping[str, int],
    rate_hz: float,
) -> Spec:
    """The Spec of what was chosen: a value is named after its array, with its place in it."""
    state = tuple(name for key in keys.state for name in _names(key, vectors[key]))
    action = _names(keys.action, actions[keys.action])
    return Spec(
        state_names=state,
        action_names=action,
        state_units=(UNIT,) * len(state),
        action_units=(UNIT,) * len(action),
        cameras=tuple(Camera(name, *images[name]) for name in keys.cameras),
        rate_hz=rate_hz,
    )


def _names(key: str, width: int) -> tuple[str, ...]:
    return (key,) if width == 1 else tuple(f"{key}_{i}" for i in range(width))


def _refuse_unknown(
    where: Path, what: str, asked: Sequence[str], there: Mapping[str, object], told: str
) -> None:
    for name in asked:
        if name not in there:
            raise BadInput(f"{where} has no {what} {name!r}; there are: {told}")
    if len(set(asked)) != len(asked):
        raise BadInput(f"{what}s are named twice: {list(asked)}")
