"""Training loop: trains a policy on a dataset of demonstrations.

In its output folder it writes

- `checkpoints/`    the states to resume from (`training.checkpoint`)
- `metrics.jsonl`   all metrics (`training.metrics`)
- `held_out.json`   the last validation (`training.validation`)
- `training.json`   a summary: settings, cost, versions
- `policy/`         the trained policy

Several ranks (`training.distributed`) run `train` in parallel. Rank 0 writes files and logs. Every
decision that depends on what only some ranks know is made by all (`Ranks.any`) or by rank 0.
"""

from __future__ import annotations

import platform
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from imitact.core.cpu import available_cores, processor_name
from imitact.core.errors import BadInput, NotFinite
from imitact.core.feature_statistics import Stats
from imitact.core.types import Dataset
from imitact.core.version import __version__
from imitact.core.words import counted
from imitact.datasets.marks import intervention_ticks, marked_episodes
from imitact.datasets.subset import Subset, split_validation
from imitact.models.config import ActConfig
from imitact.models.fine_tuning import Parent, fine_tuned
from imitact.models.parent import network_changes, spec_changes
from imitact.models.policy import TorchPolicy
from imitact.models.policy_folder import read_policy_json, record_of
from imitact.parallel.signals import ENDING, StopFlag
from imitact.recording.manifest import recorded_in
from imitact.storage.atomic import make_folder, write_json
from imitact.storage.checksum import with_checksum
from imitact.storage.lock import exclusive_writer
from imitact.storage.output_guard import check_output
from imitact.training import checkpoint, frame_cache, trackers
from imitact.training import resume as resumption
from imitact.training.checkpoint import Checkpoint
from imitact.training.config import TrainConfig
from imitact.training.device import TrainingDevice, choose_device
from imitact.training.distributed import RankLost, Ranks, join_ranks
from imitact.training.flops import count_flops
from imitact.training.metrics import (
    MetricsLog,
    RunningMeans,
    StepTimer,
    TrainingTotals,
    l1_unit,
)
from imitact.training.metrics import format_duration as duration
from imitact.training.optimizer_step import Updater
from imitact.training.sampler import SampleBatch, Sampler, dataset_statistics, episode_limits
from imitact.training.thread_count import ThreadCount
from imitact.training.validation import LOGGED, validate

Log = Callable[[str], None]


class Interrupted(KeyboardInterrupt):
    """SIGTERM or Ctrl-C stopped the training after a complete step, with a checkpoint.

    The message names the checkpoint. Not an ImitactError, because nothing failed.
    """


def train(
    dataset: Dataset,
    out: Path,
    model: ActConfig,
    config: TrainConfig,
    *,
    resume: bool = False,
    new_schedule: bool = False,
    parent: Parent | None = None,
    on_line: Log | None = None,
    ranks: Ranks | None = None,
) -> Path:
    """Train a policy and return the path of its folder, `out`/policy.

    Args:
        resume: continue from the newest undamaged checkpoint in `out`, if there is one. The result
            is the same bit for bit as without the interruption (on a CPU, with the same torch and
            number of threads), and where config.steps has grown as that of the longer training.
        new_schedule: where that cannot be, because the learning rate would have been another one
            in the steps done, continue from the checkpoint with a new schedule over the steps left.
        parent: the policy to begin with, in a fine-tuning. Resuming one needs no parent.
        on_line: receives each line of the log, on rank 0 only.
        ranks: the processes that train together; None for those that torchrun started, if any. A
            process that torchrun restarted continues from the checkpoints of that torchrun even
            without `resume`.

    Raises:
        Interrupted: after SIGTERM or Ctrl-C; a checkpoint was written.
        NotFinite: a loss, gradient, weight or validation error is not finite; the last checkpoint
            is intact.
        BadInput: settings and data do not fit, `out` has checkpoints and `resume` is False, or
            another process trains in `out`.
        RankLost: another rank has ended or does not respond; the last checkpoint is intact.
        SystemExit: on the other ranks, where rank 0 raises an error that concerns all ranks.
    """
    with ExitStack() as stack:
        ranks = ranks if ranks is not None else stack.enter_context(join_ranks())
        with ranks.all_succeed():
            if ranks.is_first:
                check_output(out, "training")
                make_folder(out)
                stack.enter_context(exclusive_writer(out, "training"))
        log = on_line if on_line is not None and ranks.is_first else (lambda line: None)
        return _train(dataset, out, model, config, resume, new_schedule, parent, log, ranks)


def _train(
    dataset: Dataset,
    out: Path,
    model: ActConfig,
    config: TrainConfig,
    resuming: bool,
    new_schedule: bool,
    parent: Parent | None,
    log: Log,
    ranks: Ranks,
) -> Path:
    start_s = time.monotonic()

    # Settings and device; the checkpoint to continue from, which must have the same settings.
    with ranks.all_succeed():
        trackers.check_trackers(config.trackers, config.tracker_project)
        device = choose_device(config.precision, config.device, config.num_threads, ranks)
        log(f"training on {device.description}")
        numerics = {"torch": torch.__version__, **device.numerics}
        training, validation = _split(dataset, model, config, log)
        fingerprint = Subset(dataset, training).fingerprint
        settings = resumption.stored_settings(model, config, fingerprint)
        found = None
        if ranks.is_first:
            found = resumption.find_checkpoint(out, resuming, ranks, log)
        if found:
            path, stored = found[0], found[1].numbers
            resumption.check_same_parent(path, stored.get("from"), parent)
            starts = resumption.schedule_starts(path, found[1], config, new_schedule=new_schedule)
            resumption.check_same_training(
                path, stored["settings"], settings, new_schedule=new_schedule
            )
            notice = resumption.rounding_notice(stored["ground"], numerics)
            log(f"resuming from {path}{notice}")
            if starts[-1:] == [found[1].step]:
                steps = f"steps {starts[-1] + 1} to {config.steps}"
                log(f"a new schedule of the learning rate spans {steps}")
            record = read_policy_json(path / "policy")
            resumed = {**stored, "schedule_starts": starts, "record": record}
            found = path, replace(found[1], numbers=resumed)
    resumption.check_ranks_agree(ranks, model, config, fingerprint, numerics)
    before = resumption.broadcast_checkpoint(ranks, found[1] if found else None)

    # Policy and data. Validation episodes enter neither the samples nor the statistics.
    with ranks.all_succeed():
        delta_chunk = model.chunk_size if model.actions == "delta" else 0
        stats = dataset_statistics(dataset, training, delta_chunk=delta_chunk)
        device.seed(config.seed)
        policy, origin = _begin(dataset, training, stats, model, config, parent, before, log)
        _check_batch_norm(policy, config)
    open_frames = partial(
        frame_cache.open_frames,
        dataset,
        policy.views,
        cache_dir=Path(config.cache_dir) if config.cache_dir else out / "cache",
        cache_limit_bytes=int(config.cache_limit_gb * 1e9),
        memory_limit_bytes=int(config.memory_limit_gb * 1e9),
        workers=config.num_workers or available_cores(),
        log=log,
    )
    make_sampler = partial(
        Sampler,
        dataset,
        open_frames,
        chunk=model.chunk_size,
        batch_size=config.batch_size,
        seed=config.seed,
        episodes=[e for e in training for _ in range(dataset.weights[e])],
        tick_weights=_tick_weights(dataset, config),
        ranks=ranks.count,
        rank=ranks.rank,
    )
    sampler = ranks.local_first(make_sampler)
    validation_sampler = sampler.with_episodes(validation) if validation else None

    # Initial weights, or all state of the checkpoint.
    starts = before.numbers.get("schedule_starts", []) if before else []
    updater = Updater(policy, config, device, schedule_start=starts[-1] if starts else 0)
    device.seed(config.seed)
    if before:
        step, totals = before.step, TrainingTotals(**before.numbers["tally"])
        updater.restore(before.tensors)
    else:
        step, totals = 0, TrainingTotals(flop_a_step=count_flops(updater, sampler.batch(0)))
    weights = sum(p.numel() for p in policy.net.parameters())
    log(
        f"{counted(len(training), 'episode')} of {counted(len(sampler), 'tick')} for training, "
        f"{len(validation)} for validation; {weights / 1e6:.1f} M weights; "
        f"{counted(config.steps, 'step')} of {counted(config.batch_size, 'sample')} are "
        f"{config.steps * config.batch_size / len(sampler):.1f} epochs and "
        f"{totals.flop_a_step * config.steps / 1e15:.3g} PFLOP"
    )

    with ranks.all_succeed():
        names = config.trackers if ranks.is_first else ()
        tracking = trackers.start_trackers(names, config.tracker_project, out, step, settings, log)
    path = out / "metrics.jsonl" if ranks.is_first else None
    metrics = MetricsLog(path, resumed=step, log=log, trackers=tracking)
    changes = list(before.numbers.get("thread_changes", [])) if before else []
    numbers: dict[str, Any] = {
        "settings": settings,
        "ground": numerics,
        "launch": ranks.launch_id,
        "thread_changes": changes,
    }
    if starts:
        numbers["schedule_starts"] = starts
    if origin:
        numbers["from"] = origin
    checkpoints = _CheckpointWriter(
        out / "checkpoints", step, updater, totals, numbers, start_s - totals.wall_s
    )
    threads = ThreadCount(device, config.num_threads)
    timer = StepTimer(window=max(200, 2 * config.val_every))
    means = RunningMeans()
    recent: deque[str] = deque(maxlen=3)

    def run_validation(sampler: Sampler) -> None:
        updater.synchronize()
        result = validate(updater, sampler, config.val_samples)
        metrics.write(step, {key: result[key] for key in LOGGED})
        totals.add_validation({"step": step, **result})

    with (
        StopFlag(signal.SIGINT, *ENDING) as stop,
        closing(sampler.stream(step)) as batches,
        closing(metrics),
        _reported(lambda error: _failure_report(error, step, recent, checkpoints), ranks),
    ):
        timer.mark(step)
        while step < config.steps:
            step_start_s = time.monotonic()
            batch = next(batches)
            waited_s = time.monotonic() - step_start_s
            step += 1
            recent.append(f"step {step}: {_sample_names(batch)}")
            losses = updater.update(step - 1, batch)
            spent_s = time.monotonic() - step_start_s
            totals.add_step(config.batch_size, spent_s, waited_s)
            mean = means.add(losses, config.batch_size, spent_s, waited_s)
            if step % config.log_every == 0 or step == config.steps:
                metrics.write(step, mean, steps=config.steps)
                means = RunningMeans()

            if validation_sampler and _is_due(step, config.val_every):
                run_validation(validation_sampler)
            overdue = checkpoints.age_s > 60 * config.checkpoint_minutes > 0
            is_best = totals.best_step == step
            due = is_best or ranks.any(overdue) or _is_due(step, config.checkpoint_every)
            if due and step < config.steps:
                checkpoints.write(step)
            if change := threads.look():
                log(f"step {step}: {change}")
                numbers["thread_changes"].append([step, torch.get_num_threads()])
            timer.mark(step)
            error = _error_text(totals.last_l1_rad, dataset)
            metrics.progress(partial(_progress_line, step, config.steps, mean, error, timer))
            if ranks.any(bool(stop.received)) and step < config.steps:
                checkpoints.write(step)
                after = f"step {step} of {config.steps}, with a checkpoint in {checkpoints.newest}"
                ranks.exit_all(_interrupted(stop, after))

        updater.synchronize()
        if validation_sampler and (totals.last is None or totals.last["step"] != step):
            run_validation(validation_sampler)
        checkpoints.write(step)
        if ranks.any(bool(stop.received)):
            after = (
                f"the last of {counted(config.steps, 'step')}, with a checkpoint in "
                f"{checkpoints.folder}; resume to get the policy"
            )
            ranks.exit_all(_interrupted(stop, after))

    totals.set_wall_time(checkpoints.wall_s)
    with ranks.all_succeed():
        if ranks.is_first:
            path = updater.averaged.save(out / "policy")
            _write_summary(out, config, totals, device, numbers)
            best = checkpoint.checkpoint_path(checkpoints.folder, totals.best_step or 0)
            if totals.best_step != step and best.is_dir():
                lowest = _error_text(totals.best_l1_rad, dataset)
                log(f"lowest validation error: {lowest}, of {best}")
            log(f"policy in {path}")
    return (out / "policy").absolute()


@dataclass
class _CheckpointWriter:
    """Writes checkpoints, at most one per step.

    `step` is that of the newest checkpoint, 0 if there is none. `totals` and `numbers` are stored
    in each. `start_s` is the start of training on the monotonic clock, pauses excluded.
    """

    folder: Path
    step: int
    updater: Updater
    totals: TrainingTotals
    numbers: Mapping[str, Any]
    start_s: float
    written_s: float = field(default_factory=time.monotonic)
    newest: Path | None = None

    @property
    def age_s(self) -> float:
        """Time since the last checkpoint or the start of this process's training."""
        return time.monotonic() - self.written_s

    @property
    def wall_s(self) -> float:
        """Time of the training so far, over all resumptions."""
        return time.monotonic() - self.start_s

    def write(self, step: int) -> None:
        """Write a checkpoint of `step` unless it exists; NotFinite for bad weights. Collective."""
        if step == self.step:
            return
        self.updater.synchronize()
        self.updater.check_ranks_agree()
        self.totals.set_wall_time(self.wall_s)
        ranks = self.updater.device.ranks
        with ranks.all_succeed():
            if ranks.is_first:
                numbers = {name: value for name, value in self.numbers.items() if value != []}
                numbers["tally"] = asdict(self.totals)
                state = Checkpoint(step, self.updater.tensors(), numbers)
                self.newest = checkpoint.save(
                    self.folder,
                    state,
                    self.updater.averaged.save,
                    keep=self.updater.config.keep,
                    best_step=self.totals.best_step,
                )
        self.step, self.written_s = step, time.monotonic()


def _split(
    dataset: Dataset, model: ActConfig, config: TrainConfig, log: Log
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the numbers of the training and the validation episodes, without marked ones."""
    if not dataset.lengths:
        raise BadInput("the dataset has no episodes; record some first")
    marked = {} if config.marked else marked_episodes(dataset)
    kept = [index for index in range(len(dataset.lengths)) if index not in marked]
    if marked:
        number, reasons = next(iter(marked.items()))
        text = (
            f"{len(marked)} of {counted(len(dataset.lengths), 'episode')} "
            f"{'is' if len(dataset.lengths) == 1 else 'are'} marked and left out "
            f"(--train.marked takes them), the first: episode {number}: {'; '.join(reasons)}"
        )
        if not kept:
            raise BadInput(f"no episode is left: {text}")
        log(f"dataset: {text}")
    if config.val_choice in ("last", "random"):
        parts = split_validation(
            Subset(dataset, kept), config.val_episodes, config.val_choice, config.seed
        )
        training, validation = (tuple(kept[index] for index in part.indices) for part in parts)
    else:  # numbers of the dataset's episodes
        parts = split_validation(dataset, 0, config.val_choice, config.seed)
        training, validation = (
            tuple(index for index in part.indices if index not in marked) for part in parts
        )
        if not training:
            raise BadInput("every episode that is left is held out for validation; hold out fewer")
    longest = max(dataset.lengths[index] for index in training)
    if model.chunk_size > longest:
        raise BadInput(
            f"--model.chunk-size is {counted(model.chunk_size, 'tick')}, but the longest episode "
            f"has {longest}: actions after {counted(longest, 'tick')} would be executed without "
            f"having been trained. Use a chunk size of at most {longest}"
        )
    return training, validation


def _tick_weights(
    dataset: Dataset, config: TrainConfig
) -> Callable[[int], NDArray[np.integer[Any]]] | None:
    """Return how often an epoch has each tick of an episode; None where it is always once."""
    if config.intervention_weight == 1:
        return None
    extra = config.intervention_weight - 1
    return lambda index: 1 + extra * intervention_ticks(dataset, index)


def _begin(
    dataset: Dataset,
    training: Sequence[int],
    stats: Mapping[str, Stats],
    model: ActConfig,
    config: TrainConfig,
    parent: Parent | None,
    before: Checkpoint | None,
    log: Log,
) -> tuple[TorchPolicy, dict[str, Any] | None]:
    """Return the policy to train, and of a fine-tuning what training.json has of its parent.

    A fine-tuning that is resumed has its policy from the checkpoint: its statistics are not those
    of the dataset.
    """
    if before and (origin := before.numbers.get("from")):
        log(f"fine-tuning of {origin['path']}")
        net = {n[4:]: t for n, t in before.tensors.items() if n.startswith("net.")}
        return TorchPolicy.from_weights(record_of(before.numbers["record"]), net), origin
    identified = {
        "seed": config.seed,
        "fingerprint": dataset.fingerprint,
        # Policies of the first versions do not say it, and stay what they were.
        "recorded_in": before.numbers["record"].get("recorded_in")
        if before
        else recorded_in(dataset.facts),
        "limits": record_of(before.numbers["record"]).limits
        if before
        else episode_limits(dataset, training),
    }
    if parent is None:
        return TorchPolicy.create(dataset.spec, stats, model, **identified), None
    old = parent.policy
    changes = spec_changes(old.spec, dataset.spec, model)
    changes += network_changes(old.config, model, has_cameras=bool(old.spec.cameras))
    owner = "its own" if parent.statistics == "policy" else "the dataset's"
    log(f"fine-tuning of {parent.path}: its network and weights, with {owner} statistics")
    for line in changes:
        log(f"fine-tuning: {line}")
    origin = {
        "path": parent.path,
        "identity": parent.identity,
        "statistics": parent.statistics,
        "changes": changes,
    }
    return fine_tuned(parent, dataset.spec, stats, model, **identified), origin


def _check_batch_norm(policy: TorchPolicy, config: TrainConfig) -> None:
    """Refuse batch normalization of a single value per channel, which has no variance."""
    grids = [policy.net.backbone.grid(*view.size) for view in policy.views.values()]
    if policy.config.backbone_norm == "batch" and config.batch_size == 1 and (1, 1) in grids:
        raise BadInput(
            "--model.backbone-norm batch needs more than one value per channel, and a batch of 1 "
            "with 1x1 features has one; use a larger batch or input, or --model.backbone-norm group"
        )


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _interrupted(stop: StopFlag, after: str) -> Interrupted:
    return Interrupted(f"stopped by {stop.received or 'a signal to another rank'} after {after}")


@contextmanager
def _reported(report: Callable[[Exception], str], ranks: Ranks) -> Iterator[None]:
    """Replace the message of NotFinite and RankLost by `report`.

    NotFinite concerns all ranks, so only rank 0 raises it. RankLost is raised by each rank.
    """
    try:
        yield
    except NotFinite as error:
        reported = NotFinite(report(error))
        reported.__cause__ = error
        ranks.exit_all(reported)
    except RankLost as error:
        raise RankLost(report(error)) from error


def _failure_report(
    error: Exception, step: int, recent: deque[str], checkpoints: _CheckpointWriter
) -> str:
    """Describe an error by its step and, for one of the data, the samples that led to it."""
    saved = checkpoints.step
    last = f"the checkpoint of step {saved} is intact" if saved else "no checkpoint was due yet"
    if isinstance(error, RankLost):
        return (
            f"step {step}: {error}; {last}, in {checkpoints.folder}. torchrun reports which rank "
            "ended, and why. To continue, give the same command with --resume"
        )
    return (
        f"step {step}: {error}; training stopped without saving it ({last}, in "
        f"{checkpoints.folder}). Samples of the last steps as episode:tick: {'; '.join(recent)}. "
        "Check them, or try a lower --train.lr, more --train.warmup-steps or "
        "--train.grad-clip-norm"
    )


def _sample_names(batch: SampleBatch) -> str:
    """Return the samples of a batch, over all ranks, as episode:tick."""
    samples = batch.whole or batch
    pairs = zip(samples.episode.tolist(), samples.tick.tolist(), strict=True)
    return ", ".join(f"{episode}:{tick}" for episode, tick in pairs)


def _progress_line(
    step: int, steps: int, mean: Mapping[str, float], error: str, timer: StepTimer
) -> str:
    losses = "loss {loss:.4f} (l1 {l1:.4f}, kl {kl:.2g})".format(**mean) if "loss" in mean else ""
    validation = f"  validation {error}" if error else ""
    return (
        f"step {step}/{steps}  {losses}{validation}  {mean['samples_per_s']:.1f} samples/s  "
        f"data wait {100 * mean['data_wait']:.1f} %  "
        f"left {duration(timer.left_s(steps - step))}"
    )


def _error_text(l1: float | None, dataset: Dataset) -> str:
    """A validation error in its unit; empty where there is none."""
    return "" if l1 is None else f"{l1:.4f} {l1_unit(dataset.spec.action_units)}".rstrip()


def _write_summary(
    out: Path,
    config: TrainConfig,
    totals: TrainingTotals,
    device: TrainingDevice,
    numbers: Mapping[str, Any],
) -> None:
    summary: dict[str, Any] = {
        "steps": config.steps,
        "samples": totals.samples,
        "wall_s": totals.wall_s,
        "trained_s": totals.trained_s,
        "samples_per_s": totals.samples / max(totals.trained_s, 1e-9),
        "data_wait": totals.waited_s / max(totals.trained_s, 1e-9),
        "train_pflop": totals.flop_a_step * config.steps / 1e15,
        "held_out_l1_rad": totals.last_l1_rad,
        "best_held_out_l1_rad": totals.best_l1_rad,
        "best_step": totals.best_step,
        "precision": device.precision.name,
        "precision_reason": device.precision.reason,
        "threads": device.threads,
        "ranks": device.ranks.count,
        "peak_rss_bytes": totals.peak_rss_bytes,
        "processor": processor_name(),
        "versions": {
            "imitact": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    optional = ("schedule_starts", "from", "thread_changes")
    summary |= {key: numbers[key] for key in optional if numbers.get(key)}
    write_json(out / "training.json", with_checksum(summary), out)
    if totals.last:
        write_json(out / "held_out.json", with_checksum(totals.last), out)
