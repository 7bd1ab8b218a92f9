"""Write what the tests compare with: small datasets by LeRobot 0.6.1, and its reading of ours.

Run it with a Python that has LeRobot 0.6.1 and can import imitact; it fills
tests/fixtures/lerobot, under 500 kB in all:

    python scripts/make_lerobot_fixtures.py

    h264/, av1/   datasets that LeRobot wrote (several episodes a file)
    h264.json, av1.json
                  what LeRobot reads from them
    ours.json     what LeRobot reads from the dataset that tests/test_lerobot_layout.py writes,
                  and how its tables are laid out
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import parity_dataset as parity
import pyarrow.parquet as pq

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "lerobot"
BLOCK = 8  # pixels: frames are kept as the means of such squares, enough to tell every frame


def thumbnail(frame: np.ndarray) -> list[Any]:
    """(H / 8, W / 8, 3) means, to a tenth of a level."""
    height, width, _ = frame.shape
    blocks = frame.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, 3)
    return np.round(blocks.mean(axis=(1, 3), dtype=np.float64), 1).tolist()


def reading(root: Path) -> dict[str, Any]:
    """All that LeRobot says of a dataset, tick by tick."""
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
    """Every file, and the columns of every table."""
    files = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    tables = {
        name: {field.name: str(field.type) for field in pq.read_schema(root / name)}
        for name in files
        if name.endswith(".parquet")
    }
    return {"files": files, "tables": tables}


def save(name: str, value: dict[str, Any]) -> None:
    (FIXTURES / name).write_text(json.dumps(value, separators=(",", ":")) + "\n", encoding="utf-8")


def main() -> int:
    shutil.rmtree(FIXTURES, ignore_errors=True)
    FIXTURES.mkdir(parents=True)
    parity.write_lerobots(
        FIXTURES / "h264",
        encoder=parity.RGBEncoderConfig(vcodec="h264", g=4),
        cameras={"top": (48, 64), "wrist": (64, 48)},
        names=["a", "b", "c"],
        lengths=(5, 8, 6),
    )
    parity.write_lerobots(
        FIXTURES / "av1",
        encoder=parity.RGBEncoderConfig(),
        cameras={"top": (64, 64)},
        names=None,
        lengths=(6, 4),
    )
    for name in ("h264", "av1"):
        # LeRobot's temporary files are for their owner only.
        for video in (FIXTURES / name).rglob("*.mp4"):
            video.chmod(0o644)
        save(f"{name}.json", reading(FIXTURES / name))
    with tempfile.TemporaryDirectory() as folder:
        ours = Path(folder) / "ours"
        parity.write_ours(ours, codec="lossless")
        save("ours.json", {**reading(ours), **layout(ours)})
    shutil.rmtree(parity._HOME, ignore_errors=True)
    size = sum(p.stat().st_size for p in FIXTURES.rglob("*") if p.is_file())
    print(f"{size:,} bytes in {FIXTURES}")
    return 0 if size < 500_000 else 1


if __name__ == "__main__":
    sys.exit(main())
