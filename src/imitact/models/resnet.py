"""ResNet18 backbone: from a frame to a grid of features.

Parameter names are torchvision's (`conv1`, `bn1`, `layer1.0.conv1`, `layer2.0.downsample.0`, ...),
so its ImageNet weights load unchanged; torchvision itself is not needed.

Legend: B frames, C channels, H and W rows and columns.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imitact.core.errors import BadInput, DamagedFile
from imitact.core.words import counted
from imitact.models.config import (
    DOWNLOAD,
    GROUP_CHANNELS,
    RANDOM,
    Norm,
    check_group_norm,
    check_pretrained,
)
from imitact.models.convolution import convolve
from imitact.storage.lfs_pointer import refuse_lfs_pointer

IMAGENET_URL = "https://download.pytorch.org/models/resnet18-f37072fd.pth"
"""torchvision's ResNet18_Weights.IMAGENET1K_V1; the name ends with the start of its SHA-256."""


class FrozenNorm(nn.Module):
    """Batch normalization with constant statistics and affine map: all four are buffers.

    Computes x * scale + shift per channel, with scale = weight / sqrt(running_var + 1e-5) and
    shift = bias - running_mean * scale.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.empty(channels))
        self.reset()

    def reset(self) -> None:
        """Set to the identity."""
        self.weight.fill_(1.0)
        self.bias.zero_()
        self.running_mean.zero_()
        self.running_var.fill_(1.0)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return scale and shift, (C,) each."""
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.affine()
        return x * scale[:, None, None] + shift[:, None, None]


def convolve_and_norm(x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> Tensor:
    """Return norm(conv(x)), with a frozen norm folded into the convolution.

    Folding takes a pass over the weights instead of two over the output, and two more backward.
    """
    stride = conv.stride[0]
    if isinstance(norm, FrozenNorm):
        scale, shift = norm.affine()
        return convolve(x, conv.weight * scale[:, None, None, None], shift, stride)
    return norm(convolve(x, conv.weight, None, stride))


def _norm(kind: Norm, channels: int) -> nn.Module:
    if kind == "frozen":
        return FrozenNorm(channels)
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(channels // GROUP_CHANNELS, channels)


class Block(nn.Module):
    """Residual block of two 3x3 convolutions (He et al. 2016, figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = _norm(norm, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = _norm(norm, outputs)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, _norm(norm, outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.downsample is not None:
            conv, norm = self.downsample
            shortcut = convolve_and_norm(x, cast(nn.Conv2d, conv), norm)
        x = F.relu(convolve_and_norm(x, self.conv1, self.bn1), inplace=True)
        x = convolve_and_norm(x, self.conv2, self.bn2)
        return F.relu(x.add_(shortcut), inplace=True)


class Backbone(nn.Module):
    """ResNet18 without its classifier, shared by all cameras.

    `forward` maps normalized frames (B, 3, H, W) to features (B, channels, *grid(H, W)). The
    settings are those of `ActConfig.backbone_width`, `backbone_stages` and `backbone_norm`.
    """

    def __init__(self, *, width: int = 64, stages: int = 4, norm: Norm = "batch") -> None:
        super().__init__()
        if norm not in get_args(Norm):
            raise BadInput(f'norm is "{norm}"; it must be one of {", ".join(get_args(Norm))}')
        if width < 1 or stages not in (1, 2, 3, 4):
            raise BadInput(
                f"width {width} and stages {stages}: width must be at least 1, stages 1 to 4"
            )
        check_group_norm(norm, width)
        self.norm: Norm = norm
        self.width = width
        self.stages = stages
        self.channels = width * 2 ** (stages - 1)
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = _norm(norm, width)
        inputs = width
        for stage in range(1, stages + 1):
            outputs = width * 2 ** (stage - 1)
            stride = 1 if stage == 1 else 2
            blocks = nn.Sequential(
                Block(inputs, outputs, stride, norm), Block(outputs, outputs, 1, norm)
            )
            setattr(self, f"layer{stage}", blocks)
            inputs = outputs

    def initialize(self, generator: torch.Generator) -> None:
        """Initialize from `generator`: He's normal by fan-out for weights, identity for norms."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(
                    module.weight, mode="fan_out", nonlinearity="relu", generator=generator
                )
            elif isinstance(module, FrozenNorm):
                module.reset()
            elif isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
                module.reset_parameters()

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of features for a frame size: 480x640 gives 15x20."""
        for _ in range(1 + self.stages):
            height, width = math.ceil(height / 2), math.ceil(width / 2)
        return height, width

    def forward(self, x: Tensor) -> Tensor:
        # ReLU commutes with max pooling, and after it takes a quarter of the work.
        x = F.relu(F.max_pool2d(convolve_and_norm(x, self.conv1, self.bn1), 3, 2, 1), inplace=True)
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        return x


def load_pretrained(backbone: Backbone, pretrained: str) -> None:
    """Load pretrained weights into the backbone.

    `pretrained` is a path to torchvision's ResNet18 weights (`.safetensors`, or `.pth`/`.pt`, read
    with weights_only), "imagenet-download", "none" for random weights, or "" for no choice.

    Raises:
        BadInput: `check_pretrained` refuses the choice, or the shapes do not fit.
        DamagedFile: The file does not hold these weights.
    """
    check_pretrained(backbone.norm, pretrained)
    if pretrained in ("", RANDOM):
        return
    weights = _download() if pretrained == DOWNLOAD else _read(Path(pretrained))
    _fill(backbone, weights, where=pretrained)


def _download() -> dict[str, Tensor]:
    try:
        return torch.hub.load_state_dict_from_url(
            IMAGENET_URL, map_location="cpu", check_hash=True, progress=False, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        raise BadInput(
            f"could not download ImageNet weights from {IMAGENET_URL}: {error}. Download it on a "
            "machine with a network and give its path as pretrained_backbone"
        ) from error


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            import safetensors.torch

            return safetensors.torch.load_file(path)
        # weights_only: a .pth is a pickle, and a pickle may run anything.
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise various types on damaged bytes
        refuse_lfs_pointer(path)
        raise DamagedFile(f"{path} cannot be read as weights: {error}") from error
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise DamagedFile(f"{path} holds {type(weights).__name__}, expected tensors by name")
    return cast(dict[str, Tensor], weights)


def _fill(backbone: Backbone, weights: dict[str, Tensor], where: str) -> None:
    own = backbone.state_dict()
    # Frozen norms have no batch counters; the classifier and further stages are not used.
    optional = {name for name in own if name.endswith("num_batches_tracked")}
    missing = sorted(own.keys() - weights.keys() - optional)
    if missing:
        raise DamagedFile(
            f"{where}: {len(missing)} of {counted(len(own), 'weight')} are missing, the first is "
            f'"{missing[0]}"; expected the names of torchvision\'s ResNet18'
        )
    for name in own.keys() & weights.keys():
        if own[name].shape != weights[name].shape:
            raise BadInput(
                f'{where}: "{name}" has shape {tuple(weights[name].shape)}, this backbone (width '
                f"{backbone.width}) needs {tuple(own[name].shape)}; pretrained ResNet18 weights "
                "need backbone_width 64"
            )
    backbone.load_state_dict({**own, **{n: weights[n] for n in own.keys() & weights.keys()}})
