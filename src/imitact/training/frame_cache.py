"""Every frame of a Source at input size, by row number: from a decoded cache or straight from it.

Row numbers count the ticks of all episodes of the Source, one episode after the other.

The cache is a folder `frames-<key>` in a folder that the caller gives, where the key is a digest
of what fixes the bytes: the fingerprint of the Source, the views and the version of the resize.
It holds one file a camera, raw uint8 of shape (rows, height, width, 3), and `cache.json`. It is
built under another name and renamed when it is whole, so a folder of that name was finished; its
files are still checked (size, and a CRC-32 an episode) when it is opened, and it is built anew
where they differ. Deleting it costs the time of building it, nothing else.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from imitact.core import views as resizing
from imitact.core.cpu import available_cores
from imitact.core.errors import BadInput, DamagedFile, ImitactError
from imitact.core.types import Dataset, Episode, Frame
from imitact.core.views import View
from imitact.storage.atomic import disk_full_guard, fsync, make_folder
from imitact.storage.json_file import read_json_object

Say = Callable[[str], None]
Views = Mapping[str, View]
"""What to see of each camera, by its name."""

FORMAT = 2
_KEEP_FREE = 256 << 20  # bytes of disk that a cache leaves to everybody else
_SAY_EVERY_S = 5.0


class FrameReader(Protocol):
    """The frames of a Source at input size."""

    def gather(self, camera: str, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The frames of those rows, (B, height, width, 3), in that order; a copy."""
        ...


def first_rows(lengths: Sequence[int]) -> NDArray[np.int64]:
    """The row of tick 0 of each episode, and the number of rows at the end: (episodes + 1,)."""
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))]).astype(np.int64)


def open_frames(
    source: Dataset,
    views: Views,
    *,
    cache_dir: Path,
    cache_limit_bytes: int,
    memory_limit_bytes: int,
    workers: int,
    say: Say,
) -> FrameReader:
    """The decoded cache where it is there or fits, else frames decoded when they are asked for.

    The size is said, and compared with the free disk and the limit, before anything is written.
    Either way the frames are the same, bit for bit.

    cache_limit_bytes:  of disk, for a cache that is to be written; one that is there is used. 0
                        for never a cache.
    memory_limit_bytes: of memory that frames decoded as asked may occupy (without a cache).
    workers:            processes that decode; more than one needs a Source that can be pickled.
    """
    for camera in views:
        source.spec.camera(camera)
    if not views:
        return DecodedFrames(source, views, 0)
    plan = _Plan(source, views)
    folder = cache_dir / f"frames-{plan.key}"

    def decoded(reason: str) -> FrameReader:
        say(
            f"no frame cache: it needs {_size(plan.size)}, {reason}. Decoding frames as they "
            f"are asked for, keeping at most {_size(memory_limit_bytes)} of them in memory."
        )
        return DecodedFrames(source, views, memory_limit_bytes)

    if cache_limit_bytes < 1 or not folder.exists():
        reason = _why_not(plan, cache_dir, cache_limit_bytes)
        if reason:
            return decoded(reason)
    make_folder(cache_dir)
    with _alone(cache_dir / f"frames-{plan.key}.lock"):
        if folder.exists():
            damage = _damage(folder, plan)
            if not damage:
                say(f"frame cache: {_size(plan.size)} in {folder}, checked")
                return CachedFrames(folder, plan)
            say(f"frame cache {folder} is damaged ({damage}): removing it")
            shutil.rmtree(folder)
            reason = _why_not(plan, cache_dir, cache_limit_bytes)  # one there is not held to it
            if reason:
                return decoded(reason)
        say(
            f"frame cache: {_size(plan.size)} for {plan.rows} ticks of "
            f"{len(plan.lengths)} episodes, in {folder}"
        )
        _build(folder, plan, source, workers, say)
    return CachedFrames(folder, plan)


class CachedFrames:
    """Frames from a finished cache, mapped into memory: the kernel keeps what fits."""

    def __init__(self, folder: Path, plan: _Plan) -> None:
        self._maps = {
            camera: np.memmap(
                folder / name,
                dtype=np.uint8,
                mode="r",
                shape=(plan.rows, *plan.views[camera].size, 3),
            )
            for camera, name in plan.files.items()
        }

    def gather(self, camera: str, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.asarray(self._maps[camera][rows])


class DecodedFrames:
    """Frames decoded when they are asked for, the first ones kept up to a limit of bytes.

    What is kept is never evicted. An epoch asks for every frame once, in an order of its own;
    under such an order the least recently used frame is no less likely to be next than any
    other, so evicting gains nothing, and this way a share limit / total of each epoch is kept.
    """

    def __init__(self, source: Dataset, views: Views, limit_bytes: int) -> None:
        self._source = source
        self._views = dict(views)
        self._firsts = first_rows(source.lengths)
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
                self._episodes[index] = self._source.episode(index)
        captured = list(self._episodes[index].frames(camera, tick, tick + 1))
        if len(captured) != 1:
            raise DamagedFile(
                f"episode {index}, camera {camera!r}: asked for the frame of tick {tick}, "
                f"got {len(captured)} frames; check the dataset's video"
            )
        frame = self._views[camera].of(captured[0])
        with self._lock:
            if key not in self._kept and self.kept_bytes + frame.nbytes <= self._limit:
                self._kept[key] = frame.copy()  # a view would keep the captured frame alive
                self.kept_bytes += frame.nbytes
        return frame


class _Plan:
    """What a cache of this Source in these views holds; picklable, so that workers share it."""

    def __init__(self, source: Dataset, views: Views) -> None:
        self.views = dict(views)
        self.lengths = [int(length) for length in source.lengths]
        self.firsts = first_rows(self.lengths)
        self.rows = int(self.firsts[-1])
        # Names of cameras may hold characters that a file system refuses, so files are numbered.
        self.files = {camera: f"camera-{n}.u8" for n, camera in enumerate(self.views)}
        self.size = sum(self.rows * self.frame_bytes(camera) for camera in self.views)
        self.identity: dict[str, Any] = {
            "format": FORMAT,
            "fingerprint": source.fingerprint,
            "resize": resizing.VERSION,
            "lengths": self.lengths,
            "cameras": [
                {
                    "name": c,
                    "height": v.height,
                    "width": v.width,
                    "window": list(v.window) if v.window else None,
                    "file": self.files[c],
                }
                for c, v in self.views.items()
            ],
        }
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode())
        self.key = digest.hexdigest()[:16]

    def frame_bytes(self, camera: str) -> int:
        height, width = self.views[camera].size
        return height * width * 3


def _why_not(plan: _Plan, cache_dir: Path, limit: int) -> str:
    """Why the cache may not be written; empty where it may."""
    if plan.size > limit:
        return f"the limit (cache_limit_bytes) is {_size(limit)}"
    there = cache_dir.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free + _left_over(plan, cache_dir)
    if plan.size + _KEEP_FREE > free:
        return f"the disk of {there} has {_size(free)} free, of which {_size(_KEEP_FREE)} stay so"
    return ""


def _left_over(plan: _Plan, cache_dir: Path) -> int:
    """Bytes of disk of the same cache, half built by a process that was killed: they come free."""
    files = (cache_dir / f"frames-{plan.key}.building").glob("*")
    return sum(file.stat().st_size for file in files)


def _damage(folder: Path, plan: _Plan) -> str:
    """What is wrong with a cache; empty where all is well."""
    try:
        stored = read_json_object(folder / "cache.json")
        sums = stored.pop("crc32")
        if stored != plan.identity:
            return "cache.json is of other data"
        for camera, name in plan.files.items():
            found = (folder / name).stat().st_size
            wanted = plan.rows * plan.frame_bytes(camera)
            if found != wanted:
                return f"{name} has {found} bytes, expected {wanted}"

        def one(camera: str, episode: int) -> str:
            if (
                _checksum(folder / plan.files[camera], plan, camera, episode)
                == (sums[camera][episode])
            ):
                return ""
            return f"{plan.files[camera]}: the frames of episode {episode} have another checksum"

        # CRC-32 runs outside the interpreter's lock, so threads share it.
        with ThreadPoolExecutor(available_cores()) as pool:
            jobs = [
                pool.submit(one, camera, episode)
                for camera in plan.files
                for episode in range(len(plan.lengths))
            ]
            for job in jobs:
                if job.result():
                    pool.shutdown(cancel_futures=True)
                    return job.result()
    except BadInput as error:  # cache.json is missing or no JSON
        return str(error)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _checksum(path: Path, plan: _Plan, camera: str, episode: int) -> int:
    """CRC-32 of the frames of one episode in a cache file."""
    size = plan.frame_bytes(camera)
    left = plan.lengths[episode] * size
    total = 0
    with path.open("rb") as file:
        file.seek(int(plan.firsts[episode]) * size)
        while left:
            block = file.read(min(left, 4 << 20))
            if not block:
                raise OSError(f"{path.name} ends early")
            total = zlib.crc32(block, total)
            left -= len(block)
    return total


def _build(folder: Path, plan: _Plan, source: Dataset, workers: int, say: Say) -> None:
    """Decode every frame into `folder`, which appears only when it is whole."""
    building = folder.with_name(folder.name + ".building")
    shutil.rmtree(building, ignore_errors=True)  # left by a process that was killed
    try:
        with disk_full_guard(
            folder, "free some, or set cache_limit_gb to 0 to do without a frame cache"
        ):
            building.mkdir()
            for camera, name in plan.files.items():
                with (building / name).open("wb") as file:
                    # Reserved now, so that a full disk is met here and not after minutes.
                    size = plan.rows * plan.frame_bytes(camera)
                    if size and hasattr(os, "posix_fallocate"):
                        os.posix_fallocate(file.fileno(), 0, size)
            sums = _decode_all(building, plan, source, workers, say)
            text = json.dumps({**plan.identity, "crc32": sums}, indent=1)
            (building / "cache.json").write_text(text)
            for path in (*building.iterdir(), building):
                fsync(path)
            building.rename(folder)
            fsync(folder.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _decode_all(
    building: Path, plan: _Plan, source: Dataset, workers: int, say: Say
) -> dict[str, list[int]]:
    """Decode every episode; the checksums, by camera and episode."""
    count = len(plan.lengths)
    sums = {camera: [0] * count for camera in plan.files}
    began = said = time.monotonic()
    for done, (episode, found) in enumerate(_decoded(building, plan, source, workers), 1):
        for camera, value in found.items():
            sums[camera][episode] = value
        now = time.monotonic()
        if now - said > _SAY_EVERY_S and done < count:
            said = now
            left_s = (now - began) / done * (count - done)
            say(f"decoding frames: {done} of {count} episodes, left {left_s:.0f} s")
    say(f"decoded {plan.rows} ticks in {time.monotonic() - began:.1f} s")
    return sums


def _decoded(
    building: Path, plan: _Plan, source: Dataset, workers: int
) -> Iterator[tuple[int, dict[str, int]]]:
    episodes = range(len(plan.lengths))
    if workers <= 1 or len(episodes) <= 1:
        for episode in episodes:
            yield episode, _decode(source, plan, building, episode)
        return
    with ProcessPoolExecutor(
        min(workers, len(episodes)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_worker,
        initargs=(source, plan, building),
    ) as pool:
        try:
            for job in as_completed([pool.submit(_work, episode) for episode in episodes]):
                yield job.result()
        except BrokenProcessPool as error:
            raise ImitactError(
                "a process that decoded frames died; was there too little memory? "
                "Try again, or with fewer workers."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


_worker: tuple[Dataset, _Plan, Path] | None = None  # of a worker process, set once when it begins


def _begin_worker(source: Dataset, plan: _Plan, building: Path) -> None:
    global _worker
    _worker = (source, plan, building)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's worker would wait for work forever if its parent were killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(episode: int) -> tuple[int, dict[str, int]]:
    assert _worker is not None, "_begin_worker is the initializer of the pool"
    return episode, _decode(*_worker, episode)


def _decode(source: Dataset, plan: _Plan, building: Path, index: int) -> dict[str, int]:
    """Write the frames of one episode, one at a time; a checksum for each camera."""
    sums = {}
    episode = source.episode(index)
    for camera, view in plan.views.items():
        total = count = 0
        # Written, not mapped: on a full disk a write says so, a mapped page kills the process.
        with (building / plan.files[camera]).open("r+b") as file:
            file.seek(int(plan.firsts[index]) * plan.frame_bytes(camera))
            for frame in episode.frames(camera):
                count += 1
                if count > plan.lengths[index]:
                    break
                block = np.ascontiguousarray(view.of(frame)).data
                total = zlib.crc32(block, total)
                file.write(block)
        if count != plan.lengths[index]:
            more = " or more" if count > plan.lengths[index] else ""
            raise DamagedFile(
                f"episode {index}, camera {camera!r}: the video gave {count}{more} frames, the "
                f"episode has {plan.lengths[index]} ticks; check the dataset"
            )
        sums[camera] = total
    return sums


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time: others that want the same cache wait, then find it built."""
    file: IO[bytes]
    with path.open("ab") as file:
        try:
            import fcntl
        except ImportError:  # no such lock on this system: two builders would each pay
            yield
            return
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"
