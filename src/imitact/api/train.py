"""Training by preset: ACT trained on the dataset at a path."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from imitact.api.parent_policy import (
    Statistics,
    load_parent,
    parent_network,
    resumed_fine_tuning,
)
from imitact.core.errors import BadInput, unknown_name
from imitact.core.types import Dataset
from imitact.core.words import counted
from imitact.datasets.read_config import ReadConfig
from imitact.models.config import ActConfig
from imitact.models.parent import network_changes
from imitact.training.config import PRESETS, TrainConfig

if TYPE_CHECKING:
    from imitact.training.distributed import Ranks

C = TypeVar("C", ActConfig, TrainConfig)

# The paper's chunk is 2 s (100 ticks at 50 Hz); LeRobot's default of 100 is 3.3 s at 30 Hz.
_USUAL_CHUNK_S, _LONGEST_CHUNK_S = 2.0, 5.0


def preset(name: str) -> tuple[ActConfig, TrainConfig]:
    """Return the settings of model and training of a preset: quick, released or paper."""
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return PRESETS[name]


def settings_of(
    preset: str, from_policy: Path | str | None, out: Path | str | None
) -> tuple[ActConfig, TrainConfig]:
    """Return the settings of model and training to start from.

    They are the preset's, but for the network of a fine-tuning, which is that of the policy
    `from_policy`, or of the fine-tuning in `out` that is resumed.
    """
    model, train = _preset(preset)
    if out is not None and (resumed := resumed_fine_tuning(Path(out))):
        return resumed.config, train
    if from_policy is not None and Path(from_policy).exists():
        return parent_network(Path(from_policy))[0], train
    return model, train


def train(
    data: Path | str | Sequence[Path | str],
    *,
    out: Path | str,
    preset: str = "quick",
    model: ActConfig | Mapping[str, Any] | None = None,
    train: TrainConfig | Mapping[str, Any] | None = None,
    read: ReadConfig | None = None,
    weights: Sequence[int] = (),
    from_policy: Path | str | None = None,
    statistics: Statistics = "policy",
    resume: bool = False,
    new_schedule: bool = False,
    ignore_errors: bool = False,
    no_cameras: bool = False,
    on_line: Callable[[str], None] | None = None,
    ranks: Ranks | None = None,
) -> Path:
    """Train ACT on a dataset, or on several of one robot.

    The arguments are the options of `imitact train` (docs/settings.md).

    Args:
        from_policy: the policy that a fine-tuning begins with, as for `load_policy`, or a
            checkpoint of LeRobot or of the released ACT. It gives the settings of the network.
        statistics: of a fine-tuning: the "policy"'s or those of the "data".
        model: settings of the network: an `ActConfig`, or those that differ from the preset's:
            {"chunk_size": 50}.
        train: settings of the training: a `TrainConfig`, or those that differ from the preset's.
        on_line: called with each line of progress, on rank 0 only; None reports nothing.
        ranks: the processes that train together; None takes those that torchrun started, if any.

    Returns:
        The policy's folder, for `load_policy`.
    """
    base_model, base_train = settings_of(preset, from_policy, out)
    model = _changed(base_model, model, "model")
    train = _changed(base_train, train, "train")
    report = on_line or (lambda line: None)
    check_resumption(Path(out), resume, new_schedule)
    check_parent(from_policy, statistics, model, Path(out))
    paths = [data] if isinstance(data, (str, Path)) else [*data]
    from imitact.datasets.joined import Joined, open_datasets
    from imitact.datasets.without_cameras import cameras_line, seen_by_policy
    from imitact.training import loop
    from imitact.training.distributed import join_ranks

    with join_ranks() if ranks is None else nullcontext(ranks) as ranks:
        with ranks.all_succeed():
            dataset = open_datasets(paths, read, weights)
            parts = dataset.datasets if isinstance(dataset, Joined) else [dataset]
            if ranks.is_first:
                for notice in dataset.notices:
                    report(f"dataset: {notice}")
            dataset = seen_by_policy(dataset, no_cameras)
            if ranks.is_first:
                report(cameras_line(dataset.spec))
                if not ignore_errors:
                    for part, path in zip(parts, paths, strict=True):
                        refuse_errors(part, Path(path), report)
            model, train = fit_preset(
                model,
                train,
                preset,
                dataset,
                Path(out) if resume else None,
                report,
                keep_chunk=from_policy is not None,
            )
            parent = None
            if from_policy is not None and _exists(from_policy, out):
                parent = load_parent(Path(from_policy), statistics, dataset.spec)
        return loop.train(
            dataset,
            Path(out),
            model,
            train,
            resume=resume,
            new_schedule=new_schedule,
            parent=parent,
            on_line=on_line,
            ranks=ranks,
        )


_preset = preset


def check_resumption(out: Path, resume: bool, new_schedule: bool) -> None:
    """Refuse to resume in a folder that does not exist, such as a misspelt one.

    Of several ranks only the first one sees the folder for sure, and torchrun starts them again
    with the same command.
    """
    if new_schedule and not resume:
        raise BadInput("--new-schedule continues a training; give --resume, too")
    if resume and "RANK" not in os.environ and not out.exists():
        raise BadInput(
            f"nothing to resume in {out}: there is no such folder. Give the --out of a training, "
            "or leave out --resume to begin one there"
        )


def check_parent(
    from_policy: Path | str | None, statistics: Statistics, model: ActConfig, out: Path
) -> None:
    """Refuse settings of the network that the policy of a fine-tuning does not have."""
    if from_policy is None:
        if statistics != "policy":
            raise BadInput("--statistics is for a fine-tuning; give --from POLICY, too")
    elif _exists(from_policy, out):
        network, has_cameras = parent_network(Path(from_policy))
        network_changes(network, model, has_cameras=has_cameras)


def _exists(from_policy: Path | str, out: Path | str) -> bool:
    """Whether the policy of a fine-tuning is needed, or there; resuming one needs no parent."""
    return Path(from_policy).exists() or not resumed_fine_tuning(Path(out))


def fit_preset(
    model: ActConfig,
    train: TrainConfig,
    name: str,
    dataset: Dataset,
    resumed: Path | None,
    report: Callable[[str], None],
    *,
    keep_chunk: bool = False,
) -> tuple[ActConfig, TrainConfig]:
    """Return the settings with the preset's own values fitted to a dataset that they do not fit.

    Values that differ from the preset's were chosen and stay. Each change is reported.

    - No episode is held out for validation where none would be left for training.
    - A chunk that is longer than every episode, or than 5 s, becomes 2 s at the dataset's rate.

    Args:
        resumed: the training that is resumed, whose chunk size is kept.
        keep_chunk: keep the chunk size, which is not the preset's.
    """
    base_model, base_train = _preset(name)
    count, rate_hz = len(dataset.lengths), dataset.spec.rate_hz
    is_listed = train.val_choice not in ("last", "random")
    if not is_listed and 0 < count <= train.val_episodes == base_train.val_episodes:
        report(
            f"validation: none, as the dataset has {counted(count, 'episode')} "
            "(--train.val-episodes)"
        )
        train = replace(train, val_episodes=0)
    if keep_chunk or model.chunk_size != base_model.chunk_size or not count:
        return model, train
    from imitact.datasets.subset import split_validation
    from imitact.training.resume import stored_chunk_size

    chunk_size = stored_chunk_size(resumed) if resumed else None
    if chunk_size is None:
        parts = split_validation(dataset, train.val_episodes, train.val_choice, train.seed)
        longest = max(parts[0].lengths)
        chunk_size = model.chunk_size
        if chunk_size > longest or chunk_size > _LONGEST_CHUNK_S * rate_hz:
            chunk_size = max(1, min(round(_USUAL_CHUNK_S * rate_hz), longest))
    if chunk_size != model.chunk_size:
        report(
            f"chunk size: {counted(chunk_size, 'tick')}, {chunk_size / rate_hz:.2g} s, instead of "
            f"the preset's {model.chunk_size} (--model.chunk-size)"
        )
    return replace(model, chunk_size=chunk_size), train


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
