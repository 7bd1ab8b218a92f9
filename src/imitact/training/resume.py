"""Resume: the checkpoint to continue from, and whether settings, data and ranks match it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from imitact.core.errors import BadInput, DamagedFile
from imitact.core.words import counted
from imitact.models.config import MODEL_JSON_KEYS, ActConfig
from imitact.models.fine_tuning import Parent
from imitact.storage.json_file import read_json_object
from imitact.storage.settings_diff import differences, plain_json
from imitact.training.checkpoint import RECORD, Checkpoint, list_checkpoints, load_newest
from imitact.training.config import TRAIN_JSON_KEYS, TrainConfig
from imitact.training.distributed import Ranks
from imitact.training.optimizer_step import lr_scale

_FREE = (
    *("val_every", "val_samples", "checkpoint_every", "checkpoint_minutes", "keep"),
    *("log_every", "num_workers", "cache_dir", "cache_limit_gb", "memory_limit_gb", "trackers"),
    *("tracker_project", "precision", "device", "num_threads"),
)
"""Settings that may change on resume: they change no weight, or only its rounding (the last three,
which `rounding_notice` reports)."""

_SCHEDULE = ("steps", "lr", "lr_backbone", "warmup_steps", "final_lr_fraction")
"""Settings of the learning rate; a new schedule may change them."""

_MACHINE = ("--train.num-threads", "--train.num-workers", "--train.cache-dir", "processor",
            "--train.cache-limit-gb", "--train.memory-limit-gb", "threads")  # fmt: skip
"""What may differ between ranks; `Updater.check_ranks_agree` finds ranks that round differently."""


def stored_settings(model: ActConfig, config: TrainConfig, fingerprint: str) -> dict[str, Any]:
    """Return what a checkpoint stores to identify a training: equal settings give equal weights.

    `fingerprint` is that of the training episodes.
    """
    free = {TRAIN_JSON_KEYS.get(name, name) for name in _FREE}
    train = {key: value for key, value in config.to_json().items() if key not in free}
    return plain_json({"model": model.to_json(), "train": train, "fingerprint": fingerprint})


def find_checkpoint(
    out: Path, resume: bool, ranks: Ranks, log: Callable[[str], None]
) -> tuple[Path, Checkpoint] | None:
    """Return the checkpoint to continue from, if there is one.

    Without `resume`, only a process that torchrun restarted continues, and only from checkpoints of
    the same torchrun; other checkpoints in `out` are refused.
    """
    folder = out / "checkpoints"
    advice = "resume it, or choose another folder"
    if not resume and not ranks.restarts and list_checkpoints(folder):
        raise BadInput(f"{out} already contains a training; {advice}")
    found = load_newest(folder, log) if resume or ranks.restarts else None
    if resume and not found:
        log(f"nothing to resume in {out}: training begins at step 1")
    if found and not resume and found[1].numbers.get("launch") != ranks.launch_id:
        raise BadInput(
            f"{out} already contains a training, which this torchrun did not start; {advice}"
        )
    return found


def schedule_starts(
    path: Path, checkpoint: Checkpoint, config: TrainConfig, *, new_schedule: bool
) -> list[int]:
    """Return the steps after which new schedules of the learning rate began, up to now.

    Another number of steps continues the schedule of the checkpoint at `path` where that agrees on
    all steps done, as a constant rate does: the weights are those of the longer training. Otherwise
    `new_schedule` begins another one after this checkpoint, and its settings may differ.

    Raises:
        BadInput: the schedules differ and `new_schedule` is False, or more steps are done.
    """
    stored = checkpoint.numbers
    starts: list[int] = list(stored.get("schedule_starts", ()))
    train = stored["settings"]["train"]
    changed = [name for name in _SCHEDULE if train[name] != getattr(config, name)]
    if not changed:
        return starts
    done, start = checkpoint.step, starts[-1] if starts else 0
    if config.steps < done:
        raise BadInput(
            f"--train.steps is {config.steps}, but {path} has done {counted(done, 'step')} "
            f"already; give --train.steps {done} or more"
        )
    then = replace(config, steps=train["steps"])  # where no other setting has changed
    if changed == ["steps"] and all(
        lr_scale(then, step, start) == lr_scale(config, step, start) for step in range(start, done)
    ):
        return starts
    if new_schedule:
        return [*(step for step in starts if step < done), done]
    if changed == ["steps"]:
        raise BadInput(
            f"--train.steps was {then.steps}, is now {config.steps}, and the learning rate of "
            f"{path} falls over all steps (--train.final-lr-fraction {then.final_lr_fraction:g}): "
            f"it is {then.lr * lr_scale(then, done - 1, start):.3g} after {done} of {then.steps}, "
            f"and would be {config.lr * lr_scale(config, done - 1, start):.3g} after {done} of "
            f"{config.steps}. --new-schedule continues from these weights with a new schedule, "
            f"from --train.lr down over the {counted(config.steps - done, 'step')} left"
        )
    return starts  # `check_same_training` names the settings


def stored_chunk_size(out: Path) -> int | None:
    """Return the chunk size of the training in `out`; None without a readable checkpoint."""
    for path in list_checkpoints(out / "checkpoints"):
        try:
            return int(read_json_object(path / RECORD)["numbers"]["settings"]["model"]["chunk"])
        except (DamagedFile, KeyError, TypeError, ValueError):
            continue
    return None


def check_same_parent(path: Path, stored: Mapping[str, Any] | None, parent: Parent | None) -> None:
    """Raise BadInput if the checkpoint at `path` did not begin with the policy that is given now.

    `stored` is the checkpoint's origin. A resumption without a parent needs none.
    """
    if parent is None:
        return
    if stored is None:
        raise BadInput(
            f"cannot resume {path}: its training began without --from. Leave out --from, or start "
            "a fine-tuning in another folder"
        )
    found = [] if stored["identity"] == parent.identity else [f"--from was {stored['path']}"]
    if stored["statistics"] != parent.statistics:
        found.append(f"--statistics was {stored['statistics']}")
    if found:
        raise BadInput(
            f"cannot resume {path}: {'; '.join(found)}. Give the same command, or start a "
            "fine-tuning in another folder"
        )


def check_same_training(
    path: Path, then: Mapping[str, Any], now: Mapping[str, Any], *, new_schedule: bool = False
) -> None:
    """Raise BadInput if the `stored_settings` of the checkpoint at `path` differ from those of now.

    A setting that it does not have was at its default. The number of steps is left to
    `schedule_starts`, and with `new_schedule` all of the learning rate.
    """
    train = {
        TRAIN_JSON_KEYS.get(f.name, f.name): f.default for f in dataclasses.fields(TrainConfig)
    }
    defaults = plain_json({"model": ActConfig().to_json(), "train": train})
    before, after = (
        _options(*({**defaults[part], **settings[part]} for part in ("model", "train")))
        for settings in (then, now)
    )
    for name in map(_option, _SCHEDULE if new_schedule else ("steps",)):
        before[name] = after[name]
    found = differences(before, after)
    if then["fingerprint"] != now["fingerprint"]:
        found.append("the dataset is another one")
    if found:
        advice = ""
        if any(name.startswith(tuple(map(_option, _SCHEDULE))) for name in found):
            advice = " --new-schedule continues from these weights with another learning rate."
        elif then["fingerprint"] != now["fingerprint"]:
            advice = f" --from {path.parent.parent} begins that one with these weights."
        raise BadInput(
            f"cannot resume {path}: {'; '.join(found)}. Use the same settings and data, or start a "
            f"new training in another folder.{advice}"
        )


def check_ranks_agree(
    ranks: Ranks, model: ActConfig, config: TrainConfig, fingerprint: str, numerics: dict[str, Any]
) -> None:
    """Raise BadInput on a rank that differs from rank 0 in settings, data or arithmetic.

    Collective.
    """
    options = plain_json(_options(model.to_json(), config.to_json()) | numerics)
    mine = {name: value for name, value in options.items() if name not in _MACHINE}
    first, first_fingerprint = ranks.broadcast([mine, fingerprint])
    with ranks.all_succeed():
        found = differences(first, mine, "{name} is {now} here and {then} there")
        if fingerprint != first_fingerprint:
            found.append("the dataset is another one")
        if found:
            raise BadInput(
                f"rank {ranks.rank} does not train what rank 0 trains: {'; '.join(found)}. Give "
                "all ranks the same command and the same data, on machines of one type"
            )


def broadcast_checkpoint(ranks: Ranks, checkpoint: Checkpoint | None) -> Checkpoint | None:
    """Return the checkpoint that rank 0 read; other ranks may not see its disk. Collective."""
    numbers = ranks.broadcast([checkpoint.step, dict(checkpoint.numbers)] if checkpoint else None)
    if numbers is None:
        return None
    tensors = ranks.broadcast_tensors(checkpoint.tensors if checkpoint else {})
    return Checkpoint(numbers[0], tensors, numbers[1])


def rounding_notice(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return a remark about differences in arithmetic, or an empty string.

    They change how sums are rounded, and, for another number of ranks, the dropout masks.
    """
    found = differences({name: then.get(name) for name in now}, now)
    return f" (the weights will differ by rounding: {'; '.join(found)})" if found else ""


def _options(model: Mapping[str, Any], train: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with their keys on disk under the names of their options."""
    named: dict[str, Any] = {}
    parts = ("model", model, MODEL_JSON_KEYS), ("train", train, TRAIN_JSON_KEYS)
    for part, values, keys in parts:
        names = {key: name for name, key in keys.items()}
        for key, value in values.items():
            named[_option(names.get(key, key), part)] = value
    return named


def _option(name: str, part: str = "train") -> str:
    """Return a setting as typed: --train.final-lr-fraction."""
    return f"--{part}.{name.replace('_', '-')}"
