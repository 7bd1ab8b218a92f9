"""What state, actions and pixels are standardised with.

The network sees numbers around zero. imitact takes the mean and the standard deviation of the
training episodes; policies that other programs trained bring their own offsets and factors, and
give equal answers only with those.

Legend: S state, A action.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput, SpecMismatch
from imitact.core.statistics import Stats
from imitact.core.types import Spec
from imitact.models.config import ActConfig

STD_FLOOR = 1e-2
"""Least standard deviation that is divided by, in the unit of the dimension (tonyzhaozh/act,
utils.py): a joint that never moved in the demonstrations must not blow up when it trembles."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of RGB pixels / 255, as torchvision's weights expect."""

PLAIN_RTOL = 1e-6
"""Divisors this close (relative) count as equal: LeRobot adds 1e-8 to each, which is that much of
STD_FLOOR."""


@dataclass(frozen=True)
class Scaling:
    """Offsets and factors, in physical units; of pixels, RGB / 255.

    state_mean:  (S,) the network sees (x - state_mean) / state_std + state_shift.
    state_std:   (S,) above 0.
    state_shift: (S,) 0 where values are centred, -1 where their least is seen as -1. Beside the
                 mean, since a dimension that never moved may have a divisor of 1e-8, and a mean
                 that is off by its last digit is then off by 1.
    action_mean: (A,) an answer y of the network means y * action_std + action_mean.
    action_std:  (A,) 0 for an action that is always the same.
    pixel_mean:  camera name to 3 numbers; the network sees (pixel - pixel_mean) / pixel_std.
    pixel_std:   camera name to 3 numbers above 0.
    """

    state_mean: tuple[float, ...]
    state_std: tuple[float, ...]
    state_shift: tuple[float, ...]
    action_mean: tuple[float, ...]
    action_std: tuple[float, ...]
    pixel_mean: dict[str, tuple[float, float, float]]
    pixel_std: dict[str, tuple[float, float, float]]

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            for name, numbers in value.items() if isinstance(value, dict) else [("", value)]:
                where = f"scaling: {field.name}{f' of camera {name!r}' if name else ''}"
                if not np.all(np.isfinite(numbers)):
                    raise BadInput(f"{where} is not finite: {list(numbers)}")
                floor = 0.0 if field.name == "action_std" else np.nextafter(0, 1)
                if field.name.endswith("std") and np.any(np.asarray(numbers) < floor):
                    raise BadInput(f"{where} must be above 0; it is {list(numbers)}")

    @classmethod
    def plain(cls, spec: Spec, stats: Mapping[str, Stats], config: ActConfig) -> Scaling:
        """imitact's own: (x - mean) / max(std, STD_FLOOR), and pixels as ImageNet's."""
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
        """Refuse other sizes or cameras than the Spec's."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, dict):
                names = [c.name for c in spec.cameras]
                if sorted(value) != sorted(names):
                    raise SpecMismatch(
                        f"scaling: {field.name} is of cameras {sorted(value)}, the Spec has {names}"
                    )
                continue
            size = spec.state_size if field.name.startswith("state") else spec.action_size
            if len(value) != size:
                raise SpecMismatch(
                    f"scaling: {field.name} has {len(value)} dimensions, the Spec {size}"
                )

    def is_close(self, other: Scaling) -> bool:
        """Whether the network sees and says the same with both, but for PLAIN_RTOL."""
        if set(self.pixel_mean) != set(other.pixel_mean):
            return False
        for field in fields(self):
            a, b = getattr(self, field.name), getattr(other, field.name)
            pairs = [(a[n], b[n]) for n in a] if isinstance(a, dict) else [(a, b)]
            for x, y in pairs:
                if len(x) != len(y) or not np.allclose(x, y, rtol=PLAIN_RTOL, atol=0):
                    return False
        return True


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
