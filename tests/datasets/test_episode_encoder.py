"""Episode encoder: videos and statistics of the chosen ticks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from imitact.datasets.episode_encoder import encode_episode, frame_stats
from imitact.datasets.lerobot.stats import PixelCounts, sampled_ticks
from imitact.datasets.video import read_frames
from imitact.datasets.video_config import VideoConfig
from tests.support.fake_dataset import FakeDataset

LOSSLESS = VideoConfig(codec="lossless")


def test_every_camera_gets_a_video_of_the_chosen_ticks_and_its_statistics(tmp_path: Path) -> None:
    dataset = FakeDataset((9,), cameras=("top", "left"), height=24, width=32)
    episode = dataset.episode(0)
    videos, stats = encode_episode(episode, dataset.spec, LOSSLESS, tmp_path, start=2, stop=8)
    assert sorted(videos) == sorted(stats) == ["left", "top"]
    for camera, path in videos.items():
        frames = list(episode.frames(camera, 2, 8))
        times_s = [tick / 50 for tick in range(6)]
        assert np.array_equal(list(read_frames(path, times_s, (24, 32, 3))), frames)
        expected = frame_stats(frames, 6)
        assert all(np.array_equal(stats[camera][name], expected[name]) for name in expected)


def test_a_finished_video_is_copied_byte_for_byte(tmp_path: Path) -> None:
    dataset = FakeDataset((5,), height=24, width=32)
    (tmp_path / "new").mkdir()
    first, stats = encode_episode(dataset.episode(0), dataset.spec, LOSSLESS, tmp_path)
    again, same = encode_episode(
        dataset.episode(0), dataset.spec, VideoConfig(), tmp_path / "new", finished=first
    )
    assert again["top"].read_bytes() == first["top"].read_bytes()
    assert all(np.array_equal(stats["top"][name], same["top"][name]) for name in same["top"])


def test_statistics_use_the_ticks_that_lerobot_samples() -> None:
    frames = list(FakeDataset((130,), height=8, width=8).episode(0).frames("top"))
    counts = PixelCounts()
    for tick in sampled_ticks(130):
        counts.add(frames[tick])
    assert len(sampled_ticks(130)) == 100
    found, expected = frame_stats(frames, 130), counts.result()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
