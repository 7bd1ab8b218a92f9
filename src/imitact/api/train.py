"""Training by preset: ACT trained on the dataset at a path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from imitact.core.errors import unknown_name
from imitact.core.types import Dataset
from imitact.datasets.read_config import ReadConfig
from imitact.models.config import ActConfig
from imitact.training.config import PRESETS, TrainConfig

if TYPE_CHECKING:
    from imitact.training.distributed import Ranks

C = TypeVar("C", ActConfig, TrainConfig)


def preset(name: str) -> tuple[ActConfig, TrainConfig]:
    """Return the settings of model and training of a preset: quick, released or paper."""
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return PRESETS[name]


def train(
    data: Path | str,
    *,
    out: Path | str,
    preset: str = "quick",
    model: ActConfig | Mapping[str, Any] | None = None,
    train: TrainConfig | Mapping[str, Any] | None = None,
    read: ReadConfig | None = None,
    resume: bool = False,
    ignore_errors: bool = False,
    on_line: Callable[[str], None] | None = None,
    ranks: Ranks | None = None,
) -> Path:
    """Train ACT on a dataset.

    The arguments are the options of `imitact train` (docs/settings.md).

    Args:
        model: settings of the network: an `ActConfig`, or those that differ from the preset's:
            {"chunk_size": 50}.
        train: settings of the training: a `TrainConfig`, or those that differ from the preset's.
        on_line: called with each line of progress, on rank 0 only; None reports nothing.
        ranks: the processes that train together; None takes those that torchrun started, if any.

    Returns:
        The policy's folder, for `load_policy`.
    """
    base_model, base_train = _preset(preset)
    model = _changed(base_model, model, "model")
    train = _changed(base_train, train, "train")
    report = on_line or (lambda line: None)
    from imitact.datasets.open import open_dataset
    from imitact.training import loop
    from imitact.training.distributed import join_ranks

    with join_ranks() if ranks is None else nullcontext(ranks) as ranks:
        with ranks.all_succeed():
            dataset = open_dataset(data, read)
            if ranks.is_first:
                for notice in dataset.notices:
                    report(f"dataset: {notice}")
                if not ignore_errors:
                    refuse_errors(dataset, Path(data), report)
        return loop.train(
            dataset, Path(out), model, train, resume=resume, on_line=on_line, ranks=ranks
        )


_preset = preset


def refuse_errors(dataset: Dataset, path: Path, report: Callable[[str], None]) -> None:
    """Raise BadInput where the numbers of a dataset have errors; no video is decoded."""
    from imitact.quality import findings
    from imitact.quality.dataset_check import inspect_numbers

    found = inspect_numbers(dataset)
    findings.refuse_errors(found, path, "`--ignore-errors` trains on it all the same")
    if found:
        report(f"dataset: {findings.summary(found)}; `imitact check {path}` lists them")


def _changed(base: C, changes: C | Mapping[str, Any] | None, name: str) -> C:
    """Return the settings of a preset with some of them changed, or others in their place."""
    if not isinstance(changes, Mapping):
        return base if changes is None else changes
    names = [field.name for field in fields(base)]
    for key in changes:
        if key not in names:
            raise unknown_name(f"setting in {name}", key, names)
    return replace(base, **changes)
