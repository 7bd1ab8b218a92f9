"""Weight conversion between imitact and the released ACT or LeRobot: names, types and limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def float32_weights(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return dense float tensors of any width as float32; refuse all others."""
    found = {}
    for name, value in tensors.items():
        if not value.is_floating_point() or value.layout != torch.strided or value.is_quantized:
            raise DamagedFile(f'{where}: "{name}" is {value.dtype}; weights are floats')
        found[name] = value.to(torch.float32).contiguous()
    return found


def check_position_table(value: Tensor, config: ActConfig, where: str) -> None:
    """Refuse a stored position table of the CVAE encoder that differs from the computed one."""
    rows, columns = 2 + config.chunk_size, config.hidden_dim
    if value.numel() != rows * columns or not value.is_floating_point():
        raise DamagedFile(f"{where} has shape {tuple(value.shape)}, expected {rows}x{columns}")
    expected = sine_table(rows, columns)
    if not torch.allclose(value.float().view_as(expected), expected, atol=1e-4):
        raise DamagedFile(f"{where} differs from ACT's position table; it cannot be imported")


def export_weights(policy: TorchPolicy) -> tuple[dict[str, Tensor], list[str]]:
    """Return a policy's weights for a network with frozen norms and learned queries, and notes."""
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


def check_expressible(policy: TorchPolicy, program: str) -> None:
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
