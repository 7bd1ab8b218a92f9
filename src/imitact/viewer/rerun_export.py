"""Rerun export: the sections of a page, sent to a Rerun viewer or written to an .rrd file.

Timelines are as on the page: "tick" and "time" for demonstrations and runs, "step" for trainings,
"seed" for evaluations.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
        _spawn(recording)
        _log(recording, title, sections, blobs)
        recording.flush()
        return

    def write(staged: Path) -> None:
        recording.save(staged)
        _log(recording, title, sections, blobs)
        recording.flush()
        recording.disconnect()

    write_atomically(file.absolute(), write)


def open_live(file: Path | None, name: str) -> Any:
    """Return a recording whose data goes to a file, or to a new viewer, as it is sent."""
    import rerun as rr

    recording = rr.RecordingStream("imitact")
    if file is None:
        _spawn(recording)
    else:
        recording.save(file.absolute())
    recording.send_recording_name(name)
    return recording


def _spawn(recording: Any) -> None:
    # CI is the only switch that keeps the viewer from sending usage statistics without changing
    # the user's own settings.
    with inherited_environment({"CI": os.environ.get("CI") or "true"}):
        recording.spawn()


def _log(recording: Any, title: str, sections: Sequence[Mapping[str, Any]], blobs: Blobs) -> None:
    recording.send_recording_name(title)
    log = {
        "dataset": _dataset,
        "training": _training,
        "evaluation": _evaluation,
        "run": _run,
        "unreadable": _unreadable,
    }
    for section in sections:
        log[section["kind"]](recording, section, blobs)


def _send_curve(recording: Any, path: list[str], indexes: list[Any], values: Any) -> None:
    """Send one scalar for each value of the indexes."""
    import rerun as rr

    columns = rr.Scalars.columns(scalars=np.asarray(values, np.float64))
    recording.send_columns(rr.new_entity_path(path), indexes=indexes, columns=columns)


def send_values(
    recording: Any, path: list[str], ticks: NDArray[Any], time_s: NDArray[Any], values: NDArray[Any]
) -> None:
    """Send a scalar for each tick that has one, on the timelines "tick" and "time"."""
    import rerun as rr

    known = np.isfinite(values)
    if known.any():
        indexes = [
            rr.TimeColumn("tick", sequence=ticks[known]),
            rr.TimeColumn("time", duration=time_s[known]),
        ]
        _send_curve(recording, path, indexes, values[known])


def send_lines(
    recording: Any, path: list[str], lines: Sequence[tuple[int, float, str, bool]]
) -> None:
    """Send lines of text: tick, time in s, words, and whether it is a warning."""
    import rerun as rr

    for tick, time_s, words, is_warning in lines:
        recording.set_time("tick", sequence=tick)
        recording.set_time("time", duration=time_s)
        level = rr.TextLogLevel.WARN if is_warning else rr.TextLogLevel.INFO
        recording.log(rr.new_entity_path(path), rr.TextLog(words, level=level))


def _run(recording: Any, section: Mapping[str, Any], blobs: Blobs) -> None:
    import rerun as rr

    def column(blob: str, width: int = 1) -> NDArray[Any]:
        return np.frombuffer(blobs.by_name[blob], "<f4").reshape(-1, width)

    root = section["name"]
    time_s, ticks = column(section["x"])[:, 0], column(section["ticks"])[:, 0].astype(np.int64)
    for key, what in (
        ("asked", "asked"), ("action", "commanded"), ("sent", "sent"), ("state", "measured"),
    ):  # fmt: skip
        names = section["state" if key == "state" else "action"]["names"]
        rows = column(section["series"][key], len(names))
        for number, name in enumerate(names):
            send_values(recording, [root, "joint", name, what], ticks, time_s, rows[:, number])
    timing = {"lateness_ms": section["late_ms"]}
    timing |= {
        f"age_of_{name.removeprefix('camera ')}_ms": blob
        for name, blob in section["ages_ms"].items()
    }
    for name, blob in timing.items():
        send_values(recording, [root, "timing", name], ticks, time_s, column(blob)[:, 0])
    for name in ("seams", "answers", "skips"):
        points = np.array(section[name], np.float64).reshape(-1, 2)
        near = ticks[np.clip(np.searchsorted(time_s, points[:, 0]), 0, len(ticks) - 1)]
        send_values(recording, [root, "control", name], near, points[:, 0], points[:, 1])
    marks = sorted(
        (span["from"], kind == "hold", f"{span['name']}: {span['words']}".removesuffix(": "))
        for kind, spans in section["spans"].items()
        for span in spans
    )
    near = ticks[np.clip(np.searchsorted(time_s, [m[0] for m in marks]), 0, len(ticks) - 1)]
    lines = [
        (int(tick), at_s, text, is_hold)
        for tick, (at_s, is_hold, text) in zip(near, marks, strict=True)
    ]
    send_lines(recording, [root, "words"], lines)
    text = "\n".join(line["text"] for line in section["summary"])
    recording.log(rr.new_entity_path([root, "summary"]), rr.TextDocument(text), static=True)


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
