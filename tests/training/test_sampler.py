"""Sampler: every tick once per epoch, in an order that depends on the seed only; frame cache."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imitact.core import camera_view as resizing
from imitact.core.camera_view import View
from imitact.core.errors import BadInput, DamagedFile, DiskFull, NotFinite, SpecMismatch
from imitact.core.types import Frame
from imitact.training import frame_cache
from imitact.training.sampler import SampleBatch, Sampler, dataset_statistics, episode_limits
from tests.support.fake_dataset import FakeDataset, FakeEpisode
from tests.support.paths import ROOT

VIEWS = {"top": View(16, 16)}


def samples(source: Any, folder: Path, **changes: Any) -> Sampler:
    opening: dict[str, Any] = {
        "views": VIEWS,
        "cache_dir": folder,
        "cache_limit_bytes": 1 << 30,
        "memory_limit_bytes": 256 << 20,
        "workers": 1,
        "log": lambda line: None,
    }
    opening |= {name: changes.pop(name) for name in opening.keys() & changes.keys()}
    drawing: dict[str, Any] = {"chunk": 5, "batch_size": 3, "seed": 0, **changes}
    return Sampler(source, partial(frame_cache.open_frames, source, **opening), **drawing)


def same(one: SampleBatch, other: SampleBatch) -> bool:
    pairs = [(one.frames[c], other.frames[c]) for c in (*one.frames, *other.frames)]
    pairs += [
        (getattr(one, f.name), getattr(other, f.name))
        for f in dataclasses.fields(SampleBatch)
        if f.name not in ("frames", "whole")
    ]
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)

    def episode(self, index: int) -> FakeEpisode:
        raise AssertionError("a frame was decoded that the cache holds")


@dataclasses.dataclass(frozen=True)
class Short(FakeDataset):
    """A dataset whose videos have too few or too many frames."""

    off: int = -2

    def episode(self, index: int) -> FakeEpisode:
        return _Cut(index, self.lengths[index], self.height, self.width, self.size, self.off)


@dataclasses.dataclass(frozen=True)
class _Cut(FakeEpisode):
    off: int = 0

    def frames(self, camera: str, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        end = self.length + self.off if stop is None else min(stop, self.length + self.off)
        return super().frames(camera, start, max(start, end))


# -- order -----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    batch_size=st.integers(1, 12),
    seed=st.integers(0, 2**40),
)
def test_an_epoch_has_every_tick_once_and_no_batch_is_short(
    lengths: list[int], batch_size: int, seed: int
) -> None:
    stream = samples(
        FakeDataset(tuple(lengths)), Path(), chunk=2, views={}, batch_size=batch_size, seed=seed
    )
    total = sum(lengths)
    rows = [stream.rows(i) for i in range(3 * total)]
    assert all(len(r) == batch_size for r in rows)
    drawn = np.concatenate(rows)
    for epoch in range(3):
        assert sorted(drawn[epoch * total : (epoch + 1) * total]) == list(range(total))
        assert np.array_equal(drawn[epoch * total : (epoch + 1) * total], stream.order(epoch))


def test_the_order_depends_on_seed_and_epoch_only(tmp_path: Path) -> None:
    source = FakeDataset((30, 40))
    orders = [
        samples(source, tmp_path, seed=seed, batch_size=batch).order(epoch).tolist()
        for seed, epoch, batch in [(0, 0, 3), (0, 0, 7), (0, 1, 3), (1, 0, 3)]
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != orders[3]
    assert orders[2] != orders[3]


def test_a_stream_from_the_middle_of_an_epoch_equals_the_stream_from_the_start(
    tmp_path: Path,
) -> None:
    all_of_it = samples(FakeDataset(), tmp_path)
    with closing(all_of_it.stream()) as stream:
        whole = list(islice(stream, 17))
    with closing(samples(FakeDataset(), tmp_path).stream(4)) as stream:
        rest = list(islice(stream, 13))
    assert all(same(a, b) for a, b in zip(whole[4:], rest, strict=True))


def test_a_cached_order_is_never_modified(tmp_path: Path) -> None:
    one, fresh = samples(FakeDataset(), tmp_path), np.random.PCG64([0, 1])
    with pytest.raises(ValueError, match="read-only"):
        one.order(1)[0] = 0
    for index in range(20):  # of three epochs
        one.rows(index)[:] = -1  # a copy
    assert np.array_equal(one.order(1), np.random.Generator(fresh).permutation(len(one)))


def test_the_number_of_workers_changes_no_batch_and_no_byte_of_the_cache(tmp_path: Path) -> None:
    source = FakeDataset((7, 4, 9, 1), cameras=("top", "wrist"))
    views = {"top": View(16, 16), "wrist": View(20, 24)}
    made = [
        samples(source, tmp_path / str(n), workers=n, views=views, cache_limit_bytes=limit)
        for n, limit in [(1, 1 << 30), (3, 1 << 30), (3, 0)]
    ]
    streams = []
    for one in made:
        with closing(one.stream()) as stream:
            streams.append(list(islice(stream, 9)))
    for other in streams[1:]:
        assert all(same(a, b) for a, b in zip(streams[0], other, strict=True))
    files = [sorted((tmp_path / n).rglob("*.u8")) for n in "13"]
    assert [f.read_bytes() for f in files[0]] == [f.read_bytes() for f in files[1]]
    assert len(files[0]) == 2


# -- content ---------------------------------------------------------------------------------------


def test_a_sample_is_the_state_the_frame_and_the_next_actions_of_its_tick(tmp_path: Path) -> None:
    source = FakeDataset((7, 4, 9))
    batch = samples(source, tmp_path, batch_size=20).batch(0)
    for row, (e, t) in enumerate(zip(batch.episode.tolist(), batch.tick.tolist(), strict=True)):
        episode = source.episode(e)
        assert np.array_equal(batch.state[row], episode.state[t])
        (captured,) = episode.frames("top", t, t + 1)
        assert np.array_equal(batch.frames["top"][row], resizing.resize(captured, 16, 16))
        for k in range(5):
            end = source.lengths[e] - 1
            assert np.array_equal(batch.action[row, k], episode.action[min(t + k, end)])
            assert batch.is_pad[row, k] == (t + k > end)
    assert batch.is_pad.any()
    assert batch.frames["top"].dtype == np.uint8
    assert batch.state.dtype == batch.action.dtype == np.float32


def test_an_episode_shorter_than_a_chunk_is_padded_with_its_last_action(tmp_path: Path) -> None:
    batch = samples(FakeDataset((2, 8)), tmp_path, episodes=[0], batch_size=2).batch(0)
    first = batch.tick.argmin()
    assert batch.is_pad[first].tolist() == [False, False, True, True, True]
    assert np.array_equal(batch.action[first, 1:], np.repeat(batch.action[first, 1:2], 4, axis=0))


def test_chosen_episodes_keep_their_numbers_and_frames(tmp_path: Path) -> None:
    source = FakeDataset((7, 4, 9))
    one = samples(source, tmp_path, episodes=[2, 0], batch_size=16)
    batch = one.batch(0)
    assert len(one) == 16
    assert set(batch.episode.tolist()) == {0, 2}
    other = one.with_episodes([1]).batch(0)
    assert set(other.episode.tolist()) == {1}
    for made in (batch, other):
        for row in range(len(made.tick)):
            episode = source.episode(int(made.episode[row]))
            (captured,) = episode.frames("top", int(made.tick[row]), int(made.tick[row]) + 1)
            assert np.array_equal(made.frames["top"][row], resizing.resize(captured, 16, 16))


def test_evenly_spaced_samples_span_all_ticks(tmp_path: Path) -> None:
    one = samples(FakeDataset((7, 4, 9)), tmp_path)
    few = list(one.evenly_spaced(5))
    assert [len(b.tick) for b in few] == [3, 2]
    assert (few[0].episode[0], few[0].tick[0]) == (0, 0)
    assert (few[1].episode[-1], few[1].tick[-1]) == (2, 8)
    assert sum(len(b.tick) for b in one.evenly_spaced(1000)) == 20


def test_invalid_sampler_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="episode 1 has 0 ticks"):
        samples(FakeDataset((3, 0, 2)), tmp_path)
    with pytest.raises(BadInput, match="no episode to draw"):
        samples(FakeDataset(()), tmp_path)
    with pytest.raises(BadInput, match="chunk is 0"):
        samples(FakeDataset(), tmp_path, chunk=0)
    with pytest.raises(SpecMismatch, match="no camera left"):
        samples(FakeDataset(), tmp_path, views={"left": View(8, 8)})


def test_a_value_that_is_not_finite_is_reported_with_episode_tick_and_joint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: FakeEpisode) -> np.ndarray:
        rows = np.zeros((self.length, self.size), np.float32)
        rows[2, 1] = np.nan
        return rows

    monkeypatch.setattr(FakeEpisode, "action", property(broken))
    with pytest.raises(NotFinite, match=r"episode 0, tick 2: action joint_1 is nan"):
        samples(FakeDataset(), tmp_path)


# -- statistics ------------------------------------------------------------------------------------


def test_validation_episodes_do_not_enter_the_statistics() -> None:
    source = FakeDataset((7, 4, 9))
    found = dataset_statistics(source, [0, 2])
    rows = np.concatenate([source.episode(e).state for e in (0, 2)]).astype(np.float64)
    assert np.allclose(found["state"].mean, rows.mean(axis=0), rtol=0, atol=1e-12)
    assert np.allclose(found["state"].std, rows.std(axis=0), rtol=0, atol=1e-12)
    assert found["state"].count == found["action"].count == 16
    assert not np.allclose(found["state"].mean, dataset_statistics(source, [0, 1, 2])["state"].mean)


def test_joint_limits_are_those_of_the_training_episodes_with_the_distance_from_the_state() -> None:
    source = FakeDataset((7, 4, 9))
    found = episode_limits(source, [0, 2])
    rows = np.concatenate([source.episode(e).action for e in (0, 2)])
    width = rows.max(0) - rows.min(0)
    np.testing.assert_allclose(found.lower, rows.min(0) - 0.25 * width, atol=1e-6)
    assert (found.names, found.units) == (source.spec.action_names, source.spec.action_units)
    gaps = [np.abs(source.episode(e).action - source.episode(e).state).max(0) for e in (0, 2)]
    assert found.gap is not None
    least = 0.1 * width
    np.testing.assert_allclose(found.gap, np.maximum(1.5 * np.max(gaps, axis=0), least), atol=1e-6)
    assert np.any(found.upper != episode_limits(source, [0, 1, 2]).upper)


def test_delta_statistics_cover_every_tick_of_every_chunk_within_the_episode() -> None:
    source = FakeDataset((7, 2, 9))
    rows = [
        source.episode(e).action[t + k].astype(np.float64) - source.episode(e).state[t]
        for e in (0, 1)
        for t in range(source.lengths[e])
        for k in range(4)
        if t + k < source.lengths[e]
    ]
    found = dataset_statistics(source, [0, 1], delta_chunk=4)["delta"]
    assert found.count == len(rows)
    assert np.allclose(found.mean, np.mean(rows, axis=0), rtol=0, atol=1e-12)
    assert np.allclose(found.std, np.std(rows, axis=0), rtol=0, atol=1e-12)


# -- cache -----------------------------------------------------------------------------------------


def test_cached_frames_equal_frames_decoded_on_demand(
    tmp_path: Path,
) -> None:
    source = FakeDataset((7, 4, 9))
    lines: list[str] = []
    frame_bytes = 16 * 16 * 3
    cached = samples(source, tmp_path / "a")
    decoded = samples(
        source,
        tmp_path / "b",
        cache_limit_bytes=20 * frame_bytes - 1,
        memory_limit_bytes=3 * frame_bytes + 5,
        log=lines.append,
    )
    for index in range(15):  # more than two epochs, so that kept frames are used
        assert same(cached.batch(index), decoded.batch(index))
    assert isinstance(decoded.frames, frame_cache.DecodedFrames)
    assert decoded.frames.kept_bytes == 3 * frame_bytes
    assert not (tmp_path / "b").exists()
    assert len(lines) == 1
    assert "0.02 MB" in lines[0]
    assert "the limit is 0.02 MB" in lines[0]


def test_frames_kept_in_memory_never_exceed_the_limit(tmp_path: Path) -> None:
    frame_bytes = 16 * 16 * 3
    for limit in (0, frame_bytes - 1, frame_bytes, 5 * frame_bytes):
        one = samples(
            FakeDataset(), tmp_path, cache_limit_bytes=0, memory_limit_bytes=limit, workers=4
        )
        with closing(one.stream()) as stream:
            for _ in islice(stream, 8):
                assert isinstance(one.frames, frame_cache.DecodedFrames)
                assert one.frames.kept_bytes <= limit
                kept = sum(f.nbytes for f in one.frames._kept.values())
                assert kept == one.frames.kept_bytes
                assert all(f.base is None for f in one.frames._kept.values())


def test_without_cameras_no_cache_is_written(tmp_path: Path) -> None:
    assert samples(FakeDataset(), tmp_path / "new", views={}).batch(0).frames == {}
    assert not (tmp_path / "new").exists()


def test_the_size_of_the_cache_is_logged_before_it_is_written(tmp_path: Path) -> None:
    written: list[list[Path]] = []

    def check_empty(line: str) -> None:
        if "frame cache" in line:
            assert "0.02 MB for 20 ticks of 3 episodes" in line
            written.append([p for p in tmp_path.rglob("*") if p.is_file() and p.stat().st_size])

    samples(FakeDataset(), tmp_path, log=check_empty)
    assert written == [[]]
    assert [p.stat().st_size for p in tmp_path.rglob("*.u8")] == [20 * 16 * 16 * 3]


def test_a_cache_that_exceeds_the_free_disk_is_not_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=256 << 20))
    lines: list[str] = []
    one = samples(FakeDataset(), tmp_path / "new", log=lines.append)
    assert isinstance(one.frames, frame_cache.DecodedFrames)
    assert "has 0.27 GB free" in lines[0]
    assert not (tmp_path / "new").exists()


def test_a_disk_that_fills_up_leaves_no_partial_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(frame_cache.os, "posix_fallocate", full)
    with pytest.raises(DiskFull, match=r"--train\.cache-limit-gb 0"):
        samples(FakeDataset(), tmp_path)
    assert list(tmp_path.rglob("*.u8")) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_shared_memory_is_named(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The semaphores of a pool of processes are files in /dev/shm; the disk is another."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(frame_cache, "ProcessPoolExecutor", full)
    with pytest.raises(BadInput, match=r"/dev/shm .*--train\.num-workers 1") as caught:
        samples(FakeDataset(), tmp_path, workers=2)
    assert os.strerror(number) in str(caught.value)
    assert not isinstance(caught.value, DiskFull)


def test_an_existing_cache_is_used_without_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = samples(FakeDataset(), tmp_path).batch(0)

    def blind(*args: Any) -> Iterator[Frame]:
        raise AssertionError("a frame was decoded that the cache holds")

    monkeypatch.setattr(FakeEpisode, "frames", blind)
    # An existing cache is used whatever the limit.
    assert same(first, samples(FakeDataset(), tmp_path, cache_limit_bytes=1).batch(0))
    with pytest.raises(AssertionError, match="was decoded"):
        samples(FakeDataset(fingerprint="changed"), tmp_path)


def test_a_limit_of_zero_disables_an_existing_cache(tmp_path: Path) -> None:
    samples(FakeDataset(), tmp_path)
    assert isinstance(samples(FakeDataset(), tmp_path).frames, frame_cache.CachedFrames)
    without = samples(FakeDataset(), tmp_path, cache_limit_bytes=0)
    assert isinstance(without.frames, frame_cache.DecodedFrames)


def test_a_damaged_cache_beyond_the_limit_is_not_rebuilt(tmp_path: Path) -> None:
    want = samples(FakeDataset(), tmp_path).batch(0)
    (file,) = tmp_path.rglob("*.u8")
    file.write_bytes(b"")
    lines: list[str] = []
    without = samples(FakeDataset(), tmp_path, cache_limit_bytes=100, log=lines.append)
    assert isinstance(without.frames, frame_cache.DecodedFrames)
    assert same(want, without.batch(0))
    assert " is damaged (" in lines[0]
    assert "the limit is 0.00 MB" in lines[1]
    assert list(tmp_path.rglob("*.u8")) == []


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove", "no json", "other json", "torn"])
def test_a_damaged_cache_is_rebuilt(tmp_path: Path, harm: str) -> None:
    want = samples(FakeDataset(), tmp_path).batch(0)
    (file,) = tmp_path.rglob("*.u8")
    about = file.with_name("cache.json")
    match harm:
        case "flip":
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            file.write_bytes(data)
        case "truncate":
            file.write_bytes(file.read_bytes()[:-1])
        case "remove":
            file.unlink()
        case "no json":
            about.unlink()
        case "other json":
            about.write_text(json.dumps({**json.loads(about.read_text()), "resize": -1}))
        case "torn":
            about.write_text(about.read_text()[:40])
    lines: list[str] = []
    assert same(want, samples(FakeDataset(), tmp_path, log=lines.append).batch(0))
    assert " is damaged (" in lines[0]
    lines.clear()
    assert same(want, samples(FakeDataset(), tmp_path, log=lines.append).batch(0))
    assert [line for line in lines if " is damaged (" in line] == []


def test_other_data_views_or_resize_versions_have_separate_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples(FakeDataset(), tmp_path)
    samples(FakeDataset(fingerprint="other"), tmp_path)
    samples(FakeDataset(), tmp_path, views={"top": View(8, 8)})
    samples(FakeDataset(), tmp_path, views={"top": View(16, 16, (0, 8, 4, 12))})
    samples(FakeDataset(), tmp_path, views={"top": View(16, 16, (0, 8, 3, 11))})
    monkeypatch.setattr(resizing, "VERSION", resizing.VERSION + 1)
    samples(FakeDataset(), tmp_path)
    assert len(list(tmp_path.glob("frames-*/cache.json"))) == 6


def test_a_partial_cache_of_a_killed_process_is_deleted(tmp_path: Path) -> None:
    want = samples(FakeDataset(), tmp_path).batch(0)
    (folder,) = tmp_path.glob("frames-*/")
    folder.rename(folder.with_name(folder.name + ".building"))
    (file,) = tmp_path.rglob("*.u8")
    file.write_bytes(bytes(file.stat().st_size))
    assert same(want, samples(FakeDataset(), tmp_path).batch(0))
    assert list(tmp_path.glob("*.building")) == []


@pytest.mark.parametrize(("off", "message"), [(-2, "has 5 frames"), (1, "has 8 or more frames")])
def test_a_video_with_more_or_fewer_frames_than_ticks_is_refused(
    tmp_path: Path, off: int, message: str
) -> None:
    with pytest.raises(DamagedFile, match=f"episode 0, camera top: the video {message}"):
        samples(Short(off=off), tmp_path)
    assert list(tmp_path.glob("frames-*/")) == []


def test_without_a_cache_a_missing_frame_is_refused(tmp_path: Path) -> None:
    one = samples(Short(), tmp_path, cache_limit_bytes=0)
    with (
        pytest.raises(DamagedFile, match="expected one frame of tick 8, got 0"),
        closing(one.stream()) as stream,
    ):
        list(islice(stream, 7))


@dataclasses.dataclass(frozen=True)
class Endless(FakeDataset):
    """A dataset whose workers write their process ids and never finish a frame."""

    pids: str = ""

    def episode(self, index: int) -> FakeEpisode:
        (Path(self.pids) / str(os.getpid())).touch()
        time.sleep(1000)
        raise AssertionError("no frame is decoded that slowly")


def test_the_workers_of_a_killed_process_exit(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    program = (
        "import sys, pathlib; from tests.training import test_sampler as t\n"
        "from imitact.training.frame_cache import open_frames\n"
        "open_frames(t.Endless(pids=sys.argv[2]), t.VIEWS, cache_dir=pathlib.Path(sys.argv[3]),"
        " cache_limit_bytes=1 << 30, memory_limit_bytes=0, workers=2, log=print)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(ROOT), str(pids), str(tmp_path)],
        stdout=subprocess.DEVNULL,
    )
    try:
        until(lambda: len(list(pids.iterdir())) == 2 or child.poll() is not None)
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()
    workers = [int(p.name) for p in pids.iterdir()]
    assert len(workers) == 2
    try:
        until(lambda: not any(alive(pid) for pid in workers))
    finally:
        for pid in filter(alive, workers):
            os.kill(pid, signal.SIGKILL)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process is running; a zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
