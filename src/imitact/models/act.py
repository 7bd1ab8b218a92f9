"""ACT network: from normalized tensors to a chunk of normalized actions, and the training loss.

Source: Zhao et al. 2023 (arXiv:2304.13705) and its released code (tonyzhaozh/act).

Legend: B batch, K chunk, S state, E trailing states of the environment, A action, N cameras, D
width of the transformer, Z latent.
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
    initialize_layers,
    initialize_linear,
    sine_grid,
    sine_table,
)

MAX_IMAGE_TOKENS = 2**18
"""Larger inputs are refused as a mistake: the cost of attention grows with their square."""


class Prediction(NamedTuple):
    """Output of the network: normalized action (B, K, A); mean and log-variance (B, Z) of z.

    The latter are given the actions, and None without a CVAE or without actions.
    """

    action: Tensor
    mean: Tensor | None
    logvar: Tensor | None


class Losses(NamedTuple):
    """Losses of a batch, scalars: total = l1 + kl_weight * kl.

    l1 is the mean absolute error of normalized actions, kl the KL divergence in nats, summed over
    the Z dimensions of z.
    """

    total: Tensor
    l1: Tensor
    kl: Tensor


class CvaeEncoder(nn.Module):
    """Transformer over [CLS, joints, K actions] to mean and log-variance of z; training only.

    It has no token of the joints where `joints` is None.
    """

    pos: Tensor

    def __init__(self, config: ActConfig, joints: int | None, action_size: int) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.cls = nn.Parameter(torch.empty(1, dim))
        if joints is not None:
            self.state_proj = nn.Linear(joints, dim)
        self.action_proj = nn.Linear(action_size, dim)
        self.encoder = Encoder(
            config.vae_encoder_layers, dim, config.num_heads, config.dim_feedforward, config.dropout
        )
        self.latent_head = nn.Linear(dim, 2 * config.latent_dim)
        self.tokens = 1 + (joints is not None) + config.chunk_size

    def initialize(self, generator: torch.Generator) -> None:
        nn.init.normal_(self.cls, generator=generator)
        if hasattr(self, "state_proj"):
            initialize_linear(self.state_proj, generator)
        for linear in (self.action_proj, self.latent_head):
            initialize_linear(linear, generator)
        initialize_layers(self.encoder, generator, xavier=False)

    def forward(self, joints: Tensor, action: Tensor, is_pad: Tensor) -> tuple[Tensor, Tensor]:
        """Map joints (B, S - E), action (B, K, A), is_pad (B, K) to mean and logvar, (B, Z)
        float32."""
        tokens = [self.cls.expand(joints.shape[0], 1, -1)]
        if hasattr(self, "state_proj"):
            tokens.append(self.state_proj(joints)[:, None])
        keep = F.pad(~is_pad, (len(tokens), 0), value=True)
        tokens.append(self.action_proj(action))
        cls = self.encoder(torch.cat(tokens, dim=1), self.pos, keep, first=1)[:, 0]
        mean, logvar = self.latent_head(cls).float().chunk(2, dim=-1)
        return mean, logvar


class Act(nn.Module):
    """The network, on normalized numbers, without names or units.

    One backbone processes all cameras, and cameras of one size go through it as one batch (so batch
    norm sees them together). The tokens are [latent, joints, environment, cameras in order, each in
    row-major order]; as in the released code, they carry no camera identity. Those of the
    environment's states are LeRobot's: absent where E is 0, and instead of the joints' where E is
    S. Dropout and the noise on the state draw from torch's global random state.

    Args:
        config: Settings.
        state_size: S.
        action_size: A.
        environment_size: E, the number of trailing states that are the environment's.
        image_sizes: Height and width in pixels of each camera's input, in order; they may differ,
            and there may be none.
        generator: Source of all initial weights; None leaves the weights on torch's meta device
            until `adopt`.
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
        environment_size: int = 0,
    ) -> None:
        super().__init__()
        self.config = config
        self.joints = state_size - environment_size
        joints = self.joints if self.joints or not environment_size else None
        dim = config.hidden_dim
        # On the meta device torch's constructors draw nothing from the global random state.
        with torch.device("meta"):
            if image_sizes:
                width, stages = config.backbone_width, config.backbone_stages
                self.backbone = Backbone(width=width, stages=stages, norm=config.backbone_norm)
                self.image_proj = nn.Linear(self.backbone.channels, dim)
                if config.shift_as_input:
                    self.shift_proj = nn.Linear(2, dim, bias=False)  # maps 0 to 0
            if joints is not None:
                self.state_proj = nn.Linear(joints, dim)
            if environment_size:
                self.environment_proj = nn.Linear(environment_size, dim)
            self.latent_proj = nn.Linear(config.latent_dim, dim)
            vectors = 1 + (joints is not None) + bool(environment_size)
            self.token_pos = nn.Parameter(torch.empty(vectors, dim))
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
                self.cvae = CvaeEncoder(config, joints, action_size)
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
                f"cameras of {', '.join(f'{h}x{w}' for h, w in image_sizes)} pixels give {tokens} "
                f"image tokens, at most {MAX_IMAGE_TOKENS} are sensible; set input_height and "
                "input_width"
            )
        self._grids = grids
        self._same_size = [  # cameras of one size, by index
            [i for i, s in enumerate(image_sizes) if s == size]
            for size in dict.fromkeys(image_sizes)
        ]
        if generator is not None:
            self.to_empty(device="cpu")
            self._initialize(generator)
            self._compute_tables()

    def adopt(self, weights: Mapping[str, Tensor]) -> None:
        """Use these tensors themselves as weights; names and shapes must fit."""
        self.load_state_dict(weights, assign=True)
        self._compute_tables()

    def _compute_tables(self) -> None:
        """Compute the position tables, which are not saved."""
        config, dim = self.config, self.config.hidden_dim
        image_pos = [sine_grid(*grid, dim) for grid in self._grids]
        self.register_buffer("pos", torch.cat([torch.zeros(0, dim), *image_pos]), persistent=False)
        if config.queries == "sinusoidal":
            table = sine_table(config.chunk_size, dim)
            self.register_buffer("sine_queries", table, persistent=False)
        if config.use_vae:
            table = sine_table(self.cvae.tokens, dim)
            self.cvae.register_buffer("pos", table, persistent=False)

    def _initialize(self, generator: torch.Generator) -> None:
        if hasattr(self, "backbone"):
            self.backbone.initialize(generator)
            initialize_linear(self.image_proj, generator)
        if hasattr(self, "state_proj"):
            initialize_linear(self.state_proj, generator)
        initialize_linear(self.latent_proj, generator)
        nn.init.normal_(self.token_pos, generator=generator)
        initialize_layers(self.encoder, generator, xavier=True)
        initialize_layers(self.decoder, generator, xavier=True)
        if self.config.queries == "learned":
            nn.init.normal_(self.queries, generator=generator)
        for part in self.head.modules():
            if isinstance(part, nn.Linear):
                initialize_linear(part, generator)
        if hasattr(self, "shift_proj"):
            initialize_linear(self.shift_proj, generator)
        if hasattr(self, "environment_proj"):
            initialize_linear(self.environment_proj, generator)
        if self.config.use_vae:  # last, so that all other weights are the same with and without it
            self.cvae.initialize(generator)

    def _image_tokens(self, images: Sequence[Tensor], shifts: Tensor | None = None) -> list[Tensor]:
        tokens: dict[int, Tensor] = {}
        for cameras in self._same_size:
            own = [images[i] for i in cameras]
            batch = torch.cat(own) if len(own) > 1 else own[0]
            features = self.backbone(batch).permute(0, 2, 3, 1).flatten(1, 2)
            tokens |= zip(cameras, self.image_proj(features).chunk(len(cameras)), strict=True)
        found = [tokens[i] for i in sorted(tokens)]
        if not self.config.shift_as_input or shifts is None:
            return found
        embedded = self.shift_proj(shifts)[:, :, None]  # (N, B, 1, D)
        return [own + shift for own, shift in zip(found, embedded, strict=True)]

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
        """Predict a chunk.

        With a CVAE and with actions, z = mean + exp(logvar / 2) * noise; otherwise z = 0.

        Args:
            state: (B, S), the last E of which are the environment's.
            images: N tensors (B, 3, H, W).
            action: (B, K, A), for training; padded ticks are ignored.
            is_pad: (B, K) bool; None for no padding.
            noise: (B, Z), standard normal; None draws it from torch's global random state or as
                `shard` defines.
            shard: Position of the samples in a larger batch.
            shifts: (N, B, 2), shift of each image down and right as a share of random_shift, used
                with shift_as_input only; None for no shift.
        """
        if self.training and self.config.state_noise:
            state = state + self.config.state_noise * _normal(state, shard)
        joints, environment = state[:, : self.joints], state[:, self.joints :]
        mean = logvar = None
        if self.config.use_vae and action is not None:
            if is_pad is None:
                is_pad = action.new_zeros(action.shape[:2], dtype=torch.bool)
            mean, logvar = self.cvae(joints, action.masked_fill(is_pad[..., None], 0.0), is_pad)
            if noise is None:
                noise = _normal(mean, shard)
            latent = mean + (logvar / 2).exp() * noise
        else:
            latent = state.new_zeros(state.shape[0], self.config.latent_dim)
        tokens = [self.latent_proj(latent)[:, None]]
        if hasattr(self, "state_proj"):
            tokens.append(_in_float32(self.state_proj, joints)[:, None])
        if hasattr(self, "environment_proj"):
            tokens.append(_in_float32(self.environment_proj, environment)[:, None])
        tokens += self._image_tokens(images, shifts)
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
        """Return the training loss against normalized actions (B, K, A), in float32.

        l1 averages the absolute error over valid ticks and all action dimensions (with l1_ticks
        "all" over padded ticks too, as zeros). kl = -1/2 sum_z(1 + logvar - mean^2 - exp(logvar)),
        averaged over the batch. For a shard of a batch, its share of that batch's losses.
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
    """Apply a layer without autocast.

    bf16 has 8 binary digits: joints rounded to them are off by up to a 250th of twice their
    deviation, which is millimetres at the end of an arm.
    """
    if not torch.is_autocast_enabled(x.device.type):
        return layer(x)
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.float())


def _normal(like: Tensor, shard: BatchShard) -> Tensor:
    """Return standard normal numbers of that shape, (B, ...), for the samples of the shard."""
    return shard.drawn(
        lambda count, generator: torch.randn(
            count, *like.shape[1:], generator=generator, dtype=like.dtype, device=like.device
        ),
        len(like),
    )
