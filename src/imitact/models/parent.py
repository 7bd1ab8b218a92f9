"""Fit of a fine-tuning: whether settings and a dataset suit the policy that it begins with.

It needs no torch; `fine_tuning` has the weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from imitact.core.errors import BadInput, SpecMismatch
from imitact.core.types import Camera, Spec
from imitact.models.config import ActConfig

FREE_SETTINGS = frozenset(
    {
        *("chunk_size", "input_height", "input_width", "crop", "random_shift", "random_crop"),
        *("color_jitter", "state_noise", "dropout", "kl_weight", "l1_ticks"),
    }
)
"""Settings of the network that a fine-tuning may change; the others are the policy's."""


def network_changes(policy: ActConfig, model: ActConfig, *, has_cameras: bool) -> list[str]:
    """Return a line for each setting that differs from the policy's.

    A policy that `has_cameras` has its image backbone already, and loads no pretrained one.

    Raises:
        BadInput: a setting differs that its weights depend on.
    """
    free = FREE_SETTINGS | (set() if has_cameras else {"pretrained_backbone"})
    told, refused = [], []
    for field in fields(ActConfig):
        then, now = getattr(policy, field.name), getattr(model, field.name)
        if then != now:
            option = f"--model.{field.name.replace('_', '-')}"
            line = f"{option} is {_shown(now)}, the policy's {_shown(then)}"
            (told if field.name in free else refused).append(line)
    if refused:
        raise BadInput(
            f"{'; '.join(refused)}: a fine-tuning keeps the network of the policy. Leave the "
            "option out, or train without --from"
        )
    return told


def _shown(value: object) -> str:
    """Return a setting as it is typed; an empty text is shown as two quotation marks."""
    return str(value) or '""'


def spec_changes(policy: Spec, data: Spec, model: ActConfig) -> list[str]:
    """Return a line for each dimension and camera that is new, left out or of another size.

    Raises:
        SpecMismatch: units or rate differ, no state or no action has the name of one of the
            policy's, or a crop is in the pixels of another size.
    """
    lines = []
    for what, ours, theirs in (
        ("state", policy.state_names, data.state_names),
        ("action", policy.action_names, data.action_names),
    ):
        if theirs and ours and not set(ours) & set(theirs):
            raise SpecMismatch(
                f"the dataset does not fit the policy: no {what} of the dataset "
                f"({', '.join(theirs)}) is one of the policy's ({', '.join(ours)}). An imported "
                "policy has the names that `imitact import-policy` was given (--data DATA, "
                f"--{what}-names); those of a dataset are given by `imitact convert`"
            )
        how = "its weights start at 0" if what == "state" else "its weights start at random"
        lines += _new_and_left_out(what, ours, theirs, how)
    _shared(policy, data).check_same(
        _shared(data, policy),
        "the dataset",
        "the policy",
        parts=("state units", "action units", "rate"),
        advice="Every n-th tick of a dataset is read with --read.every",
    )
    ours, theirs = ({camera.name: camera for camera in spec.cameras} for spec in (policy, data))
    how = "it shares the image backbone" if ours else "the image backbone starts anew"
    lines += _new_and_left_out("camera", ours, theirs, how)
    for name in ours.keys() & theirs.keys():
        lines += _size_change(ours[name], theirs[name], model)
    return lines


def _new_and_left_out(what: str, ours: Iterable[str], theirs: Iterable[str], how: str) -> list[str]:
    ours, theirs = [*ours], [*theirs]
    new = [f"{what} {name} is new: {how}" for name in theirs if name not in ours]
    gone = [
        f"{what} {name} of the policy is left out: the dataset does not have it"
        for name in ours
        if name not in theirs
    ]
    return new + gone


def _size_change(ours: Camera, theirs: Camera, model: ActConfig) -> list[str]:
    if ours == theirs:
        return []
    if f"{ours.name}=" in model.crop:
        raise SpecMismatch(
            f"the dataset does not fit the policy: camera {theirs}, expected {ours}, in whose "
            f'pixels the crop is ("{model.crop}"). Give --model.crop for the new size'
        )
    return [f"camera {theirs} had {ours.height}x{ours.width} pixels in the policy"]


def _shared(spec: Spec, other: Spec) -> Spec:
    """Return the part of a Spec whose names the other has, too, in the policy's order of names."""

    def part(what: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        units = dict(
            zip(getattr(spec, f"{what}_names"), getattr(spec, f"{what}_units"), strict=True)
        )
        names = sorted(units.keys() & set(getattr(other, f"{what}_names")))
        return tuple(names), tuple(units[name] for name in names)

    (states, state_units), (actions, action_units) = part("state"), part("action")
    return Spec(states, actions, state_units, action_units, (), spec.rate_hz)
