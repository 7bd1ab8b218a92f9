"""Recorder: demonstrations of an expert, captured in parallel and saved in the order of seeds.

Worker processes run whole episodes, one seed each, into `OUT/.staging` (`episode.py`); this
process moves them into the dataset in the given order of seeds. The result of a seed depends on
the seed alone, and the first N successful seeds are kept, so the dataset is byte for byte the same
for any number of workers and interruptions. A recording that is killed leaves a readable dataset
of its finished episodes, and continues when it is run again.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from imitact.core.errors import BadInput
from imitact.core.types import Env, Policy, Spec
from imitact.core.words import counted
from imitact.datasets.lerobot.layout import IMITACT
from imitact.datasets.lerobot.writer import LeRobotWriter, remove_unfinished
from imitact.datasets.video_config import VideoConfig
from imitact.parallel.signals import StopFlag
from imitact.parallel.worker_pool import JobDone, WorkerPool, WorkerReady
from imitact.recording import episode as capture
from imitact.recording.episode import SeedResult, seed_folder
from imitact.recording.manifest import (
    STAGING,
    Manifest,
    RecordingReport,
    check_folder,
    spec_settings,
)
from imitact.storage.atomic import disk_full_guard, make_folder, write_json
from imitact.storage.lock import exclusive_writer
from imitact.storage.settings_diff import check_same_settings, plain_json

HOLD_TICKS = 10
"""Ticks at the end of a demonstration over which success must hold."""

MAX_SEEDS = 1_000_000
"""More seeds are refused as a mistake; they would fill the memory."""

_ENDS_WITH_ENV = "end_when_terminated"
"""Setting of recordings whose episodes end where the environment ends them. Older ones went on
until success had held, and continue so."""


@dataclass(frozen=True)
class RecordingProgress:
    """Progress of a recording: demonstrations saved, seeds failed, and demonstrations wanted."""

    saved: int
    failed: int
    wanted: int
    elapsed_s: float
    """Time since this call began, s."""

    left_s: float | None
    """Estimated time left, from the ticks recorded in this call, s; None before the first, and
    before the first end of an episode where success ends it."""


def record(
    out: Path | str,
    *,
    make_env: Callable[[], Env],
    make_expert: Callable[[], Policy],
    episodes: int,
    task: str,
    seeds: Sequence[int],
    workers: int = 1,
    video: VideoConfig | None = None,
    on_progress: Callable[[RecordingProgress], None] | None = None,
    extra: Mapping[str, Any] | None = None,
    hold_ticks: int = HOLD_TICKS,
    end_when_held: bool = False,
) -> RecordingReport:
    """Record until `out` has `episodes` successful demonstrations; continue a recording there.

    Failed seeds are listed in the report and not saved; among them are those at which the
    environment or the expert gave a value that is not finite. Ctrl-C keeps the finished episodes
    and raises KeyboardInterrupt. The same call continues; with more `episodes` the dataset grows.

    Args:
        make_env: makes the environment; called in each worker process, so it must be picklable.
            Every camera is recorded at every tick, up to the step cap.
        make_expert: makes the expert, as `make_env`. It may have an attribute `variation`, which
            maps names to numbers and describes its last episode.
        episodes: demonstrations to record in all.
        seeds: seeds to try, in this order, until enough have succeeded.
        workers: processes; each holds one environment and one encoder per camera.
        on_progress: called with the progress about twice a second.
        extra: further settings of the data (name of the environment, spread of the expert, ...) as
            plain JSON; stored, and compared when a recording continues.
        hold_ticks: ticks at the end of an episode over which success must hold.
        end_when_held: end each episode as soon as success has held, not at the step cap.

    Raises:
        BadInput: an argument is not valid; `out` is not a recording; it was begun with other
            settings and has tried a seed; another process is recording there; or the seeds are
            used up before enough have succeeded. What was saved stays.
    """
    for name, value in (("episodes", episodes), ("workers", workers), ("hold_ticks", hold_ticks)):
        if value < 1:
            raise BadInput(f"{name} is {value}; it must be at least 1")
    if len(seeds) > MAX_SEEDS:
        raise BadInput(
            f"{counted(len(seeds), 'seed')} were given; at most {MAX_SEEDS:,} are supported"
        )
    seeds = [*seeds]
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise BadInput(
            f"{counted(len(seeds), 'seed')} were given: {_first_few(seeds)}; expected at least "
            "one, all different and none below 0"
        )
    out = Path(out)
    video = video or VideoConfig()
    check_folder(out)
    settings = {
        "task": task,
        "hold_ticks": hold_ticks,
        "video": asdict(video),
        "extra": dict(extra or {}),
        **({"end_when_held": True, _ENDS_WITH_ENV: True} if end_when_held else {}),
    }
    with disk_full_guard(out), exclusive_writer(out, "recording"), StopFlag() as stop:
        recording = _Recording(out, settings, episodes, seeds, video)
        staging = out / STAGING
        remove_unfinished(out, staging)
        if recording.missing:
            make_folder(staging)
            past_the_end = end_when_held and not recording.ends_with_env
            config = capture.CaptureConfig(staging, video, hold_ticks, end_when_held, past_the_end)
            make_worker = partial(_RecordingWorker, make_env, make_expert, config)
            with WorkerPool(min(workers, recording.missing), make_worker) as pool:
                while recording.missing:
                    stop.check()
                    recording.step(pool)
                    if on_progress is not None:
                        on_progress(recording.progress(pool))
        shutil.rmtree(staging, ignore_errors=True)
        stop.check()
        return recording.report


class _RecordingWorker:
    """Worker of the pool: keeps one environment and one expert for all of its seeds."""

    def __init__(
        self,
        make_env: Callable[[], Env],
        make_expert: Callable[[], Policy],
        config: capture.CaptureConfig,
    ) -> None:
        self._env = make_env()
        self._expert = make_expert()
        self._config = config

    @property
    def facts(self) -> tuple[Spec, dict[str, Any]]:
        """The Spec of the environment, and what the manifest stores about it."""
        spec = self._env.spec
        return spec, {
            **spec_settings(spec),
            "step_cap": self._env.step_cap,
            "stages": list(self._env.stages),
        }

    def work(
        self, seed: int, check_stop: Callable[[], object], report_ticks: Callable[[int], object], /
    ) -> None:
        capture.capture_episode(
            self._env, self._expert, seed, self._config, check_stop, report_ticks
        )

    def close(self) -> None:
        self._env.close()


class _Recording:
    """State of a recording: assigns seeds to workers and saves their episodes in order."""

    def __init__(
        self,
        out: Path,
        settings: dict[str, Any],
        wanted: int,
        seeds: Sequence[int],
        video: VideoConfig,
    ) -> None:
        self._out = out
        self._staging = out / STAGING
        self._settings = plain_json(settings)
        self._wanted = wanted
        self._video = video
        self._began_s = time.monotonic()
        self._first_seed_s: float | None = None
        self._step_cap = 0
        self._writer: LeRobotWriter | None = None
        self._finished: dict[int, SeedResult] = {}  # seeds that follow an unfinished one
        self._manifest = Manifest(self._settings)
        self._resumed = (out / IMITACT).is_file()
        if self._resumed:
            self._manifest = Manifest.read(out)
            if self._manifest.tried_seeds and _ENDS_WITH_ENV not in self._manifest.settings:
                self._settings.pop(_ENDS_WITH_ENV, None)
            self._check_settings(self._settings)
        tried = self._manifest.tried_seeds
        if not tried <= {*seeds[: len(tried)]}:
            raise BadInput(
                f"{out} was begun with other seeds or in another order: {len(tried)} have been "
                f"tried, {_first_few(sorted(tried))}, but the seeds now begin with "
                f"{_first_few(seeds)}. Give the same seeds, or record into another folder"
            )
        self._remaining = deque(seeds[len(tried) :])
        if self.missing < 0:
            raise BadInput(
                f"{out} already has {counted(wanted - self.missing, 'episode')}, more than the "
                f"{wanted} wanted; ask for at least as many, or record into another folder"
            )

    @property
    def ends_with_env(self) -> bool:
        """Whether an episode ends where the environment ends it."""
        return _ENDS_WITH_ENV in self._settings

    @property
    def missing(self) -> int:
        """Number of demonstrations that are still to be saved."""
        return self._wanted - len(self._manifest.demonstrations)

    @property
    def report(self) -> RecordingReport:
        return self._manifest.report(self._out)

    def step(self, pool: WorkerPool) -> None:
        """Take finished seeds, save those that are next in order, and assign new ones."""
        for event in pool.events():
            if isinstance(event, JobDone):
                self._take(event.job)
            elif self._writer is None:
                self._begin(event)
        if self._writer is None:
            return
        self._save_finished(self._writer)
        if not self.missing:
            return
        while pool.has_idle_worker and (seed := self._next_seed(pool)) is not None:
            pool.submit(seed)
            self._first_seed_s = self._first_seed_s or time.monotonic()
        if not self._remaining:
            self._raise_used_up()

    def progress(self, pool: WorkerPool) -> RecordingProgress:
        saved, failed = len(self._manifest.demonstrations), len(self._manifest.failures)
        now_s = time.monotonic()
        left_s = None
        if not self.missing:
            left_s = 0.0
        elif pool.ticks_done and self._first_seed_s is not None and self._knows_length(pool):
            tick_s = (now_s - self._first_seed_s) / pool.ticks_done  # of all workers together
            running = pool.in_flight.values()
            # Ticks of an episode as of those that have ended, which may be before the step cap.
            length = self._step_cap
            if pool.jobs_done:
                length = (pool.ticks_done - sum(running)) / pool.jobs_done
            # Seeds per success as so far; the added one keeps it finite before the first success.
            tries = (self.missing - self._waiting_successes) * (saved + failed + 1) / (saved + 1)
            shared = max(0.0, tries * length - sum(running))
            # The last seeds are not shared among workers: the one with most ticks left decides.
            last = max((max(0.0, length - t) for t in running), default=0) * len(running)
            left_s = tick_s * max(shared, last)
        return RecordingProgress(saved, failed, self._wanted, now_s - self._began_s, left_s)

    def _knows_length(self, pool: WorkerPool) -> bool:
        """Whether the ticks of an episode are known: they are the step cap, or one has ended."""
        return pool.jobs_done > 0 or not self._settings.get("end_when_held")

    @property
    def _waiting_successes(self) -> int:
        """Successes that cannot be saved before an earlier seed is finished."""
        return sum(result.success for result in self._finished.values())

    def _begin(self, ready: WorkerReady) -> None:
        """With the first environment: check or write the settings, and adopt finished seeds."""
        spec, env_settings = ready.facts
        self._step_cap = env_settings["step_cap"]
        settings = plain_json({**self._settings, **env_settings})
        if self._resumed:
            self._check_settings(settings)
        task = self._settings["task"]
        self._writer = LeRobotWriter(
            self._out, spec, task=task, video=self._video, staging=self._staging
        )
        cameras = len(spec.cameras)
        for folder in self._staging.iterdir():
            # In a recording that is begun again, they were captured with other settings.
            result = capture.read_result(folder, cameras, verify=True) if self._resumed else None
            if result and result.seed in self._remaining:
                self._finished[result.seed] = result
            elif folder.is_dir():
                shutil.rmtree(folder, ignore_errors=True)
            else:
                folder.unlink(missing_ok=True)
        if not self._resumed:
            self._manifest = Manifest(settings)
            self._write_manifest()

    def _write_manifest(self) -> None:
        write_json(self._out / IMITACT, self._manifest.to_json(), self._staging)

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        """Refuse settings other than those of the manifest; begin again if no seed was tried."""
        try:
            check_same_settings(self._manifest.settings, settings, self._out, partial=True)
        except BadInput:
            if self._manifest.tried_seeds:
                raise
            self._resumed, self._manifest = False, Manifest(settings)

    def _take(self, seed: int) -> None:
        folder = seed_folder(self._staging, seed)
        result = capture.read_result(folder, 0)
        if result is None:
            raise BadInput(
                f"{folder} has disappeared; is another program changing {self._out}? Run the same "
                "command again to continue"
            )
        self._finished[seed] = result

    def _save_finished(self, writer: LeRobotWriter) -> None:
        """Save finished seeds in order, up to the first that is not finished."""
        while self.missing and self._remaining and self._remaining[0] in self._finished:
            result = self._finished.pop(self._remaining.popleft())
            self._manifest = self._manifest.plus(result)
            folder = seed_folder(self._staging, result.seed)
            # The result is on the disk before the folder is removed, so no seed runs twice.
            if result.success:
                data = capture.read_episode_data(folder)
                stats = data.frame_stats
                videos = {n: capture.video_file(folder, i) for i, n in enumerate(stats)}
                writer.append(data.state, data.action, videos, stats, self._manifest.to_json())
            else:
                self._write_manifest()
            shutil.rmtree(folder, ignore_errors=True)

    def _next_seed(self, pool: WorkerPool) -> int | None:
        """The next seed to run; None if none is needed when all running seeds succeed.

        A later success that waits makes every seed before it needed, whatever comes of it.
        """
        short = self.missing - len(pool.in_flight) - self._waiting_successes
        for position, seed in enumerate(self._remaining):
            if seed not in self._finished and seed not in pool.in_flight:
                later = itertools.islice(self._remaining, position, None)
                successes = (s in self._finished and self._finished[s].success for s in later)
                return seed if short > 0 or any(successes) else None
        return None

    def _raise_used_up(self) -> None:
        saved, failures = len(self._manifest.demonstrations), self._manifest.failures
        shutil.rmtree(self._staging, ignore_errors=True)
        errors = [f"seed {f.seed}: {f.error}" for f in failures if f.error]
        raise BadInput(
            f"only {saved} of {counted(self._wanted, 'demonstration')} succeeded: all "
            f"{counted(saved + len(failures), 'seed')} are used up, {len(failures)} failed"
            + (f" ({len(errors)} ended early, the last in {errors[-1]})" if errors else "")
            + f". {self._out} keeps the successful ones; give more seeds to continue from there"
        )


def _first_few(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds[:5])) + (", ..." if len(seeds) > 5 else "")
