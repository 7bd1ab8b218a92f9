"""The training loop: demonstrations in, a policy directory out.

`train` reads from top to bottom. In the folder `out` it writes

- `checkpoints/`    the state to resume from (train/checkpoint.py)
- `metrics.jsonl`   every scalar (train/logbook.py)
- `held_out.json`   the last validation: L1 per joint and per tick of the chunk
- `training.json`   what the training was and what it cost
- `policy/`         the result

Several ranks (train/ranks.py) run through it side by side. Rank 0 writes and talks; every decision
that depends on more than what all of them know is taken by all (`any`) or told by rank 0.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import resource
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from imitact.core.cpu import available_cores
from imitact.core.errors import BadInput, NotFinite
from imitact.core.types import Dataset
from imitact.core.version import __version__
from imitact.datasets.subset import Subset, split_validation
from imitact.models.config import ActConfig
from imitact.models.policy import TorchPolicy
from imitact.storage.atomic import make_folder, write_json
from imitact.storage.checksum import with_checksum
from imitact.storage.lock import exclusive_writer
from imitact.training import checkpoint, trackers
from imitact.training import device as devices
from imitact.training.config import TrainConfig
from imitact.training.device import TrainingDevice
from imitact.training.distributed import (RankLost, Ranks, join_ranks)
from imitact.training.flops import count_flops
from imitact.training.metrics import (MetricsLog, StepTimer, format_duration)
from imitact.training.optimizer_step import Updater
from imitact.training.sampler import (SampleBatch, Sampler, dataset_statistics)

Say = Callable[[str], None]


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop (SIGTERM or Ctrl-C), finished its step and wrote a checkpoint.

    The message says where. Not an ImitactError: nothing is wrong.
    """


# Settings that may differ when a training is resumed: they change no weight, or only how it is
# rounded (the last three, of which `_elsewhere` tells).
_FREE = (
    "validate_every",
    "validate_samples",
    "checkpoint_every",
    "checkpoint_minutes",
    "log_every",
    "workers",
    "cache_dir",
    "cache_limit_gb",
    "memory_limit_gb",
    "precision",
    "device",
    "threads",
    "trackers",
    "project",
)


def train(
    source: Dataset,
    out: Path,
    model: ActConfig,
    config: TrainConfig,
    *,
    resume: bool = False,
    on_line: Say | None = None,
    ranks: Ranks | None = None,
) -> Path:
    """Train on `source`; gives the path of the policy directory, `out`/policy.

    resume:  go on from the newest whole checkpoint in `out`, to the same weights, bit for bit, as
             without the interruption (on a CPU, at the same torch and number of threads); begins
             at the beginning where there is none. Not resuming, an `out` that holds checkpoints
             is refused.
    on_line: takes each line for the person who waits; of rank 0 only.
    ranks:   the processes that train together; None for those that torchrun started, if any. One
             that torchrun started anew goes on from the checkpoints of that torchrun, `resume` or
             not.

    Raises Interrupted after SIGTERM or Ctrl-C, with a checkpoint written; NotFinite where a loss,
    a gradient, a weight or a held-out error is, with the last checkpoint untouched; BadInput where
    something does not fit, or where another process trains in `out`; RankLost where another rank
    has ended or fell silent, with the last checkpoint untouched. What all ranks raise only rank 0
    tells; the others end in silence (SystemExit) after it.
    """
    with ExitStack() as stack:
        us = ranks if ranks is not None else stack.enter_context(join_ranks())
        with us.together():
            if us.first:
                make_folder(out)
                stack.enter_context(exclusive_writer(out, "training"))
        say = on_line if on_line is not None and us.first else (lambda line: None)
        return _train(source, out, model, config, resume, say, us)


def _train(
    source: Dataset,
    out: Path,
    model: ActConfig,
    config: TrainConfig,
    resume: bool,
    say: Say,
    us: Ranks,
) -> Path:
    began = time.monotonic()
    with us.together():
        trackers.check_trackers(config.trackers, config.tracker_project)
        here = devices.choose_device(config.precision, config.device, config.num_threads, us)
        say(f"training on {here.text}")
        ground = {"torch": torch.__version__, **here.ground}
        chosen, held = _hold_out(source, config.val_episodes)
        told = _settings(source, chosen, model, config)
        # What was there before, and whether it is this training.
        found = _before(out, resume, us, say) if us.first else None
        if found:
            _same_training(found[0], found[1].numbers["settings"], told)
            say(f"resuming from {found[0]}{_elsewhere(found[1].numbers['ground'], ground)}")
    alike = {**told, "train": config.to_json(), "ground": ground}
    _same_everywhere(us, json.loads(json.dumps(alike, default=str)))
    before = _shared(us, found[1] if found else None)

    # Data. Held-out episodes enter neither samples nor statistics.
    with us.together():
        _check_chunk(model.chunk_size, source, chosen)
        delta_chunk = model.chunk_size if model.actions == "delta" else 0
        stats = dataset_statistics(source, chosen, delta_chunk=delta_chunk)
        here.seed(config.seed)
        policy = TorchPolicy.create(
            source.spec, stats, model, seed=config.seed, fingerprint=source.fingerprint
        )
        _check_batch(policy, config)
    samples = us.in_turn(lambda: _samples(source, chosen, policy, out, config, us, say))
    validation = samples.of(held) if held else None

    # Weights, or the weights and all else of before.
    updater = Updater(policy, config, here)
    here.seed(config.seed)
    tally = _Tally()
    step = 0
    if before:
        step = before.step
        updater.restore(before.tensors)
        tally = _Tally(**before.numbers["tally"])
    else:
        tally.flop_a_step = count_flops(updater, samples.batch(0))
    say(_size_of_it(samples, held, policy, config, tally))
    earlier_s = tally.wall_s
    watched = None
    with us.together():
        if us.first:
            watched = trackers.start_trackers(config.trackers, config.tracker_project, out, step, told, say)
    metrics = out / "metrics.jsonl" if us.first else None
    logbook = MetricsLog(metrics, resumed=step, say=say, trackers=watched)
    pace = StepTimer(window=max(200, 2 * config.val_every))
    recent: deque[str] = deque(maxlen=3)
    sums = _Sums()
    saved_step, saved_at = step, time.monotonic()

    def keep() -> Path:
        nonlocal saved_step, saved_at
        updater.settle()  # refuses what is not finite, before it is written
        updater.check_alike()
        tally.lasted(earlier_s + time.monotonic() - began)
        path = out / "checkpoints"
        with us.together():
            if us.first:
                numbers = {"settings": told, "ground": ground, "launch": us.launch}
                numbers |= {"tally": dataclasses.asdict(tally)}
                state = checkpoint.Checkpoint(step, updater.tensors(), numbers)
                path = checkpoint.save(path, state, updater.averaged.save)
        saved_step, saved_at = step, time.monotonic()
        return path

    def stopped(text: str) -> NoReturn:
        by = asked[0] if asked else "a signal to another rank"
        us.leave(Interrupted(f"stopped by {by} after {text}"))

    with (
        _asked_to_stop() as asked,
        closing(samples.stream(step)) as batches,
        closing(logbook),
        _told(lambda error: _where(error, step, recent, saved_step, out), us),
    ):
        pace.mark(step)
        while step < config.steps:
            mark = time.monotonic()
            batch = next(batches)
            waited_s = time.monotonic() - mark
            step += 1
            recent.append(f"step {step}: {_named(batch)}")
            numbers = updater.update(step - 1, batch)
            spent_s = time.monotonic() - mark
            tally.trained(config.batch_size, spent_s, waited_s)
            means = sums.add(numbers, config.batch_size, spent_s, waited_s)
            if step % config.log_every == 0 or step == config.steps:
                logbook.write(step, means)
                sums = _Sums()

            if validation and _due(step, config.val_every):
                updater.settle()
                tally.validated(_validate(updater, validation, config, logbook, step))
            late = us.any(time.monotonic() - saved_at > 60 * config.checkpoint_minutes > 0)
            if step < config.steps and (late or _due(step, config.checkpoint_every)):
                keep()
            pace.mark(step)
            logbook.progress(lambda: _line(step, config, means, tally, pace))  # noqa: B023
            if us.any(bool(asked)) and step < config.steps:
                path = keep() if saved_step != step else out / "checkpoints"
                stopped(f"step {step} of {config.steps}, with a checkpoint in {path}")

        updater.settle()
        if validation and (tally.last is None or tally.last["step"] != step):
            tally.validated(_validate(updater, validation, config, logbook, step))
        if saved_step != step:
            keep()
        if us.any(bool(asked)):
            stopped(
                f"the last of {config.steps} steps, with a checkpoint in {out / 'checkpoints'}; "
                "resume to get the policy"
            )

    tally.lasted(earlier_s + time.monotonic() - began)
    with us.together():
        if us.first:
            _finish(out, updater, here, config, tally, say)
    return (out / "policy").absolute()


@dataclass
class _Tally:
    """What training has cost and reached so far, over every resumption."""

    wall_s: float = 0.0
    trained_s: float = 0.0
    waited_s: float = 0.0
    samples: int = 0
    flop_a_step: int = 0
    best_l1_rad: float | None = None
    best_step: int | None = None
    last: dict[str, Any] | None = None  # what the last validation found
    peak_rss_bytes: int = 0  # pages of the mapped frame cache included

    def lasted(self, wall_s: float) -> None:
        self.wall_s = wall_s
        self.peak_rss_bytes = max(self.peak_rss_bytes, peak_rss_bytes())

    @property
    def last_l1_rad(self) -> float | None:
        return self.last["held_out_l1_rad"] if self.last else None

    def trained(self, samples: int, spent_s: float, waited_s: float) -> None:
        self.samples += samples
        self.trained_s += spent_s
        self.waited_s += waited_s

    def validated(self, found: dict[str, Any]) -> None:
        self.last = found
        if self.best_l1_rad is None or found["held_out_l1_rad"] < self.best_l1_rad:
            self.best_l1_rad, self.best_step = found["held_out_l1_rad"], found["step"]


class _Sums:
    """Means over the steps since the last line of metrics."""

    def __init__(self) -> None:
        self._samples = 0
        self._spent_s = self._waited_s = 0.0
        self._totals: dict[str, float] = {}
        self._counted = 0

    def add(
        self, numbers: Mapping[str, float], samples: int, spent_s: float, waited_s: float
    ) -> dict[str, float]:
        """Take one step in; gives the means with it. On a GPU the numbers are those of the step
        before, and at the first one there are none (train/update.py)."""
        self._counted += bool(numbers)
        self._samples += samples
        self._spent_s += spent_s
        self._waited_s += waited_s
        for name, value in numbers.items():
            self._totals[name] = self._totals.get(name, 0.0) + value
        return {
            **{name: total / self._counted for name, total in self._totals.items()},
            "samples_per_s": self._samples / max(self._spent_s, 1e-9),
            "data_wait": self._waited_s / max(self._spent_s, 1e-9),
        }


def _before(out: Path, resume: bool, us: Ranks, say: Say) -> tuple[Path, checkpoint.Checkpoint] | None:
    """The checkpoint to go on from, if any. Where nobody asked to resume, only one that the same
    torchrun wrote before it started us anew."""
    folder = out / "checkpoints"
    if not resume and not us.restarts and checkpoint.list_checkpoints(folder):
        raise BadInput(f"{out} holds a training already; resume it, or give another folder")
    before = checkpoint.load_newest(folder, say) if resume or us.restarts else None
    if before and not resume and before[1].numbers.get("launch") != us.launch:
        raise BadInput(
            f"{out} holds a training already, which this torchrun did not begin; resume it, or "
            "give another folder"
        )
    return before


def _same_everywhere(us: Ranks, told: Mapping[str, Any]) -> None:
    """Refuse ranks that were given another training, or that compute in another way."""
    first = us.told(dict(told))
    # What a machine may have of its own. Where it rounds differently, Updater.check_alike finds it.
    free = ("processor", "threads", "workers", "cache_dir", "cache_limit_gb", "memory_limit_gb")
    with us.together():
        unlike = [
            f"{part}.{name} is {told[part].get(name)!r} here and {first[part].get(name)!r} there"
            for part in ("model", "train", "ground")
            for name in sorted(told[part].keys() | first[part].keys())
            if name not in free and told[part].get(name) != first[part].get(name)
        ]
        if told["fingerprint"] != first["fingerprint"]:
            unlike.append("the dataset is another one")
        if unlike:
            raise BadInput(
                f"rank {us.rank} does not train what rank 0 trains: {'; '.join(unlike)}. Give all "
                "ranks the same command and the same data, on machines of one kind."
            )


def _shared(us: Ranks, before: checkpoint.Checkpoint | None) -> checkpoint.Checkpoint | None:
    """The checkpoint that rank 0 read, for all: the others may see another disk."""
    known = us.told([before.step, dict(before.numbers)] if before else None)
    if known is None:
        return None
    return checkpoint.Checkpoint(known[0], us.tensors(before.tensors if before else {}), known[1])


def _settings(
    source: Dataset, chosen: Sequence[int], model: ActConfig, config: TrainConfig
) -> dict[str, Any]:
    """What a training is: the same settings give the same weights."""
    told = {
        "model": model.to_json(),
        "train": {k: v for k, v in config.to_json().items() if k not in _FREE},
        "fingerprint": Subset(source, chosen).fingerprint,
    }
    return json.loads(json.dumps(told, default=str))


def _same_training(path: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to resume with other settings or other data, naming them. A setting that a
    checkpoint does not know yet was at its default."""
    usual = {"model": ActConfig().to_json(), "train": TrainConfig().to_json()}
    then = {**then, **{part: usual[part] | then[part] for part in usual}}
    now = {**now, **{part: usual[part] | now[part] for part in usual}}
    unlike = [
        f"{part}.{name} was {then[part].get(name)!r}, is {now[part].get(name)!r}"
        for part in ("model", "train")
        for name in sorted(then[part].keys() | now[part].keys())
        if then[part].get(name) != now[part].get(name)
    ]
    if then["fingerprint"] != now["fingerprint"]:
        unlike.append("the dataset is another one")
    if unlike:
        raise BadInput(
            f"cannot resume {path}: {'; '.join(unlike)}. Use the settings of then, "
            "or begin anew in another folder."
        )


def _elsewhere(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs from where the checkpoint was written, since it changes how sums round (and, of
    ranks, which masks dropout draws)."""
    unlike = [f"{k} {then.get(k)} then, {now[k]} now" for k in now if then.get(k) != now[k]]
    return f" (the weights will differ in rounding: {'; '.join(unlike)})" if unlike else ""


def _hold_out(source: Dataset, held_out: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Numbers of the episodes to train on and of those held out."""
    if not source.lengths:
        raise BadInput("the dataset has no episodes; record some first")
    chosen, held = split_validation(source, held_out)
    return chosen.indices, held.indices


def _check_chunk(chunk: int, source: Dataset, chosen: Sequence[int]) -> None:
    longest = max(source.lengths[e] for e in chosen)
    if chunk > longest:
        raise BadInput(
            f"chunk is {chunk} ticks, but the longest episode has {longest}: what the policy "
            f"predicts beyond {longest} ticks would never be trained, and would be executed. "
            f"Use a chunk of at most {longest}."
        )


def _check_batch(policy: TorchPolicy, config: TrainConfig) -> None:
    """One sample of one feature has no variance to normalise by."""
    grids = [policy.net.backbone.grid(*view.size) for view in policy.views.values()]
    if policy.config.backbone_norm == "batch" and config.batch_size == 1 and (1, 1) in grids:
        raise BadInput(
            "norm 'batch' needs more than one value a channel, and a batch of 1 whose features are "
            "1x1 has one; use a larger batch or input, or norm 'group'"
        )


def _samples(
    source: Dataset,
    chosen: Sequence[int],
    policy: TorchPolicy,
    out: Path,
    config: TrainConfig,
    us: Ranks,
    say: Say,
) -> Sampler:
    return Sampler(
        source,
        chunk=policy.config.chunk_size,
        views=policy.views,
        cache_dir=Path(config.cache_dir) if config.cache_dir else out / "cache",
        cache_limit_bytes=int(config.cache_limit_gb * 1e9),
        memory_limit_bytes=int(config.memory_limit_gb * 1e9),
        batch_size=config.batch_size,
        seed=config.seed,
        workers=config.num_workers or available_cores(),
        episodes=chosen,
        ranks=us.count,
        rank=us.rank,
        say=say,
    )


def _validate(
    updater: Updater, held: Sampler, config: TrainConfig, logbook: MetricsLog, step: int
) -> dict[str, Any]:
    """L1 between prediction at z = 0 and demonstration, on held-out episodes, over valid ticks.

    Written to metrics.jsonl: the mean over the joints in rad (over all dimensions where none is),
    per action dimension in its own unit, per tick of the chunk over the joints in rad. Each rank
    looks at a share of the samples.
    """
    spec = updater.policy.spec
    predictor = updater.averaged
    totals = np.zeros((predictor.config.chunk_size, spec.action_size))
    counts = np.zeros((predictor.config.chunk_size, 1))
    predictor.net.eval()
    for batch in held.evenly(config.val_samples):
        with torch.inference_mode(), updater.devices.autocast():
            predicted = predictor.predict(updater.devices.tensors(batch)).float().cpu().numpy()
        valid = ~batch.is_pad[:, :, None]
        totals += (np.abs(predicted - batch.action) * valid).sum(axis=0)
        counts += valid.sum(axis=0)
    for mine in (totals, counts):
        updater.devices.ranks.sum(torch.from_numpy(mine))
    joints = [i for i, unit in enumerate(spec.action_units) if unit == "rad"]
    joints = joints or list(range(spec.action_size))
    per_joint = totals.sum(axis=0) / counts.sum()
    seen = counts[:, 0] > 0
    mean = float(per_joint[joints].mean())
    if not np.isfinite(mean):
        raise NotFinite(f"the held-out L1 is {mean}")
    found = {
        "held_out_l1_rad": mean,
        "held_out_l1_per_joint": dict(zip(spec.action_names, per_joint.tolist(), strict=True)),
        "held_out_l1_rad_per_tick": (
            totals[seen][:, joints].mean(axis=1) / counts[seen, 0]
        ).tolist(),
    }
    logbook.write(step, found)
    matrix = (totals[seen] / counts[seen]).T  # a row each dimension, in its own unit
    per_tick = dict(zip(spec.action_names, matrix.tolist(), strict=True))
    return {"step": step, **found, "held_out_l1_per_joint_per_tick": per_tick}


def _named(batch: SampleBatch) -> str:
    """Which samples a batch holds, of all ranks, as episode:tick."""
    named = batch.whole or batch
    pairs = zip(named.episode.tolist(), named.tick.tolist(), strict=True)
    return ", ".join(f"{episode}:{tick}" for episode, tick in pairs)


def _where(error: Exception, step: int, recent: deque[str], saved: int, out: Path) -> str:
    """The report of a rank that is gone, or of what is not finite: the step, and the samples that
    led to it."""
    last = f"the checkpoint of step {saved} is intact" if saved else "no checkpoint was due yet"
    if isinstance(error, RankLost):
        return (
            f"step {step}: {error}; {last}, in {out / 'checkpoints'}. torchrun tells which one "
            "ended, and how. To go on, give the same command with --resume."
        )
    return (
        f"step {step}: {error}; training stopped and saved nothing of it "
        f"({last}, in {out / 'checkpoints'}). Samples of the last steps as episode:tick: "
        f"{'; '.join(recent)}. Look at them, or try a lower rate, a longer warm-up or --train.grad-clip-norm."
    )


@contextmanager
def _told(report: Callable[[Exception], str], us: Ranks) -> Iterator[None]:
    """Whatever is not finite in here is told as `report` tells it, by rank 0: what is looked at is
    the same on all ranks. So is a rank that is gone, by each of the others."""
    try:
        yield
    except NotFinite as error:
        told = NotFinite(report(error))
        told.__cause__ = error
        us.leave(told)
    except RankLost as error:
        raise RankLost(report(error)) from error


def _size_of_it(
    samples: Sampler,
    held: Sequence[int],
    policy: TorchPolicy,
    config: TrainConfig,
    tally: _Tally,
) -> str:
    weights = sum(p.numel() for p in policy.net.parameters())
    return (
        f"{len(samples.episodes)} episodes of {len(samples)} ticks to train on, {len(held)} held "
        f"out; {weights / 1e6:.1f} M weights; {config.steps} steps of {config.batch_size} samples "
        f"are {config.steps * config.batch_size / len(samples):.1f} epochs and "
        f"{tally.flop_a_step * config.steps / 1e15:.3g} PFLOP"
    )


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _line(
    step: int, config: TrainConfig, now: Mapping[str, float], tally: _Tally, pace: StepTimer
) -> str:
    held = f"  held-out {tally.last_l1_rad:.4f} rad" if tally.last_l1_rad is not None else ""
    losses = "loss {loss:.4f} (l1 {l1:.4f}, kl {kl:.2g})".format(**now) if "loss" in now else ""
    return (
        f"step {step}/{config.steps}  {losses}{held}  {now['samples_per_s']:.1f} samples/s  "
        f"data wait {100 * now['data_wait']:.1f} %  "
        f"left {format_duration(pace.left_s(config.steps - step))}"
    )


def _finish(
    out: Path,
    updater: Updater,
    here: TrainingDevice,
    config: TrainConfig,
    tally: _Tally,
    say: Say,
) -> None:
    """The policy directory, then the summary."""
    final = updater.averaged.save(out / "policy")
    summary = {
        "steps": config.steps,
        "samples": tally.samples,
        "wall_s": tally.wall_s,
        "trained_s": tally.trained_s,
        "samples_per_s": tally.samples / max(tally.trained_s, 1e-9),
        "data_wait": tally.waited_s / max(tally.trained_s, 1e-9),
        "train_pflop": tally.flop_a_step * config.steps / 1e15,
        "held_out_l1_rad": tally.last_l1_rad,
        "best_held_out_l1_rad": tally.best_l1_rad,
        "best_step": tally.best_step,
        "precision": here.precision.name,
        "precision_reason": here.precision.reason,
        "threads": here.threads,
        "ranks": here.ranks.count,
        "peak_rss_bytes": tally.peak_rss_bytes,
        "processor": devices.processor_name(),
        "versions": {
            "imitact": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    write_json(out / "training.json", with_checksum(summary), out)
    if tally.last:
        write_json(out / "held_out.json", with_checksum(tally.last), out)
    say(f"policy in {final}")


def peak_rss_bytes() -> int:
    """The most memory this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on Linux


@contextmanager
def _asked_to_stop() -> Iterator[list[str]]:
    """A list that gets the name of the signal when SIGTERM or Ctrl-C comes. A second Ctrl-C
    acts at once, as always. Signals reach the main thread only; elsewhere nothing is caught."""
    asked: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(number: int, frame: object) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(signal.Signals(number).name)

    before = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
