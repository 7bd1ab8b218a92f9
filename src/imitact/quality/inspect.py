"""A whole dataset looked over, episode by episode: first its numbers, then its videos.

Memory holds one episode at a time, and of each about a kilobyte for what only all of them
together tell.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from imitact.core.cpu import available_cores
from imitact.core.errors import BadInput, DamagedFile
from imitact.core.types import Dataset, FloatArray
from imitact.datasets.open import open_dataset
from imitact.datasets.read_config import ReadConfig
from imitact.quality.findings import Finding, errors, in_order
from imitact.quality.limits import Limits
from imitact.quality.motion import constant_dimensions, inspect_motion, scales, travel
from imitact.quality.outliers import Crowd
from imitact.quality.timestamps import inspect_ticks
from imitact.quality.tracking import Followers, track
from imitact.quality.video_sync import CameraSync, Seen, watch

Progress = Callable[[int], object]
"""Takes the number of episodes that are done."""


def open_damaged(
    path: Path, read: ReadConfig | None = None
) -> tuple[Dataset | None, list[Finding]]:
    """The dataset in a folder with what its files lack, each episode's own.

    None where what concerns all episodes is damaged. What is no dataset at all is refused, as
    `open_source` refuses it.
    """
    found: list[Finding] = []

    def complain(error: DamagedFile, episodes: Sequence[int]) -> None:
        found.extend(_damage(error, index) for index in episodes or (None,))

    try:
        source = open_dataset(path, read, complain)
    except DamagedFile as error:
        return None, [*found, _damage(error, None)]
    left_out = "Nothing, if colour frames are what the policy is to see"
    notices: Sequence[str] = getattr(source, "notices", ())
    return source, [*found, *(Finding("left-out", "note", n, left_out) for n in notices)]


def _damage(error: BadInput, index: int | None) -> Finding:
    what, _, remedy = str(error).partition(". ")
    return Finding(
        "damaged-file",
        "error",
        what,
        f"{remedy or 'Copy the dataset again from where it came'}".rstrip("."),
        index,
        fix="" if index is None else "drop",
    )


def inspect_numbers(
    source: Dataset,
    limits: Limits | None = None,
    *,
    damaged: Collection[int] = (),
    on_progress: Progress = lambda done: None,
) -> list[Finding]:
    """Look over states, actions and time stamps of every episode; no frame is decoded.

    damaged: episodes that are known to be, and are left out.
    """
    limits = limits or Limits()
    spec = source.spec
    found: list[Finding] = []
    travels: list[tuple[FloatArray, FloatArray]] = []
    lowest = np.full(spec.state_size, np.inf), np.full(spec.action_size, np.inf)
    highest = -lowest[0], -lowest[1]
    sound: list[int] = []
    for index in range(len(source.lengths)):
        if index in damaged:
            continue
        try:
            episode = source.episode(index)
            state, action = episode.state, episode.action
            times_s = getattr(episode, "times_s", None)
        except BadInput as error:  # Damaged, or a Misfit of one file's columns
            found.append(_damage(error, index))
            continue
        own = inspect_ticks(index, state, action, times_s, spec, limits.ticks)
        found += own
        if not any(f.kind in ("not-finite", "too-short") for f in own):
            sound.append(index)
            travels.append((travel(state), travel(action)))
            for at, rows in enumerate((state, action)):
                np.minimum(lowest[at], rows.min(axis=0), out=lowest[at])
                np.maximum(highest[at], rows.max(axis=0), out=highest[at])
    if not sound:
        return in_order(found)
    scale = scales(spec, travels)
    del travels
    found += constant_dimensions(spec, lowest, highest)
    followers = Followers(spec, scale, limits.tracking)
    crowd = Crowd(spec, scale, limits.crowd)
    for done, index in enumerate(sound):
        episode = source.episode(index)
        state, action = episode.state, episode.action
        own = inspect_motion(index, state, action, scale, spec, limits.motion)
        found += own
        if not errors(own):  # readings that stopped follow nothing
            followers.add(index, track(state, action, scale, spec, limits.tracking))
        crowd.add(index, state, action)
        on_progress(done + 1)
    return in_order([*found, *followers.findings(), *crowd.findings()])


def inspect_frames(
    source: Dataset,
    limits: Limits | None = None,
    *,
    damaged: Collection[int] = (),
    workers: int = 0,
    on_progress: Progress = lambda done: None,
) -> list[Finding]:
    """Decode every frame of every episode once, and compare what moves with the joints.

    damaged: episodes whose numbers cannot be used, and are left out.
    workers: threads that decode, an episode and a camera each; 0 takes one a core.
    """
    limits = limits or Limits()
    spec = source.spec
    chosen = [i for i in range(len(source.lengths)) if i not in damaged]
    if not spec.cameras or not chosen:
        return []
    states = (source.episode(i).state for i in chosen)
    scale = scales(spec, [(travel(state), np.ones(spec.action_size)) for state in states])[0]
    cameras = {c.name: CameraSync(c.name, spec, scale, limits.video) for c in spec.cameras}
    jobs = [(index, name) for index in chosen for name in cameras]

    def look(job: tuple[int, str]) -> Seen:
        return watch(source.episode(job[0]), job[1], limits.video)

    for done, (index, name), seen in _in_turn(look, jobs, workers or available_cores()):
        cameras[name].add(index, source.episode(index).state, seen)
        on_progress((done + 1) // len(cameras))
    return in_order([f for camera in cameras.values() for f in camera.findings()])


def _in_turn(
    look: Callable[[tuple[int, str]], Seen], jobs: Sequence[tuple[int, str]], workers: int
) -> Iterator[tuple[int, tuple[int, str], Seen]]:
    """Do the jobs side by side; give them back in their order. Whoever stops taking stops them."""
    if workers == 1:
        yield from ((at, job, look(job)) for at, job in enumerate(jobs))
        return
    pool = ThreadPoolExecutor(workers)
    try:
        for at, (job, seen) in enumerate(zip(jobs, pool.map(look, jobs), strict=True)):
            yield at, job, seen
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def unusable(findings: Sequence[Finding]) -> set[int]:
    """Episodes whose states cannot be compared with anything."""
    kinds = ("damaged-file", "not-finite", "too-short", "time-stamps")
    return {f.episode for f in findings if f.kind in kinds and f.episode is not None}
