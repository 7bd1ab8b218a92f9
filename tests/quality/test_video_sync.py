"""Video sync check: every defect beside a near miss that is not a finding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from imitact.quality.findings import Finding, errors
from imitact.quality.video_sync import VideoLimits, measure_motion, nonnegative_least_squares
from tests.support.demonstrations import demonstrate, follow, picture, write
from tests.support.fake_dataset import FakeDataset
from tests.support.inspection import inspect_all, lines, moving, only


def filmed(tmp_path: Path, change: Callable[[list[np.ndarray]], list[np.ndarray]] | None = None,
           index: int = 2, count: int = 5) -> list[Finding]:  # fmt: skip
    """Findings of a dataset with videos, of which one episode's frames are changed."""
    episodes = [demonstrate(seed) for seed in range(count)]

    def film(number: int, frames: list[np.ndarray]) -> list[np.ndarray]:
        return change(frames) if change and (number == index or index < 0) else frames

    root = write(tmp_path / "data", episodes, cameras=["top"], film=film)
    return inspect_all(root, frames=True)


def late(ticks: int) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    def change(frames: list[np.ndarray]) -> list[np.ndarray]:
        if ticks >= 0:
            return [*[frames[0]] * ticks, *frames][: len(frames)]
        return [*frames, *[frames[-1]] * -ticks][-ticks:]

    return change


def test_a_video_in_step_with_its_joints_is_not_a_finding(tmp_path: Path):
    assert lines(filmed(tmp_path)) == []


@pytest.mark.parametrize("ticks", [5, 8, -6])
def test_a_video_out_of_step_is_found_with_its_delay(ticks: int, tmp_path: Path):
    found = only(filmed(tmp_path, late(ticks)))
    assert (found.kind, found.severity, found.episode, found.part, found.fix) == (
        "video-out-of-step", "error", 2, "top", "drop",
    )  # fmt: skip
    assert found.value == pytest.approx(ticks / 20, abs=0.051)


def test_a_video_that_is_one_tick_late_is_not_a_finding(tmp_path: Path):
    assert lines(filmed(tmp_path, late(1))) == []


def test_a_video_of_another_episode_is_given_no_delay(tmp_path: Path):
    """It correlates at no delay, so none is reported."""
    other = demonstrate(99)

    def swap(frames: list[np.ndarray]) -> list[np.ndarray]:
        shown = [picture(row) for row in other[0]]
        return [*shown, *[shown[-1]] * len(frames)][: len(frames)]

    assert errors(filmed(tmp_path, swap)) == []


def test_equally_late_videos_are_one_warning(tmp_path: Path):
    found = only(filmed(tmp_path, late(5), index=-1))
    assert (found.kind, found.severity, found.episode) == ("video-lag", "warning", None)
    assert found.value == pytest.approx(0.25, abs=0.051)


def test_a_frozen_video_is_found_with_its_ticks(tmp_path: Path):
    first = moving(demonstrate(2)[1][:, [0, 1, 1]], 30)

    def stop(frames: list[np.ndarray]) -> list[np.ndarray]:
        return [*frames[:first], *[frames[first]] * 30, *frames[first + 30 :]]

    found = only(filmed(tmp_path, stop))
    assert (found.kind, found.severity, found.episode, found.part) == (
        "video-frozen", "error", 2, "top",
    )  # fmt: skip
    assert found.ticks is not None
    assert abs(found.ticks[0] - first) <= 3
    assert abs(found.ticks[1] - first - 30) <= 3


def test_a_camera_that_sees_a_resting_arm_is_not_frozen(tmp_path: Path):
    """Joints out of its view move on; what it sees of each joint is fitted over all episodes."""
    episodes = []
    for seed in range(5):
        _, action = demonstrate(seed)
        first = len(action) // 2
        action[first : first + 40, :2] = action[first, :2]
        action[first + 40 :, :2] += action[first, :2] - action[first + 40, :2]
        action[first : first + 40, 2] += np.sin(np.arange(40) / 4)
        episodes.append((follow(action, seed=seed), action))
    root = write(tmp_path / "data", episodes, cameras=["top"])
    assert [f for f in inspect_all(root, frames=True) if f.kind.startswith("video")] == []


@pytest.mark.parametrize(
    ("count", "level", "severity"),
    [(2, 0, "warning"), (10, 0, "error"), (10, 128, "error"), (10, 12, "error")],
)
def test_black_frames_are_found_with_their_ticks(
    count: int, level: int, severity: str, tmp_path: Path
):
    def black(frames: list[np.ndarray]) -> list[np.ndarray]:
        return [*frames[:40], *[np.full_like(frames[0], level)] * count, *frames[40 + count :]]

    found = only(filmed(tmp_path, black))
    assert (found.kind, found.severity, found.episode, found.part) == (
        "blank-frames", severity, 2, "top",
    )  # fmt: skip
    assert found.ticks == (40, 40 + count)


def test_a_video_with_fewer_frames_than_ticks_is_found_with_both_numbers(tmp_path: Path):
    found = only(filmed(tmp_path, lambda frames: frames[:100]))
    assert (found.kind, found.severity, found.episode, found.fix) == (
        "damaged-file", "error", 2, "drop",
    )  # fmt: skip
    assert f"has 100 frames, its episode 2 has {len(demonstrate(2)[0])} ticks" in found.what


def test_a_cut_or_missing_video_is_found_and_the_others_are_checked(tmp_path: Path):
    root = write(tmp_path / "data", [demonstrate(seed) for seed in range(4)], cameras=["top"])
    videos = root / "videos/observation.images.top/chunk-000"
    (videos / "file-001.mp4").unlink()
    data = (videos / "file-003.mp4").read_bytes()
    (videos / "file-003.mp4").write_bytes(data[: len(data) // 2])
    found = inspect_all(root, frames=True)
    assert [(f.kind, f.episode, f.severity) for f in found] == [
        ("damaged-file", 1, "error"), ("damaged-file", 3, "error"),
    ]  # fmt: skip


def test_a_camera_that_sees_no_motion_is_found(tmp_path: Path):
    found = only(filmed(tmp_path, lambda frames: [frames[0]] * len(frames), index=-1))
    assert (found.kind, found.severity, found.part) == ("video-still", "warning", "top")


def test_a_frame_is_released_after_it_is_compared(tmp_path: Path):
    """Memory does not grow with the length of the video."""
    import weakref

    dataset = FakeDataset((30,))
    alive: list[int] = []

    class Watched:
        def frames(self, camera: str):
            before = []
            for frame in dataset.episode(0).frames(camera):
                before.append(weakref.ref(frame))
                yield frame
                del frame
                alive.append(sum(ref() is not None for ref in before))

    seen = measure_motion(Watched(), "top", VideoLimits())  # type: ignore[arg-type]
    assert len(seen.blank) == 30
    assert len(seen.change) == 29
    assert max(alive) <= 2


def test_nonnegative_least_squares_finds_the_constrained_minimum():
    rng = np.random.default_rng(0)
    speeds = rng.uniform(0, 1, (400, 4))
    want = np.array([0.5, 0.0, 2.0, 0.0])
    right = speeds.T @ (speeds @ want)
    np.testing.assert_allclose(nonnegative_least_squares(speeds.T @ speeds, right), want, atol=1e-6)
    pulled = nonnegative_least_squares(
        speeds.T @ speeds, speeds.T @ (speeds @ np.array([0.5, -1.0, 2.0, 0.0]))
    )
    assert np.all(pulled >= 0)
    assert pulled[1] == 0
