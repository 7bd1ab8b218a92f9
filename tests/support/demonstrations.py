"""Demonstrations: small stored datasets of a simulated arm, with defects added on purpose.

The arm has three joints and a gripper and moves from point to point; its camera sees a bright
square that follows two of the joints.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imitact.core.types import Camera, Spec
from imitact.datasets.episode_encoder import CameraEncoder
from imitact.datasets.lerobot.writer import LeRobotWriter
from imitact.datasets.video_config import VideoConfig

NAMES = ("shoulder", "elbow", "wrist", "gripper")
RATE_HZ = 20.0
HEIGHT, WIDTH = 48, 64
Rows = tuple[np.ndarray, np.ndarray]
Film = Callable[[int, list[np.ndarray]], list[np.ndarray]]


def arm_spec(cameras: Sequence[str] = (), units: Sequence[str] = ("rad",) * 3 + ("1",)) -> Spec:
    return Spec(
        NAMES, NAMES, tuple(units), tuple(units),
        tuple(Camera(name, HEIGHT, WIDTH) for name in cameras), RATE_HZ,
    )  # fmt: skip


def follow(action: np.ndarray, gain: float = 0.4, seed: int = 0) -> np.ndarray:
    """Return the state of an arm that covers part of the way to its command in each tick.

    It lags by about two ticks and has the noise of an encoder.
    """
    state = np.empty_like(action)
    at = action[0].copy()
    for tick, target in enumerate(action):
        state[tick] = at
        at = at + gain * (target - at)
    return state + np.random.default_rng(seed).normal(0, 0.0005, action.shape)


def demonstrate(seed: int, head: int = 3, tail: int = 12, moves: int = 5) -> Rows:
    """Return state and action of a demonstration of about 160 ticks: moves, each with a rest.

    Args:
        seed: of the targets.
        head: ticks without movement at the start.
        tail: ticks without movement at the end.
        moves: number of moves.
    """
    rng = np.random.default_rng(seed)
    at = np.array([0.0, -0.8, 0.4, 0.0]) + rng.normal(0, 0.02, 4)
    rows = [np.tile(at, (head, 1))]
    for move in range(moves):
        to = np.append(rng.uniform(-1.0, 1.0, 3), float(move % 2 == 0))
        along = np.linspace(0, 1, int(rng.integers(18, 24)))[1:, None]
        rows.append(at + (to - at) * (10 * along**3 - 15 * along**4 + 6 * along**5))
        rows.append(np.tile(to, (tail if move == moves - 1 else 10, 1)))
        at = to
    action = np.concatenate(rows)
    return follow(action, seed=seed), action


def picture(state: np.ndarray) -> np.ndarray:
    """Return a frame: a bright square, placed by shoulder and elbow, on a smooth background."""
    rows = np.linspace(40, 110, HEIGHT)[:, None, None]
    columns = np.linspace(0, 60, WIDTH)[None, :, None]
    frame = (rows + columns + np.array([0.0, 10.0, 20.0])).astype(np.uint8)
    across, down = np.clip((np.asarray(state[:2]) + 1.2) / 2.4, 0, 1)
    row, column = int(down * (HEIGHT - 12)), int(across * (WIDTH - 12))
    frame[row : row + 12, column : column + 12] = 250
    return frame


def write(
    out: Path,
    episodes: Sequence[Rows],
    *,
    cameras: Sequence[str] = (),
    film: Film = lambda index, frames: frames,
    units: Sequence[str] = ("rad",) * 3 + ("1",),
    tasks: str = "go from point to point",
) -> Path:
    """Write a dataset with imitact's own writer.

    Args:
        out: folder of the dataset.
        episodes: state and action of each episode.
        cameras: names of the cameras.
        film: changes the frames of an episode; it may drop some, as a defect.
        units: of the four values.
        tasks: task description.
    """
    spec = arm_spec(cameras, units)
    video = VideoConfig()
    staging = out.parent / f"{out.name}-staging"
    staging.mkdir(parents=True, exist_ok=True)
    writer = LeRobotWriter(out, spec, task=tasks, video=video, staging=staging)
    facts: list[dict[str, Any]] = []
    for index, (state, action) in enumerate(episodes):
        videos, pixels = {}, {}
        for camera in cameras:
            path = videos[camera] = staging / f"{camera}.mp4"
            frames = film(index, [picture(row) for row in state])
            size = Camera(camera, HEIGHT, WIDTH)
            with CameraEncoder(path, size, RATE_HZ, video, len(frames)) as encoder:
                for frame in frames:
                    encoder.add(frame)
            pixels[camera] = encoder.stats()
        facts.append({"seed": index, "variation": {}, "first_ticks": {"1": 40}})
        writer.append(
            state, action, videos, pixels,
            {
                "format": 1,
                "settings": {
                    "task": tasks, "stages": ["away", "there"],
                    "video": {"codec": "h264", "crf": 20, "gop": 10, "preset": "auto",
                              "chroma": "420"},
                    "units": {"state": list(units), "action": list(units)},
                },
                "episodes": list(facts), "failed": [],
            },
        )  # fmt: skip
    return out


def rewrite(root: Path, index: int, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Alter the stored columns of an episode in place, and remove the checksums.

    `change` gets the columns by name, and may set or shorten each.
    """
    shutil.rmtree(root / "meta/imitact", ignore_errors=True)
    file = root / f"data/chunk-000/file-{index:03d}.parquet"
    table = pq.read_table(file)
    columns = {name: np.array(table[name].to_pylist()) for name in table.column_names}
    change(columns)
    pq.write_table(
        pa.table(
            {
                name: pa.array(values.tolist(), table.schema.field(name).type)
                for name, values in columns.items()
            }
        ),
        file,
    )


def edit_info(root: Path, **changes: Any) -> None:
    shutil.rmtree(root / "meta/imitact", ignore_errors=True)
    file = root / "meta/info.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
