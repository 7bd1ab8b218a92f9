"""Frame cache: every frame of a dataset at the network's input size, by row number.

Row numbers count the ticks of all episodes of the dataset, one episode after the other.

The cache is a folder `frames-<key>`, where the key is a hash of what determines its bytes: the
fingerprint of the dataset, the views and the version of the resize. It holds one file per camera,
raw uint8 of shape (rows, height, width, 3), and `cache.json`. It is built under another name and
renamed when it is complete. Sizes and a CRC-32 per episode are verified whenever it is opened; a
damaged cache is built again. It can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from imitact.core import camera_view as resizing
from imitact.core.camera_view import View
from imitact.core.cpu import available_cores
from imitact.core.errors import BadInput, DamagedFile, ImitactError
from imitact.core.types import Dataset, Episode, Frame
from imitact.core.words import counted
from imitact.parallel.signals import ignore_interrupts
from imitact.storage.atomic import make_folder
from imitact.storage.atomic_folder import replaced_folder
from imitact.storage.json_file import read_json_object
from imitact.storage.lock import shared_build_lock
from imitact.storage.settings_diff import plain_json

FORMAT = 2
_RESERVE_BYTES = 256 << 20
"""Free disk space that a cache leaves to other processes."""
_LOG_EVERY_S = 5.0


class FrameReader(Protocol):
    """Random access to the frames of a dataset at input size.

    `threads` is the number of threads that should gather at a time.
    """

    cameras: tuple[str, ...]
    threads: int

    def gather(self, camera: str, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return copies of the frames of those rows, (B, height, width, 3), in that order."""
        ...


def first_rows(lengths: Sequence[int]) -> NDArray[np.int64]:
    """Return the row of tick 0 of each episode, then the number of rows: (episodes + 1,)."""
    return np.cumsum([0, *lengths], dtype=np.int64)


def open_frames(
    dataset: Dataset,
    views: Mapping[str, View],
    *,
    cache_dir: Path,
    cache_limit_bytes: int,
    memory_limit_bytes: int,
    workers: int,
    log: Callable[[str], None],
) -> FrameReader:
    """Open the frame cache, build it if it is missing, or decode frames when they are needed.

    A cache that exceeds the limit or the free disk space is not built; an existing one is used
    whatever its size, unless the limit is 0. The frames are the same bit for bit either way.
    DamagedFile for a video that has fewer or more frames than its episode has ticks.

    Args:
        dataset: must be picklable for several workers.
        views: crop and size of each camera, by name.
        cache_dir: where the cache folder is made.
        memory_limit_bytes: for decoded frames without a cache.
        workers: processes that decode into the cache, or threads that decode without it.
    """
    for camera in views:
        dataset.spec.camera(camera)
    if not views:
        return DecodedFrames(dataset, views, 0, workers)
    layout = _CacheLayout(dataset, views)
    folder = cache_dir / f"frames-{layout.key}"

    def decode_on_demand(reason: str) -> FrameReader:
        log(
            f"no frame cache: it needs {_format_bytes(layout.size)}, {reason}. Frames are decoded "
            f"when they are needed; at most {_format_bytes(memory_limit_bytes)} of them are kept "
            "in memory."
        )
        return DecodedFrames(dataset, views, memory_limit_bytes, workers)

    is_missing = cache_limit_bytes < 1 or not folder.exists()
    if is_missing and (reason := _reason_not_to_build(layout, cache_dir, cache_limit_bytes)):
        return decode_on_demand(reason)
    make_folder(cache_dir)
    with shared_build_lock(cache_dir / f"frames-{layout.key}.lock"):
        if folder.exists():
            damage = _find_damage(folder, layout)
            if not damage:
                log(f"frame cache: {_format_bytes(layout.size)} in {folder}, verified")
                return CachedFrames(folder, layout)
            log(f"frame cache {folder} is damaged ({damage}): removing it")
            shutil.rmtree(folder)
            # The limits do not apply to an existing cache, but to a new one.
            if reason := _reason_not_to_build(layout, cache_dir, cache_limit_bytes):
                return decode_on_demand(reason)
        log(
            f"frame cache: {_format_bytes(layout.size)} for {counted(layout.rows, 'tick')} of "
            f"{counted(len(layout.lengths), 'episode')}, in {folder}"
        )
        _build(folder, layout, dataset, workers, log)
    return CachedFrames(folder, layout)


class CachedFrames:
    """Frames of a complete cache, memory-mapped: the kernel keeps in memory what fits."""

    threads = 1  # they only need a copy

    def __init__(self, folder: Path, layout: _CacheLayout) -> None:
        self.cameras = tuple(layout.files)
        self._maps = {
            camera: np.memmap(
                folder / name,
                dtype=np.uint8,
                mode="r",
                shape=(layout.rows, *layout.views[camera].size, 3),
            )
            for camera, name in layout.files.items()
        }

    def gather(self, camera: str, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.asarray(self._maps[camera][rows])


class DecodedFrames:
    """Frames decoded when they are needed; the first ones are kept up to a limit of bytes.

    Kept frames are never evicted. An epoch needs every frame once, in random order. In such an
    order the least recently used frame is as likely to be next as any other, so eviction gains
    nothing, and this way a share limit / total of each epoch is found in memory.
    """

    def __init__(
        self, dataset: Dataset, views: Mapping[str, View], limit_bytes: int, threads: int
    ) -> None:
        self.cameras = tuple(views)
        self.threads = max(1, threads)  # decoding gains from them, as it releases the GIL
        self._dataset = dataset
        self._views = dict(views)
        self._firsts = first_rows(dataset.lengths)
        self._limit = limit_bytes
        self._episodes: dict[int, Episode] = {}  # an episode reads its numbers once
        self._kept: dict[tuple[str, int], Frame] = {}
        self._lock = threading.Lock()
        self.kept_bytes = 0

    def gather(self, camera: str, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        height, width = self._views[camera].size
        result = np.empty((len(rows), height, width, 3), dtype=np.uint8)
        for place, row in enumerate(rows.tolist()):
            result[place] = self._frame(camera, row)
        return result

    def _frame(self, camera: str, row: int) -> Frame:
        key = (camera, row)
        with self._lock:
            kept = self._kept.get(key)
        if kept is not None:
            return kept
        index = int(np.searchsorted(self._firsts, row, side="right")) - 1
        tick = row - int(self._firsts[index])
        with self._lock:
            if index not in self._episodes:
                self._episodes[index] = self._dataset.episode(index)
        captured = list(self._episodes[index].frames(camera, tick, tick + 1))
        if len(captured) != 1:
            raise DamagedFile(
                f"episode {index}, camera {camera}: expected one frame of tick {tick}, got "
                f"{len(captured)}; check the dataset's video"
            )
        frame = self._views[camera].apply(captured[0])
        with self._lock:
            if key not in self._kept and self.kept_bytes + frame.nbytes <= self._limit:
                self._kept[key] = frame.copy()  # a view would keep the captured frame in memory
                self.kept_bytes += frame.nbytes
        return frame


class _CacheLayout:
    """Files and sizes of the cache of a dataset in given views; picklable for the workers."""

    def __init__(self, dataset: Dataset, views: Mapping[str, View]) -> None:
        self.views = dict(views)
        self.lengths = [int(length) for length in dataset.lengths]
        self.firsts = first_rows(self.lengths)
        self.rows = int(self.firsts[-1])
        # Camera names may contain characters that a file system refuses, so files are numbered.
        self.files = {camera: f"camera-{n}.u8" for n, camera in enumerate(self.views)}
        self.size = sum(self.rows * self.frame_bytes(camera) for camera in self.views)
        cameras = [
            {"name": camera, **asdict(view), "file": self.files[camera]}
            for camera, view in self.views.items()
        ]
        self.identity = plain_json(
            {
                "format": FORMAT,
                "fingerprint": dataset.fingerprint,
                "resize": resizing.VERSION,
                "lengths": self.lengths,
                "cameras": cameras,
            }
        )
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode())
        self.key = digest.hexdigest()[:16]

    def frame_bytes(self, camera: str) -> int:
        height, width = self.views[camera].size
        return height * width * 3


def _reason_not_to_build(layout: _CacheLayout, cache_dir: Path, limit: int) -> str:
    """Return why the cache must not be built, or an empty string."""
    if layout.size > limit:
        return f"the limit is {_format_bytes(limit)}"
    existing = cache_dir.absolute()
    while not existing.exists():
        existing = existing.parent
    # What a killed process built of the same cache will be deleted.
    leftover = (cache_dir / f"frames-{layout.key}.building").glob("*")
    free = shutil.disk_usage(existing).free + sum(file.stat().st_size for file in leftover)
    if layout.size + _RESERVE_BYTES > free:
        return (
            f"the disk of {existing} has {_format_bytes(free)} free, of which "
            f"{_format_bytes(_RESERVE_BYTES)} are reserved"
        )
    return ""


def _find_damage(folder: Path, layout: _CacheLayout) -> str:
    """Return what is wrong with a cache, or an empty string."""
    try:
        stored = read_json_object(folder / "cache.json")
        sums = stored.pop("crc32")
        if stored != layout.identity:
            return "cache.json describes other data"
        for camera, name in layout.files.items():
            size = (folder / name).stat().st_size
            expected = layout.rows * layout.frame_bytes(camera)
            if size != expected:
                return f"{name} has {size} bytes, expected {expected}"
        blocks = list(itertools.product(layout.files, range(len(layout.lengths))))
        # CRC-32 releases the GIL, so threads run in parallel.
        with ThreadPoolExecutor(available_cores()) as pool:
            crcs = pool.map(lambda block: _crc32(folder, layout, *block), blocks)
            for (camera, episode), crc in zip(blocks, crcs, strict=True):
                if crc != sums[camera][episode]:
                    pool.shutdown(cancel_futures=True)
                    name = layout.files[camera]
                    return f"{name}: the frames of episode {episode} have another checksum"
    except BadInput as error:  # cache.json is missing or not JSON
        return str(error)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _crc32(folder: Path, layout: _CacheLayout, camera: str, episode: int) -> int:
    """Compute the CRC-32 of the frames of one episode in a cache file."""
    size = layout.frame_bytes(camera)
    left = layout.lengths[episode] * size
    crc = 0
    path = folder / layout.files[camera]
    with path.open("rb") as file:
        file.seek(int(layout.firsts[episode]) * size)
        while block := file.read(min(left, 4 << 20)):
            crc = zlib.crc32(block, crc)
            left -= len(block)
    if left:
        raise OSError(f"{path.name} ends early")
    return crc


def _build(
    folder: Path, layout: _CacheLayout, dataset: Dataset, workers: int, log: Callable[[str], None]
) -> None:
    """Decode every frame into `folder`, which appears when it is complete."""
    with replaced_folder(
        folder,
        building=folder.with_name(folder.name + ".building"),
        advice="free some, or disable the frame cache with --train.cache-limit-gb 0",
    ) as building:
        for camera, name in layout.files.items():
            with (building / name).open("wb") as file:
                # Reserve the space now, so that a full disk is found before the decoding.
                size = layout.rows * layout.frame_bytes(camera)
                if size and hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
        count = len(layout.lengths)
        sums = {camera: [0] * count for camera in layout.files}
        start_s = logged_s = time.monotonic()
        for done, (episode, crcs) in enumerate(_decoded(building, layout, dataset, workers), 1):
            for camera, crc in crcs.items():
                sums[camera][episode] = crc
            now_s = time.monotonic()
            if now_s - logged_s > _LOG_EVERY_S and done < count:
                logged_s = now_s
                left_s = (now_s - start_s) / done * (count - done)
                log(f"decoding frames: {done} of {counted(count, 'episode')}, left {left_s:.0f} s")
        log(f"decoded {counted(layout.rows, 'tick')} in {time.monotonic() - start_s:.1f} s")
        text = json.dumps({**layout.identity, "crc32": sums}, indent=1)
        (building / "cache.json").write_text(text)


def _decoded(
    building: Path, layout: _CacheLayout, dataset: Dataset, workers: int
) -> Iterator[tuple[int, dict[str, int]]]:
    """Decode the episodes, in processes if there are several workers, and yield as they finish."""
    episodes = range(len(layout.lengths))
    if workers <= 1 or len(episodes) <= 1:
        for episode in episodes:
            yield episode, _decode(dataset, layout, building, episode)
        return
    executor, refused = None, ""
    try:
        executor = ProcessPoolExecutor(
            min(workers, len(episodes)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(dataset, layout, building),
        )
    except OSError as error:  # of its semaphores, which are files in /dev/shm
        refused = error.strerror or str(error)
    if executor is None:  # raised here, because a full /dev/shm is no full disk
        raise BadInput(
            f"processes cannot share memory (/dev/shm on Linux: {refused}); make it writable and "
            "free some of it, or decode with --train.num-workers 1"
        )
    with executor as pool:
        try:
            for job in as_completed([pool.submit(_work, episode) for episode in episodes]):
                yield job.result()
        except BrokenProcessPool as error:
            raise ImitactError(
                "a process that decodes frames died, possibly for lack of memory. Try again with a "
                "smaller --train.num-workers"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


_worker: tuple[Dataset, _CacheLayout, Path] | None = None  # in a worker process, set at its start


def _start_worker(dataset: Dataset, layout: _CacheLayout, building: Path) -> None:
    global _worker
    _worker = (dataset, layout, building)
    ignore_interrupts()
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Exit when the parent does: a worker of a killed parent would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(episode: int) -> tuple[int, dict[str, int]]:
    assert _worker is not None, "_start_worker is the initializer of the pool"
    return episode, _decode(*_worker, episode)


def _decode(dataset: Dataset, layout: _CacheLayout, building: Path, index: int) -> dict[str, int]:
    """Write the frames of one episode and return the checksum of each camera."""
    sums = {}
    episode = dataset.episode(index)
    for camera, view in layout.views.items():
        crc = count = 0
        # Not memory-mapped: on a full disk a write raises, a mapped page kills the process.
        with (building / layout.files[camera]).open("r+b") as file:
            file.seek(int(layout.firsts[index]) * layout.frame_bytes(camera))
            for frame in episode.frames(camera):
                count += 1
                if count > layout.lengths[index]:
                    break
                block = np.ascontiguousarray(view.apply(frame)).data
                crc = zlib.crc32(block, crc)
                file.write(block)
        if count != layout.lengths[index]:
            more = " or more" if count > layout.lengths[index] else ""
            raise DamagedFile(
                f"episode {index}, camera {camera}: the video has {count}{more} frames, the "
                f"episode {counted(layout.lengths[index], 'tick')}; check the dataset"
            )
        sums[camera] = crc
    return sums


def _format_bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"
