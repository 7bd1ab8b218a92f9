"""Record demonstrations of an expert in parallel, and never keep half of one.

Worker processes run whole episodes, one seed each, into `OUT/.staging` (`capture.py`); this
process puts them into the dataset in the order of the seeds given. What a seed gives depends on
the seed alone, and the first N seeds that succeed are kept, so the dataset is the same, byte for
byte, for any number of workers and however often the recording was interrupted. Killed at any
moment, it leaves a dataset whose finished episodes can be read, and goes on when it is run again.
"""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput, DamagedFile
from imitact.core.types import Env, Policy, Spec
from imitact.datasets.lerobot.reader import IMITACT, INFO, as_promised, finished, read_json
from imitact.datasets.lerobot.writer import LeRobotWriter, remove_unfinished
from imitact.datasets.video import VideoConfig
from imitact.parallel.signals import InterruptFlag
from imitact.parallel.worker_pool import Done, Ready, WorkerPool
from imitact.recording.episode import (
    SeedResult,
    capture,
    folder_of,
    read_outcome,
    read_rows,
    video_of,
)
from imitact.storage.atomic import disk_full_guard, make_folder, write_json
from imitact.storage.checksum import with_checksum
from imitact.storage.lock import WRITER, exclusive_writer

HOLD_TICKS = 10
"""A demonstration counts if success holds over its last so many ticks."""

MOST_SEEDS = 1_000_000
"""An order of more seeds is a mistake, and would fill the memory."""

_FORMAT = 2
"""Of meta/imitact.json. 1 did not vouch for itself, and its dataset has no checksums; an imitact
that knows only 1 would go on without any, and must not."""

_FORMATS = (1, _FORMAT)
_STAGING = ".staging"


@dataclass(frozen=True)
class RecordingProgress:
    """How far a recording is.

    saved, failed: demonstrations in the dataset, and seeds that did not succeed, in all.
    wanted:        demonstrations asked for.
    elapsed_s:     since this recording was started, or went on.
    left_s:        estimated from the ticks recorded since then; None while there are none.
    """

    saved: int
    failed: int
    wanted: int
    elapsed_s: float
    left_s: float | None


@dataclass(frozen=True)
class Demonstration:
    """A saved episode: its seed, and how it differs from the others.

    variation:   what the expert varied, by name (the expert's own `variation`, in its units).
    first_ticks: stage to the first tick whose reward reached it.
    """

    seed: int
    variation: Mapping[str, float]
    first_ticks: Mapping[int, int]


@dataclass(frozen=True)
class FailedSeed:
    """A seed that was not saved, and the highest stage it reached.

    trouble: what cut the episode short, in words; empty where it ran to its end.
    """

    seed: int
    stage: int
    trouble: str = ""


@dataclass(frozen=True)
class RecordingReport:
    """What a recorded dataset holds, and what it does not.

    path:   the dataset.
    stages: what a reward of 0, 1, 2, ... means, in words; empty if rewards are no stages.
    """

    path: Path
    stages: tuple[str, ...]
    demonstrations: tuple[Demonstration, ...]
    failures: tuple[FailedSeed, ...]

    @property
    def saved(self) -> int:
        """Episodes in the dataset."""
        return len(self.demonstrations)

    @property
    def failed(self) -> int:
        """Seeds that were tried and not saved."""
        return len(self.failures)

    def first_ticks(self, stage: int) -> NDArray[np.int64]:
        """Of each demonstration that reached `stage`, the tick at which it first did."""
        ticks = [d.first_ticks[stage] for d in self.demonstrations if stage in d.first_ticks]
        return np.array(ticks, dtype=np.int64)

    def deviations(self) -> dict[str, float]:
        """The standard deviation over the demonstrations of everything the expert varied."""
        values: dict[str, list[float]] = {}
        for demonstration in self.demonstrations:
            for name, value in demonstration.variation.items():
                values.setdefault(name, []).append(value)
        return {name: float(np.std(column)) for name, column in values.items()}


def read_report(path: Path | str) -> RecordingReport:
    """The Report of a dataset that imitact recorded."""
    path = Path(path)
    if not (path / IMITACT).is_file():
        raise BadInput(f"{path} was not recorded by imitact: there is no {IMITACT}")
    return _Facts.read(path).report(path)


def is_recording(path: Path) -> bool:
    """Whether imitact recorded what is there, so that it may go on recording into it."""
    if not (path / IMITACT).is_file():
        return False
    settings = read_json(path / IMITACT).get("settings")
    return isinstance(settings, dict) and "conversion" not in settings


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
    """Record until `out` holds `episodes` successful demonstrations; go on where it was left.

    make_env, make_expert: called in each worker process, so module-level functions or partials
                 of them. Every camera of the Env is recorded, at every tick up to its step cap.
                 An expert may have an attribute `variation`, name to number, of its last episode.
    task:        what the episodes show, in words; LeRobot's "task".
    seeds:       tried in this order until enough have succeeded.
    workers:     processes; each holds one Env and one encoder a camera.
    extra:       what else made the data (the environment's name, the expert's spread, ...), plain
                 JSON; stored, and compared when a recording goes on.
    hold_ticks:  success must hold over the last so many ticks.
    end_when_held: end an episode once it does, not at the Env's step cap.

    Only successes are saved; failures are counted and reported, among them a seed at which the
    world or the expert stopped giving finite numbers. Ctrl-C keeps what is finished and raises
    KeyboardInterrupt. The same call again goes on; with a larger `episodes` the dataset grows.
    Refuses to go on with other settings (unless no seed has given anything yet), or where another
    recording is under way; where the seeds are used up before enough have succeeded it says so,
    and what succeeded stays.
    """
    for name, value in (("episodes", episodes), ("workers", workers), ("hold_ticks", hold_ticks)):
        if value < 1:
            raise BadInput(f"{name} is {value}; it must be at least 1")
    if len(seeds) > MOST_SEEDS:
        raise BadInput(f"{len(seeds)} seeds to try; at most {MOST_SEEDS} are put in an order")
    seeds = [*seeds]
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise BadInput(
            f"{len(seeds)} seeds, {_some(seeds)}; expected at least one, none below 0, none twice"
        )
    out = Path(out)
    video = video or VideoConfig()
    _check_folder(out)
    settings = {
        "task": task,
        "hold_ticks": hold_ticks,
        "video": asdict(video),
        "extra": dict(extra or {}),
        **({"end_when_held": True} if end_when_held else {}),
    }
    with disk_full_guard(out), exclusive_writer(out, "recording"), InterruptFlag() as interrupt:
        recording = _Recording(out, settings, episodes, seeds, video)
        remove_unfinished(out, out / _STAGING)
        if recording.missing:
            staging = out / _STAGING
            make_folder(staging)
            make_worker = partial(
                _Recorder, make_env, make_expert, staging, video, hold_ticks, end_when_held
            )
            with WorkerPool(min(workers, recording.missing), make_worker) as crew:
                while recording.missing:
                    interrupt.check()
                    recording.step(crew)
                    if on_progress is not None:
                        on_progress(recording.progress(crew))
        shutil.rmtree(out / _STAGING, ignore_errors=True)
        return recording.report


def _check_folder(out: Path) -> None:
    """Only a folder of ours, or an empty one, or none."""
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out} is a file; give a folder")
    if out.is_dir() and not (out / IMITACT).is_file():
        # A kill in the first write leaves folders without a file: those are nobody's work.
        others = sorted(
            p.name for p in out.iterdir() if p.name not in (_STAGING, WRITER) and _holds_files(p)
        )
        if others:
            raise BadInput(
                f"{out} is not empty and no recording of imitact (it holds {others[:3]}); "
                "give a new folder"
            )


def _holds_files(path: Path) -> bool:
    return not path.is_dir() or any(not p.is_dir() for p in path.rglob("*"))


@dataclass(frozen=True)
class _World:
    """What a worker's Env is like."""

    spec: Spec
    step_cap: int
    stages: tuple[str, ...]

    def settings(self) -> dict[str, Any]:
        spec = self.spec
        return {
            "rate_hz": spec.rate_hz,
            "names": {"state": list(spec.state_names), "action": list(spec.action_names)},
            "units": {"state": list(spec.state_units), "action": list(spec.action_units)},
            "cameras": [[c.name, c.height, c.width] for c in spec.cameras],
            "step_cap": self.step_cap,
            "stages": list(self.stages),
        }


class _Recorder:
    """A crew's Worker: one Env and one expert, kept over the seeds."""

    def __init__(
        self,
        make_env: Callable[[], Env],
        make_expert: Callable[[], Policy],
        staging: Path,
        video: VideoConfig,
        hold_ticks: int,
        end_when_held: bool,
    ) -> None:
        self._env = make_env()
        self._expert = make_expert()
        self._capture = partial(
            capture,
            staging=staging,
            video=video,
            hold_ticks=hold_ticks,
            end_when_held=end_when_held,
        )

    @property
    def facts(self) -> _World:
        env = self._env
        return _World(env.spec, env.step_cap, env.stages)

    def work(self, seed: int, go_on: Callable[[], object], tell: Callable[[int], object]) -> None:
        self._capture(self._env, self._expert, seed, go_on=go_on, tell=tell)

    def close(self) -> None:
        self._env.close()


@dataclass(frozen=True)
class _Facts:
    """meta/imitact.json: what LeRobot's own files have no place for."""

    settings: Mapping[str, Any]
    demonstrations: tuple[Demonstration, ...] = ()
    failures: tuple[FailedSeed, ...] = ()

    @classmethod
    def read(cls, path: Path) -> _Facts:
        """Of the finished episodes of a dataset, and of what failed before the next one."""
        saved, _ = finished(path)
        file = path / IMITACT
        data = read_json(file)
        if data.get("format") not in _FORMATS:
            raise BadInput(
                f"{file} has format {data.get('format')}, this imitact knows {_FORMATS}; "
                "use the version that recorded it, or record into another folder"
            )
        with as_promised(file):
            if origin := data["settings"].get("conversion"):
                raise BadInput(
                    f"{path} was converted from {origin.get('from')}, not recorded by imitact; "
                    "record into another folder"
                )
            demonstrations = [
                Demonstration(
                    int(e["seed"]),
                    {name: float(value) for name, value in e["variation"].items()},
                    {int(stage): int(tick) for stage, tick in e["first_ticks"].items()},
                )
                for e in data["episodes"]
            ]
            failures = [
                FailedSeed(int(f["seed"]), int(f["stage"]), str(f.get("trouble", "")))
                for f in data["failed"]
            ]
            settings = dict(data["settings"])
            settings["stages"] = [str(words) for words in settings["stages"]]
        if saved > len(demonstrations):
            raise BadInput(
                f"{file} tells of {len(demonstrations)} episodes, the dataset holds {saved}: "
                "another program has added to it. It can be read, not recorded into"
            )
        # A kill between this file and info.json leaves one episode too many here, the last seed
        # that was put in place.
        if len(demonstrations) > saved + 1:  # going on would remove the files of all these
            raise DamagedFile(
                f"{file} tells of {len(demonstrations)} episodes, {path / INFO} of {saved}: one of "
                "the two was altered or lost. Copy the dataset again from where it came, or record "
                "into another folder"
            )
        return cls(settings, tuple(demonstrations[:saved]), tuple(failures))

    def to_dict(self) -> dict[str, Any]:
        return with_checksum(self._told())

    def _told(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "settings": self.settings,
            "episodes": [
                {
                    "seed": d.seed,
                    "variation": d.variation,
                    "first_ticks": {str(s): t for s, t in d.first_ticks.items()},
                }
                for d in self.demonstrations
            ],
            "failed": [
                {"seed": f.seed, "stage": f.stage, **({"trouble": f.trouble} if f.trouble else {})}
                for f in self.failures
            ],
        }

    def plus(self, outcome: SeedResult) -> _Facts:
        """With one seed more."""
        if not outcome.success:
            failure = FailedSeed(outcome.seed, outcome.stage, outcome.trouble)
            return _Facts(self.settings, self.demonstrations, (*self.failures, failure))
        saved = Demonstration(outcome.seed, outcome.variation, outcome.first_ticks)
        return _Facts(self.settings, (*self.demonstrations, saved), self.failures)

    @property
    def are_none(self) -> bool:
        """Whether no seed has given anything that a dataset keeps."""
        return not self.demonstrations and not self.failures

    @property
    def tried(self) -> set[int]:
        """The seeds whose outcome is here."""
        return {d.seed for d in self.demonstrations} | {f.seed for f in self.failures}

    def report(self, path: Path) -> RecordingReport:
        return RecordingReport(
            path, tuple(self.settings["stages"]), self.demonstrations, self.failures
        )


class _Recording:
    """Gives out seeds, and puts what comes back into the dataset in order."""

    def __init__(
        self,
        out: Path,
        settings: dict[str, Any],
        wanted: int,
        seeds: Sequence[int],
        video: VideoConfig,
    ) -> None:
        self._out = out
        self._staging = out / _STAGING
        self._settings = _plain(settings)
        self._wanted = wanted
        self._video = video
        self._began_s = time.monotonic()
        self._first_seed_s: float | None = None
        self._step_cap = 0
        self._writer: LeRobotWriter | None = None
        self._waiting: dict[int, SeedResult] = {}  # finished, with a seed before them that is not
        self._facts = _Facts(self._settings)
        self._resumed = (out / IMITACT).is_file()
        if self._resumed:
            self._facts = _Facts.read(out)
            self._check_settings(self._settings)
            if not self._resumed:
                self._facts = _Facts(self._settings)
        self._ahead = self._not_tried(seeds)
        if self.missing < 0:
            raise BadInput(
                f"{out} already holds {wanted - self.missing} episodes, {wanted} were asked for; "
                "ask for as many, or record into another folder"
            )

    def _not_tried(self, seeds: Sequence[int]) -> deque[int]:
        """The seeds ahead; refuses an order that begins otherwise than what has been tried."""
        tried = self._facts.tried
        if not tried <= {*seeds[: len(tried)]}:
            raise BadInput(
                f"{self._out} was begun with other seeds or in another order: {len(tried)} have "
                f"been tried, {_some(sorted(tried))}, and the order now begins with "
                f"{_some(seeds)}. Use the same seeds, or record into another folder"
            )
        return deque(seeds[len(tried) :])

    @property
    def missing(self) -> int:
        """Demonstrations that are not in the dataset yet."""
        return self._wanted - len(self._facts.demonstrations)

    @property
    def report(self) -> RecordingReport:
        return self._facts.report(self._out)

    def step(self, crew: WorkerPool) -> None:
        """Take what has come, put in place what can be, give out what is needed."""
        for message in crew.messages():
            if isinstance(message, Done):
                self._take(message.seed)
            elif self._writer is None:
                self._begin(message)
        if self._writer is None:
            return
        self._settle(self._writer)
        if not self.missing:
            return
        while crew.idle and (seed := self._wanted_now(crew)) is not None:
            crew.give(seed)
            self._first_seed_s = self._first_seed_s or time.monotonic()
        if not self._ahead:
            self._used_up()

    def progress(self, crew: WorkerPool) -> RecordingProgress:
        saved, failed = len(self._facts.demonstrations), len(self._facts.failures)
        now_s = time.monotonic()
        left_s = None
        if not self.missing:
            left_s = 0.0
        elif crew.ticks and self._first_seed_s is not None:
            tick_s = (now_s - self._first_seed_s) / crew.ticks  # of all workers together
            under_way = crew.under_way.values()
            # As many tries a success as so far; the one try added keeps it finite.
            tries = (self.missing - self._sure) * (saved + failed + 1) / (saved + 1)
            together = max(0.0, tries * self._step_cap - sum(under_way))
            # The last seeds are not shared out: the slowest worker decides.
            alone = max((self._step_cap - t for t in under_way), default=0) * len(under_way)
            left_s = tick_s * max(together, alone)
        return RecordingProgress(saved, failed, self._wanted, now_s - self._began_s, left_s)

    @property
    def _sure(self) -> int:
        """Successes that wait for a seed before them."""
        return sum(outcome.success for outcome in self._waiting.values())

    def _begin(self, ready: Ready) -> None:
        """With the first Env at hand: check or write the settings, adopt what was finished."""
        world: _World = ready.facts
        self._step_cap = world.step_cap
        settings = _plain({**self._settings, **world.settings()})
        if self._resumed:
            self._check_settings(settings)
        self._writer = LeRobotWriter(
            self._out,
            world.spec,
            task=self._settings["task"],
            video=self._video,
            staging=self._staging,
        )
        cameras = len(world.spec.cameras)
        for folder in self._staging.iterdir():
            # What is found where nothing goes on was recorded with other settings.
            outcome = read_outcome(folder, cameras, whole=True) if self._resumed else None
            if outcome and outcome.seed in self._ahead:
                self._waiting[outcome.seed] = outcome
            elif folder.is_dir():
                shutil.rmtree(folder, ignore_errors=True)
            else:
                folder.unlink(missing_ok=True)
        if not self._resumed:
            self._facts = _Facts(settings)
            self._write_facts()

    def _write_facts(self) -> None:
        write_json(self._out / IMITACT, self._facts.to_dict(), self._staging)

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        """Refuse to go on with other settings than those the dataset was begun with.

        Where it was begun and nothing has come of it (a setting was mistyped, say), begin anew.
        """
        unlike = _unlike(self._facts.settings, settings)
        if unlike and self._facts.are_none:
            self._resumed = False
        elif unlike:
            raise BadInput(
                f"{self._out} was begun with {'; with '.join(unlike)}. Use the same settings, "
                "or record into another folder"
            )

    def _take(self, seed: int) -> None:
        outcome = read_outcome(folder_of(self._staging, seed), 0)
        if outcome is None:
            raise BadInput(
                f"{folder_of(self._staging, seed)} has vanished; is something else at work in "
                f"{self._out}? Run the same command again to go on"
            )
        self._waiting[seed] = outcome

    def _settle(self, writer: LeRobotWriter) -> None:
        """Put finished seeds in place, in order, as far as there is no gap."""
        while self.missing and self._ahead and self._ahead[0] in self._waiting:
            outcome = self._waiting.pop(self._ahead.popleft())
            self._facts = self._facts.plus(outcome)
            folder = folder_of(self._staging, outcome.seed)
            # Either way what is known of the seed is on the disk before its folder goes.
            if outcome.success:
                rows = read_rows(folder)
                videos = {name: video_of(folder, i) for i, name in enumerate(rows.pixels)}
                writer.append(rows.state, rows.action, videos, rows.pixels, self._facts.to_dict())
            else:
                self._write_facts()
            shutil.rmtree(folder, ignore_errors=True)

    def _wanted_now(self, crew: WorkerPool) -> int | None:
        """The next seed to give out, None where it is not needed if all under way succeed.

        Nothing is recorded in vain, but for seeds before a success that waits for them.
        """
        short = self.missing - len(crew.under_way) - self._sure
        for place, seed in enumerate(self._ahead):
            if seed in self._waiting or seed in crew.under_way:
                continue
            later = itertools.islice(self._ahead, place, None)
            if short > 0 or any(s in self._waiting and self._waiting[s].success for s in later):
                return seed
            return None
        return None

    def _used_up(self) -> None:
        saved, failed = len(self._facts.demonstrations), len(self._facts.failures)
        shutil.rmtree(self._staging, ignore_errors=True)
        troubles = [f"seed {f.seed}: {f.trouble}" for f in self._facts.failures if f.trouble]
        raise BadInput(
            f"only {saved} of {self._wanted} demonstrations succeeded: all {saved + failed} seeds "
            f"are used up, {failed} failed"
            + (f" ({len(troubles)} were cut short, the last in {troubles[-1]})" if troubles else "")
            + f". What succeeded is in {self._out}; more seeds after these go on from there"
        )


def _unlike(then: Mapping[str, Any], now: Mapping[str, Any], of: str = "") -> list[str]:
    """What differs of the settings that are there now, each by its full name, in words."""
    told = []
    for name, value in now.items():
        before = then.get(name, _ABSENT)
        if isinstance(before, dict) and isinstance(value, dict):
            told += _unlike(before, {**dict.fromkeys(before, _ABSENT), **value}, f"{of}{name}.")
        elif before != value:
            told.append(f"{of}{name} = {_said(before)}, now it is {_said(value)}")
    return told


def _some(seeds: Sequence[int]) -> str:
    """The first few of many."""
    return ", ".join(map(str, seeds[:5])) + (", ..." if len(seeds) > 5 else "")


_ABSENT = object()  # of a setting that is not there, which is not the same as null


def _said(value: Any) -> str:
    return "not set" if value is _ABSENT else json.dumps(value)


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes back from JSON, so that it compares equal when a recording goes on."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BadInput(f"settings and extra must be plain JSON: {error}") from error
