"""Key selection: the arrays that form state, action and cameras where the layout names none."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imitact.core.errors import BadInput
from imitact.core.types import Camera, Spec
from imitact.datasets.read_config import MAX_VECTOR_SIZE, ReadConfig

UNIT = "unknown"


@dataclass(frozen=True)
class Keys:
    """Names of the selected arrays; those of `state` form the state, side by side.

    Its repr enters fingerprints: do not rename it or a field.
    """

    state: tuple[str, ...]
    action: str
    cameras: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.state, self.action, *self.cameras)

    def left_out(self, available: Iterable[str]) -> dict[str, str]:
        """Available arrays that are not selected, with the reason."""
        return dict.fromkeys(sorted({*available} - {*self.all}), "not selected")


@dataclass(frozen=True)
class AvailableKeys:
    """Arrays that can be selected: observations and actions with their values per tick, and
    cameras (`images`) with their height and width."""

    vectors: Mapping[str, int]
    images: Mapping[str, tuple[int, int]]
    actions: Mapping[str, int]

    def select(self, dataset: Path, read: ReadConfig, default_action: str) -> Keys:
        """Select the arrays that `read` names; errors list those that are available."""
        observations = _listed(self.vectors)
        if not read.state:
            raise BadInput(
                f"{dataset} does not define which observations form the state; name them in "
                f"order with --read.state. Available, with values per tick: {observations}"
            )
        check_names(dataset, "observation", read.state, self.vectors, observations)
        check_names(dataset, "camera", read.cameras, self.images, ", ".join(self.images) or "none")
        action = read.action or default_action
        if action not in self.actions:
            raise BadInput(
                f'{dataset} has no array "{action}" for the action; give its name with '
                f"--read.action. Available, with values per tick: {_listed(self.actions)}"
            )
        return Keys(read.state, action, read.cameras or tuple(self.images))

    def spec(self, keys: Keys, rate_hz: float) -> Spec:
        """The Spec of selected arrays; each value is named by its array and its column."""
        state = tuple(name for key in keys.state for name in _value_names(key, self.vectors[key]))
        action = _value_names(keys.action, self.actions[keys.action])
        return Spec(
            state_names=state,
            action_names=action,
            state_units=(UNIT,) * len(state),
            action_units=(UNIT,) * len(action),
            cameras=tuple(Camera(name, *self.images[name]) for name in keys.cameras),
            rate_hz=rate_hz,
        )


def is_vector(shape: Sequence[int]) -> bool:
    """Whether an array of this shape, (T,) or (T, values), can be part of a state or action."""
    return len(shape) == 1 or (len(shape) == 2 and 1 <= shape[1] <= MAX_VECTOR_SIZE)


def has_image_shape(shape: Sequence[int]) -> bool:
    """Whether an array of this shape, (T, H, W, 3), can hold colour images."""
    return len(shape) == 4 and shape[3] == 3 and min(shape[1:3]) > 0


def _value_names(key: str, width: int) -> tuple[str, ...]:
    return (key,) if width == 1 else numbered(key, width)


def numbered(stem: str, count: int) -> tuple[str, ...]:
    """Names of values that have none: "base_0", "base_1", ..."""
    return tuple(f"{stem}_{i}" for i in range(count))


def _listed(widths: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({width})" for name, width in widths.items()) or "none"


def check_names(
    dataset: Path, what: str, given: Sequence[str], available: Collection[str], listed: str
) -> None:
    """Refuse names that are not available or given twice; `what` they name, in words."""
    for name in given:
        if name not in available:
            raise BadInput(f'{dataset} has no {what} "{name}"; available: {listed}')
    if len(set(given)) != len(given):
        raise BadInput(f"each {what} may be given once; given: {', '.join(given)}")
