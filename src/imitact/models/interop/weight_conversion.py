"""Weight conversion between imitact and the released ACT or LeRobot: names, types and limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imitact.core.errors import BadInput, DamagedFile
from imitact.models.config import ActConfig
from imitact.models.policy import TorchPolicy
from imitact.models.resnet import FrozenNorm
from imitact.models.transformer import sine_table


def renamed(name: str, prefixes: Sequence[tuple[str, str]]) -> str:
    """Return the name with the first matching prefix of the pairs replaced by its partner."""
    for old, new in prefixes:
        if name.startswith(old):
            return new + name[len(old) :]
    return name


def to_imitact_names(
    tensors: Iterable[tuple[str, Tensor]],
    names: Sequence[tuple[str, str]],
    position_table: str,
    config: ActConfig,
    file: Path,
    has_joints: bool = True,
) -> dict[str, Tensor]:
    """Return the weights of another program by imitact's names, in float32.

    `tensors` are by that program's names without "model."; `names` are prefixes, that program's and
    imitact's. Its `position_table` must equal imitact's and is left out. Errors name `file`.
    `has_joints` is whether there are states other than the environment's.
    """
    found: dict[str, Tensor] = {}
    for name, value in tensors:
        where = f'{file}: "{name}"'
        if name == position_table:
            _check_position_table(value, config, has_joints, where)
            continue
        if not value.is_floating_point() or value.layout != torch.strided or value.is_quantized:
            raise DamagedFile(f"{where} is {value.dtype}; weights are floats")
        ours = renamed(name, names)
        if ours in found:
            raise DamagedFile(f'{file}: "{ours}" is there twice')
        is_pointwise = ours == "image_proj.weight" and value.shape[2:] == (1, 1)
        found[ours] = (value.flatten(1) if is_pointwise else value).float().contiguous()
    return found


def to_other_names(
    weights: Mapping[str, Tensor], names: Sequence[tuple[str, str]]
) -> dict[str, Tensor]:
    """Return imitact's weights by another program's names after "model."; copies."""
    # "cvae.encoder." before "encoder.": of prefixes that begin alike, the longest applies.
    prefixes = sorted(((ours, theirs) for theirs, ours in names), key=lambda pair: -len(pair[0]))
    found = {}
    for name, value in weights.items():
        theirs = value[:, :, None, None] if name == "image_proj.weight" else value
        found[f"model.{renamed(name, prefixes)}"] = theirs.contiguous().clone()
    return found


def position_table(config: ActConfig, has_joints: bool = True) -> Tensor:
    """Return the position table of the CVAE encoder, (2 + K, D); (1 + K, D) without joints."""
    return sine_table(1 + has_joints + config.chunk_size, config.hidden_dim)


def _check_position_table(value: Tensor, config: ActConfig, has_joints: bool, where: str) -> None:
    """Refuse a stored position table of the CVAE encoder that differs from the computed one."""
    expected = position_table(config, has_joints)
    if value.numel() != expected.numel() or not value.is_floating_point():
        rows, columns = expected.shape
        raise DamagedFile(f"{where} has shape {tuple(value.shape)}, expected {rows}x{columns}")
    if not torch.allclose(value.float().view_as(expected), expected, atol=1e-4):
        raise DamagedFile(f"{where} differs from ACT's position table; it cannot be imported")


def export_weights(policy: TorchPolicy, program: str) -> tuple[dict[str, Tensor], list[str]]:
    """Return a policy's weights for a network with frozen norms and learned queries, and notes."""
    _check_expressible(policy, program)
    config = policy.config
    weights = {
        name: value.detach().cpu()
        for name, value in policy.net.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    notes = []
    if policy.spec.cameras and not isinstance(policy.net.backbone.bn1, FrozenNorm):
        notes.append(
            "batch norms become frozen norms: predictions are equal, but training there keeps "
            "their statistics"
        )
    if config.queries == "sinusoidal":
        weights["queries"] = sine_table(config.chunk_size, config.hidden_dim)
        notes.append("the fixed query positions become learned ones with the same values")
    return weights, notes


def _check_expressible(policy: TorchPolicy, program: str) -> None:
    """Refuse settings that neither the released ACT nor LeRobot's ACT can express."""
    expressible: dict[str, tuple[tuple[Any, ...], str]] = {
        "head": (("linear",), "its head is linear"),
        "positions": (("attention",), "it adds positions in the attention only"),
        "actions": (("absolute",), "it predicts absolute actions"),
    }
    if policy.spec.cameras:
        expressible |= {
            "backbone_norm": (("frozen", "batch"), "its ResNet has batch norms"),
            "backbone_width": ((64,), "its ResNet18 has 64 channels"),
            "backbone_stages": ((4,), "its ResNet18 has 4 stages"),
            "crop": (("",), "it sees whole frames"),
        }
    for name, (values, why) in expressible.items():
        if (found := getattr(policy.config, name)) not in values:
            raise BadInput(
                f'{program} cannot express {name} "{found}": {why}. Policies of the preset '
                '"released" can be exported; all other settings run inside LeRobot with '
                "lerobot_policy_imitact (docs/policies.md)"
            )
