"""`imitact train`: a dataset of demonstrations in, a policy out."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional, arg

from imitact.api.parent_policy import Statistics
from imitact.api.train import settings_of, train
from imitact.cli.console import print_progress, print_result
from imitact.cli.options import require_paths, shallow_dict
from imitact.core.ranges import Range
from imitact.datasets.read_config import ReadConfig
from imitact.models.config import ActConfig
from imitact.storage.output_guard import check_output
from imitact.training.config import TrainConfig

RESUME_HINT = "to continue, give the same command with --resume"


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train ACT on recorded demonstrations.

    With N processes: torchrun --nproc-per-node N -m imitact train ...
    """

    data: Annotated[Positional[tuple[Path, ...]], arg(metavar="DATA")]
    """Dataset: a folder that `imitact record` or LeRobot wrote, or any other layout that is read
    (docs/formats.md). Several of one robot are trained on together."""

    out: Path
    """Folder of the checkpoints, the numbers (metrics.jsonl, training.json) and the policy
    (OUT/policy)."""

    preset: str = "quick"
    """Settings to start from: quick (for CPUs, from scratch), released (as the released code) or
    paper. The options below show the preset's values."""

    weights: Annotated[tuple[int, ...], Range(1, 1_000)] = ()
    """With several datasets: how often an epoch draws each tick of each, "2 1"; none is once."""

    from_policy: Annotated[Path | None, arg(name="from", metavar="POLICY")] = None
    """Begin a fine-tuning with the network and the weights of this policy, or of a checkpoint of
    LeRobot or of the released ACT (docs/second_training.md)."""

    statistics: Statistics = "policy"
    """With --from: normalize with the statistics of the policy, or with those of the data."""

    resume: bool = False
    """Continue from the newest whole checkpoint in OUT, to the weights of an uninterrupted run.
    --train.steps may be larger where the learning rate is constant (docs/second_training.md)."""

    new_schedule: bool = False
    """With --resume: begin a new schedule of the learning rate at the checkpoint, over the steps
    left, where another --train.steps, --train.lr or its warm-up would change the steps done."""

    ignore_errors: bool = False
    """Train on a dataset in which `imitact check` finds errors, too."""

    no_cameras: bool = False
    """Train on joints alone: no camera is read. A dataset with cameras of which none can be read
    is refused without this."""

    model: ActConfig
    """The network."""

    train: TrainConfig
    """The training."""

    read: ReadConfig = field(default_factory=ReadConfig)
    """What the dataset's layout leaves open."""


def with_preset(name: str | None, from_policy: str | None = None, out: str | None = None) -> Train:
    """Return the settings of a preset, None for the default; data and out are still missing.

    The network of a fine-tuning is that of its policy.
    """
    name = name or "quick"
    model, training = settings_of(name, from_policy, out)
    return Train(data=tyro.MISSING, out=tyro.MISSING, model=model, train=training, preset=name)


def run(settings: Train) -> None:
    """Train, and print where the policy is."""
    if "RANK" not in os.environ:  # of several ranks, only the first reports what is wrong
        check_output(settings.out, "training")
        if cache := settings.train.cache_dir:
            check_output(cache, "cache", option="--train.cache-dir")
        require_paths(settings.data, "dataset")
        # `train` refuses what does not fit before torch is imported.
        _print_places(settings, train(**shallow_dict(settings), on_line=print_progress))
        return
    from imitact.training.distributed import join_ranks

    with join_ranks() as ranks:
        policy = train(**shallow_dict(settings), on_line=print_progress, ranks=ranks)
        if ranks.is_first:
            _print_places(settings, policy)


def _print_places(settings: Train, policy: Path) -> None:
    print_result(f"policy:  {policy}")
    print_result(f"numbers: {settings.out / 'training.json'}")
