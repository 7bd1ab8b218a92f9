"""Conversion: a dataset copied into another layout and compared with what was read.

Memory holds the numbers of one episode and a few megabytes of its frames. Killed at any moment,
the same call continues; conversion.json reports the copy as done once every episode was read back
and found equal.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from imitact.core.errors import BadInput, ImitactError
from imitact.core.types import Dataset, Episode, ExtraColumn, Spec
from imitact.core.words import counted
from imitact.datasets.convert_config import ConvertConfig, TargetLayout
from imitact.datasets.episode_encoder import encode_episode
from imitact.datasets.formats.aloha_writer import AlohaWriter
from imitact.datasets.lerobot.features import storable_columns
from imitact.datasets.lerobot.writer import UNKNOWN_TASK, LeRobotWriter
from imitact.datasets.open import open_dataset
from imitact.datasets.read_config import ReadConfig
from imitact.datasets.verify_copy import check_copy, compare_episode
from imitact.storage.atomic import disk_full_guard, fsync, make_folder, write_bytes, write_json
from imitact.storage.checksum import verified, with_checksum
from imitact.storage.journal import append_whole, journal_line, parse_journal_line
from imitact.storage.json_file import read_bytes, read_json_object
from imitact.storage.lock import WRITER, exclusive_writer
from imitact.storage.output_guard import check_output
from imitact.storage.regular_file import open_to_append
from imitact.storage.settings_diff import check_same_settings, plain_json

REPORT = "conversion.json"
_FORMAT = 1
_STAGING = ".staging"
_COMPARED = "verified.jsonl"

_ORIGIN_KEYS = ("file", "name", "sim", "seed", "variation", "first_ticks")
"""What a copy keeps of the origin of an episode."""

OnProgress = Callable[[str, int], object]
"""Called with "converted" or "verified", and the number of episodes for which that is done."""


def convert(
    source: Dataset,
    out: Path | str,
    to: TargetLayout,
    config: ConvertConfig | None = None,
    on_progress: OnProgress = lambda what, done: None,
) -> dict[str, Any]:
    """Copy a dataset, which is only read, to `out` in another layout.

    States, actions and extra columns of the copy equal those of the dataset bit for bit; frames do
    where the codec loses nothing, else to within `config.min_psnr_db`.

    Args:
        out: new folder, or one with an unfinished conversion of the same dataset with the same
            settings, which is continued.

    Returns:
        The report, as stored in OUT/conversion.json.

    Raises:
        BadInput: `out` holds something else, or compression loses too much.
        ImitactError: the copy differs from the dataset.
    """
    config, out = config or ConvertConfig(), Path(out)
    if not source.lengths:
        raise BadInput("the dataset has no episode to convert")
    if any(camera.height % 2 or camera.width % 2 for camera in source.spec.cameras):
        # Halved colour resolution needs even sizes.
        config = replace(config, video=replace(config.video, chroma="444"))
    check_output(out, "conversion")
    settings = plain_json(_settings(source, to, config))
    _check_folder(out)
    staging = out / _STAGING
    with exclusive_writer(out, "conversion"), disk_full_guard(out):
        previous = _previous_report(out, settings)
        if previous and previous["done"]:
            shutil.rmtree(staging, ignore_errors=True)  # of a process killed at its very end
            return previous
        make_folder(staging)
        if not previous:
            _write_report(out, {"done": False, "settings": settings})
        copy_episodes = _copy_to_lerobot if to == "lerobot" else _copy_to_aloha
        for index in copy_episodes(source, out, config, settings):
            on_progress("converted", index)
        on_progress("converted", len(source.lengths))
        copy = open_dataset(out, ReadConfig(layout=to))
        rows = _compare_all(source, copy, settings, config, to, staging, on_progress)
        report = {
            "done": True,
            "settings": settings,
            "episodes": len(source.lengths),
            "ticks": int(sum(source.lengths)),
            "states_and_actions": "equal",
            "extras": sorted(settings["extras"]),
            "frames": _worst_frames(rows, source.spec),
            "left_out": settings["left_out"],
            "rows": rows,
        }
        report = _write_report(out, report)
        shutil.rmtree(staging)
        return report


def read_conversion(out: Path) -> dict[str, Any]:
    """Read the report of a conversion into `out`; its "done" tells whether it is finished."""
    file = out / REPORT
    report = verified(read_json_object(file), file, required=True)
    if report.get("format") != _FORMAT:
        raise BadInput(f"{file} has format {report.get('format')}, this imitact reads {_FORMAT}")
    return report


# --- settings ------------------------------------------------------------------------------------


def _settings(source: Dataset, to: TargetLayout, config: ConvertConfig) -> dict[str, Any]:
    """Return the settings of a conversion; one with others does not continue it."""
    columns, left_out = dict(source.extra_columns), dict(source.left_out)
    if to == "lerobot":
        columns, refused = storable_columns(columns)
        left_out |= refused
        tasks = (_lerobot_task(source.episode(i), config) for i in range(len(source.lengths)))
        # Each once, in the order of the episodes.
        layout_settings = _task_settings([*dict.fromkeys(tasks)]) | {"video": asdict(config.video)}
    else:
        layout_settings = {"task": config.task, "images": config.images}
    if changing := sum(len(source.episode(i).tasks) > 1 for i in range(len(source.lengths))):
        left_out["task"] = (
            f"the task of {counted(changing, 'episode')} changes; the copy has that of their first "
            "tick"
        )
    return {
        "to": to,
        "from": source.layout,
        "read": dict(source.read_options),
        "source": _numbers_sha256(source),
        **layout_settings,
        "extras": {name: asdict(column) for name, column in columns.items()},
        "left_out": left_out,
    }


def _numbers_sha256(source: Dataset) -> str:
    """Return the SHA-256 over the Spec, all states and all actions."""
    hash_ = hashlib.sha256(repr(source.spec).encode())
    for index in range(len(source.lengths)):
        episode = source.episode(index)
        for values in (episode.state, episode.action):
            hash_.update(repr(values.shape).encode() + values.tobytes())
    return hash_.hexdigest()


def _lerobot_task(episode: Episode, config: ConvertConfig) -> str:
    return config.task or episode.task or UNKNOWN_TASK


def _task_settings(tasks: list[str]) -> dict[str, Any]:
    return {"task": tasks[0]} if len(tasks) == 1 else {"tasks": tasks}


# --- the output folder ---------------------------------------------------------------------------


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out} is a file; give a new folder for the copy")
    if out.is_dir() and not (out / REPORT).is_file():
        others = sorted(p.name for p in out.iterdir() if p.name not in (_STAGING, WRITER))
        if others:
            raise BadInput(
                f"{out} is not empty and holds no conversion of imitact (it has "
                f"{', '.join(others[:3])}); give a new folder"
            )


def _previous_report(out: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the report of a conversion with these settings in `out`; None without any."""
    if not (out / REPORT).is_file():
        return None
    report = read_conversion(out)
    # What is left out follows from the rest, and its wording may change between versions.
    before = {**report["settings"], "left_out": settings["left_out"]}
    check_same_settings(before, settings, out)
    return report


def _write_report(out: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    value = plain_json({"format": _FORMAT, **report})
    write_json(out / REPORT, with_checksum(value), out / _STAGING)
    return value


# --- writing -------------------------------------------------------------------------------------


def _copy_to_lerobot(
    source: Dataset, out: Path, config: ConvertConfig, settings: Mapping[str, Any]
) -> Iterator[int]:
    """Copy the episodes that `out` lacks to LeRobot's layout; yield each number before it."""
    spec = source.spec
    columns = {name: ExtraColumn(**about) for name, about in settings["extras"].items()}
    tasks: list[str] = settings.get("tasks") or [settings["task"]]
    staging = out / _STAGING
    writer = LeRobotWriter(
        out, spec, task=tasks, video=config.video, staging=staging, extra_columns=columns
    )
    recorded = {
        **_task_settings(tasks),
        "video": asdict(config.video),
        "units": {"state": list(spec.state_units), "action": list(spec.action_units)},
        **({"environment_size": spec.environment_size} if spec.environment_size else {}),
        "stages": [],
        "extras": settings["extras"],
        "conversion": {k: settings[k] for k in ("from", "read", "source")},
        **{k: v for k, v in source.facts.get("settings", {}).items() if k == "extra"},
    }
    origins = [_origin(source.episode(i)) for i in range(writer.episodes)]
    for index in range(writer.episodes, len(source.lengths)):
        yield index
        episode = source.episode(index)
        videos, pixels = encode_episode(episode, spec, config.video, staging)
        origins.append(_origin(episode))
        facts = with_checksum(
            {"format": 2, "settings": recorded, "episodes": origins, "failed": []}
        )
        task, values = _lerobot_task(episode, config), episode.extra_values([*columns])
        writer.append(episode.state, episode.action, videos, pixels, facts, task, values)


def _copy_to_aloha(
    source: Dataset, out: Path, config: ConvertConfig, settings: Mapping[str, Any]
) -> Iterator[int]:
    """Copy the episodes that `out` lacks to the ALOHA layout; yield each number before it."""
    writer = AlohaWriter(out, source.spec, images=config.images, staging=out / _STAGING)
    for index in range(writer.episodes, len(source.lengths)):
        yield index
        episode = source.episode(index)
        unsupported = writer.append(
            episode.state,
            episode.action,
            {c.name: episode.frames(c.name) for c in source.spec.cameras},
            extras=episode.extra_values([*settings["extras"]]),
            task=config.task or episode.task,
            sim=_origin(episode).get("sim", True),
        )
        if unsupported:
            raise ImitactError(
                f"episode {index}: the ALOHA layout has no place for {', '.join(unsupported)}"
            )


def _origin(episode: Episode) -> dict[str, Any]:
    return {name: value for name, value in episode.origin.items() if name in _ORIGIN_KEYS}


# --- comparing -----------------------------------------------------------------------------------


def _compare_all(
    source: Dataset,
    copy: Dataset,
    settings: Mapping[str, Any],
    config: ConvertConfig,
    to: TargetLayout,
    staging: Path,
    on_progress: OnProgress,
) -> list[dict[str, Any]]:
    """Compare every episode, continuing an interrupted comparison; return one row per episode."""
    columns = [*settings["extras"]]
    check_copy(source, copy, columns)
    file = staging / _COMPARED
    rows = _compared_rows(file)
    with os.fdopen(open_to_append(file), "ab") as journal:
        for index in range(len(rows), len(source.lengths)):
            on_progress("verified", index)
            ours, theirs = source.episode(index), copy.episode(index)
            if to == "lerobot" and theirs.task != _lerobot_task(ours, config):
                raise ImitactError(
                    f'episode {index} has the task "{_lerobot_task(ours, config)}", its copy '
                    f'"{theirs.task}"; this is a defect of imitact'
                )
            cameras = compare_episode(ours, theirs, source.spec, columns, config, to)
            rows.append({"episode": index, "ticks": source.lengths[index], "cameras": cameras})
            append_whole(journal.fileno(), journal_line(rows[-1]))
    fsync(file)
    on_progress("verified", len(source.lengths))
    return rows


def _compared_rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows of an interrupted comparison, and cut the file after the last whole one."""
    rows: list[dict[str, Any]] = []
    if file.exists():
        with contextlib.suppress(ValueError):  # of an altered line, which ends the whole ones
            for line in read_bytes(file).split(b"\n")[:-1]:
                row = parse_journal_line(line, required=True)
                if row.get("episode") != len(rows):
                    break
                rows.append(row)
        write_bytes(file, b"".join(journal_line(row) for row in rows))
    return rows


def _worst_frames(rows: list[dict[str, Any]], spec: Spec) -> dict[str, Any]:
    """Return for each camera the quality of the episode that differs most."""
    return {
        camera.name: {
            "exact": all(row["cameras"][camera.name]["exact"] for row in rows),
            "least_psnr_db": min(row["cameras"][camera.name]["psnr_db"] for row in rows),
            "worst_frame_db": min(row["cameras"][camera.name]["worst_frame_db"] for row in rows),
        }
        for camera in spec.cameras
    }
