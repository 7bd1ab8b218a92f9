"""Rerun export: the sections of a page, sent to a Rerun viewer or written to an .rrd file.

Timelines are as on the page: "tick" and "time" for demonstrations, "step" for trainings, "seed" for
evaluations.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from imitact.core.errors import BadInput, missing_package
from imitact.parallel.worker_pool import inherited_environment
from imitact.storage.atomic import write_atomically
from imitact.viewer.page import Blobs

SPAWN = "spawn"


def parse_target(text: str) -> Path | None:
    """Return the file that `--rerun` names, or None for `spawn`; refuse where Rerun is missing."""
    if text != SPAWN and not text.endswith(".rrd"):
        raise BadInput(f'--rerun is "{text}"; give a file that ends in .rrd, or {SPAWN}')
    if find_spec("rerun") is None:
        raise missing_package("rerun", "view")
    return None if text == SPAWN else Path(text)


def send_sections(
    file: Path | None, title: str, sections: Sequence[Mapping[str, Any]], blobs: Blobs
) -> None:
    """Write the sections of a page to a file, atomically, or send them to a new viewer."""
    import rerun as rr

    recording = rr.RecordingStream("imitact", recording_id=title)
    if file is None:
        # CI is the only switch that keeps the viewer from sending usage statistics without changing
        # the user's own settings.
        with inherited_environment({"CI": os.environ.get("CI") or "true"}):
            recording.spawn()
        _log(recording, title, sections, blobs)
        recording.flush()
        return

    def write(staged: Path) -> None:
        recording.save(staged)
        _log(recording, title, sections, blobs)
        recording.flush()
        recording.disconnect()

    write_atomically(file.absolute(), write)


def _log(recording: Any, title: str, sections: Sequence[Mapping[str, Any]], blobs: Blobs) -> None:
    recording.send_recording_name(title)
    log = {
        "dataset": _dataset,
        "training": _training,
        "evaluation": _evaluation,
        "unreadable": _unreadable,
    }
    for section in sections:
        log[section["kind"]](recording, section, blobs)


def _send_curve(recording: Any, path: list[str], indexes: list[Any], values: Any) -> None:
    """Send one scalar for each value of the indexes."""
    import rerun as rr

    columns = rr.Scalars.columns(scalars=np.asarray(values, np.float64))
    recording.send_columns(rr.new_entity_path(path), indexes=indexes, columns=columns)


def _dataset(recording: Any, section: Mapping[str, Any], blobs: Blobs) -> None:
    import rerun as rr

    rate_hz = section["rate_hz"]
    for episode in section["episodes"]:
        root = [section["name"], f"episode_{episode['index']:04d}"]
        ticks = np.arange(episode["ticks"])
        indexes = [
            rr.TimeColumn("tick", sequence=ticks),
            rr.TimeColumn("time", duration=ticks / rate_hz),
        ]
        for what in ("state", "action"):
            names = section[what]["names"]
            rows = np.frombuffer(blobs.by_name[episode[what]], "<f4").reshape(-1, len(names))
            for column, name in enumerate(names):
                _send_curve(recording, [*root, what, name], indexes, rows[:, column])
        for camera, blob in episode["clips"].items():
            path = rr.new_entity_path([*root, "camera", camera])
            video = rr.AssetVideo(contents=blobs.by_name[blob], media_type="video/mp4")
            recording.log(path, video, static=True)
            # In ns, as Rerun reads them from the clip: columns_secs (0.41) truncates to seconds.
            frames = rr.VideoFrameReference.columns_nanos(video.read_frame_timestamps_nanos())
            recording.send_columns(path, indexes=indexes, columns=frames)


def _unreadable(recording: Any, section: Mapping[str, Any], blobs: Blobs) -> None:
    import rerun as rr

    path = rr.new_entity_path([section["name"], "cannot be read"])
    recording.log(path, rr.TextDocument(section["why"]), static=True)


def _training(recording: Any, section: Mapping[str, Any], blobs: Blobs) -> None:
    import rerun as rr

    def curve(path: list[str], steps: Sequence[int], values: Sequence[float]) -> None:
        indexes = [rr.TimeColumn("step", sequence=np.asarray(steps))]
        _send_curve(recording, [section["name"], *path], indexes, values)

    for each in section["curves"]:
        curve([each["key"]], each["x"], each["y"])
    validations = section["validations"]
    steps = [validation["step"] for validation in validations]
    for row, joint in enumerate(section["joints"]):
        curve(["validation_l1", joint], steps, [v["per_joint"][row] for v in validations])
    if section["matrix"]:
        path = rr.new_entity_path([section["name"], "validation_l1_joint_by_tick"])
        error = np.asarray(section["matrix"], np.float32)
        recording.log(path, rr.Tensor(error, dim_names=("joint", "tick")), static=True)


def _evaluation(recording: Any, section: Mapping[str, Any], blobs: Blobs) -> None:
    import rerun as rr

    root = section["name"]
    rows = sorted(section["rows"], key=lambda row: row["seed"])
    seeds = np.array([row["seed"] for row in rows])
    for key in ("success", "highest_stage", "ticks", "queries", "jerk_rad_s3", "reward_sum"):
        known = [row[key] is not None for row in rows]
        if any(known):
            indexes = [rr.TimeColumn("seed", sequence=seeds[known])]
            values = [row[key] for row in rows if row[key] is not None]
            _send_curve(recording, [root, key], indexes, values)
    low, high = section["interval"]
    reached = zip(section["reached"], section["stages"], strict=True)
    lines = [
        f"{section['successes']} of {section['episodes']} succeed "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f})",
        *(f"reached {n}: {stage}" for n, stage in reached),
        *(f"failed: seed {row['seed']}" for row in rows if not row["success"]),
    ]
    path = rr.new_entity_path([root, "summary"])
    recording.log(path, rr.TextDocument("\n".join(lines)), static=True)
    for row in rows:
        if row["video"]:
            path = rr.new_entity_path([root, "videos", f"seed_{row['seed']}"])
            video = rr.AssetVideo(contents=blobs.by_name[row["video"]], media_type="video/mp4")
            recording.log(path, video, static=True)
