"""ACT settings: `ActConfig`, its limits, its JSON form and the model presets; needs no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from imitact.core.camera_view import View
from imitact.core.errors import BadInput
from imitact.core.ranges import Range, check_ranges
from imitact.core.types import Spec

Norm = Literal["frozen", "batch", "group"]

GROUP_CHANNELS = 16
"""Channels per group of `backbone_norm="group"`, as in Diffusion Policy (Chi et al. 2023)."""

RANDOM = "none"
"""Value of `pretrained_backbone` that selects random initial weights explicitly."""

DOWNLOAD = "imagenet-download"
"""Value of `pretrained_backbone` that downloads torchvision's ImageNet weights."""


@dataclass(frozen=True)
class ActConfig:
    """Settings of the network. The defaults are those of the `released` preset, except `l1_ticks`.

    Raises `BadInput` for a value of the wrong type or out of range.
    """

    chunk_size: Annotated[int, Range(1, 10_000)] = 100
    """Actions predicted at once, K, in ticks. One to two seconds of movement is a good start."""
    input_height: Annotated[int, Range(0, 16_384)] = 0
    """Height of the network's input in pixels, for every camera; 0 keeps the captured height."""
    input_width: Annotated[int, Range(0, 16_384)] = 0
    """Width of the network's input in pixels, for every camera; 0 keeps the captured width."""
    crop: str = ""
    """Part of each frame that the network sees, in captured pixels: CAMERA=TOP:BOTTOM,LEFT:RIGHT
    (ends exclusive), separated by semicolons, as in top=165:405,180:500. Other cameras are kept
    whole."""
    # torch 2.13 on AVX2 writes beyond its memory in a 1x1 convolution of stride 2 with fewer than 8
    # input channels, channels last: heap corruption at 4 and 5.
    backbone_width: Annotated[int, Range(8, 4_096)] = 64
    """Channels of the ResNet's first stage (8 or more); each later stage doubles them. 64 is
    ResNet18, which pretrained weights need; 32 costs a quarter of it."""
    backbone_stages: Annotated[int, Range(1, 4)] = 4
    """Stages of the ResNet: 4 is ResNet18 (features at 1/32 of the frame); 3 stops at 1/16 and
    gives four times the image tokens."""
    backbone_norm: Norm = "frozen"
    """Normalization in the ResNet: `frozen` statistics of pretrained weights, as published; `batch`
    statistics, learned; `group` normalization, for very small batches."""
    pretrained_backbone: str = ""
    """Initial weights of the ResNet: a file with torchvision's ResNet18 ImageNet weights (.pth or
    .safetensors), `imagenet-download`, or `none` for random ones. Required for frozen norms."""
    hidden_dim: Annotated[int, Range(4, 65_536)] = 512
    """Width of every transformer token, D; a multiple of 4 and of `num_heads`."""
    num_heads: Annotated[int, Range(1, 4_096)] = 8
    """Attention heads, each of hidden_dim / num_heads channels."""
    dim_feedforward: Annotated[int, Range(1, 1_048_576)] = 3200
    """Hidden units of the feedforward network in every transformer layer."""
    encoder_layers: Annotated[int, Range(1, 1_000)] = 4
    """Transformer layers over the latent, state and image tokens."""
    decoder_layers: Annotated[int, Range(1, 1_000)] = 1
    """Transformer layers from the K queries to the actions. The released code builds 7 and returns
    the output of the first; 1 is exactly that function."""
    queries: Literal["learned", "sinusoidal"] = "learned"
    """Position embeddings of the K queries: `learned` as in the released code, or the fixed
    `sinusoidal` table of the paper."""
    head: Literal["linear", "mlp"] = "linear"
    """Output layer: `linear` as in the released code, or an `mlp` with one hidden layer of
    `hidden_dim` units (the paper names an MLP without its depth)."""
    positions: Literal["attention", "tokens"] = "attention"
    """Where position embeddings are added: to the queries and keys of every `attention`, as in the
    paper and the released code, or to the `tokens` as well."""
    actions: Literal["absolute", "delta"] = "absolute"
    """Prediction target: `absolute` actions, or their `delta` to the state measured at the tick of
    the observation. The policy takes and returns absolute actions either way."""
    l1_ticks: Literal["valid", "all"] = "valid"
    """Ticks that the L1 loss averages over: `valid` ones, or `all` K with padding counted as zero
    error (the released code), which gives the ends of episodes less weight."""
    use_vae: bool = True
    """Train with the CVAE encoder, whose latent z captures the style of a demonstration. Unused at
    inference; scripted data are learned as well without it, and faster."""
    vae_encoder_layers: Annotated[int, Range(1, 1_000)] = 4
    """Transformer layers of the CVAE encoder."""
    latent_dim: Annotated[int, Range(1, 65_536)] = 32
    """Dimensions of the latent z, Z."""
    kl_weight: Annotated[float, Range(0, 1_000_000)] = 10.0
    """Weight of the KL term relative to the normalized L1 loss (beta in the paper); larger values
    make z carry less information."""
    random_shift: Annotated[int, Range(0, 4_096)] = 0
    """Augmentation: largest random shift of each frame in input pixels, in both directions, with
    repeated borders; 0 disables it. About a twentieth of the input height suits small datasets."""
    shift_as_input: bool = False
    """Feed each frame's random shift to the network (0 at inference), so that a shifted frame
    still determines absolute positions."""
    random_crop: Annotated[float, Range(0, 1, below=True)] = 0.0
    """Augmentation: largest share of the input's height and width that is cropped away at random
    before resizing back, in [0, 1); 0 disables it. For cameras whose mounting varies."""
    color_jitter: Annotated[float, Range(0, 1, below=True)] = 0.0
    """Augmentation: largest relative change of brightness, contrast and saturation, in [0, 1); hue
    changes by up to a quarter of that, in turns. 0.2 is usual where light varies; 0 disables it."""
    state_noise: Annotated[float, Range(0, 1_000)] = 0.0
    """Augmentation: Gaussian noise on the state, in standard deviations of each dimension. Keeps
    the network from identifying a demonstration by its exact joint positions."""
    dropout: Annotated[float, Range(0, 1, below=True)] = 0.1
    """Dropout rate in every transformer layer, in [0, 1). 0 saves a sixth of a step on CPUs."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            _check_type(field.name, getattr(self, field.name), hints[field.name])
        check_ranges(self)
        _parse_crop(self.crop)
        if self.shift_as_input and not self.random_shift:
            raise BadInput(
                "shift_as_input is set and random_shift is 0: there is no shift to feed to the "
                "network; set random_shift"
            )
        if (self.input_height == 0) != (self.input_width == 0):
            raise BadInput(
                f"input_height is {self.input_height} and input_width {self.input_width} pixels; "
                "give both, or neither to keep the capture size"
            )
        if self.hidden_dim % 4 or self.hidden_dim % self.num_heads:
            raise BadInput(
                f"hidden_dim is {self.hidden_dim} and num_heads {self.num_heads}; hidden_dim must "
                "be a multiple of 4 (2-D positions are sines and cosines of two axes) and of "
                "num_heads"
            )
        check_group_norm(self.backbone_norm, self.backbone_width)

    def check_spec(self, spec: Spec) -> None:
        """Refuse a Spec whose cameras do not fit the crop, or delta actions without a state."""
        unmeasured = [n for n in spec.action_names if n not in spec.state_names]
        if self.actions == "delta" and unmeasured:
            raise BadInput(
                'actions "delta" are differences to the measured state of the same name, but '
                f"{', '.join(unmeasured)} are not measured (states: "
                f'{", ".join(spec.state_names)}); use actions "absolute"'
            )
        self.views(spec)

    def views(self, spec: Spec) -> dict[str, View]:
        """Return the crop and size that the network sees of each camera, by camera name.

        A crop that names an unknown camera or exceeds the captured frame is refused.
        """
        windows = _parse_crop(self.crop)
        views = {}
        for camera in spec.cameras:
            window = windows.pop(camera.name, None)
            top, bottom, left, right = window or (0, camera.height, 0, camera.width)
            if bottom > camera.height or right > camera.width:
                raise BadInput(
                    f'crop "{self.crop}" exceeds the {camera.height}x{camera.width} pixels that '
                    f'camera "{camera.name}" captures; give smaller ranges, or an empty crop for '
                    "whole frames"
                )
            height = self.input_height or bottom - top
            views[camera.name] = View(height, self.input_width or right - left, window)
        if windows:
            raise BadInput(
                f'crop "{self.crop}" names camera "{min(windows)}"; the cameras are '
                f"{', '.join(views) or 'none'}"
            )
        return views

    def to_json(self) -> dict[str, Any]:
        """Return the settings by their keys on disk (`MODEL_JSON_KEYS`)."""
        return {MODEL_JSON_KEYS.get(f.name, f.name): getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ActConfig:
        """Return the settings that `to_json` wrote; a missing key gives the field's default."""
        names = {MODEL_JSON_KEYS.get(f.name, f.name): f.name for f in fields(cls)}
        unknown = sorted(values.keys() - names.keys())
        if unknown:
            raise BadInput(f'unknown setting "{unknown[0]}"; known are {", ".join(names)}')
        return cls(**{names[key]: value for key, value in values.items()})


MODEL_JSON_KEYS: dict[str, str] = {
    "chunk_size": "chunk",
    "backbone_width": "width",
    "backbone_stages": "stages",
    "backbone_norm": "norm",
    "pretrained_backbone": "pretrained",
    "hidden_dim": "dim",
    "num_heads": "heads",
    "dim_feedforward": "ffn",
    "l1_ticks": "l1",
    "use_vae": "cvae",
    "vae_encoder_layers": "cvae_layers",
    "latent_dim": "latent",
    "random_shift": "shift",
    "shift_as_input": "shift_told",
}
"""Field name to key in files (policy.json, training.json, exports), where the two differ.
Files keep the keys of the first format, so that every version reads them and digests agree."""


_CROP = re.compile(r"([^=;]+)=(\d+):(\d+),(\d+):(\d+)")


def _parse_crop(crop: str) -> dict[str, tuple[int, int, int, int]]:
    """Return camera name to (top, bottom, left, right), as in `View.window`."""
    windows = {}
    for part in filter(None, (part.strip() for part in crop.split(";"))):
        found = _CROP.fullmatch(part)
        if not found:
            raise BadInput(
                f'crop "{part}" is not of the form CAMERA=TOP:BOTTOM,LEFT:RIGHT, as in '
                "top=165:405,180:500"
            )
        name, *numbers = found.groups()
        if name in windows:
            raise BadInput(f'crop names camera "{name}" twice; give it once')
        top, bottom, left, right = map(int, numbers)
        windows[name] = View(1, 1, (top, bottom, left, right)).window
    return windows


def _check_type(name: str, value: Any, hint: Any) -> None:
    shown = f'"{value}"' if isinstance(value, str) else value
    choices = get_args(hint)
    if choices:
        if value not in choices:
            raise BadInput(f"{name} is {shown}; it must be one of {', '.join(choices)}")
        return
    wanted = (int, float) if hint is float else hint
    if not isinstance(value, wanted) or (isinstance(value, bool) and hint is not bool):
        raise BadInput(f"{name} is {shown}; it must be of type {hint.__name__}")


def check_group_norm(norm: Norm, width: int) -> None:
    """Refuse a backbone width that group normalization cannot divide into groups."""
    if norm == "group" and width % GROUP_CHANNELS:
        raise BadInput(
            f'backbone_norm "group" has {GROUP_CHANNELS} channels per group, so backbone_width '
            f"must be a multiple of {GROUP_CHANNELS}; it is {width}"
        )


def check_pretrained(norm: Norm, pretrained: str) -> None:
    """Refuse initial backbone weights that cannot work, before a network is built.

    Frozen norms need a choice, since their untrained statistics would stay forever; ImageNet's
    weights were trained with batch norm, and so do not suit group norms.
    """
    if pretrained == "" and norm == "frozen":
        raise BadInput(
            'backbone_norm "frozen" keeps the statistics of pretrained weights, and none were '
            "given. Set pretrained_backbone to the path of torchvision's ResNet18 ImageNet weights "
            f'(.pth or .safetensors) or to "{DOWNLOAD}"; or train the norms (backbone_norm "batch" '
            f'or "group"); or choose random weights explicitly: pretrained_backbone "{RANDOM}"'
        )
    if pretrained in ("", RANDOM):
        return
    if norm == "group":
        raise BadInput(
            f'pretrained_backbone is "{pretrained}", but ResNet18\'s ImageNet weights were trained '
            'with batch norm; use backbone_norm "frozen" or "batch" with them, or no pretrained '
            "weights"
        )
    if pretrained != DOWNLOAD and not Path(pretrained).is_file():
        raise BadInput(
            f'pretrained_backbone is "{pretrained}": no such file. Give the path of torchvision\'s '
            f'ResNet18 weights, "{DOWNLOAD}" or "{RANDOM}"; a policy to begin with is --from POLICY'
        )


MODEL_PRESETS: dict[str, ActConfig] = {
    # The paper's text: every decoder layer used, fixed queries, an MLP as the head.
    "paper": ActConfig(
        input_height=480, input_width=640, decoder_layers=7, queries="sinusoidal", head="mlp"
    ),
    # What the released code computes: 51,613,582 parameters for 14 joints and K = 100.
    "released": ActConfig(l1_ticks="all"),
    # From scratch on two CPU cores.
    "quick": ActConfig(
        input_height=120,
        input_width=160,
        backbone_width=16,
        backbone_norm="batch",
        hidden_dim=128,
        num_heads=4,
        dim_feedforward=512,
        encoder_layers=2,
        positions="tokens",
        use_vae=False,
        random_shift=6,
        state_noise=0.3,
        dropout=0.0,
    ),
}
