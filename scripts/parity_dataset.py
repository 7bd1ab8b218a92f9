"""Datasets, live: what imitact writes LeRobot reads, what LeRobot writes imitact reads.

Run it with a Python that has LeRobot 0.6 and can import imitact (`make parity` does):

    python scripts/parity_dataset.py

Every check reads every tick through both and compares them to the bit. Exit code 0 if all hold.
The environment variable VIDEO_BACKENDS chooses LeRobot's decoders (default "pyav"; "pyav
torchcodec" where FFmpeg's shared libraries are installed).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from imitact.core.errors import BadInput
from imitact.core.validate import check_dataset
from imitact.datasets.lerobot.layout import CAMERA_PREFIX
from imitact.datasets.lerobot.reader import LeRobotDataset as LeRobotSource
from imitact.datasets.lerobot.repair import plan_repair
from imitact.datasets.lerobot.repair_copy import write_repaired
from imitact.datasets.video_config import VideoConfig
from imitact.recording.recorder import record

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.support import dot_env as worlds

if __name__ != "__mp_main__":  # the workers of a recording need no LeRobot
    # Before LeRobot is imported: nothing may be fetched, no cache of the user's touched.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HOME"] = _HOME = tempfile.mkdtemp(prefix="imitact-parity-")
    os.environ.setdefault("SVT_LOG", "1")
    logging.getLogger("lerobot").setLevel(logging.CRITICAL)  # the decoders it lacks, at length

    import PIL.Image
    from datasets.utils.logging import disable_progress_bar
    from lerobot.configs import RGBEncoderConfig
    from lerobot.datasets.compute_stats import aggregate_stats, compute_episode_stats
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    disable_progress_bar()

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "lerobot"
BACKENDS = os.environ.get("VIDEO_BACKENDS", "pyav").split()
TASK = "go to the mark"


def write_ours(root: Path, *, codec: str, rate_hz: float = 20.0, episodes: int = 3) -> None:
    """Write a dataset with imitact's recorder."""
    record(
        root,
        make_env=partial(worlds.DotEnv, worlds.TWO_CAMERAS, 12, rate_hz=rate_hz),
        make_expert=worlds.make_dot_expert,
        episodes=episodes,
        task=TASK,
        seeds=range(1000),
        workers=2,
        video=VideoConfig(codec=codec),  # type: ignore[arg-type]
        hold_ticks=2,
    )


def picture(episode: int, tick: int, height: int, width: int, camera: int) -> np.ndarray:
    """Return a smooth frame whose bright square encodes episode, tick and camera."""
    rows = np.linspace(20, 120, height)[:, None, None]
    columns = np.linspace(0, 80, width)[None, :, None]
    frame = (rows + columns + 15.0 * np.arange(3)).astype(np.uint8)
    row, column = 4 * (episode + camera), 4 * tick
    frame[row : row + 12, column : column + 12] = (230, 60, 30 + 60 * camera)
    return frame


def write_lerobots(root: Path, *, encoder: Any, cameras: dict[str, tuple[int, int]], names: Any,
                   lengths: tuple[int, ...]) -> None:  # fmt: skip
    """Write a dataset with LeRobot's recorder: several episodes per file."""
    append_lerobots(create_lerobots(root, encoder, cameras, names), cameras, lengths)


def create_lerobots(
    root: Path, encoder: Any, cameras: dict[str, tuple[int, int]], names: Any, **sizes: Any
) -> Any:
    """Return an empty LeRobot dataset; sizes are file size limits by LeRobot's names."""
    features: dict[str, Any] = {
        "observation.state": {"dtype": "float32", "shape": (3,), "names": names},
        "action": {"dtype": "float32", "shape": (2,), "names": {"motors": ["left", "right"]}},
    }
    for camera, (height, width) in cameras.items():
        shape = {"dtype": "video", "shape": (height, width, 3)}
        features[CAMERA_PREFIX + camera] = {**shape, "names": ["height", "width", "channels"]}
    dataset = LeRobotDataset.create(
        "imitact/parity", fps=20, features=features, root=root, rgb_encoder=encoder, **sizes
    )
    return dataset


def append_lerobots(
    dataset: Any,
    cameras: dict[str, tuple[int, int]],
    lengths: tuple[int, ...],
    sizes: Any = (3, 2),
    finalize: bool = True,
) -> None:
    rng = np.random.default_rng(5)
    for episode, length in enumerate(lengths):
        for tick in range(length):
            frame: dict[str, Any] = {
                "observation.state": rng.normal(size=sizes[0]).astype(np.float32),
                "action": rng.normal(size=sizes[1]).astype(np.float32),
                "task": f"task {episode % 2}",
            }
            for number, (camera, (height, width)) in enumerate(cameras.items()):
                frame[CAMERA_PREFIX + camera] = picture(episode, tick, height, width, number)
            dataset.add_frame(frame)
        dataset.save_episode(parallel_encoding=False)
    if finalize:
        dataset.finalize()


def same_reading(root: Path, episodes: int, one_task: bool = True) -> None:
    """Every tick of every episode is bitwise equal for both readers."""
    ours = LeRobotSource(root)
    check_dataset(ours)
    assert len(ours.lengths) == episodes, (len(ours.lengths), episodes)
    for backend in BACKENDS:
        theirs = LeRobotDataset(
            "imitact/parity", root=root, video_backend=backend, return_uint8=True
        )
        assert theirs.meta.total_episodes == episodes
        assert len(theirs) == sum(ours.lengths), (len(theirs), ours.lengths)
        assert float(theirs.fps) == ours.spec.rate_hz
        row = 0
        for index, length in enumerate(ours.lengths):
            episode = ours.episode(index)
            frames = {c.name: list(episode.frames(c.name)) for c in ours.spec.cameras}
            for tick in range(length):
                item = theirs[row]
                where = f"episode {index} tick {tick}"
                assert item["episode_index"].item() == index, where
                assert item["frame_index"].item() == tick, where
                assert item["index"].item() == row, where
                if one_task or tick == 0:  # of one that changes we tell the first
                    assert item["task"] == episode.task, where
                for key, values in (
                    ("observation.state", episode.state),
                    ("action", episode.action),
                ):
                    equal(np.atleast_1d(np.float32(item[key].numpy())), values[tick], where)
                for camera in ours.spec.cameras:
                    theirs_rgb = item[CAMERA_PREFIX + camera.name].numpy().transpose(1, 2, 0)
                    if ours.stored[camera.name].as_images:  # as floats from 0 to 1, always
                        theirs_rgb = np.round(255 * theirs_rgb).astype(np.uint8)
                    equal(theirs_rgb, frames[camera.name][tick], f"{where} {camera.name} {backend}")
                row += 1


def equal(theirs: np.ndarray, ours: np.ndarray, where: str) -> None:
    if not np.array_equal(theirs, ours):
        apart = np.abs(theirs.astype(float) - ours.astype(float)).max()
        raise AssertionError(f"{where}: LeRobot and imitact read values up to {apart} apart")


def check_ours(root: Path, codec: str, rate_hz: float) -> None:
    write_ours(root, codec=codec, rate_hz=rate_hz)
    same_reading(root, 3)


def check_unfinished(root: Path) -> None:
    """After a kill at any step of adding an episode, both read the episodes before it."""
    write_ours(root / "two", codec="h264", episodes=2)
    write_ours(root / "three", codec="h264", episodes=3)
    tail = [p.relative_to(root / "three") for p in (root / "three").rglob("file-002.*")]
    order = ("videos", "data", "meta/imitact/", "meta/stats.json", "meta/imitact.json")
    order += ("meta/episodes",)
    for step in range(1, len(order) + 1):
        killed = root / f"killed-{step}"
        shutil.copytree(root / "two", killed)
        for placed in order[:step]:
            files = [t for t in tail if t.as_posix().startswith(placed)] or [Path(placed)]
            for file in files:
                (killed / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(root / "three" / file, killed / file)
        same_reading(killed, 2)


def lerobots_stats(root: Path) -> dict[str, dict[str, Any]]:
    """Return the statistics of imitact's dataset as LeRobot's functions compute them.

    From doubles: its variance is a difference of two large numbers, which single precision does
    not hold to 1e-6. Its frames are PNG files, as when it records.
    """
    source = LeRobotSource(root)
    dataset = LeRobotDataset("imitact/parity", root=root, video_backend="pyav")
    found = []
    for index in range(len(source.lengths)):
        episode = source.episode(index)
        data: dict[str, Any] = {
            "observation.state": episode.state.astype(np.float64),
            "action": episode.action.astype(np.float64),
        }
        with tempfile.TemporaryDirectory(dir=_HOME) as folder:
            for camera in source.spec.cameras:
                paths = []
                for tick, frame in enumerate(episode.frames(camera.name)):
                    paths.append(f"{folder}/{camera.name}-{tick:06d}.png")
                    PIL.Image.fromarray(frame).save(paths[-1])
                data[CAMERA_PREFIX + camera.name] = paths
            found.append(compute_episode_stats(data, dataset.meta.features))
    return {
        feature: {name: value.tolist() for name, value in statistics.items()}
        for feature, statistics in aggregate_stats(found).items()
    }


BIN = 1 / 5000
"""Bin width as a share of the range in LeRobot's quantile histograms (RunningQuantileStats)."""


def check_stats(root: Path) -> None:
    """Statistics equal LeRobot's: to 1e-6 for state and action, for frames to the precision of its
    float32 sums and histogram bins."""
    write_ours(root, codec="lossless", episodes=2)
    ours = json.loads((root / "meta/stats.json").read_text(encoding="utf-8"))
    for feature, statistics in lerobots_stats(root).items():
        is_camera = feature.startswith(CAMERA_PREFIX)
        for name, value in statistics.items():
            mine, theirs = np.array(ours[feature][name]), np.array(value)
            assert mine.shape == theirs.shape, (feature, name, mine.shape, theirs.shape)
            if not name.startswith("q"):
                limit = 1e-4 if is_camera else 1e-6
            elif is_camera:
                limit = BIN
            else:
                continue  # within the gap between two ticks: tests/datasets/lerobot/test_reader.py
            np.testing.assert_allclose(
                mine, theirs, rtol=0, atol=limit, err_msg=f"{feature} {name}"
            )


def check_theirs(root: Path, encoder: Any, cameras: dict[str, tuple[int, int]]) -> None:
    write_lerobots(root, encoder=encoder, cameras=cameras, names=["a", "b", "c"], lengths=(5, 8, 6))
    same_reading(root, 3)


def check_older(root: Path, name: str) -> None:
    """imitact reads what LeRobot 0.4.4 wrote or converted: images, doubles, several files."""
    shutil.copytree(FIXTURES / name, root)
    same_reading(root, 3, one_task=False)


def check_saved(root: Path) -> None:
    """LeRobot reads what `imitact check --fix` repairs of an unfinished LeRobot recording."""
    found = plan_repair(FIXTURES / "unfinished")
    write_repaired(found, root)
    same_reading(root, len(found.recoverable))
    assert LeRobotDataset("imitact/parity", root=root, video_backend="pyav").meta.stats is not None


def check_append(root: Path) -> None:
    """LeRobot adds an episode to a dataset of imitact."""
    write_ours(root, codec="h264", episodes=2)
    dataset = LeRobotDataset.resume(
        "imitact/parity", root=root, rgb_encoder=RGBEncoderConfig(vcodec="h264")
    )
    cameras = {name: (height, width) for name, height, width in worlds.TWO_CAMERAS}
    append_lerobots(dataset, cameras, (4,), sizes=(2, 2))
    same_reading(root, 3)


def checks() -> dict[str, Callable[[Path], None]]:
    return {
        "LeRobot reads our h264": partial(check_ours, codec="h264", rate_hz=20.0),
        "LeRobot reads our h264 at 50 Hz": partial(check_ours, codec="h264", rate_hz=50.0),
        "LeRobot reads our h264 at 30 Hz": partial(check_ours, codec="h264", rate_hz=30.0),
        "LeRobot reads our h264 at 12.5 Hz": partial(check_ours, codec="h264", rate_hz=12.5),
        "LeRobot reads our lossless video": partial(check_ours, codec="lossless", rate_hz=20.0),
        "LeRobot reads our AV1": partial(check_ours, codec="av1", rate_hz=20.0),
        "both ignore an unfinished episode": check_unfinished,
        "our statistics are LeRobot's": check_stats,
        "we read LeRobot's h264, two cameras": partial(
            check_theirs,
            encoder=RGBEncoderConfig(vcodec="h264"),
            cameras={"top": (48, 64), "wrist": (64, 48)},
        ),
        "we read LeRobot's AV1": partial(
            check_theirs, encoder=RGBEncoderConfig(), cameras={"top": (64, 64)}
        ),
        "we read LeRobot 0.4.4's pictures and video": partial(check_older, name="v30"),
        "we read what LeRobot 0.4.4 converted": partial(check_older, name="converted"),
        "LeRobot reads what --fix recovers": check_saved,
        "LeRobot appends to ours, and we read it": check_append,
    }


def main() -> int:
    failed = 0
    try:
        for name, check in checks().items():
            try:
                check(Path(tempfile.mkdtemp(dir=_HOME)) / "dataset")
            except (AssertionError, BadInput) as error:
                failed += 1
                print(f"FAILED  {name}: {error}")
            else:
                print(f"ok      {name}")
    finally:
        shutil.rmtree(_HOME, ignore_errors=True)
    print(json.dumps({"checks": len(checks()), "failed": failed, "backends": BACKENDS}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
