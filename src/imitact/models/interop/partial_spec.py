"""Partial Specs: what is known of an imported policy's Spec, completed with ALOHA's values.

No checkpoint of another program holds a complete Spec. Options or a dataset supply the rest, or it
is assumed to be ALOHA's; every assumption is reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from imitact.core.aloha_joints import ALOHA_BASE, ALOHA_JOINTS, ALOHA_RATE_HZ, ALOHA_UNITS
from imitact.core.errors import BadInput, SpecMismatch
from imitact.core.types import UNKNOWN_UNIT, Camera, Spec
from imitact.core.words import counted

ALOHA_CAMERA = Camera("top", 480, 640)
"""Camera of the released simulated tasks."""


@dataclass(frozen=True)
class PartialSpec:
    """A Spec of which any part may be unknown (None).

    Units are one per name, or one for all; cameras are in the order in which the network takes
    them.
    """

    state_names: tuple[str, ...] | None = None
    action_names: tuple[str, ...] | None = None
    state_units: tuple[str, ...] | None = None
    action_units: tuple[str, ...] | None = None
    cameras: tuple[Camera, ...] | None = None
    rate_hz: float | None = None
    environment_size: int | None = None

    @classmethod
    def from_spec(cls, spec: Spec) -> PartialSpec:
        return cls(**vars(spec))

    def or_else(self, other: PartialSpec) -> PartialSpec:
        """Return a copy in which `other` fills the unknown parts."""
        known = {name: value for name, value in vars(self).items() if value is not None}
        return replace(other, **known)

    def complete(
        self,
        state_size: int,
        action_size: int,
        cameras: Iterable[Camera],
        environment_size: int = 0,
    ) -> tuple[Spec, list[str]]:
        """Return a Spec of these sizes and a line for every part that was assumed.

        Known names or units that are more or fewer than the policy has are refused. The last
        `environment_size` states are the environment's.
        """
        if self.environment_size not in (None, environment_size):
            raise SpecMismatch(
                f"{counted(self.environment_size, 'state')} of the environment were given, the "
                f"policy has {environment_size} (--read.environment names them in a dataset)"
            )
        notes: list[str] = []
        parts: dict[str, Any] = {}
        for what, size in (("state", state_size), ("action", action_size)):
            names, units = getattr(self, f"{what}_names"), getattr(self, f"{what}_units")
            default_names, default_units = _defaults(what, size)
            if what == "state" and environment_size:
                own = _defaults(what, size - environment_size)
                rest = _defaults("environment_state", environment_size)
                default_names, default_units = own[0] + rest[0], own[1] + rest[1]
            if names is None:
                names = default_names
                notes.append(f"{what} names are not in the checkpoint; assumed: {_short(names)}")
            if units is None:
                is_default = names == default_names
                units = default_units if is_default else (UNKNOWN_UNIT,) * len(names)
                notes.append(f"{what} units are not in the checkpoint; assumed: {_short(units)}")
            elif len(units) == 1:
                units *= size
            for word, values in (("names", names), ("units", units)):
                if len(values) != size:
                    raise SpecMismatch(
                        f"{len(values)} {what} {word} were given, the policy has {size}: "
                        f"{', '.join(values)}"
                    )
            parts |= {f"{what}_names": names, f"{what}_units": units}
        rate_hz = self.rate_hz
        if rate_hz is None:
            rate_hz = ALOHA_RATE_HZ
            notes.append(f"the rate is not in the checkpoint; assumed: {rate_hz:g} Hz")
        return Spec(
            **parts,
            cameras=tuple(cameras),
            rate_hz=rate_hz,
            environment_size=environment_size,
        ), notes


def _defaults(what: str, size: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return ALOHA's names and units if the size is ALOHA's, else numbered names."""
    if size == len(ALOHA_JOINTS):
        return ALOHA_JOINTS, ALOHA_UNITS
    if size == len(ALOHA_JOINTS) + len(ALOHA_BASE):
        return ALOHA_JOINTS + tuple(ALOHA_BASE), ALOHA_UNITS + tuple(ALOHA_BASE.values())
    return tuple(f"{what}_{i}" for i in range(size)), (UNKNOWN_UNIT,) * size


def _short(words: Sequence[str]) -> str:
    kinds = list(dict.fromkeys(words))
    if len(kinds) < len(words):
        return " or ".join(kinds)
    return ", ".join(words if len(words) <= 4 else [*words[:2], "...", words[-1]])


_CAMERA = re.compile(r"([^=,\s]+)(?:=(\d{1,5})x(\d{1,5}))?")


def parse_cameras(text: str, default_size: tuple[int, int]) -> tuple[Camera, ...]:
    """Parse `top=480x640,wrist`; cameras without a size get the default height and width."""
    cameras = []
    for part in (part.strip() for part in text.split(",")):
        found = _CAMERA.fullmatch(part)
        if not found:
            raise BadInput(
                f'camera "{part}" is not of the form NAME or NAME=HEIGHTxWIDTH, as in '
                "top=480x640,wrist=240x320"
            )
        height, width = (int(found[2]), int(found[3])) if found[2] else default_size
        cameras.append(Camera(found[1], height, width))
    return tuple(cameras)
