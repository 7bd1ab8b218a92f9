"""Episode capture: runs the expert from one seed and stores the episode in the staging folder.

This is the part of a recording that runs in a worker process. It knows one seed and no dataset;
`recorder.py` moves the finished folders into the dataset.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec
import numpy as np
from numpy.typing import NDArray

from imitact.core.chunking import Replay
from imitact.core.errors import BadInput, NotFinite
from imitact.core.rollout import rollout
from imitact.core.types import Env, Policy
from imitact.datasets.episode_encoder import CameraEncoder
from imitact.datasets.lerobot.stats import FeatureStats
from imitact.datasets.video_config import VideoConfig
from imitact.storage.atomic import disk_full_guard, fsync
from imitact.storage.checksum import file_sha256, verified, with_checksum
from imitact.storage.json_file import read_json_object
from imitact.storage.zip_file import check_stored

_RESULT = "outcome.json"
_ROWS = "rows.npz"
_STATS_PREFIX = "pixels/"
_REPORT_PERIOD_S = 1.0


@dataclass(frozen=True)
class CaptureConfig:
    """How episodes are captured.

    Attributes:
        staging: folder in which the folder of each seed appears.
        hold_ticks: ticks at the end of the episode over which success must hold. An environment
            that ends the episode with a success holds it by that.
        end_when_held: end the episode once success has held for `hold_ticks`, instead of at the
            step cap of the environment.
        past_the_end: go on after the environment has ended the episode, until success has held: for
            recordings of versions that did.
    """

    staging: Path
    video: VideoConfig
    hold_ticks: int
    end_when_held: bool = False
    past_the_end: bool = False


@dataclass(frozen=True)
class SeedResult:
    """Result of one seed.

    Attributes:
        success: whether the episode is a demonstration.
        stage: the highest stage reached; 0 where rewards are not stages.
        variation: what the expert varied, by name.
        first_ticks: stage to the first tick whose reward reached it.
        error: what ended the episode early; empty where it ran to its end.
    """

    seed: int
    success: bool
    stage: int
    variation: dict[str, float]
    first_ticks: dict[int, int]
    error: str = ""


@dataclass(frozen=True)
class EpisodeData:
    """State (T, S), action (T, A), and statistics of each camera's frames, of an episode."""

    state: NDArray[np.float32]
    action: NDArray[np.float32]
    frame_stats: dict[str, FeatureStats]


@runtime_checkable
class VariedExpert(Protocol):
    """An expert that varies its episodes and reports how."""

    @property
    def variation(self) -> Mapping[str, float]:
        """What it varied in the last episode, by name."""
        ...


def seed_folder(staging: Path, seed: int) -> Path:
    """Folder of a finished seed."""
    return staging / f"seed-{seed:06d}"


def video_file(folder: Path, camera_number: int) -> Path:
    """Video of a camera; numbered, because a camera's name may not be a valid file name."""
    return folder / f"{camera_number}.mp4"


def read_result(folder: Path, cameras: int, *, verify: bool = False) -> SeedResult | None:
    """Read the result in the folder of a seed; None where the folder is incomplete or damaged.

    `verify` compares every file with its SHA-256.
    """
    try:
        file = folder / _RESULT
        data = verified(read_json_object(file), file, required=True)
        values = {**data, "error": data["trouble"]}
        result = msgspec.convert(values, SeedResult, str_keys=True)
        if folder.name != seed_folder(folder.parent, result.seed).name:
            return None  # its worker was killed before it renamed the folder
        if result.success:
            files = [folder / _ROWS, *(video_file(folder, i) for i in range(cameras))]
            for each in files:
                if not each.is_file() or (verify and data["files"][each.name] != file_sha256(each)):
                    return None
            if verify:
                check_stored(folder / _ROWS)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, BadInput):
        return None
    return result


def read_episode_data(folder: Path) -> EpisodeData:
    """Read the numbers of a successful seed."""
    stats: dict[str, FeatureStats] = {}
    with np.load(folder / _ROWS, allow_pickle=False) as arrays:
        for name in arrays.files:
            if name.startswith(_STATS_PREFIX):
                camera, _, statistic = name.removeprefix(_STATS_PREFIX).rpartition("/")
                stats.setdefault(camera, {})[statistic] = arrays[name]
        return EpisodeData(arrays["state"], arrays["action"], stats)


def capture_episode(
    env: Env,
    expert: Policy,
    seed: int,
    config: CaptureConfig,
    check_stop: Callable[[], object],
    report_ticks: Callable[[int], object],
) -> None:
    """Run the expert from `seed` and leave the episode in `seed_folder(config.staging, seed)`.

    Frames are encoded as they come, so that memory holds only states and actions. A failed seed
    leaves its result without data. NotFinite from the environment or the expert makes the seed
    fail; other errors are raised and leave nothing.

    Args:
        env: every camera is recorded, at every tick up to the step cap.
        check_stop: called at each tick; raises to end the episode.
        report_ticks: called about once a second, and at the end, with the number of ticks done.
    """
    with disk_full_guard(config.staging):
        folder = Path(tempfile.mkdtemp(prefix="work-", dir=config.staging))
        try:
            result, data = _run(env, expert, seed, folder, config, check_stop, report_ticks)
            if data is not None:
                _write_episode_data(folder / _ROWS, data)
            else:
                for number in range(len(env.spec.cameras)):
                    video_file(folder, number).unlink(missing_ok=True)
            sums = {f.name: file_sha256(f) for f in sorted(folder.iterdir())}
            stored = asdict(result)
            stored |= {"trouble": stored.pop("error"), "files": sums}
            text = json.dumps(with_checksum(stored), allow_nan=False)
            (folder / _RESULT).write_text(text, encoding="utf-8")
            fsync(folder / _RESULT)
            fsync(folder)
            target = seed_folder(config.staging, seed)
            if target.exists():  # left by a worker of a killed recorder; the same episode
                shutil.rmtree(target)
            folder.rename(target)
            fsync(config.staging)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _run(
    env: Env,
    expert: Policy,
    seed: int,
    folder: Path,
    config: CaptureConfig,
    check_stop: Callable[[], object],
    report_ticks: Callable[[int], object],
) -> tuple[SeedResult, EpisodeData | None]:
    """Run one episode; return its result, and its numbers if it succeeded."""
    spec, cap = env.spec, env.step_cap
    encoders: dict[str, CameraEncoder] = {}
    states: list[NDArray[np.float32]] = []
    actions: list[NDArray[np.float32]] = []
    first_ticks: dict[int, int] = {}
    held, ended_in_success = 0, False
    reported_s = time.monotonic()
    error = ""
    try:
        with ExitStack() as stack:
            for number, camera in enumerate(spec.cameras):
                path = video_file(folder, number)
                encoder = CameraEncoder(path, camera, spec.rate_hz, config.video, cap)
                encoders[camera.name] = stack.enter_context(encoder)
            for tick in rollout(
                expert,
                env,
                seed=seed,
                chunking=Replay(1),
                step_cap=cap,
                keep=tuple(encoders),
                past_the_end=config.past_the_end,
            ):
                check_stop()
                where = f"tick {tick.index}"
                state = np.asarray(tick.observation.state)
                spec.check_state(state, where)
                for name, encoder in encoders.items():
                    frame = tick.observation.frames[name]
                    spec.check_frame(name, frame, where)
                    encoder.add(frame)
                states.append(state.astype(np.float32))
                actions.append(tick.action.astype(np.float32))
                held = held + 1 if tick.success else 0
                ended_in_success = tick.success and tick.terminated and not config.past_the_end
                if env.stages:
                    for stage in range(1, int(tick.reward) + 1):
                        first_ticks.setdefault(stage, tick.index)
                if config.end_when_held and held >= config.hold_ticks:
                    break
                if time.monotonic() - reported_s > _REPORT_PERIOD_S:
                    reported_s = time.monotonic()
                    report_ticks(tick.index + 1)
    except NotFinite as cause:  # the encoders have removed their videos
        error = str(cause) or type(cause).__name__
    report_ticks(len(states))
    variation = expert.variation if isinstance(expert, VariedExpert) else {}
    result = SeedResult(
        seed=seed,
        success=not error and (ended_in_success or held >= min(config.hold_ticks, cap)),
        stage=max(first_ticks, default=0),
        variation={name: float(value) for name, value in variation.items()},
        first_ticks=first_ticks,
        error=error,
    )
    if not result.success:
        return result, None
    stats = {name: encoder.stats() for name, encoder in encoders.items()}
    return result, EpisodeData(np.stack(states), np.stack(actions), stats)


def _write_episode_data(path: Path, data: EpisodeData) -> None:
    arrays: dict[str, Any] = {"state": data.state, "action": data.action}
    for camera, stats in data.frame_stats.items():
        arrays |= {f"{_STATS_PREFIX}{camera}/{name}": value for name, value in stats.items()}
    np.savez(path, **arrays)
    fsync(path)
