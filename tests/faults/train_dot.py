"""Trains on a dot's demonstrations; run as a program, to be killed, starved or interrupted.

    train_dot.py OUT DATA [STEPS]

Goes on where it was stopped. Prints "begun" once everything is imported, then a line a checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from imitact.core.errors import BadInput
from imitact.datasets.open import open_dataset
from imitact.models.act import ActConfig
from imitact.training.loop import TrainConfig, train

# All that could differ after a resumption: dropout, the posterior's noise, batch norm, shifts.
MODEL = ActConfig(
    chunk=4, input_height=24, input_width=32, width=8, stages=2, norm="batch", dim=8, heads=2,
    ffn=16, encoder_layers=1, cvae_layers=1, latent=4, shift=1, state_noise=0.1, dropout=0.2,
)  # fmt: skip

CONFIG = TrainConfig(
    steps=30, batch_size=4, lr=1e-2, lr_backbone=1e-3, warmup_steps=3, final_lr_fraction=0.1,
    clip_norm=1.0, ema_decay=0.9, seed=5, held_out=1, validate_every=7, checkpoint_every=3,
    log_every=1, precision="fp32", workers=1, threads=1,
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser()
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
