"""LeRobot statistics: merged, counted and sampled as LeRobot does it."""

from __future__ import annotations

import numpy as np

from imitact.datasets.lerobot.stats import PixelCounts, merge_stats, row_stats, sampled_ticks


def test_merged_statistics_are_those_of_all_rows() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 3))
    whole, parts = row_stats(rows), merge_stats(row_stats(rows[:20]), row_stats(rows[20:]))
    for name in ("min", "max", "mean", "std", "count"):
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-12)


def test_pixel_counts_give_the_statistics_of_the_pixels() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 24, 32, 3), dtype=np.uint8)
    counts = PixelCounts()
    for frame in frames:
        counts.add(frame)
    pixels = frames.reshape(-1, 3) / 255
    found = counts.result()
    for name, want in (
        ("mean", pixels.mean(0)), ("std", pixels.std(0)), ("min", pixels.min(0)),
        ("max", pixels.max(0)), ("q10", np.quantile(pixels, 0.1, axis=0, method="inverted_cdf")),
    ):  # fmt: skip
        np.testing.assert_allclose(found[name].ravel(), want, rtol=1e-9)
    assert found["count"].tolist() == [5]


def test_frames_of_a_long_episode_are_sampled_as_in_lerobot() -> None:
    assert sampled_ticks(30) == frozenset(range(30))
    assert len(sampled_ticks(400)) == 100
    assert {0, 399} <= sampled_ticks(400)
    assert len(sampled_ticks(2000)) == 299  # LeRobot's own table, compute_stats.py
