"""A network of a few thousand weights for the dot environment's 24x32 frames."""

from __future__ import annotations

from imitact.models.config import ActConfig

TINY_MODEL = ActConfig(
    chunk_size=8, input_height=24, input_width=32, backbone_width=8, backbone_stages=2,
    backbone_norm="batch", hidden_dim=16, num_heads=2, dim_feedforward=16, encoder_layers=1,
    use_vae=False,
)  # fmt: skip
