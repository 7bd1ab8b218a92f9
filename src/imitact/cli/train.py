"""`imitact train`: demonstrations in, a policy directory out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from imitact.cli.console import print_progress, print_result
from imitact.core.errors import BadInput
from imitact.core.types import Dataset
from imitact.datasets.open import open_dataset
from imitact.datasets.read_config import ReadConfig
from imitact.models.config import ActConfig
from imitact.quality.findings import refuse_errors, tally
from imitact.quality.inspect import inspect_numbers
from imitact.training import loop
from imitact.training.distributed import join_ranks
from imitact.training.config import PRESETS, TrainConfig

GO_ON = "to go on, give the same command with --resume"


@dataclass(frozen=True)
class Train:
    """Train ACT on recorded demonstrations.

    A preset names all settings of model and training; each can be changed by its own option.

    torchrun --nproc-per-node N -m imitact train ... trains with N processes.
    """

    data: Path
    """The dataset: a folder as `imitact record` or LeRobot wrote it, or any other layout that is
    read (docs/formats.md)."""

    out: Path
    """Folder for the checkpoints, the numbers (metrics.jsonl, training.json), the cache of decoded
    frames and, at the end, the policy (OUT/policy)."""

    model: ActConfig
    """The network."""

    train: TrainConfig
    """Its training."""

    preset: str = "quick"
    """Where settings start from: quick (for CPUs, from scratch), released (what the released code
    computes) or paper (the paper's text). Options below show the values of the one given."""

    read: ReadConfig = field(default_factory=ReadConfig)
    """What the dataset does not say of itself."""

    resume: bool = False
    """Go on from the newest whole checkpoint in OUT, to the same weights as without the
    interruption."""

    anyway: bool = False
    """Train on a dataset in which `imitact check` finds errors, too."""


def with_preset(name: str | None) -> Train:
    """The settings of a preset, None for the usual one; data and out have yet to be given."""
    name = name or Train.preset
    model, train = preset(name)
    return Train(data=tyro.MISSING, out=tyro.MISSING, model=model, train=train, preset=name)


def preset(name: str) -> tuple[ActConfig, TrainConfig]:
    """Settings of model and training by name; the error lists the names there are."""
    if name not in PRESETS:
        raise BadInput(f"no preset {name!r}; there are {list(PRESETS)}")
    return PRESETS[name]


def refuse_faulty(source: Dataset, path: Path) -> None:
    """Raise BadInput where the numbers of the dataset have errors; no video is decoded."""
    found = inspect_numbers(source)
    refuse_errors(found, path, "`imitact train --anyway` trains regardless")
    if found:
        print_progress(f"dataset: {tally(found)}; `imitact check {path}` tells of them")


def run(settings: Train) -> None:
    """Train, and print where the policy is."""
    with join_ranks() as ranks:
        with ranks.together():
            source = open_dataset(settings.data, settings.read)
            if ranks.first:
                for notice in getattr(source, "notices", ()):
                    print_progress(f"dataset: {notice}")
            if ranks.first and not settings.anyway:
                refuse_faulty(source, settings.data)
        policy = loop.train(
            source,
            settings.out,
            settings.model,
            settings.train,
            resume=settings.resume,
            on_line=print_progress,
            ranks=ranks,
        )
        if ranks.first:
            print_result(f"policy:  {policy}")
            print_result(f"numbers: {settings.out / 'training.json'}")
