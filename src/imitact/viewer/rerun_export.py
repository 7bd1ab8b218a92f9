"""Rerun export: the sections of a page, sent to a Rerun viewer or written to an .rrd file.

Timelines are as on the page: "tick" and "time" for demonstrations, "step" for trainings, "seed" for
evaluations.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from imitact.core.errors import BadInput
from imitact.core.install_hint import missing_package
from imitact.storage.atomic import make_folder, write_atomically
from imitact.viewer.page import Blobs

SPAWN = "spawn"


@dataclass(frozen=True)
class RerunTarget:
    """Where to send sections: a file, or None for a viewer that is opened."""

    file: Path | None


def parse_target(text: str) -> RerunTarget:
    """Parse `--rerun`: `spawn`, or a file that ends in .rrd. Refuses where Rerun is missing."""
    if text != SPAWN and not text.endswith(".rrd"):
        raise BadInput(f'--rerun is "{text}"; give a file that ends in .rrd, or {SPAWN}')
    if find_spec("rerun") is None:
        raise missing_package("rerun", "view")
    return RerunTarget(None if text == SPAWN else Path(text))


def send_sections(
    target: RerunTarget, title: str, sections: Sequence[Mapping[str, Any]], blobs: Blobs
) -> None:
    """Send the sections of a page; a file is written atomically."""
    import rerun as rr

    recording = rr.RecordingStream("imitact", recording_id=title)
    if target.file is None:
        with _no_analytics():
            recording.spawn()
        _log(recording, title, sections, blobs)
        recording.flush()
        return
    path = target.file.absolute()
    make_folder(path.parent)

    def write(staged: Path) -> None:
        recording.save(staged)
        _log(recording, title, sections, blobs)
        recording.flush()
        recording.disconnect()

    write_atomically(path, write, path.parent)


@contextmanager
def _no_analytics() -> Iterator[None]:
    """Keep a viewer that is started in this context from sending usage statistics.

    CI is the only switch that does so without changing the user's own settings.
    """
    before = os.environ.get("CI")
    os.environ["CI"] = before or "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["CI"]


def _log(recording: Any, title: str, sections: Sequence[Mapping[str, Any]], blobs: Blobs) -> None:
    recording.send_recording_name(title)
    for section in sections:
        kind = {"dataset": _dataset, "training": _training, "evaluation": _evaluation}
        kind[section["kind"]](recording, section, blobs)


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
                path = rr.new_entity_path([*root, what, name])
                recording.send_columns(
                    path,
                    indexes=indexes,
                    columns=rr.Scalars.columns(scalars=rows[:, column].astype(np.float64)),
                )
        for camera, blob in episode["clips"].items():
            path = rr.new_entity_path([*root, "camera", camera])
            video = rr.AssetVideo(contents=blobs.by_name[blob], media_type="video/mp4")
            recording.log(path, video, static=True)
            # In ns, as Rerun reads them from the clip: columns_secs (0.41) truncates to seconds.
            times_ns = video.read_frame_timestamps_nanos()
            recording.send_columns(
                path,
                indexes=indexes,
                columns=rr.VideoFrameReference.columns_nanos(times_ns),
            )


def _training(recording: Any, section: Mapping[str, Any], blobs: Blobs) -> None:
    import rerun as rr

    def curve(path: list[str], steps: Sequence[int], values: Sequence[float]) -> None:
        recording.send_columns(
            rr.new_entity_path([section["name"], *path]),
            indexes=[rr.TimeColumn("step", sequence=np.asarray(steps))],
            columns=rr.Scalars.columns(scalars=np.asarray(values, np.float64)),
        )

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
            recording.send_columns(
                rr.new_entity_path([root, key]),
                indexes=[rr.TimeColumn("seed", sequence=seeds[known])],
                columns=rr.Scalars.columns(
                    scalars=[float(row[key]) for row in rows if row[key] is not None]
                ),
            )
    low, high = section["interval"]
    lines = [
        f"{section['successes']} of {section['episodes']} succeed "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f})",
        *(
            f"reached {n}: {stage}"
            for stage, n in zip(section["stages"], section["reached"], strict=True)
        ),
        *(f"failed: seed {row['seed']}" for row in rows if not row["success"]),
    ]
    recording.log(
        rr.new_entity_path([root, "summary"]), rr.TextDocument("\n".join(lines)), static=True
    )
    for row in rows:
        if row["video"]:
            recording.log(
                rr.new_entity_path([root, "videos", f"seed_{row['seed']}"]),
                rr.AssetVideo(contents=blobs.by_name[row["video"]], media_type="video/mp4"),
                static=True,
            )
