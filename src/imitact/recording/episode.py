"""One seed, one episode, one folder that appears when all of it is on the disk.

This is a worker's side of a recording: it knows nothing of datasets, other seeds or other
workers. `record.py` picks the folders up.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.chunking import Replay
from imitact.core.errors import BadInput, NotFinite
from imitact.core.rollout import rollout
from imitact.core.types import Env, Policy
from imitact.datasets.lerobot.stats import FeatureStats, PixelCounts, sampled_ticks
from imitact.datasets.video import VideoConfig, VideoWriter
from imitact.storage.atomic import disk_full_guard, fsync
from imitact.storage.checksum import file_sha256, verified, with_checksum
from imitact.storage.json_file import read_json_object

_OUTCOME = "outcome.json"
_ROWS = "rows.npz"
_TELL_S = 1.0


@dataclass(frozen=True)
class SeedResult:
    """What a seed gave.

    stage:       the highest reached; 0 where rewards are no stages.
    variation:   what the expert varied, by name.
    first_ticks: stage to the first tick whose reward reached it.
    trouble:     what cut the episode short, in words; empty where it ran to its end.
    """

    seed: int
    success: bool
    stage: int
    variation: dict[str, float]
    first_ticks: dict[int, int]
    trouble: str = ""


@dataclass(frozen=True)
class Rows:
    """The numbers of a successful episode: state (T, S), action (T, A), statistics of pixels."""

    state: NDArray[np.float32]
    action: NDArray[np.float32]
    pixels: dict[str, FeatureStats]


def folder_of(staging: Path, seed: int) -> Path:
    """Where the outcome of a seed appears."""
    return staging / f"seed-{seed:06d}"


def video_of(folder: Path, camera_index: int) -> Path:
    """The video of a camera; numbered, since a camera's name need not be a file's."""
    return folder / f"{camera_index}.mp4"


def read_outcome(folder: Path, cameras: int, *, whole: bool = False) -> SeedResult | None:
    """What `capture` left there; None if the folder is not one of its, or not what it wrote.

    whole: compare every file with its SHA-256; one that was just written needs no look.
    """
    try:
        file = folder / _OUTCOME
        data = verified(read_json_object(file), file, required=True)
        sums = data.pop("files")
        data["first_ticks"] = {int(s): t for s, t in data["first_ticks"].items()}
        outcome = SeedResult(**data)
        if folder.name != folder_of(folder.parent, outcome.seed).name:
            return None  # not yet renamed: its worker was killed
        if outcome.success:
            files = [folder / _ROWS, *(video_of(folder, i) for i in range(cameras))]
            if not all(
                f.is_file() and (not whole or sums[f.name] == file_sha256(f)) for f in files
            ):
                return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, BadInput):
        return None
    return outcome


def read_rows(folder: Path) -> Rows:
    """The numbers of a successful outcome."""
    pixels: dict[str, FeatureStats] = {}
    with np.load(folder / _ROWS, allow_pickle=False) as arrays:
        for name in arrays.files:
            if name.startswith("pixels/"):
                camera, _, statistic = name.removeprefix("pixels/").rpartition("/")
                pixels.setdefault(camera, {})[statistic] = arrays[name]
        return Rows(arrays["state"], arrays["action"], pixels)


def capture(
    env: Env,
    expert: Policy,
    seed: int,
    *,
    staging: Path,
    video: VideoConfig,
    hold_ticks: int,
    go_on: Callable[[], object],
    tell: Callable[[int], object],
    end_when_held: bool = False,
) -> None:
    """Run the expert for the Env's step cap, and leave `folder_of(staging, seed)`.

    hold_ticks:    the episode succeeds if the Env's criterion holds over its last so many ticks.
    end_when_held: end it once that is so.
    go_on:         called each tick; what it raises ends the episode, and leaves nothing.
    tell:          called about once a second, and at the end, with the number of ticks done.

    Frames go straight to the encoders: memory does not grow with the episode but for its states
    and actions. A failed seed leaves its outcome, no data. A world or an expert that gives numbers
    that are not finite has failed at that seed; whatever else they raise is raised.
    """
    with disk_full_guard(staging):
        folder = Path(tempfile.mkdtemp(prefix="work-", dir=staging))
        try:
            outcome, rows = _run(
                env, expert, seed, folder, video, hold_ticks, go_on, tell, end_when_held
            )
            if rows is not None:
                _write_rows(folder / _ROWS, rows)
            else:
                for index in range(len(env.spec.cameras)):
                    video_of(folder, index).unlink(missing_ok=True)
            sums = {f.name: file_sha256(f) for f in sorted(folder.iterdir())}
            text = json.dumps(with_checksum({**asdict(outcome), "files": sums}), allow_nan=False)
            (folder / _OUTCOME).write_text(text, encoding="utf-8")
            fsync(folder / _OUTCOME)
            fsync(folder)
            target = folder_of(staging, seed)
            if target.exists():  # of a worker whose recorder was killed: the same seed, the same
                shutil.rmtree(target)
            folder.rename(target)
            fsync(staging)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _run(
    env: Env,
    expert: Policy,
    seed: int,
    folder: Path,
    video: VideoConfig,
    hold_ticks: int,
    go_on: Callable[[], object],
    tell: Callable[[int], object],
    end_when_held: bool,
) -> tuple[SeedResult, Rows | None]:
    """What the seed gave, and its numbers if it succeeded."""
    spec, cap = env.spec, env.step_cap
    sampled = sampled_ticks(cap)
    pixels = {camera.name: PixelCounts() for camera in spec.cameras}
    states: list[NDArray[np.float32]] = []
    actions: list[NDArray[np.float32]] = []
    first_ticks: dict[int, int] = {}
    held = 0
    told_s = time.monotonic()
    trouble = ""
    try:
        with ExitStack() as stack:
            writers = {
                c.name: stack.enter_context(
                    VideoWriter(video_of(folder, i), c.height, c.width, spec.rate_hz, video)
                )
                for i, c in enumerate(spec.cameras)
            }
            for tick in rollout(
                expert, env, seed=seed, chunking=Replay(1), step_cap=cap, keep=tuple(writers)
            ):
                go_on()
                where = f"tick {tick.index}"
                state = np.asarray(tick.observation.state)
                spec.check_state(state, where)
                for name, writer in writers.items():
                    frame = tick.observation.frames[name]
                    spec.check_frame(name, frame, where)
                    writer.add(frame)
                    if tick.index in sampled:
                        pixels[name].add(frame)
                states.append(state.astype(np.float32))
                actions.append(tick.action.astype(np.float32))
                held = held + 1 if tick.success else 0
                if end_when_held and held >= hold_ticks:
                    break
                if env.stages:
                    for stage in range(1, int(tick.reward) + 1):
                        first_ticks.setdefault(stage, tick.index)
                if time.monotonic() - told_s > _TELL_S:
                    told_s = time.monotonic()
                    tell(tick.index + 1)
    except NotFinite as error:  # leaving the writers by an exception removed their videos
        trouble = str(error) or type(error).__name__
    tell(len(states))
    outcome = SeedResult(
        seed=seed,
        success=not trouble and held >= min(hold_ticks, cap),
        stage=max(first_ticks, default=0),
        variation={n: float(v) for n, v in getattr(expert, "variation", {}).items()},
        first_ticks=first_ticks,
        trouble=trouble,
    )
    if not outcome.success:
        return outcome, None
    counted = {name: counts.result() for name, counts in pixels.items()}
    return outcome, Rows(np.stack(states), np.stack(actions), counted)


def _write_rows(path: Path, rows: Rows) -> None:
    arrays: dict[str, Any] = {"state": rows.state, "action": rows.action}
    for camera, statistics in rows.pixels.items():
        arrays |= {f"pixels/{camera}/{name}": value for name, value in statistics.items()}
    np.savez(path, **arrays)
    fsync(path)
