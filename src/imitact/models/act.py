"""ACT as a network: normalised tensors in, a chunk of normalised actions and the loss out.

Source: Zhao et al. 2023 (arXiv:2304.13705) and its released code (tonyzhaozh/act).

Legend: B batch, K chunk, S state, A action, N cameras, D width of the transformer, Z latent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, get_args, get_type_hints

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imitact.core.errors import BadInput
from imitact.core.types import Spec
from imitact.core.views import View
from imitact.models.batch_shard import WHOLE, BatchShard
from imitact.models.resnet import GROUP_CHANNELS, Backbone, Norm
from imitact.models.transformer import (
    Decoder,
    Encoder,
    initialise,
    initialise_linear,
    sine_grid,
    sine_table,
)


@dataclass(frozen=True)
class ActConfig:
    """What the network is made of. The defaults are the `released` preset's, but for `l1`."""

    chunk: int = 100
    """Ticks of action predicted at once, K. About one to two seconds of movement: at 1 the
    paper's success falls from 44 % to 1 %."""
    input_height: int = 0
    """Rows of pixels that the network sees, for every camera; 0 keeps the captured ones."""
    input_width: int = 0
    """Columns of pixels that the network sees, for every camera; 0 keeps the captured ones."""
    crop: str = ""
    """The part of a camera's frame that the network sees, in captured pixels, as
    CAMERA=ROW:ROW,COLUMN:COLUMN, each range first:last+1, several separated by semicolons:
    top=165:405,180:500. Cameras not named are seen whole. Where the work happens in half of the
    picture, everything there has twice as many pixels at the same cost."""
    width: int = 64
    """Channels of the ResNet's first stage; each later stage doubles them; at least 8. 64 is
    ResNet18, which pretrained weights need; 32 costs a quarter of it."""
    stages: int = 4
    """Stages of the ResNet: 4 is ResNet18 (features at 1/32 of the frame); 3 stops at 1/16,
    four times the image tokens for less convolution."""
    norm: Norm = "frozen"
    """How the ResNet normalises: `frozen` statistics of pretrained weights, as published;
    `batch` learns them from each batch; `group` needs no batch statistics, for tiny batches."""
    pretrained: str = ""
    """The ResNet's first weights: path of torchvision's ResNet18 ImageNet weights (.pth or
    .safetensors), `imagenet-download`, or `none` for random ones. Left empty, weights are random,
    which `norm frozen` refuses."""
    dim: int = 512
    """Width of every token in the transformers, D; a multiple of 4 and of `heads`."""
    heads: int = 8
    """Attention heads; each sees dim / heads channels."""
    ffn: int = 3200
    """Hidden units of the perceptron in every transformer layer."""
    encoder_layers: int = 4
    """Transformer layers over latent, joints and image tokens."""
    decoder_layers: int = 1
    """Transformer layers from the K queries to the actions; the last one is the output. The
    released code builds 7 and uses the first; 1 is that function exactly."""
    queries: Literal["learned", "sinusoidal"] = "learned"
    """Positions of the K queries: `learned` as in the released code, or the fixed `sinusoidal`
    table of the paper's text."""
    head: Literal["linear", "mlp"] = "linear"
    """From a decoded token to A actions: one `linear` map as in the released code, or an `mlp`
    with one hidden layer of `dim` units, as the paper's text says without giving its depth."""
    positions: Literal["attention", "tokens"] = "attention"
    """Where the positions of latent, joints and image tokens enter: queries and keys of every
    `attention`, as in the paper and the released code; or the `tokens` themselves as well, so that
    values tell where they come from too."""
    actions: Literal["absolute", "delta"] = "absolute"
    """What the network predicts: `absolute` targets, or their `delta` to the state measured at
    the tick of the observation (every action must then be named like a state). The paper found
    absolute better; the policy takes and gives absolute targets either way."""
    l1: Literal["valid", "all"] = "valid"
    """What the L1 error is averaged over: `valid` ticks only, or `all` K of them, padding counting
    as zero error (the released code), which makes the ends of episodes weigh less."""
    cvae: bool = True
    """Train with the CVAE encoder, which tells styles of demonstrations apart by a latent z. Not
    used at inference; without it training is faster and scripted data are learnt as well."""
    cvae_layers: int = 4
    """Transformer layers of the CVAE encoder."""
    latent: int = 32
    """Dimensions of z, Z."""
    kl_weight: float = 10.0
    """Weight of the KL term beside the normalised L1 error, the paper's beta; larger makes z say
    less."""
    shift: int = 0
    """Pixels of the input by which each frame is moved at random while training, either way, with
    its border repeated; 0: not at all. From random weights and few demonstrations the trunk finds
    things far more exactly with it; about a twentieth of the input's height serves."""
    shift_told: bool = False
    """Whether the network is told by how much each frame was moved (0 when it acts). Told, it must
    measure all the same, and loses nothing of where things are; not told, it answers for the middle
    of all places that a frame may have come from, unless the frame shows the hands or a border."""
    random_crop: float = 0.0
    """Largest share of the input's height and width that is cut away at random while training, the
    rest enlarged to the input again; 0: nothing. For cameras that are not always mounted alike;
    makes a trunk measure as `shift` does (`docs/studies.md`)."""
    color_jitter: float = 0.0
    """How much the light of each frame changes at random while training: brightness, contrast and
    saturation by up to this share either way, hue by up to a quarter of it of a full turn; 0: not
    at all, 0.2 is usual. For a robot that is to work at another time of day than it learnt; where
    the light never changes it gains nothing (`docs/studies.md`)."""
    state_noise: float = 0.0
    """Standard deviation of Gaussian noise on the measured state while training, as a share of the
    state's own. Exact joints tell one demonstration from another, and the network looks up there
    what it should see in the frames; noise leaves it the frames."""
    dropout: float = 0.1
    """Share of activations dropped in every transformer layer while training, in [0, 1). 0 saves
    a sixth of a step on CPUs."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            _check_type(field.name, getattr(self, field.name), hints[field.name])
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise BadInput(f"{name} is {value}; it must be from {low} to {high}")
        if not 0 <= self.dropout < 1:
            raise BadInput(f"dropout is {self.dropout}; it must be at least 0 and below 1")
        for name in ("random_crop", "color_jitter"):
            if not 0 <= getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}; it must be at least 0, below 1")
        for name in ("kl_weight", "state_noise"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise BadInput(f"{name} is {getattr(self, name)}; it must be at least 0 and finite")
        _windows(self.crop)
        if self.shift_told and not self.shift:
            raise BadInput(
                "shift_told is set and shift is 0: there is nothing to tell; set a shift"
            )
        if (self.input_height == 0) != (self.input_width == 0):
            raise BadInput(
                f"input_height is {self.input_height} and input_width {self.input_width} pixels; "
                "give both, or neither to keep the capture size"
            )
        if self.dim % 4 or self.dim % self.heads:
            raise BadInput(
                f"dim is {self.dim} and heads {self.heads}; dim must be a multiple of 4 (2-D "
                "positions are sines and cosines of two axes) and of heads"
            )
        if self.norm == "group" and self.width % GROUP_CHANNELS:
            raise BadInput(
                f"norm 'group' has {GROUP_CHANNELS} channels a group, so width must be a "
                f"multiple of {GROUP_CHANNELS}; it is {self.width}"
            )

    def views(self, spec: Spec) -> dict[str, View]:
        """What the network sees of each camera, by its name.

        Refuses a crop of a camera that is not there, or beyond what it captures.
        """
        windows = _windows(self.crop)
        views = {}
        for camera in spec.cameras:
            window = windows.pop(camera.name, None)
            top, bottom, left, right = window or (0, camera.height, 0, camera.width)
            if bottom > camera.height or right > camera.width:
                raise BadInput(
                    f"crop {self.crop!r} reaches beyond the {camera.height}x{camera.width} pixels "
                    f"that camera {camera.name!r} captures; give other ranges, or '' to see all"
                )
            height = self.input_height or bottom - top
            views[camera.name] = View(height, self.input_width or right - left, window)
        if windows:
            raise BadInput(
                f"crop {self.crop!r} names camera {min(windows)!r}; the cameras are {list(views)}"
            )
        return views


_CROP = re.compile(r"([^=;]+)=(\d+):(\d+),(\d+):(\d+)")


def _windows(crop: str) -> dict[str, tuple[int, int, int, int]]:
    """Camera name to rows and columns, as `View.window` has them."""
    windows = {}
    for part in filter(None, (part.strip() for part in crop.split(";"))):
        found = _CROP.fullmatch(part)
        if not found:
            raise BadInput(
                f"crop {part!r} is not of the form CAMERA=ROW:ROW,COLUMN:COLUMN, as in "
                "top=165:405,180:500"
            )
        name, *numbers = found.groups()
        if name in windows:
            raise BadInput(f"crop names camera {name!r} twice; it has one window")
        top, bottom, left, right = map(int, numbers)
        windows[name] = View(1, 1, (top, bottom, left, right)).window
    return windows


_RANGES: tuple[tuple[str, int, int], ...] = (
    ("chunk", 1, 10_000),
    ("input_height", 0, 16_384),
    ("input_width", 0, 16_384),
    # torch 2.13 on AVX2 writes beyond its memory in a 1x1 convolution of stride 2 with fewer than
    # 8 input channels, channels last: heap corruption at 4 and 5.
    ("width", 8, 4_096),
    ("stages", 1, 4),
    ("shift", 0, 4_096),
    ("dim", 4, 65_536),
    ("heads", 1, 4_096),
    ("ffn", 1, 1_048_576),
    ("encoder_layers", 1, 1_000),
    ("decoder_layers", 1, 1_000),
    ("cvae_layers", 1, 1_000),
    ("latent", 1, 65_536),
)


def _check_type(name: str, value: Any, hint: Any) -> None:
    choices = get_args(hint)
    if choices:
        if value not in choices:
            raise BadInput(f"{name} is {value!r}; it must be one of {list(choices)}")
        return
    wanted = (int, float) if hint is float else hint
    if not isinstance(value, wanted) or (isinstance(value, bool) and hint is not bool):
        raise BadInput(f"{name} is {value!r}; it must be of type {hint.__name__}")


PRESETS: dict[str, ActConfig] = {
    # The paper's text: every decoder layer used, fixed queries, an MLP as the head.
    "paper": ActConfig(
        input_height=480,
        input_width=640,
        decoder_layers=7,
        queries="sinusoidal",
        head="mlp",
    ),
    # What the released code computes: 51,613,582 parameters for 14 joints and K = 100.
    "released": ActConfig(l1="all"),
    # From scratch on two CPU cores.
    "quick": ActConfig(
        input_height=120,
        input_width=160,
        width=16,
        norm="batch",
        dim=128,
        heads=4,
        ffn=512,
        encoder_layers=2,
        positions="tokens",
        cvae=False,
        shift=6,
        state_noise=0.3,
        dropout=0.0,
    ),
}


MAX_IMAGE_TOKENS = 2**18
"""More image tokens than this are a mistake: attention costs their square."""


class Prediction(NamedTuple):
    """What the network answers, normalised.

    action:       (B, K, A).
    mean, logvar: (B, Z) of z given the actions; None without a CVAE or without actions.
    """

    action: Tensor
    mean: Tensor | None
    logvar: Tensor | None


class Losses(NamedTuple):
    """Scalars of a batch: total = l1 + kl_weight * kl.

    l1: mean absolute error of normalised actions. kl: nats, summed over the Z dimensions of z.
    """

    total: Tensor
    l1: Tensor
    kl: Tensor


class Cvae(nn.Module):
    """[CLS, joints, K actions] -> mean and log-variance of z; no images."""

    pos: Tensor

    def __init__(self, config: ActConfig, state_size: int, action_size: int) -> None:
        super().__init__()
        dim = config.dim
        self.cls = nn.Parameter(torch.empty(1, dim))
        self.state_proj = nn.Linear(state_size, dim)
        self.action_proj = nn.Linear(action_size, dim)
        self.encoder = Encoder(config.cvae_layers, dim, config.heads, config.ffn, config.dropout)
        self.latent_head = nn.Linear(dim, 2 * config.latent)

    def initialise(self, generator: torch.Generator) -> None:
        nn.init.normal_(self.cls, generator=generator)
        for linear in (self.state_proj, self.action_proj, self.latent_head):
            initialise_linear(linear, generator)
        initialise(self.encoder, generator, xavier=False)

    def forward(self, state: Tensor, action: Tensor, is_pad: Tensor) -> tuple[Tensor, Tensor]:
        """state (B, S), action (B, K, A), is_pad (B, K) -> mean and logvar, (B, Z) float32."""
        batch = state.shape[0]
        tokens = [
            self.cls.expand(batch, 1, -1),
            self.state_proj(state)[:, None],
            self.action_proj(action),
        ]
        keep = F.pad(~is_pad, (2, 0), value=True)
        cls = self.encoder(torch.cat(tokens, dim=1), self.pos, keep, first=1)[:, 0]
        mean, logvar = self.latent_head(cls).float().chunk(2, dim=-1)
        return mean, logvar


class Act(nn.Module):
    """The network. It knows sizes and normalised numbers, no names and no units.

    state_size, action_size: S and A.
    image_sizes: height and width in pixels of each camera's input, in order; they may differ,
                 and there may be none.
    generator:   source of all initial weights; with None there are none (only shapes, on torch's
                 meta device) until `adopt` brings saved ones.

    One trunk sees all cameras, and cameras of one size go through it as one batch (so batch
    norm sees them together). The tokens are [latent, joints, camera after camera, each row after
    row]; they carry no camera identity, as in the released code. Dropout and the noise on
    the state draw from torch's global random state.
    """

    pos: Tensor
    sine_queries: Tensor

    def __init__(
        self,
        config: ActConfig,
        *,
        state_size: int,
        action_size: int,
        image_sizes: Sequence[tuple[int, int]],
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        # On the meta device torch's own constructors draw nothing from the global random state.
        with torch.device("meta"):
            if image_sizes:
                self.backbone = Backbone(width=config.width, stages=config.stages, norm=config.norm)
                self.image_proj = nn.Linear(self.backbone.channels, dim)
                if config.shift_told:
                    self.shift_proj = nn.Linear(2, dim, bias=False)  # of 0 it makes 0
            self.state_proj = nn.Linear(state_size, dim)
            self.latent_proj = nn.Linear(config.latent, dim)
            self.token_pos = nn.Parameter(torch.empty(2, dim))
            stack = (dim, config.heads, config.ffn, config.dropout)
            self.encoder = Encoder(config.encoder_layers, *stack)
            self.decoder = Decoder(config.decoder_layers, *stack)
            if config.queries == "learned":
                self.queries = nn.Parameter(torch.empty(config.chunk, dim))
            if config.head == "linear":
                self.head = nn.Linear(dim, action_size)
            else:
                self.head = nn.Sequential(
                    nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, action_size)
                )
            if config.cvae:
                self.cvae = Cvae(config, state_size, action_size)
        for size in image_sizes:
            if config.shift >= min(size):
                raise BadInput(
                    f"shift is {config.shift}, which moves frames of {size[0]}x{size[1]} pixels "
                    "out of sight; use a few pixels, or 0"
                )
        grids = [self.backbone.grid(*size) for size in image_sizes]
        tokens = sum(rows * columns for rows, columns in grids)
        if tokens > MAX_IMAGE_TOKENS:
            raise BadInput(
                f"cameras of {list(image_sizes)} pixels give {tokens} image tokens, at most "
                f"{MAX_IMAGE_TOKENS} are sensible; set input_height and input_width"
            )
        self._grids = grids
        self._same_size = [  # cameras of one size, by index
            [i for i, s in enumerate(image_sizes) if s == size]
            for size in dict.fromkeys(image_sizes)
        ]
        if generator is not None:
            self.to_empty(device="cpu")
            self._initialise(generator)
            self._tabulate()

    def adopt(self, weights: Mapping[str, Tensor]) -> None:
        """Take these tensors as weights (not copies of them); names and shapes must fit."""
        self.load_state_dict(weights, assign=True)
        self._tabulate()

    def _tabulate(self) -> None:
        """Position tables: computed, not saved."""
        config, dim = self.config, self.config.dim
        image_pos = [sine_grid(*grid, dim) for grid in self._grids]
        self.register_buffer("pos", torch.cat([torch.zeros(0, dim), *image_pos]), persistent=False)
        if config.queries == "sinusoidal":
            table = sine_table(config.chunk, dim)
            self.register_buffer("sine_queries", table, persistent=False)
        if config.cvae:
            table = sine_table(2 + config.chunk, dim)
            self.cvae.register_buffer("pos", table, persistent=False)

    def _initialise(self, generator: torch.Generator) -> None:
        if self._sees:
            self.backbone.initialise(generator)
            initialise_linear(self.image_proj, generator)
        for linear in (self.state_proj, self.latent_proj):
            initialise_linear(linear, generator)
        nn.init.normal_(self.token_pos, generator=generator)
        initialise(self.encoder, generator, xavier=True)
        initialise(self.decoder, generator, xavier=True)
        if self.config.queries == "learned":
            nn.init.normal_(self.queries, generator=generator)
        for part in self.head.modules():
            if isinstance(part, nn.Linear):
                initialise_linear(part, generator)
        if hasattr(self, "shift_proj"):
            initialise_linear(self.shift_proj, generator)
        if self.config.cvae:  # last, so that the rest starts the same with and without it
            self.cvae.initialise(generator)

    @property
    def _sees(self) -> bool:
        return hasattr(self, "backbone")

    def _image_tokens(self, images: Sequence[Tensor], shifts: Tensor | None = None) -> list[Tensor]:
        tokens: dict[int, Tensor] = {}
        for cameras in self._same_size:
            batch = (
                torch.cat([images[i] for i in cameras]) if len(cameras) > 1 else images[cameras[0]]
            )
            features = self.backbone(batch).permute(0, 2, 3, 1).flatten(1, 2)
            for i, t in zip(cameras, self.image_proj(features).chunk(len(cameras)), strict=True):
                tokens[i] = t
        found = [tokens[i] for i in sorted(tokens)]
        if not self.config.shift_told or shifts is None:
            return found
        told = self.shift_proj(shifts)[:, :, None]  # (N, B, 1, D)
        return [own + its for own, its in zip(found, told, strict=True)]

    def forward(
        self,
        state: Tensor,
        images: Sequence[Tensor],
        action: Tensor | None = None,
        is_pad: Tensor | None = None,
        noise: Tensor | None = None,
        part: BatchShard = WHOLE,
        shifts: Tensor | None = None,
    ) -> Prediction:
        """state (B, S), images N times (B, 3, H, W), action (B, K, A), is_pad (B, K) bool.

        shifts (N, B, 2) is by how much each image was moved down and right, as a share of
        config.shift; None: not at all. It is looked at with config.shift_told only.

        With a CVAE and with actions, z = mean + exp(logvar / 2) * noise; `noise` (B, Z) is
        standard normal, drawn from torch's global random state (or as `part` says) where it is not
        given. Without either, z = 0. Padded ticks of `action` are not looked at.
        """
        if self.training and self.config.state_noise:
            state = state + self.config.state_noise * _normal(state, part)
        mean = logvar = None
        if self.config.cvae and action is not None:
            if is_pad is None:
                is_pad = action.new_zeros(action.shape[:2], dtype=torch.bool)
            mean, logvar = self.cvae(state, action.masked_fill(is_pad[..., None], 0.0), is_pad)
            if noise is None:
                noise = _normal(mean, part)
            latent = mean + (logvar / 2).exp() * noise
        else:
            latent = state.new_zeros(state.shape[0], self.config.latent)
        tokens = [
            self.latent_proj(latent)[:, None],
            _in_float32(self.state_proj, state)[:, None],
            *self._image_tokens(images, shifts),
        ]
        pos = torch.cat([self.token_pos, self.pos])
        x = torch.cat(tokens, dim=1)
        if self.config.positions == "tokens":
            x = x + pos
        memory = self.encoder(x, pos)
        queries = self.queries if self.config.queries == "learned" else self.sine_queries
        decoded = self.decoder(queries, memory, pos)
        return Prediction(_in_float32(self.head, decoded), mean, logvar)

    def losses(
        self, prediction: Prediction, action: Tensor, is_pad: Tensor, part: BatchShard = WHOLE
    ) -> Losses:
        """The training loss against normalised actions (B, K, A), in float32.

        l1 averages |error| over valid ticks and all action dimensions (config.l1 "all": over
        padded ticks too, as zeros). kl = -1/2 sum_z(1 + logvar - mean^2 - exp(logvar)), averaged
        over the batch. Of a `part` of a batch: its share of that batch's losses.
        """
        error = (prediction.action.float() - action).abs().masked_fill(is_pad[..., None], 0.0)
        if self.config.l1 == "all":
            l1 = part.mean(error)
        else:
            valid = part.valid_ticks(is_pad) * action.shape[-1]
            l1 = error.sum() / valid.clamp_min(1)
        kl = l1.new_zeros(())
        if prediction.mean is not None and prediction.logvar is not None:
            mean, logvar = prediction.mean, prediction.logvar
            kl = part.mean((-0.5 * (1 + logvar - mean.square() - logvar.exp())).sum(dim=-1))
        return Losses(l1 + self.config.kl_weight * kl, l1, kl)


def _in_float32(layer: nn.Module, x: Tensor) -> Tensor:
    """The layer's answer without autocast. bf16 has 8 binary digits: joints rounded to them are off
    by up to a 250th of twice their deviation, which is millimetres at the end of an arm."""
    if not torch.is_autocast_enabled(x.device.type):
        return layer(x)
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.float())


def _normal(like: Tensor, part: BatchShard) -> Tensor:
    """Standard normal numbers of that shape, (B, ...), those of the samples in `part`."""
    return part.drawn(
        lambda count, generator: torch.randn(
            count, *like.shape[1:], generator=generator, dtype=like.dtype, device=like.device
        ),
        len(like),
    )
