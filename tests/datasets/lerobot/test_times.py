"""Times: frames and time stamps some milliseconds off tick / rate are each tick's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imitact.core.errors import DamagedFile
from imitact.datasets.open import open_dataset
from imitact.datasets.read_config import ReadConfig
from imitact.datasets.video import match_frames
from imitact.quality.dataset_check import inspect_numbers
from imitact.quality.findings import Finding
from tests.support.foreign_files import film
from tests.support.lerobot_files import FPS, arm, v21

LENGTHS = (30, 24)
FEATURES = arm(front={"dtype": "video", "shape": [24, 32, 3]})
DUE = [np.arange(n) / FPS for n in LENGTHS]


def jitter(seed: int, largest_s: float = 0.02) -> list[np.ndarray]:
    """Times of a clock that is up to 0.4 ticks off."""
    rng = np.random.default_rng(seed)
    return [due + np.append(0, rng.uniform(0, largest_s, len(due) - 1)) for due in DUE]


def check_frames(root: Path, read: ReadConfig | None = None) -> None:
    dataset = open_dataset(root, read)
    for index, length in enumerate(LENGTHS):
        want = film(index, length)
        np.testing.assert_array_equal(list(dataset.episode(index).frames("front")), want)
        part = list(dataset.episode(index).frames("front", 7, 9))
        np.testing.assert_array_equal(part, want[7:9])


@pytest.mark.parametrize(
    ("stamps", "frame_times"),
    [
        (jitter(0), None),
        (None, jitter(1)),
        (jitter(2), jitter(2)),
        (jitter(3), jitter(4)),
        ([due + 0.004 for due in DUE], None),
        ([np.round(due, 2) for due in DUE], [np.round(due, 3) for due in DUE]),
    ],
    ids=["stamps off", "frames off", "both alike", "both apart", "shifted", "rounded"],
)
def test_each_tick_has_its_own_frame_where_there_is_one_for_each(
    tmp_path: Path, stamps: list[np.ndarray] | None, frame_times: list[np.ndarray] | None
):
    root = v21(tmp_path / "d", FEATURES, lengths=LENGTHS, stamps=stamps, frame_times=frame_times)
    check_frames(root)


def test_a_stamp_half_a_tick_off_needs_the_setting(tmp_path: Path):
    drift = [due * 1.03 for due in DUE]
    root = v21(tmp_path / "d", FEATURES, lengths=LENGTHS, stamps=drift)
    with pytest.raises(DamagedFile, match=r"the nearest is at .*--read\.tolerance-s"):
        list(open_dataset(root).episode(0).frames("front"))
    check_frames(root, ReadConfig(tolerance_s=0.06))


def on(found: Callable[[np.ndarray], np.ndarray], **given: float) -> np.ndarray:
    """Match 30 ticks at 20 Hz to the frames made of their times."""
    due = DUE[0]
    return match_frames(found(due), due + given.pop("off_s", 0.0), 0.0, FPS, **given)


def test_frames_at_the_stamps_are_taken_whatever_their_number():
    twice = on(lambda due: np.arange(2 * len(due)) / (2 * FPS))
    np.testing.assert_allclose(twice, DUE[0], atol=1e-9)


def test_float32_stamps_of_a_long_episode_find_their_frames():
    due = np.arange(100_000) / 30
    stamps = due.astype(np.float32).astype(np.float64)
    assert np.abs(stamps - due).max() > 1e-4
    np.testing.assert_array_equal(match_frames(due, stamps, 0.0, 30), due)


@pytest.mark.parametrize(
    "found",
    [
        lambda due: np.delete(due, 12),  # one frame is lost
        lambda due: np.sort(np.append(due, 0.61)),  # one more
        lambda due: due[:-1],  # cut short
        lambda due: np.arange(2 * len(due)) / (2 * FPS) + 0.003,  # 40 Hz, off
    ],
)
def test_frames_are_not_guessed_where_ticks_and_frames_differ_in_number(
    found: Callable[[np.ndarray], np.ndarray],
):
    matched = on(found, off_s=0.004)
    frames = found(DUE[0])
    missing = np.abs(matched[:, None] - frames).min(axis=1) > 1e-4
    assert missing.any()


def test_the_nearest_frame_within_the_tolerance_is_taken_where_it_is_given():
    matched = on(lambda due: np.delete(due, 12), off_s=0.004, tolerance_s=0.01)
    assert np.count_nonzero(np.abs(matched - DUE[0]) > 1e-9) == 1


def frame_findings(root: Path, **read: Any) -> list[Finding]:
    found = inspect_numbers(open_dataset(root, ReadConfig(**read)))
    return [f for f in found if f.kind in ("frame-times", "time-stamps")]


def test_frames_off_their_time_are_reported_where_the_stamps_are_good(tmp_path: Path):
    assert not frame_findings(v21(tmp_path / "on", FEATURES, lengths=LENGTHS))
    late = jitter(1)
    late[1] = DUE[1]
    root = v21(tmp_path / "late", FEATURES, lengths=LENGTHS, frame_times=late)
    (found,) = frame_findings(root)
    assert (found.kind, found.severity, found.episode, found.part, found.ticks) == (
        "frame-times", "warning", 0, "front", (1, 2),
    )  # fmt: skip
    largest_s = np.abs(late[0] - DUE[0]).max()
    assert f"29 of 30 frames are off, by up to {largest_s:.4f}" in found.what
    assert not frame_findings(root, episodes="1")
    (thinned,) = frame_findings(root, every=2)
    assert "14 of 15 frames" in thinned.what


def test_a_tick_without_a_frame_is_an_error_before_anything_is_decoded(tmp_path: Path):
    times = [DUE[0].copy(), DUE[1]]
    times[0][20:] += 0.06
    root = v21(tmp_path / "d", FEATURES, lengths=LENGTHS, frame_times=times)
    (found,) = frame_findings(root)
    assert (found.kind, found.severity, found.episode, found.fix) == (
        "frame-times", "error", 0, "drop",
    )  # fmt: skip
    with pytest.raises(DamagedFile, match="has no frame within"):
        list(open_dataset(root).episode(0).frames("front"))


def test_frames_whose_stamps_are_off_too_are_reported_once(tmp_path: Path):
    both = jitter(2)
    root = v21(tmp_path / "d", FEATURES, lengths=LENGTHS, stamps=both, frame_times=both)
    assert [f.kind for f in frame_findings(root)] == ["time-stamps"] * 2
