"""Training settings: `TrainConfig`, and presets of model and training together; free of torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from imitact.core.errors import BadInput
from imitact.core.ranges import Count, CountOrNone, Range, Share, Workers, check_ranges
from imitact.models.config import MODEL_PRESETS, ActConfig

PrecisionName = Literal["auto", "fp32", "bf16"]
TrackerName = Literal["tensorboard", "trackio", "wandb"]

Steps = Annotated[int, Range(1, 1_000_000_000)]
"""Optimizer steps, at least one."""

StepsOrNone = Annotated[int, Range(0, 1_000_000_000)]
"""Optimizer steps; 0 is what the help says."""

TRAIN_JSON_KEYS = {
    "grad_clip_norm": "clip_norm",
    "val_episodes": "held_out",
    "val_every": "validate_every",
    "val_samples": "validate_samples",
    "num_threads": "threads",
    "num_workers": "workers",
    "tracker_project": "project",
}
"""Fields of TrainConfig whose key in JSON files is another: field to key."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training."""

    steps: Steps = 100_000
    """Optimizer steps in all; the learning rate schedule spans them."""

    batch_size: Annotated[int, Range(1, 1_000_000)] = 8
    """Samples in a step, over all ranks together. Larger is steadier and slower."""

    lr: Annotated[float, Range(0, 1_000)] = 1e-5
    """Peak learning rate of AdamW for everything but the image backbone."""

    lr_backbone: Annotated[float, Range(0, 1_000)] = 1e-5
    """Peak learning rate of AdamW for the image backbone; lower preserves pretrained weights."""

    beta1: Annotated[float, Range(0, 1, below=True)] = 0.9
    """AdamW's decay of the mean gradient, a fraction per step."""

    beta2: Annotated[float, Range(0, 1, below=True)] = 0.999
    """AdamW's decay of the mean squared gradient, a fraction per step."""

    weight_decay: Annotated[float, Range(0, 1_000_000)] = 1e-4
    """AdamW's weight decay, relative to the learning rate; on every parameter, as released."""

    warmup_steps: StepsOrNone = 0
    """Steps over which the learning rate grows linearly to its peak."""

    final_lr_fraction: Share = 1.0
    """Fraction of the peak learning rate left at the last step of the cosine schedule; 1 keeps the
    rate constant."""

    grad_clip_norm: Annotated[float, Range(0, 1_000_000)] = 0.0
    """Largest L2 norm of the gradient over all parameters; larger gradients are scaled down.
    0 disables clipping."""

    ema_decay: Annotated[float, Range(0, 1, below=True)] = 0.0
    """Decay per step of the exponential moving average of the weights, 0 to below 1. The average is
    what is validated and saved; 0 disables it and saves the last weights."""

    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    """Seed of the initial weights, the order of samples, dropout and the noise on the latent z."""

    val_episodes: CountOrNone = 0
    """Episodes kept for validation; neither trained on nor in the statistics."""

    val_choice: str = "last"
    """Which episodes validate: last, random (drawn by the seed), or their numbers, "0:3,7", with
    which val_episodes is not used."""

    marked: bool = False
    """Train on the episodes that a recording on a robot has marked, too: with more than 1 % of the
    ticks skipped, a hold, lost frames, or a note. `imitact check` names them."""

    intervention_weight: Annotated[int, Range(1, 1_000)] = 1
    """How often an epoch draws each tick at which a person had taken over from a policy
    (`imitact run --record`); other ticks are drawn once."""

    val_every: StepsOrNone = 0
    """Steps between validations; 0 validates only at the end. Needs val_episodes above 0."""

    val_samples: Count = 256
    """Ticks of the validation episodes, evenly spaced, in each validation; more is more precise."""

    checkpoint_every: StepsOrNone = 1000
    """Steps between checkpoints; 0 writes them by time only."""

    checkpoint_minutes: Annotated[float, Range(0, 1_000_000)] = 10.0
    """Longest time between checkpoints, minutes; 0 writes them by step only."""

    keep: Count = 2
    """Checkpoints kept: the last ones, and beside them the one of the lowest validation error."""

    log_every: Steps = 10
    """Steps averaged into one line of metrics.jsonl."""

    precision: PrecisionName = "auto"
    """Arithmetic: fp32, bf16 (autocast; weights stay fp32), or auto, which is bf16 where the
    hardware is faster with it."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:1; auto is a CUDA GPU if there is one, one for each rank."""

    num_threads: Workers = 0
    """Threads of torch; 0: one per core, and fewer while other processes use the cores. Another
    number rounds differently."""

    num_workers: Workers = 0
    """Processes that decode video; 0 is one per core."""

    cache_dir: str = ""
    """Folder of the cache of decoded frames, which trainings can share; empty is OUT/cache."""

    cache_limit_gb: Annotated[float, Range(0, 1_000_000)] = 100.0
    """Largest frame cache on disk, 10^9 bytes. Where it does not fit, or at 0, frames are decoded
    when they are needed."""

    memory_limit_gb: Annotated[float, Range(0, 1_000_000)] = 1.0
    """Memory for decoded frames if there is no frame cache, 10^9 bytes."""

    trackers: tuple[TrackerName, ...] = ()
    """Experiment trackers, one or several of tensorboard, trackio, wandb. All write below
    OUT/trackers, offline; wandb uploads only if WANDB_MODE is set so."""

    tracker_project: str = "imitact"
    """Name of the project in trackio and wandb."""

    def __post_init__(self) -> None:
        check_ranges(self, "--train.")

    def to_json(self) -> dict[str, Any]:
        """Return the settings under the keys that JSON files have.

        Those in `_ADDED` are absent at their default, as in files from before they were settings.
        """
        values = dataclasses.asdict(self)
        stored = {n: v for n, v in values.items() if n not in _ADDED or v != _ADDED[n]}
        return {TRAIN_JSON_KEYS.get(name, name): value for name, value in stored.items()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> TrainConfig:
        """Return what `to_json` stored; absent keys mean the default, unknown ones are refused."""
        names = {TRAIN_JSON_KEYS.get(f.name, f.name): f.name for f in dataclasses.fields(cls)}
        if unknown := stored.keys() - names.keys():
            raise BadInput(f"unknown training settings: {', '.join(sorted(unknown))}")
        values = {names[key]: value for key, value in stored.items()}
        if "trackers" in values:
            values["trackers"] = tuple(values["trackers"])  # JSON has lists only
        return cls(**values)


_ADDED = {
    field.name: field.default
    for field in dataclasses.fields(TrainConfig)
    if field.name in ("keep", "val_choice", "marked", "intervention_weight")
}
"""Settings that are younger than the first version, and their defaults."""

# The paper and the released code: AdamW at a constant 1e-5, weight decay 1e-4, batch 8, no
# clipping (table III of the paper; tonyzhaozh/act, imitate_episodes.py). LeRobot trains 100,000
# steps of 8 where the released code trains 10,000; human demonstrations need the longer one.
_AS_PUBLISHED = TrainConfig(steps=100_000, batch_size=8, lr=1e-5, lr_backbone=1e-5)

PRESETS: dict[str, tuple[ActConfig, TrainConfig]] = {
    "paper": (MODEL_PRESETS["paper"], _AS_PUBLISHED),
    "released": (MODEL_PRESETS["released"], _AS_PUBLISHED),
    # For two CPU cores and a quarter of an hour, from random weights.
    "quick": (
        MODEL_PRESETS["quick"],
        TrainConfig(
            steps=5_000,
            batch_size=16,
            lr=1e-3,
            lr_backbone=1e-3,
            weight_decay=1e-2,
            warmup_steps=200,
            final_lr_fraction=0.01,
            grad_clip_norm=10.0,
            ema_decay=0.999,
            val_episodes=2,
            val_every=1000,
            checkpoint_every=500,
            checkpoint_minutes=5.0,
        ),
    ),
}
"""Settings of model and training by the name of the preset."""
