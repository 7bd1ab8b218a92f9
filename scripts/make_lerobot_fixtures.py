"""Write tests/fixtures/lerobot: small datasets by LeRobot 0.6.1, and its reading of imitact's.

Run it with a Python that has LeRobot 0.6.1 and can import imitact. With the files of
`make_old_lerobot_fixtures.py` the folder has less than 600 kB:

    python scripts/make_lerobot_fixtures.py [NAME ...]

    h264/, av1/   datasets that LeRobot wrote (several episodes per file)
    h264.json, av1.json
                  what LeRobot reads from them
    ours.json     what LeRobot reads from the dataset that tests/datasets/lerobot/test_writer.py
                  writes, the layout of its tables, and the statistics that LeRobot computes of it
    depth/        a dataset with a depth camera beside a colour camera
    unfinished/   what is left of a process that records five episodes, begins a sixth, and is
                  killed before LeRobot's finalize: two whole data files, no metadata of episodes
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import parity_dataset as parity
import pyarrow.parquet as pq

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "lerobot"
BLOCK = 8  # pixels; frames are stored as means of squares of this size, which differ for each frame


def thumbnail(frame: np.ndarray) -> str:
    """Return means (H / 8, W / 8, 3) in tenths of a level, little-endian uint16 as hexadecimal."""
    height, width, _ = frame.shape
    blocks = frame.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, 3)
    tenths = np.round(10 * blocks.mean(axis=(1, 3), dtype=np.float64))
    return tenths.astype("<u2").tobytes().hex()


def reading(root: Path) -> dict[str, Any]:
    """Return what LeRobot reads from a dataset, tick by tick."""
    dataset = parity.LeRobotDataset(
        "imitact/fixture", root=root, video_backend="pyav", return_uint8=True
    )
    rows = []
    for index in range(len(dataset)):
        item = dataset[index]
        row: dict[str, Any] = {"task": item["task"]}
        for key in ("episode_index", "frame_index", "index", "timestamp"):
            row[key] = item[key].item()
        for key in ("observation.state", "action"):
            row[key] = item[key].tolist()
        row["frames"] = {
            key: thumbnail(item[key].numpy().transpose(1, 2, 0)) for key in dataset.meta.video_keys
        }
        rows.append(row)
    return {
        "fps": dataset.fps,
        "total_episodes": dataset.meta.total_episodes,
        "total_frames": dataset.meta.total_frames,
        "cameras": dataset.meta.video_keys,
        "rows": rows,
    }


def layout(root: Path) -> dict[str, Any]:
    """Return all files, and the columns of all tables."""
    files = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    tables = {
        name: {field.name: str(field.type) for field in pq.read_schema(root / name)}
        for name in files
        if name.endswith(".parquet")
    }
    return {"files": files, "tables": tables}


def save(name: str, value: dict[str, Any]) -> None:
    (FIXTURES / name).write_text(json.dumps(value, separators=(",", ":")) + "\n", encoding="utf-8")


def make_h264() -> None:
    parity.write_lerobots(
        FIXTURES / "h264",
        encoder=parity.RGBEncoderConfig(vcodec="h264", g=4),
        cameras={"top": (48, 64), "wrist": (64, 48)},
        names=["a", "b", "c"],
        lengths=(5, 8, 6),
    )
    save("h264.json", reading(FIXTURES / "h264"))


def make_av1() -> None:
    parity.write_lerobots(
        FIXTURES / "av1",
        encoder=parity.RGBEncoderConfig(),
        cameras={"top": (64, 64)},
        names=None,
        lengths=(6, 4),
    )
    save("av1.json", reading(FIXTURES / "av1"))


def make_ours() -> None:
    with tempfile.TemporaryDirectory() as folder:
        ours = Path(folder) / "ours"
        parity.write_ours(ours, codec="lossless")
        stats = parity.lerobots_stats(ours)
        save("ours.json", {**reading(ours), **layout(ours), "stats": stats})


def make_depth() -> None:
    dataset = parity.LeRobotDataset.create(
        "imitact/fixture",
        fps=20,
        features={
            "observation.state": {"dtype": "float32", "shape": (1,), "names": ["x"]},
            "action": {"dtype": "float32", "shape": (1,), "names": ["x"]},
            "observation.images.top": {
                "dtype": "video", "shape": (48, 64, 3), "names": ["height", "width", "channels"],
            },
            "observation.images.depth": {
                "dtype": "video", "shape": (48, 64, 1), "names": ["height", "width", "channels"],
                "info": {"is_depth_map": True},
            },
        },
        root=FIXTURES / "depth",
        rgb_encoder=parity.RGBEncoderConfig(vcodec="h264"),
    )  # fmt: skip
    for tick in range(4):
        frame = {
            "observation.state": np.array([tick], np.float32),
            "action": np.array([tick + 1], np.float32),
            "observation.images.top": parity.picture(0, tick, 48, 64, 0),
            "observation.images.depth": np.full((48, 64, 1), 500 + 10 * tick, np.uint16),
            "task": "look",
        }
        dataset.add_frame(frame)
    dataset.save_episode(parallel_encoding=False)
    dataset.finalize()


UNFINISHED = "unfinished"


def make_unfinished() -> None:
    """Record in another process, which ends without LeRobot's finalize."""
    subprocess.run([sys.executable, __file__, "--leave-unfinished"], check=False)
    assert (FIXTURES / UNFINISHED / "meta/info.json").is_file()


def leave_unfinished() -> None:
    """Record five episodes and the start of a sixth, then end the process."""
    cameras = {"top": (48, 64)}
    dataset = parity.create_lerobots(
        FIXTURES / UNFINISHED,
        encoder=parity.RGBEncoderConfig(vcodec="h264", g=4),
        cameras=cameras,
        names=["a", "b", "c"],
        data_files_size_in_mb=0.002,
        video_files_size_in_mb=0.004,
    )
    parity.append_lerobots(dataset, cameras, (5, 8, 6, 4, 7), finalize=False)
    rng = np.random.default_rng(6)
    for tick in range(3):
        frame = {"observation.images.top": parity.picture(5, tick, 48, 64, 0), "task": "task 1"}
        for name, size in (("observation.state", 3), ("action", 2)):
            frame[name] = rng.normal(size=size).astype(np.float32)
        dataset.add_frame(frame)
    os._exit(0)  # like a kill: no exit handler of Python runs


MAKERS = {
    "h264": make_h264,
    "av1": make_av1,
    "ours": make_ours,
    "depth": make_depth,
    UNFINISHED: make_unfinished,
}


def main(names: Iterable[str]) -> int:
    FIXTURES.mkdir(parents=True, exist_ok=True)
    for name in names or MAKERS:
        shutil.rmtree(FIXTURES / name, ignore_errors=True)
        MAKERS[name]()
        # LeRobot writes its videos readable for their owner only.
        for video in (FIXTURES / name).rglob("*.mp4"):
            video.chmod(0o644)
    shutil.rmtree(parity._HOME, ignore_errors=True)
    size = sum(p.stat().st_size for p in FIXTURES.rglob("*") if p.is_file())
    print(f"{size:,} bytes in {FIXTURES}")
    return 0 if size < 600_000 else 1


if __name__ == "__main__":
    if sys.argv[1:] == ["--leave-unfinished"]:
        leave_unfinished()
    sys.exit(main(sys.argv[1:]))
