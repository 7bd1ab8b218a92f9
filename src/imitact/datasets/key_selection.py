"""Key selection: the features or arrays that form state, action, environment state and cameras."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from imitact.core.errors import BadInput
from imitact.core.tick_columns import is_tick_column
from imitact.core.types import UNKNOWN_UNIT, Camera, Spec
from imitact.datasets.frame_arrays import FrameShape, frames_or_reason
from imitact.datasets.read_config import MAX_VECTOR_SIZE, ReadConfig

_ENVIRONMENT = re.compile(
    r"(^|[./])(env(ironment)?([-_].*)?|(objects?|goals?)([-_]?(states?|pos|poses?|positions?))?)$"
)
"""Names of features with the state of an environment: LeRobot's `observation.environment_state`,
robomimic's `object`."""

_NO_OBSERVATION = re.compile(
    r"(^|[._/])(actions?|rewards?|dones?|success|next|discount|terminated|truncated|is_first"
    r"|is_last|timestamps?|index$|episode_index|task_index)([._/]|$)"
)
"""Names of features that no policy gets to see."""


@dataclass(frozen=True)
class Keys:
    """Names of the selected features; those of `state` form the state, side by side, then those of
    `environment`."""

    state: tuple[str, ...]
    action: tuple[str, ...]
    cameras: tuple[str, ...]
    environment: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """The form that enters fingerprints, from when there was one action and no environment."""
        action = self.action[0] if len(self.action) == 1 else self.action
        values = {"state": self.state, "action": action, "cameras": self.cameras}
        if self.environment:
            values["environment"] = self.environment
        return f"Keys({', '.join(f'{name}={value!r}' for name, value in values.items())})"

    @property
    def vectors(self) -> tuple[str, ...]:
        return (*self.state, *self.environment, *self.action)

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.vectors, *self.cameras)

    def left_out(self, available: Iterable[str]) -> dict[str, str]:
        """Available arrays that are not selected, with the reason."""
        return dict.fromkeys(sorted({*available} - {*self.all}), "not selected")


@dataclass(frozen=True)
class AvailableKeys:
    """Features that can be selected.

    Attributes:
        vectors: features of numbers, with their values per tick.
        images: cameras, and how their frames are stored.
        actions: what can be the action; as `vectors`.
        unreadable: what looks like a camera and is none, with the reason.
        others: further features that cannot be selected, with the reason.
    """

    vectors: Mapping[str, int]
    images: Mapping[str, FrameShape]
    actions: Mapping[str, int]
    unreadable: Mapping[str, str] = field(default_factory=dict[str, str])
    others: Mapping[str, str] = field(default_factory=dict[str, str])

    def select(
        self,
        dataset: object,
        read: ReadConfig,
        default_action: tuple[str, ...],
        default_state: tuple[str, ...] = (),
    ) -> Keys:
        """Select the features that `read` names, else the defaults; errors list those there are."""
        state, action = read.state or default_state, read.action or default_action
        actions = _listed(self.actions)
        if not state or (not read.state and {*state} - self.vectors.keys()):
            lacking = f"has no {' or '.join(state)}" if state else "does not define its state"
            and_action = action_lacks = ""
            if not read.action and {*action} - self.actions.keys():
                action_lacks = f" and no {' or '.join(action)}" if state else ""
                and_action = ", and those of the action with --read.action"
            raise BadInput(
                f"{dataset} {lacking}{action_lacks}: name the observations that form the state, in "
                f"order, with --read.state{and_action}. Available, with values per tick: "
                f"{_listed(self.vectors)}{self._not_available()}"
            )
        self._check_vectors(dataset, "state", state)
        self._check_vectors(dataset, "environment", read.environment)
        if both := [key for key in read.environment if key in state]:
            raise BadInput(
                f"--read.state and --read.environment both name {', '.join(both)}; name it once"
            )
        if lacking := [key for key in action if key not in self.actions]:
            raise BadInput(
                f'{dataset} has no array "{lacking[0]}" for the action; give its name with '
                f"--read.action. Available, with values per tick: {actions}"
            )
        _check_once("action", action)
        for name in read.cameras:
            if name in self.unreadable:
                raise BadInput(f"{dataset}: {name} cannot be a camera: {self.unreadable[name]}")
        check_names(dataset, "camera", read.cameras, self.images, ", ".join(self.images) or "none")
        return Keys(state, action, read.cameras or tuple(self.images), read.environment)

    def _check_vectors(self, dataset: object, what: str, names: Sequence[str]) -> None:
        for name in names:
            if why := self.others.get(name) or self.unreadable.get(name):
                raise BadInput(f"{dataset}: {name} cannot be part of the {what}: {why}")
        what = "observation" if what == "state" else "environment state"
        check_names(dataset, what, names, self.vectors, _listed(self.vectors))

    def _not_available(self) -> str:
        """What else there is, for the error of somebody who looks for it."""
        return "".join(f"; {name}: {why}" for name, why in self.others.items())

    def spec(
        self,
        keys: Keys,
        rate_hz: float,
        names_of: Callable[[str, int], tuple[str, ...]] | None = None,
    ) -> Spec:
        """The Spec of selected features; equal names are numbered, and units are unknown.

        `names_of` gives the names of the values of a feature, by its name and size; without it
        each value is named by its array and its column.
        """
        names_of = names_of or value_names
        environment = sum(self.vectors[key] for key in keys.environment)
        observed = (*keys.state, *keys.environment)
        state = distinct(n for key in observed for n in names_of(key, self.vectors[key]))
        action = distinct(n for key in keys.action for n in names_of(key, self.actions[key]))
        return Spec(
            state_names=state,
            action_names=action,
            state_units=(UNKNOWN_UNIT,) * len(state),
            action_units=(UNKNOWN_UNIT,) * len(action),
            cameras=tuple(Camera(name, *self.images[name].size) for name in keys.cameras),
            rate_hz=rate_hz,
            environment_size=environment,
        )

    def notices(self, keys: Keys, read: ReadConfig, stored_so: Mapping[str, str]) -> list[str]:
        """Sentences about what a policy could need and is not read, and what was read as cameras.

        `stored_so` says how the frames of a camera are stored; "" where that is as usual.
        """
        found = [
            f"the camera {name} is read from {how}"
            for name, how in stored_so.items()
            if how and name in keys.cameras
        ]
        if not read.cameras:
            found += [f"{name} is left out: {why}" for name, why in self.unreadable.items()]
        for name, width in self.vectors.items():
            if name in keys.vectors or not could_be_observed(name):
                continue
            values = f"{width} value{'s' if width > 1 else ''} per tick"
            if is_environment(name):
                environment = " ".join([*keys.environment, name])
                found.append(
                    f"{name} ({values}) is left out: it looks like the state of the environment; "
                    f"--read.environment {environment} gives it to the policy"
                )
            elif not read.state:
                found.append(
                    f"{name} ({values}) is left out: it is not part of the state; --read.state "
                    f"{' '.join([*keys.state, name])} adds it"
                )
        if not read.state:
            named = [(name, why) for name, why in self.others.items() if could_be_observed(name)]
            found += [f"{name} is left out: {why}" for name, why in named]
        return found


def classify(
    arrays: Mapping[str, tuple[Sequence[int], str]],
    named: Callable[[str], bool] = lambda key: False,
) -> tuple[dict[str, int], dict[str, FrameShape], dict[str, str], dict[str, str]]:
    """Return `vectors`, `images`, `unreadable` and `others` of `AvailableKeys`.

    Args:
        arrays: shape, with the ticks first, and type of arrays of numbers.
        named: whether a name is that of a camera.
    """
    vectors: dict[str, int] = {}
    images: dict[str, FrameShape] = {}
    unreadable: dict[str, str] = {}
    others: dict[str, str] = {}
    for key, (shape, dtype) in arrays.items():
        if width := vector_width(shape):
            vectors[key] = width
            continue
        found = frames_or_reason(key, shape[1:], np.dtype(dtype), is_named=named(key))
        if isinstance(found, FrameShape):
            images[key] = found
        elif found is None:
            others[key] = f"it has shape {list(shape)}; imitact reads (ticks, values)"
        else:
            unreadable[key] = found
    return vectors, images, unreadable, others


def is_environment(name: str) -> bool:
    """Whether a feature looks like the state of the environment, by its name."""
    return _ENVIRONMENT.search(name.lower()) is not None


def could_be_observed(name: str) -> bool:
    """Whether a policy could observe a feature, by its name."""
    return not (is_tick_column(name) or _NO_OBSERVATION.search(name.lower()))


def distinct(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names, equal ones numbered from the second on: gripper, gripper_1."""
    given = list(names)
    taken, numbers = set(given), Counter[str]()
    found: list[str] = []
    for name in given:
        free = name
        while numbers[name] and free in taken:
            free = f"{name}_{numbers[name]}"
            numbers[name] += 1
        numbers[name] = numbers[name] or 1
        taken.add(free)
        found.append(free)
    return tuple(found)


def vector_width(shape: Sequence[int]) -> int:
    """Return the values per tick of an array of this shape, (T,) or (T, N); 0 for any other, such
    as a matrix, or (T, 1, N): an axis of one may be a history or a batch."""
    if len(shape) not in (1, 2):
        return 0
    width = shape[1] if len(shape) == 2 else 1
    return width if width <= MAX_VECTOR_SIZE else 0


def value_names(key: str, width: int) -> tuple[str, ...]:
    """Names of the values of a feature that has none: by the feature and the column."""
    return (key,) if width == 1 else numbered(key, width)


def numbered(stem: str, count: int) -> tuple[str, ...]:
    """Names of values that have none: "base_0", "base_1", ..."""
    return tuple(f"{stem}_{i}" for i in range(count))


def _listed(widths: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({width})" for name, width in widths.items()) or "none"


def check_names(
    dataset: object, what: str, given: Sequence[str], available: Collection[str], listed: str
) -> None:
    """Refuse names that are not available or given twice; `what` they name, in words."""
    for name in given:
        if name not in available:
            raise BadInput(f'{dataset} has no {what} "{name}"; available: {listed}')
    _check_once(what, given)


def _check_once(what: str, given: Sequence[str]) -> None:
    if len(set(given)) != len(given):
        raise BadInput(f"each {what} may be given once; given: {', '.join(given)}")
