"""Training program: trains on demonstrations of the dot environment, to be killed or interrupted.

    python -m tests.faults.train_dot OUT DATA [STEPS]

Continues where it was stopped. Prints "begun" once everything is imported.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from imitact.core.errors import BadInput
from imitact.datasets.open import open_dataset
from imitact.models.config import ActConfig
from imitact.training.config import TrainConfig
from imitact.training.loop import train

# With everything that could differ after resuming: dropout, posterior noise, batch norm, shifts.
MODEL = ActConfig(
    chunk_size=4, input_height=24, input_width=32, backbone_width=8, backbone_stages=2,
    backbone_norm="batch", hidden_dim=8, num_heads=2, dim_feedforward=16, encoder_layers=1,
    vae_encoder_layers=1, latent_dim=4, random_shift=1, state_noise=0.1, dropout=0.2,
)  # fmt: skip

CONFIG = TrainConfig(
    steps=30, batch_size=4, lr=1e-2, lr_backbone=1e-3, warmup_steps=3, final_lr_fraction=0.1,
    grad_clip_norm=1.0, ema_decay=0.9, seed=5, val_episodes=1, val_every=7, checkpoint_every=3,
    log_every=1, precision="fp32", num_workers=1, num_threads=1,
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("steps", type=int, nargs="?", default=CONFIG.steps)
    args = parser.parse_args()
    print("begun", flush=True)
    try:
        config = replace(CONFIG, steps=args.steps)
        train(open_dataset(args.data), args.out, MODEL, config, resume=True)
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(error, file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
