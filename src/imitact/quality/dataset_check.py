"""Dataset inspection: all checks of a dataset, first of its numbers, then of its frames.

Memory holds one episode at a time, and some kilobytes per episode for comparisons between them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from imitact.core.cpu import available_cores
from imitact.core.errors import BadInput, DamagedFile
from imitact.core.types import Dataset, FloatArray
from imitact.datasets.lerobot.video_segments import ShiftedSegments
from imitact.datasets.open import open_dataset
from imitact.datasets.read_config import ReadConfig
from imitact.quality.control_check import ControlCheck
from imitact.quality.duplicates import DuplicateCheck
from imitact.quality.findings import KINDS, Finding, by_severity, errors
from imitact.quality.jumps import JumpCheck
from imitact.quality.limits import Limits
from imitact.quality.motion import constant_dimensions, inspect_motion, scales, travel
from imitact.quality.outliers import OutlierCheck
from imitact.quality.timestamps import inspect_frame_times, inspect_ticks
from imitact.quality.tracking import TrackingCheck
from imitact.quality.video_sync import CameraSync, FrameMotion, measure_motion

_WITHOUT_FRAMES = ("frame-times", "error")

OnProgress = Callable[[int], object]
"""Called with the number of episodes that are done."""


def open_damaged(
    path: Path, read: ReadConfig | None = None
) -> tuple[Dataset | None, list[Finding]]:
    """Open a dataset, and return it with a finding for each damaged episode.

    The dataset is None where the damage concerns all episodes. Raises BadInput where there is none.
    """
    found: list[Finding] = []

    def on_damage(error: DamagedFile, episodes: Sequence[int]) -> None:
        found.extend(damage_finding(error, index) for index in episodes or (None,))

    try:
        dataset = open_dataset(path, read, on_damage)
    except DamagedFile as error:
        return None, [*found, damage_finding(error, None)]
    return dataset, [*found, *(Finding.of("left-out", notice) for notice in dataset.notices)]


def damage_finding(error: BadInput, index: int | None, camera: str = "") -> Finding:
    """Return the finding of a damage that reading an episode, or frames of a camera, met."""
    what, _, remedy = str(error).partition(". ")
    kind = "video-unreadable" if camera else "damaged-file"
    kind = "video-offset" if isinstance(error, ShiftedSegments) else kind
    remedy = remedy.rstrip(".") or KINDS[kind].remedy
    return Finding.of(kind, what, index, remedy=remedy, part=camera)


def inspect_numbers(
    dataset: Dataset,
    limits: Limits | None = None,
    *,
    damaged: Collection[int] = (),
    on_progress: OnProgress = lambda done: None,
) -> list[Finding]:
    """Check states, actions and time stamps of all episodes but the damaged; decode no frame."""
    limits = limits or Limits()
    spec = dataset.spec
    found: list[Finding] = []
    travels: list[tuple[FloatArray, FloatArray]] = []
    lowest = np.full(spec.state_size, np.inf), np.full(spec.action_size, np.inf)
    highest = -lowest[0], -lowest[1]
    sound: list[int] = []
    jumps = JumpCheck(spec, limits.jumps)
    for index in range(len(dataset.lengths)):
        if index in damaged:
            continue
        try:
            episode = dataset.episode(index)
            state, action, times_s = episode.state, episode.action, episode.times_s
        except BadInput as error:  # DamagedFile, or SpecMismatch for the columns of one file
            found.append(damage_finding(error, index))
            continue
        tolerance_s = dataset.read_options.get("tolerance_s", 0.0) if times_s is not None else 0.0
        own = inspect_ticks(index, state, action, times_s, spec, limits.ticks, tolerance_s)
        if not any(f.kind == "time-stamps" for f in own):
            try:
                offsets_s = {c.name: episode.frame_offsets_s(c.name) for c in spec.cameras}
                own += inspect_frame_times(index, offsets_s, limits.ticks)
            except DamagedFile as error:
                own.append(damage_finding(error, index))
        found += own
        if not any(f.kind in ("not-finite", "too-short") for f in own):
            sound.append(index)
            travels.append((travel(state), travel(action)))
            jumps.learn(state, action)
            for part, rows in enumerate((state, action)):
                np.minimum(lowest[part], rows.min(axis=0), out=lowest[part])
                np.maximum(highest[part], rows.max(axis=0), out=highest[part])
    if not sound:
        return by_severity(found)
    scale = scales(spec, travels)
    usual = np.median(np.stack([moved for moved, _ in travels]).astype(np.float64), axis=0)
    del travels
    found += constant_dimensions(spec, lowest, highest)
    tracking = TrackingCheck(spec, scale, limits.tracking)
    duplicates = DuplicateCheck()
    outliers = OutlierCheck(spec, scale, limits.outliers)
    control = ControlCheck(dataset, scale[1], limits.control)
    for done, index in enumerate(sound, 1):
        episode = dataset.episode(index)
        state, action = episode.state, episode.action
        own = inspect_motion(
            index, state, action, scale, usual, spec, limits.motion, limits.tracking.lag_s
        )
        # Where readings resume after they have stopped, the state jumps; that is one defect.
        resumed = {
            f.ticks[1] for f in own if f.kind in ("state-dropout", "stuck-joint") and f.ticks
        }
        jumped = jumps.inspect(index, state, action, scale)
        own += [f for f in jumped if f.ticks and f.ticks[0] not in resumed]
        found += own
        if not errors(own):  # stopped sensors would distort the delays
            tracking.add(index, state, action)
        try:
            control.add(index, episode)
        except BadInput as error:  # the columns of one file
            found.append(damage_finding(error, index))
        duplicate = duplicates.add(index, state, action)
        found += duplicate
        if not duplicate:
            outliers.add(index, state, action)
        on_progress(done)
    parts = (tracking, control, outliers)
    return by_severity([*found, *(f for part in parts for f in part.findings())])


def inspect_frames(
    dataset: Dataset,
    limits: Limits | None = None,
    *,
    damaged: Collection[int] = (),
    workers: int = 0,
    on_progress: OnProgress = lambda done: None,
) -> list[Finding]:
    """Decode every frame once and compare the motion in it with the joints.

    Skips damaged episodes (`unusable_episodes`). Each of the `workers` threads decodes one camera
    of an episode at a time; 0 starts one per core.
    """
    limits = limits or Limits()
    spec = dataset.spec
    chosen = [i for i in range(len(dataset.lengths)) if i not in damaged]
    if not spec.cameras or not chosen:
        return []
    states = (dataset.episode(i).state for i in chosen)
    scale = scales(spec, [(travel(state), np.ones(spec.action_size)) for state in states])[0]
    cameras = {c.name: CameraSync(c.name, spec, scale, limits.video) for c in spec.cameras}
    jobs = [(index, name) for index in chosen for name in cameras]

    def measure(job: tuple[int, str]) -> FrameMotion:
        return measure_motion(dataset.episode(job[0]), job[1], limits.video)

    results = _in_order(measure, jobs, workers or available_cores())
    for done, ((index, name), motion) in enumerate(results, 1):
        cameras[name].add(index, dataset.episode(index).state, motion)
        on_progress(done // len(cameras))
    return by_severity(f for camera in cameras.values() for f in camera.findings())


def _in_order(
    measure: Callable[[tuple[int, str]], FrameMotion], jobs: Sequence[tuple[int, str]], workers: int
) -> Iterator[tuple[tuple[int, str], FrameMotion]]:
    """Run jobs in threads and yield them with their results, in order; closing cancels the rest."""
    if workers == 1:
        yield from ((job, measure(job)) for job in jobs)
        return
    pool = ThreadPoolExecutor(workers)
    try:
        yield from zip(jobs, pool.map(measure, jobs), strict=True)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def unusable_episodes(findings: Sequence[Finding]) -> set[int]:
    """Episodes whose states cannot be compared with frames."""
    kinds = ("damaged-file", "not-finite", "too-short", "time-stamps")
    some = (f for f in findings if f.kind in kinds or (f.kind, f.severity) == _WITHOUT_FRAMES)
    return {f.episode for f in some if f.episode is not None}
