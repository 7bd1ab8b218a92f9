"""CVAE encoder: from state and actions to the distribution of the latent z, in training only.

Legend: B batch, K chunk, S state, A action, Z latent.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imitact.models.config import ActConfig
from imitact.models.transformer import Encoder, initialize_layers, initialize_linear


class CvaeEncoder(nn.Module):
    """Transformer over [CLS, state, K actions] that gives mean and log-variance of z."""

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

    def initialize(self, generator: torch.Generator) -> None:
        nn.init.normal_(self.cls, generator=generator)
        for linear in (self.state_proj, self.action_proj, self.latent_head):
            initialize_linear(linear, generator)
        initialize_layers(self.encoder, generator, xavier=False)

    def forward(self, state: Tensor, action: Tensor, is_pad: Tensor) -> tuple[Tensor, Tensor]:
        """Map state (B, S), action (B, K, A), is_pad (B, K) to mean and logvar, (B, Z) float32."""
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
