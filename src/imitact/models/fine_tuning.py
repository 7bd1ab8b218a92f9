"""Fine-tuning: a policy for a dataset that begins with the weights of another policy.

Dimensions go by name: a state or an action that both have keeps its weights, wherever it stands.
What normalizes states and actions is linear, and so are the layers next to it. With other
statistics those layers are rescaled, and the policy answers as before, in physical units.

Legend: S state, A action, D width of the transformer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from imitact.core.feature_statistics import Stats
from imitact.core.joint_limits import JointLimits
from imitact.core.types import Spec
from imitact.models.config import ActConfig
from imitact.models.normalization import Scaling
from imitact.models.policy import TorchPolicy
from imitact.models.policy_folder import PolicyRecord
from imitact.models.resnet import load_pretrained

StatisticsSource = Literal["policy", "data"]


@dataclass(frozen=True)
class Parent:
    """The policy that a fine-tuning begins with.

    Attributes:
        policy: with its weights.
        path: as it was given.
        identity: what distinguishes it from other policies.
        statistics: "policy" keeps its statistics and normalization, completed by the dataset's for
            new dimensions; "data" takes the dataset's for all.
    """

    policy: TorchPolicy
    path: str
    identity: str
    statistics: StatisticsSource = "policy"


def fine_tuned(
    parent: Parent,
    spec: Spec,
    stats: Mapping[str, Stats],
    config: ActConfig,
    *,
    seed: int,
    fingerprint: str,
    recorded_in: Mapping[str, object] | None = None,
    limits: JointLimits | None = None,
) -> TorchPolicy:
    """Return a policy for the Spec of a dataset, with the weights of the parent.

    `models.parent` says which Specs and settings fit. Weights that the parent does not have are
    those of a new policy of this seed, but for inputs that are new: their weights are 0, so that
    they change nothing at first.

    Args:
        spec, stats: of the dataset.
    """
    old, statistics = parent.policy, parent.statistics
    scaling = _scaling(old, spec, stats, config, statistics)
    if statistics == "policy":
        names = {"state": (old.spec.state_names, spec.state_names)}
        names |= dict.fromkeys(("action", "delta"), (old.spec.action_names, spec.action_names))
        stats = {
            n: _merged_stats(old.stats[n], s, *names[n]) for n, s in stats.items() if n in names
        }
    if scaling == Scaling.plain(spec, stats, config):
        scaling = None
    record = PolicyRecord(
        spec,
        stats,
        config,
        fingerprint,
        scaling=scaling,
        recorded_in=recorded_in or {},
        parent=parent.identity,
        limits=limits,
    )
    new = TorchPolicy.initialized(record, seed)
    if spec.cameras and not old.spec.cameras:
        load_pretrained(new.net.backbone, config.pretrained_backbone)
    _copy_weights(old, new)
    return new


def _scaling(
    old: TorchPolicy,
    spec: Spec,
    stats: Mapping[str, Stats],
    config: ActConfig,
    statistics: StatisticsSource,
) -> Scaling:
    """Return the normalization of a fine-tuned policy; pixels are always the parent's.

    A camera that is new shares the backbone, and so the pixels of the parent's first camera.
    """
    plain = vars(Scaling.plain(spec, stats, config))
    kept = vars(old.scaling or Scaling.plain(old.spec, old.stats, old.config))
    parts = {}
    for name, rows in plain.items():
        if isinstance(rows, dict):
            first = next(iter(kept[name].values()), None)
            parts[name] = {c: kept[name].get(c, first or row) for c, row in rows.items()}
        elif statistics == "policy":
            what = name.partition("_")[0]
            names = (getattr(each, f"{what}_names") for each in (old.spec, spec))
            parts[name] = _merged(kept[name], rows, *names)
        else:
            parts[name] = rows
    return Scaling(**parts)


def _merged(
    old: Sequence[float], new: Sequence[float], old_names: Sequence[str], names: Sequence[str]
) -> tuple[float, ...]:
    """Return a number for each name: the old one where there is one."""
    known = dict(zip(old_names, old, strict=True))
    return tuple(known.get(name, value) for name, value in zip(names, new, strict=True))


def _merged_stats(old: Stats, new: Stats, old_names: Sequence[str], names: Sequence[str]) -> Stats:
    rows = {
        field.name: np.array(
            _merged(getattr(old, field.name), getattr(new, field.name), old_names, names)
        )
        for field in fields(Stats)
        if field.name != "count"
    }
    return Stats(**rows, count=old.count)


# -- weights ---------------------------------------------------------------------------------------


def _copy_weights(old: TorchPolicy, new: TorchPolicy) -> None:
    """Copy the parent's weights, by the names of their dimensions."""
    weights = {name: tensor.double() for name, tensor in old.net.state_dict().items()}
    _rescale(weights, old, new)
    labels_then, labels_now = _labels(old), _labels(new)
    with torch.no_grad():
        for name, tensor in new.net.state_dict().items():
            if name not in weights:
                continue
            source = weights[name].to(tensor.dtype)
            if name not in labels_now:
                tensor.copy_(source)
                continue
            axis, now = labels_now[name]
            then = labels_then[name][1]
            if axis == 1:  # inputs
                tensor.zero_()
            shared = [label for label in now if label in then]
            here, there = (
                torch.tensor([labels.index(label) for label in shared], dtype=torch.long)
                for labels in (now, then)
            )
            tensor.index_copy_(axis, here, source.index_select(axis, there))


def _labels(policy: TorchPolicy) -> dict[str, tuple[int, list[str]]]:
    """Return the weights that have dimensions with names: the axis, and the names in order."""
    spec, net = policy.spec, policy.net
    joints = spec.state_size - spec.environment_size
    states, actions = [*spec.state_names], [*spec.action_names]
    head = _head(policy)
    tokens = ["latent"]
    tokens += ["state"] if hasattr(net, "state_proj") else []
    tokens += ["environment"] if hasattr(net, "environment_proj") else []
    return {
        "state_proj.weight": (1, states[:joints]),
        "environment_proj.weight": (1, states[joints:]),
        "cvae.state_proj.weight": (1, states[:joints]),
        "cvae.action_proj.weight": (1, actions),
        f"{head}.weight": (0, actions),
        f"{head}.bias": (0, actions),
        "token_pos": (0, tokens),
        "queries": (0, [f"tick {tick}" for tick in range(policy.config.chunk_size)]),
    }


def _head(policy: TorchPolicy) -> str:
    """Return the name of the output layer."""
    return "head" if policy.config.head == "linear" else "head.2"


def _rescale(weights: dict[str, Tensor], old: TorchPolicy, new: TorchPolicy) -> None:
    """Rescale the parent's first and last layers for the new normalization, in float64.

    An input x was (x - m0) / s0 + h0 and is y = (x - m1) / s1 + h1, so that the old one is
    y * gain + offset. An output y meant y * s0 + m0 and means y * s1 + m1. Dimensions that the
    dataset does not have keep theirs.
    """
    joints = old.spec.state_size - old.spec.environment_size
    gain, offset = _input_change(old, new, "state")
    for layer, part in (
        ("state_proj", slice(0, joints)),
        ("environment_proj", slice(joints, None)),
        ("cvae.state_proj", slice(0, joints)),
    ):
        _rescale_input(weights, layer, gain[part], offset[part])
    _rescale_input(weights, "cvae.action_proj", *_input_change(old, new, "action"))
    m0, s0, m1, s1 = (
        _constant(policy, old, "action", part) for policy in (old, new) for part in ("mean", "std")
    )
    head, same = _head(old), (m0 == m1) & (s0 == s1)
    ratio = torch.where(same, 1.0, s0 / s1)
    weights[f"{head}.weight"] *= ratio[:, None]
    bias = weights[f"{head}.bias"]
    weights[f"{head}.bias"] = torch.where(same, bias, bias * ratio + (m0 - m1) / s1)


def _input_change(old: TorchPolicy, new: TorchPolicy, what: str) -> tuple[Tensor, Tensor]:
    """Return gain and offset of each input of the parent, (S,) or (A,)."""
    divisor = "std" if what == "state" else "divisor"
    m0, s0, m1, s1 = (
        _constant(policy, old, what, part) for policy in (old, new) for part in ("mean", divisor)
    )
    shift = [_constant(policy, old, what, "shift") for policy in (old, new)]
    gain = s1 / s0
    return gain, (m1 - m0) / s0 + shift[0] - shift[1] * gain


def _constant(policy: TorchPolicy, old: TorchPolicy, what: str, part: str) -> Tensor:
    """Return a constant for each dimension of `old`, its own where `policy` has no such one."""
    names = getattr(old.spec, f"{what}_names")
    own = _by_name(old, what, part)
    return torch.tensor([{**own, **_by_name(policy, what, part)}[n] for n in names]).double()


def _by_name(policy: TorchPolicy, what: str, part: str) -> dict[str, float]:
    names = getattr(policy.spec, f"{what}_names")
    values = policy.constants.get(f"{what}_{part}", torch.zeros(len(names)))
    return dict(zip(names, values.double().tolist(), strict=True))


def _rescale_input(weights: dict[str, Tensor], layer: str, gain: Tensor, offset: Tensor) -> None:
    if f"{layer}.weight" in weights:
        weights[f"{layer}.bias"] += weights[f"{layer}.weight"] @ offset
        weights[f"{layer}.weight"] *= gain
