"""Write tests/fixtures/lerobot, older part: small datasets by LeRobot 0.3.3 and 0.4.4.

Run it with a Python that has one of them (imitact is not needed). LeRobot 0.3.3 comes first, since
0.4.4 converts its dataset:

    python scripts/make_old_lerobot_fixtures.py

    by 0.3.3:  v21/        layout v2.1: a camera as video (AV1), one as images, several tasks
               v21.json    what LeRobot 0.3.3 reads from it
    by 0.4.4:  v30/        layout v3.0: the same, several files of data and of videos, h264
               v30.json    what LeRobot 0.4.4 reads from it
               converted/  v21/ converted to v3.0 by LeRobot's own converter
               converted.json

Of its dependencies, LeRobot's dataset code needs only torch, torchvision, datasets (at most 3.6.0
for 0.3.3), huggingface_hub, pandas, pyarrow, av, jsonlines, packaging and pillow (0.4.4 also
accelerate), so `pip install --no-deps` and these suffice; both ran on Python 3.12 with torch
2.11.0, torchvision 0.26.0 and av 15.1.0.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "lerobot"
BLOCK = 8  # pixels; frames are stored as means of squares of this size, which differ for each frame
LENGTHS = (5, 4, 6)
TOP, WRIST = (48, 64), (32, 40)
VIDEO, IMAGE = "observation.images.top", "observation.images.wrist"

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="imitact-fixtures-")
os.environ.setdefault("SVT_LOG", "1")


def features(state_names: Any, action_names: Any) -> dict[str, Any]:
    """Return features: float64 states, scalars, a video, and images of another size."""
    return {
        "observation.state": {"dtype": "float64", "shape": (3,), "names": state_names},
        "action": {"dtype": "float32", "shape": (2,), "names": action_names},
        "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
        "next.done": {"dtype": "bool", "shape": (1,), "names": None},
        VIDEO: {"dtype": "video", "shape": (*TOP, 3), "names": ["height", "width", "channels"]},
        IMAGE: {"dtype": "image", "shape": (*WRIST, 3), "names": ["height", "width", "channels"]},
    }


def picture(episode: int, tick: int, size: tuple[int, int]) -> np.ndarray:
    """Return a smooth frame whose bright square encodes episode and tick by its position."""
    height, width = size
    rows = np.linspace(20, 120, height)[:, None, None]
    columns = np.linspace(0, 80, width)[None, :, None]
    frame = (rows + columns + 15.0 * np.arange(3)).astype(np.uint8)
    row, column = 4 * episode, 4 * tick
    frame[row : row + 12, column : column + 12] = (230, 60, 30)
    return frame


def ticks(episode: int) -> list[tuple[dict[str, Any], str]]:
    """Return LeRobot frames with their tasks; the task of the last episode changes half-way."""
    rng = np.random.default_rng(episode)
    length = LENGTHS[episode]
    found = []
    for tick in range(length):
        frame = {
            "observation.state": rng.normal(size=3),
            "action": rng.normal(size=2).astype(np.float32),
            "next.reward": np.array([tick], dtype=np.float32),
            "next.done": np.array([tick == length - 1]),
            VIDEO: picture(episode, tick, TOP),
            IMAGE: picture(episode, tick, WRIST),
        }
        changed = episode == len(LENGTHS) - 1 and tick >= length // 2
        found.append((frame, "tidy up" if changed else f"task {episode % 2}"))
    return found


def thumbnail(frame: np.ndarray) -> str:
    """Return means (H / 8, W / 8, 3) in levels, bytes as hexadecimal."""
    height, width, _ = frame.shape
    blocks = frame.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, 3)
    return np.round(blocks.mean(axis=(1, 3), dtype=np.float64)).astype(np.uint8).tobytes().hex()


class VideoReader:
    """PyAV behind the interface of torchvision's VideoReader, which torchvision has removed.

    Both versions of LeRobot read videos with it; LeRobot itself matches frames and ticks.
    """

    def __init__(self, path: str, stream: str) -> None:
        import av

        self.container = av.open(path)

    def seek(self, time_s: float, keyframes_only: bool = False) -> None:
        self.container.seek(int(time_s * 1_000_000), backward=True, any_frame=False)

    def __iter__(self) -> Any:
        import torch

        for frame in self.container.decode(video=0):
            pixels = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
            yield {"pts": frame.time, "data": pixels}


def reading(root: Path) -> dict[str, Any]:
    """Return what LeRobot reads from a dataset, tick by tick."""
    import torchvision
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    if not hasattr(torchvision.io, "VideoReader"):
        torchvision.io.VideoReader = VideoReader
        torchvision.set_video_backend = lambda name: None
    dataset = LeRobotDataset("imitact/fixture", root=root, video_backend="pyav")
    rows = []
    for index in range(len(dataset)):
        item = dataset[index]
        row: dict[str, Any] = {"task": item["task"]}
        for key in ("episode_index", "frame_index", "index", "timestamp"):
            row[key] = item[key].item()
        for key in ("observation.state", "action"):
            row[key] = item[key].tolist()
        pixels = {k: item[k].numpy().transpose(1, 2, 0) * 255 for k in dataset.meta.camera_keys}
        row["frames"] = {key: thumbnail(frame) for key, frame in pixels.items()}
        rows.append(row)
    return {
        "lerobot": importlib.metadata.version("lerobot"),
        "fps": dataset.fps,
        "total_episodes": dataset.meta.total_episodes,
        "total_frames": dataset.meta.total_frames,
        "cameras": dataset.meta.camera_keys,
        "rows": rows,
    }


def save(name: str) -> None:
    for file in (FIXTURES / name).rglob("*.mp4"):
        file.chmod(0o644)
    value = reading(FIXTURES / name)
    text = json.dumps(value, separators=(",", ":")) + "\n"
    (FIXTURES / f"{name}.json").write_text(text, encoding="utf-8")


def by_033() -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    root = FIXTURES / "v21"
    shutil.rmtree(root, ignore_errors=True)
    dataset = LeRobotDataset.create(
        "imitact/fixture",
        fps=20,
        features=features({"motors": ["waist", "elbow", "gripper"]}, None),
        root=root,
    )
    for episode in range(len(LENGTHS)):
        for frame, task in ticks(episode):
            dataset.add_frame(frame, task=task)
        dataset.save_episode()
    shutil.rmtree(root / "images", ignore_errors=True)  # empty folders of temporary images
    save("v21")


def by_044() -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from lerobot.datasets.v30.convert_dataset_v21_to_v30 import convert_dataset

    root = FIXTURES / "v30"
    shutil.rmtree(root, ignore_errors=True)
    dataset = LeRobotDataset.create(
        "imitact/fixture",
        fps=20,
        features=features(["waist", "elbow", "gripper"], {"left": 0, "right": 1}),
        root=root,
        vcodec="h264",
    )
    # One episode per data file; the first video file holds two.
    dataset.meta.update_chunk_settings(data_files_size_in_mb=0.001, video_files_size_in_mb=0.004)
    for episode in range(len(LENGTHS)):
        for frame, task in ticks(episode):
            dataset.add_frame({**frame, "task": task})
        dataset.save_episode(parallel_encoding=False)
    dataset.finalize()
    shutil.rmtree(root / "images", ignore_errors=True)
    save("v30")

    converted = FIXTURES / "converted"
    shutil.rmtree(converted, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        old = Path(shutil.copytree(FIXTURES / "v21", Path(folder) / "imitact" / "fixture"))
        convert_dataset("imitact/fixture", root=folder, push_to_hub=False)
        shutil.copytree(old, converted)
    save("converted")


def main() -> int:
    version = importlib.metadata.version("lerobot")
    makers = {"0.3.3": by_033, "0.4.4": by_044}
    if version not in makers:
        print(f"found LeRobot {version}; these fixtures need one of {', '.join(makers)}")
        return 2
    makers[version]()
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)
    size = sum(p.stat().st_size for p in FIXTURES.rglob("*") if p.is_file())
    print(f"{size:,} bytes in {FIXTURES}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
