"""Named settings of model and training together."""

from __future__ import annotations

from imitact.models import act
from imitact.models.act import ActConfig
from imitact.training.loop import TrainConfig

# The paper and the released code: AdamW at a constant 1e-5, weight decay 1e-4, batch 8, nothing
# clipped (table III of the paper; tonyzhaozh/act, imitate_episodes.py). LeRobot trains 100,000
# steps of 8 where the released code trains 10,000; human demonstrations need the longer one.
_AS_PUBLISHED = TrainConfig(steps=100_000, batch_size=8, lr=1e-5, lr_backbone=1e-5)

PRESETS: dict[str, tuple[ActConfig, TrainConfig]] = {
    "paper": (act.PRESETS["paper"], _AS_PUBLISHED),
    "released": (act.PRESETS["released"], _AS_PUBLISHED),
    # For two CPU cores and a quarter of an hour, from random weights.
    "quick": (
        act.PRESETS["quick"],
        TrainConfig(
            steps=5_000,
            batch_size=16,
            lr=1e-3,
            lr_backbone=1e-3,
            weight_decay=1e-2,
            warmup_steps=200,
            final_lr_fraction=0.01,
            clip_norm=10.0,
            ema_decay=0.999,
            held_out=2,
            validate_every=1000,
            checkpoint_every=500,
            checkpoint_minutes=5.0,
        ),
    ),
}
"""Preset name to settings."""
