"""LeRobot datasets of other programs: any features, in the v2.1 and v3.0 layouts, written by hand.

Frames are `picture(episode, tick)` of `foreign_files`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.foreign_files import film, walk

FPS = 20
LENGTHS = (9, 6)
VECTOR = {"observation.state": 3, "action": 2}
_INDEX = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64",
          "index": "int64", "task_index": "int64"}  # fmt: skip


def numbers(key: str, width: int, **about: Any) -> dict[str, dict[str, Any]]:
    """The feature of a vector."""
    return {key: {"dtype": "float32", "shape": [width], "names": None, **about}}


def arm(**more: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The features of a state of 3 and an action of 2 values, and more."""
    return {**numbers("observation.state", 3), **numbers("action", 2), **more}


def video(times_s: np.ndarray, frames: Any, path: Path) -> None:
    """Write frames at any times, losslessly, with a time base of 1/90000 s."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264rgb", rate=FPS, options={"qp": "0", "bf": "0"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "rgb24"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 90000)
        for time_s, frame in zip(times_s, frames, strict=True):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = round(time_s * 90000), Fraction(1, 90000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def v21(
    root: Path,
    features: Mapping[str, Mapping[str, Any]],
    cells: Mapping[str, Any] | None = None,
    *,
    lengths: Sequence[int] = LENGTHS,
    stamps: Sequence[np.ndarray] | None = None,
    frame_times: Sequence[np.ndarray] | None = None,
) -> Path:
    """Write a dataset of v2.1 with one file for each episode.

    Args:
        features: those of `info.json` beside the indices.
        cells: by feature, what makes the values of an episode's column of its number and length;
            a walk for vectors, a film for videos by default.
        stamps: time stamps of each episode; tick / FPS by default.
        frame_times: times of the frames in the videos; tick / FPS by default.
    """
    first = 0
    (root / "meta").mkdir(parents=True)
    (root / "data/chunk-000").mkdir(parents=True)
    lines = []
    for index, length in enumerate(lengths):
        ticks = np.arange(length)
        columns: dict[str, Any] = {
            "timestamp": pa.array((ticks / FPS if stamps is None else stamps[index]).astype("f4")),
            "frame_index": ticks,
            "episode_index": np.full(length, index),
            "index": ticks + first,
            "task_index": np.zeros(length, np.int64),
        }
        for key, feature in features.items():
            if cells and key in cells:
                values = cells[key](index, length)
                columns[key] = [v.tolist() if isinstance(v, np.ndarray) else v for v in values]
            elif feature["dtype"] == "video":
                at = ticks / FPS if frame_times is None else frame_times[index]
                place = f"videos/chunk-000/{key}/episode_{index:06d}.mp4"
                video(at, film(index, len(at)), root / place)
            else:
                seed = index + 10 * sorted(features).index(key)
                columns[key] = walk(seed, length, feature["shape"][0]).astype("f4").tolist()
        pq.write_table(pa.table(columns), root / f"data/chunk-000/episode_{index:06d}.parquet")
        lines.append({"episode_index": index, "tasks": ["x"], "length": length})
        first += length
    info = {
        "codebase_version": "v2.1", "fps": FPS, "total_episodes": len(lengths),
        "total_frames": first,
        "features": {**features, **{k: {"dtype": t, "shape": [1]} for k, t in _INDEX.items()}},
    }  # fmt: skip
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def v30(root: Path, features: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write the same in v3.0, without videos: one file of data, one of metadata."""
    old = v21(root.with_name(f".{root.name}"), features)
    tables = [pq.read_table(file) for file in sorted((old / "data/chunk-000").iterdir())]
    (root / "data/chunk-000").mkdir(parents=True)
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    pq.write_table(pa.concat_tables(tables), root / "data/chunk-000/file-000.parquet")
    rows = [
        {"episode_index": i, "length": n, "tasks": ["x"], "data/chunk_index": 0,
         "data/file_index": 0}
        for i, n in enumerate(LENGTHS)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), root / "meta/episodes/chunk-000/file-000.parquet")
    info = json.loads((old / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps({**info, "codebase_version": "v3.0"}))
    return root
