"""Evaluation section: results of an evaluation for the page, with videos of failures first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imitact.core.words import counted
from imitact.evaluation import report
from imitact.evaluation.episode_journal import read_unfinished
from imitact.evaluation.episode_video import video_path
from imitact.evaluation.results import EpisodeRow
from imitact.storage.regular_file import read_limited
from imitact.viewer.page import Blobs

MAX_VIDEOS = 24
MAX_VIDEO_BYTES = 30_000_000
"""Limits of the videos in a page; failures come first."""

_SHOWN = ("successes", "episodes", "interval", "step_cap", "stages", "reached")
_NOT_SHOWN = ("held", "wall_s")


def evaluation_section(folder: Path, blobs: Blobs) -> dict[str, Any]:
    """Return the section of an evaluation, finished or still running; `blobs` takes its videos."""
    note = ""
    if (folder / report.FILE_NAME).is_file():
        evaluation = report.read(folder)
    else:
        evaluation, planned = read_unfinished(folder)
        note = f"Still running: {evaluation.episodes} of {counted(planned, 'episode')} so far."
    values = report.to_dict(evaluation)
    videos = _videos(evaluation.rows, folder, blobs)
    rate_hz = evaluation.env_info.rate_hz
    facts = [
        ["success", f"{100 * evaluation.successes / evaluation.episodes:.1f} %"],
        ["chunking", str(evaluation.execution)],
        ["seeds", f"{min(evaluation.seeds)} to {max(evaluation.seeds)}"],
        [
            "step cap",
            f"{counted(evaluation.step_cap, 'tick')}, {evaluation.step_cap / rate_hz:g} s",
        ],
        ["success at tick, mean", _number(evaluation.mean_success_tick, ".0f")],
        ["jerk, mean", _number(evaluation.mean_jerk_rad_s3, ",.0f", " rad/s³")],
    ]
    if evaluation.held is not None:
        facts.append(["held at the end", str(evaluation.held)])
    facts += [
        [name, value if len(value) < 40 else f"{value[:12]}…"]
        for name, value in evaluation.plan.names.items()
    ]
    return {
        "kind": "evaluation",
        "path": str(folder),
        "badge": f"{evaluation.successes}/{evaluation.episodes}",
        "note": note,
        "facts": facts,
        **{key: values[key] for key in _SHOWN},
        "rate_hz": rate_hz,
        "rows": [
            {
                **{key: row[key] for key in row if key not in _NOT_SHOWN},
                "video": videos.get(row["seed"]),
            }
            for row in values["rows"]
        ],
    }


def _videos(rows: Sequence[EpisodeRow], folder: Path, blobs: Blobs) -> dict[int, str]:
    """Return the blob of each seed's video, failures first, within the limits of a page."""
    videos: dict[int, str] = {}
    left_bytes = MAX_VIDEO_BYTES
    for row in sorted(rows, key=lambda row: (row.success, row.seed)):
        path = video_path(folder, row.seed)
        if len(videos) < MAX_VIDEOS and path.is_file() and path.stat().st_size <= left_bytes:
            data = read_limited(path, left_bytes)
            left_bytes -= len(data)
            videos[row.seed] = blobs.add(data)
    return videos


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "–" if value is None else format(value, form) + unit
