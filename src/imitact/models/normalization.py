"""Normalization constants of state, actions and pixels.

imitact normalizes with mean and standard deviation of the training episodes. Policies that other
programs trained have other offsets and factors, and give equal actions only with those.

Legend: S state, A action.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput, SpecMismatch
from imitact.core.feature_statistics import Stats
from imitact.core.types import Spec
from imitact.core.words import counted
from imitact.models.config import ActConfig

STD_FLOOR = 1e-2
"""Smallest divisor, in the unit of the dimension (tonyzhaozh/act, utils.py): a joint that never
moved in the demonstrations must not yield huge values when it trembles."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Statistics of RGB pixels / 255 that torchvision's weights expect."""

PLAIN_RTOL = 1e-6
"""Relative tolerance of equal divisors: LeRobot adds 1e-8 to each, which is this share of
STD_FLOOR."""


@dataclass(frozen=True)
class Scaling:
    """Offsets and factors, in physical units; for pixels, of RGB / 255.

    Attributes:
        state_mean: (S,); the network's input is (x - state_mean) / state_std + state_shift.
        state_std: (S,), above 0.
        state_shift: (S,); 0 for centered values, -1 if the minimum is mapped to -1. Separate from
            the mean, since a constant dimension may have a divisor of 1e-8, where rounding of the
            mean would matter.
        action_mean: (A,); an output y of the network means y * action_std + action_mean.
        action_std: (A,); 0 for a constant action.
        pixel_mean: Camera name to 3 numbers; the input is (pixel - pixel_mean) / pixel_std.
        pixel_std: Camera name to 3 numbers above 0.
    """

    state_mean: tuple[float, ...]
    state_std: tuple[float, ...]
    state_shift: tuple[float, ...]
    action_mean: tuple[float, ...]
    action_std: tuple[float, ...]
    pixel_mean: dict[str, tuple[float, float, float]]
    pixel_std: dict[str, tuple[float, float, float]]

    def __post_init__(self) -> None:
        for (field, camera), numbers in self._rows().items():
            where = f"scaling: {field}" + (f' of camera "{camera}"' if camera else "")
            shown = ", ".join(f"{number:g}" for number in numbers)
            if not np.all(np.isfinite(numbers)):
                raise BadInput(f"{where} is not finite: {shown}")
            floor = 0.0 if field == "action_std" else np.nextafter(0, 1)
            if field.endswith("std") and np.any(np.asarray(numbers) < floor):
                raise BadInput(f"{where} must be above 0; it is {shown}")

    def _rows(self) -> dict[tuple[str, str], tuple[float, ...]]:
        """Return all numbers by field and camera ("" for state and action)."""
        rows = {}
        for name, value in vars(self).items():
            for camera, row in value.items() if isinstance(value, dict) else [("", value)]:
                rows[name, camera] = row
        return rows

    @classmethod
    def plain(cls, spec: Spec, stats: Mapping[str, Stats], config: ActConfig) -> Scaling:
        """Return imitact's own: (x - mean) / max(std, STD_FLOOR), and ImageNet's for pixels."""
        state, action = stats["state"], stats["action" if config.actions == "absolute" else "delta"]
        names = [c.name for c in spec.cameras]
        return cls(
            state_mean=_numbers(state.mean),
            state_std=_numbers(np.maximum(state.std, STD_FLOOR)),
            state_shift=(0.0,) * state.size,
            action_mean=_numbers(action.mean),
            action_std=_numbers(np.maximum(action.std, STD_FLOOR)),
            pixel_mean=dict.fromkeys(names, IMAGENET_MEAN),
            pixel_std=dict.fromkeys(names, IMAGENET_STD),
        )

    def check(self, spec: Spec) -> None:
        """Refuse sizes or cameras other than the Spec's."""
        names = [c.name for c in spec.cameras]
        for name, value in vars(self).items():
            size = spec.state_size if name.startswith("state") else spec.action_size
            if isinstance(value, dict):
                if sorted(value) != sorted(names):
                    raise SpecMismatch(
                        f"scaling: {name} has cameras {', '.join(sorted(value)) or 'none'}, "
                        f"the Spec {', '.join(names) or 'none'}"
                    )
            elif len(value) != size:
                raise SpecMismatch(
                    f"scaling: {name} has {counted(len(value), 'dimension')}, the Spec {size}"
                )

    def is_close(self, other: Scaling) -> bool:
        """Whether both give the same inputs and actions, within PLAIN_RTOL."""
        a, b = self._rows(), other._rows()
        return a.keys() == b.keys() and all(
            len(a[n]) == len(b[n]) and np.allclose(a[n], b[n], rtol=PLAIN_RTOL, atol=0) for n in a
        )


def check_stats(spec: Spec, stats: Mapping[str, Stats], config: ActConfig) -> None:
    """Refuse missing statistics, or statistics of other sizes than the Spec's."""
    sizes = {"state": spec.state_size, "action": spec.action_size}
    if config.actions == "delta":
        sizes["delta"] = spec.action_size
    for name, size in sizes.items():
        if name not in stats:
            raise BadInput(
                f'no statistics of "{name}"; given: {", ".join(sorted(stats)) or "none"}'
            )
        if stats[name].size != size:
            raise SpecMismatch(
                f'statistics of "{name}" have {stats[name].size} dimensions, the Spec {size}'
            )


def _numbers(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(values.tolist())
