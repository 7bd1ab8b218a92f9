"""ACT as a network: normalised tensors in, a chunk of normalised actions and the loss out.

Source: Zhao et al. 2023 (arXiv:2304.13705) and its released code (tonyzhaozh/act).

Legend: B batch, K chunk, S state, A action, N cameras, D width of the transformer, Z latent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imitact.core.errors import BadInput
from imitact.models.batch_shard import WHOLE, BatchShard
from imitact.models.config import ActConfig
from imitact.models.resnet import Backbone
from imitact.models.transformer import (
    Decoder,
    Encoder,
    initialise,
    initialise_linear,
    sine_grid,
    sine_table,
)

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
        dim = config.hidden_dim
        self.cls = nn.Parameter(torch.empty(1, dim))
        self.state_proj = nn.Linear(state_size, dim)
        self.action_proj = nn.Linear(action_size, dim)
        self.encoder = Encoder(
            config.vae_encoder_layers, dim, config.num_heads, config.dim_feedforward, config.dropout
        )
        self.latent_head = nn.Linear(dim, 2 * config.latent_dim)

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
        dim = config.hidden_dim
        # On the meta device torch's own constructors draw nothing from the global random state.
        with torch.device("meta"):
            if image_sizes:
                self.backbone = Backbone(
                    width=config.backbone_width,
                    stages=config.backbone_stages,
                    norm=config.backbone_norm,
                )
                self.image_proj = nn.Linear(self.backbone.channels, dim)
                if config.shift_as_input:
                    self.shift_proj = nn.Linear(2, dim, bias=False)  # of 0 it makes 0
            self.state_proj = nn.Linear(state_size, dim)
            self.latent_proj = nn.Linear(config.latent_dim, dim)
            self.token_pos = nn.Parameter(torch.empty(2, dim))
            stack = (dim, config.num_heads, config.dim_feedforward, config.dropout)
            self.encoder = Encoder(config.encoder_layers, *stack)
            self.decoder = Decoder(config.decoder_layers, *stack)
            if config.queries == "learned":
                self.queries = nn.Parameter(torch.empty(config.chunk_size, dim))
            if config.head == "linear":
                self.head = nn.Linear(dim, action_size)
            else:
                self.head = nn.Sequential(
                    nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, action_size)
                )
            if config.use_vae:
                self.cvae = Cvae(config, state_size, action_size)
        for size in image_sizes:
            if config.random_shift >= min(size):
                raise BadInput(
                    f"random_shift is {config.random_shift}, which moves frames of "
                    f"{size[0]}x{size[1]} pixels out of sight; use a few pixels, or 0"
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
        config, dim = self.config, self.config.hidden_dim
        image_pos = [sine_grid(*grid, dim) for grid in self._grids]
        self.register_buffer("pos", torch.cat([torch.zeros(0, dim), *image_pos]), persistent=False)
        if config.queries == "sinusoidal":
            table = sine_table(config.chunk_size, dim)
            self.register_buffer("sine_queries", table, persistent=False)
        if config.use_vae:
            table = sine_table(2 + config.chunk_size, dim)
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
        if self.config.use_vae:  # last, so that the rest starts the same with and without it
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
        if not self.config.shift_as_input or shifts is None:
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
        shard: BatchShard = WHOLE,
        shifts: Tensor | None = None,
    ) -> Prediction:
        """state (B, S), images N times (B, 3, H, W), action (B, K, A), is_pad (B, K) bool.

        shifts (N, B, 2) is by how much each image was moved down and right, as a share of
        config.random_shift; None: not at all. It is looked at with config.shift_as_input only.

        With a CVAE and with actions, z = mean + exp(logvar / 2) * noise; `noise` (B, Z) is
        standard normal, drawn from torch's global random state (or as `shard` says) where it is not
        given. Without either, z = 0. Padded ticks of `action` are not looked at.
        """
        if self.training and self.config.state_noise:
            state = state + self.config.state_noise * _normal(state, shard)
        mean = logvar = None
        if self.config.use_vae and action is not None:
            if is_pad is None:
                is_pad = action.new_zeros(action.shape[:2], dtype=torch.bool)
            mean, logvar = self.cvae(state, action.masked_fill(is_pad[..., None], 0.0), is_pad)
            if noise is None:
                noise = _normal(mean, shard)
            latent = mean + (logvar / 2).exp() * noise
        else:
            latent = state.new_zeros(state.shape[0], self.config.latent_dim)
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
        self, prediction: Prediction, action: Tensor, is_pad: Tensor, shard: BatchShard = WHOLE
    ) -> Losses:
        """The training loss against normalised actions (B, K, A), in float32.

        l1 averages |error| over valid ticks and all action dimensions (config.l1_ticks "all": over
        padded ticks too, as zeros). kl = -1/2 sum_z(1 + logvar - mean^2 - exp(logvar)), averaged
        over the batch. Of a `shard` of a batch: its share of that batch's losses.
        """
        error = (prediction.action.float() - action).abs().masked_fill(is_pad[..., None], 0.0)
        if self.config.l1_ticks == "all":
            l1 = shard.mean(error)
        else:
            valid = shard.valid_ticks(is_pad) * action.shape[-1]
            l1 = error.sum() / valid.clamp_min(1)
        kl = l1.new_zeros(())
        if prediction.mean is not None and prediction.logvar is not None:
            mean, logvar = prediction.mean, prediction.logvar
            kl = shard.mean((-0.5 * (1 + logvar - mean.square() - logvar.exp())).sum(dim=-1))
        return Losses(l1 + self.config.kl_weight * kl, l1, kl)


def _in_float32(layer: nn.Module, x: Tensor) -> Tensor:
    """The layer's answer without autocast. bf16 has 8 binary digits: joints rounded to them are off
    by up to a 250th of twice their deviation, which is millimetres at the end of an arm."""
    if not torch.is_autocast_enabled(x.device.type):
        return layer(x)
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.float())


def _normal(like: Tensor, shard: BatchShard) -> Tensor:
    """Standard normal numbers of that shape, (B, ...), those of the samples in `shard`."""
    return shard.drawn(
        lambda count, generator: torch.randn(
            count, *like.shape[1:], generator=generator, dtype=like.dtype, device=like.device
        ),
        len(like),
    )
