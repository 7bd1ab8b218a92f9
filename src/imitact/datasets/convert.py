"""Any Source copied into another layout, episode by episode, and compared with what was read.

Memory holds the numbers of one episode and a few megabytes of its frames. Killed at any moment, the
same call goes on; conversion.json says that the copy is done only when every episode was read back
and found the same.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from imitact.core.errors import BadInput, ImitactError
from imitact.core.types import Dataset, Episode, Spec
from imitact.datasets.extra_columns import WideWriter, columns_of, named_for_lerobot, values_of
from imitact.datasets.formats.aloha import AlohaDataset, AlohaEpisode, Extra
from imitact.datasets.formats.aloha_writer import AlohaWriter
from imitact.datasets.lerobot.reader import LeRobotDataset
from imitact.datasets.lerobot.stats import PixelCounts, sampled_ticks
from imitact.datasets.lerobot.writer import NAMELESS
from imitact.datasets.video import VideoConfig, VideoWriter
from imitact.storage.atomic import disk_full_guard, fsync, make_folder, write_json
from imitact.storage.checksum import verified, with_checksum
from imitact.storage.journal import append_whole, journal_line, parse_journal_line
from imitact.storage.json_file import read_json_object
from imitact.storage.lock import WRITER, exclusive_writer

REPORT = "conversion.json"
FORMAT = 1
_STAGING = ".staging"
_VERIFIED = "verified.jsonl"

To = Literal["lerobot", "aloha-hdf5"]
Progress = Callable[[str, int], object]
"""Takes what is done ("converted" or "verified"), and for how many episodes."""


@dataclass(frozen=True)
class ConvertConfig:
    """How a copy is made."""

    task: str = ""
    """What all episodes show, in words; none takes for each the dataset's own words, or
    "unknown"."""

    images: Literal["plain", "jpeg"] = "plain"
    """Frames in ALOHA HDF5: plain keeps every pixel (0.9 MB a frame of 480x640), jpeg compresses
    them as act-plus-plus does."""

    least_psnr_db: float = 35.0
    """Frames that are compressed must be this close to those that were read, dB over an episode and
    camera; below it the conversion fails, and says what to do."""

    video: VideoConfig = field(default_factory=VideoConfig)
    """Frames in LeRobot's layout."""

    def __post_init__(self) -> None:
        if self.images not in ("plain", "jpeg"):
            raise BadInput(f"images is {self.images!r}; it must be plain or jpeg")
        if not 0 <= self.least_psnr_db < 100:
            raise BadInput(f"least_psnr_db is {self.least_psnr_db}; it must be from 0 to 100 dB")


class _Target(Protocol):
    """A layout that is written to."""

    @property
    def episodes(self) -> int: ...

    def add(self, index: int) -> None: ...

    def opened(self) -> Dataset: ...


def convert(
    source: Dataset,
    out: Path | str,
    to: To,
    config: ConvertConfig | None = None,
    on_progress: Progress = lambda what, done: None,
) -> dict[str, Any]:
    """Copy `source` to `out`; gives the report, which is in OUT/conversion.json too.

    Refuses an `out` that holds anything but a conversion of the same Source with the same settings,
    which goes on. States, actions and extra columns of the copy are those of the Source to the bit;
    frames are too where the copy's codec loses nothing, else as near as `least_psnr_db`.
    """
    config, out = config or ConvertConfig(), Path(out)
    if not source.lengths:
        raise BadInput("the dataset has no episode to convert")
    config = replace(config, video=_fitting(config.video, source.spec))
    settings = _settings(source, to, config)
    _check_folder(out)
    staging = out / _STAGING
    with exclusive_writer(out, "conversion"), disk_full_guard(out):
        begun = _begun(out, settings)
        if begun and begun["done"]:
            shutil.rmtree(staging, ignore_errors=True)  # of one that was killed at its very end
            return begun
        make_folder(staging)
        if not begun:
            _write(out, {"done": False, "settings": settings}, staging)
        target = _target(source, out, to, config, settings)
        for index in range(target.episodes, len(source.lengths)):
            on_progress("converted", index)
            target.add(index)
        on_progress("converted", len(source.lengths))
        columns = _columns(settings)
        rows = _verified(source, target.opened(), columns, config, to, staging, on_progress)
        report = {
            "done": True,
            "settings": settings,
            "episodes": len(source.lengths),
            "ticks": int(sum(source.lengths)),
            "states_and_actions": "equal",
            "extras": sorted(settings["extras"]),
            "frames": _frames_told(rows, source.spec),
            "left_out": settings["left_out"],
            "rows": rows,
        }
        report = _write(out, report, staging)
        shutil.rmtree(staging)
        return report


def read_conversion(out: Path) -> dict[str, Any]:
    """The report of a conversion into `out`; `done` says whether it was finished."""
    file = out / REPORT
    told = verified(read_json_object(file), file, required=True)
    if told.get("format") != FORMAT:
        raise BadInput(f"{file} has format {told.get('format')}, this imitact reads {FORMAT}")
    return told


# --- what is to be done --------------------------------------------------------------------------


def _settings(source: Dataset, to: To, config: ConvertConfig) -> dict[str, Any]:
    """What makes this conversion what it is; another one does not go on with it."""
    columns = columns_of(source)
    left_out: dict[str, str] = dict(getattr(source, "left_out", {}))
    if to == "lerobot":
        columns, refused = named_for_lerobot(columns, source.spec)
        left_out |= dict.fromkeys(sorted(refused), "LeRobot's layout has no such name or type")
    if isinstance(source, LeRobotDataset):
        known = {*columns, *(f"observation.images.{c.name}" for c in source.spec.cameras)}
        usual = {"observation.state", "action", "timestamp", "frame_index", "episode_index",
                 "index", "task_index"}  # fmt: skip
        rest = {
            n
            for n in source.feature_names - usual - known
            if n.removeprefix("observation.") not in {c.name for c in source.spec.cameras}
        }
        left_out |= dict.fromkeys(sorted(rest), "neither a column of numbers nor a camera")
        if changing := sum(len(source.episode(i).tasks) > 1 for i in range(len(source.lengths))):
            left_out["task"] = (
                f"{changing} episodes change theirs on the way; the copy has that of the first tick"
            )
    read = getattr(source, "read", None)
    form = {"video": asdict(config.video)} if to == "lerobot" else {"images": config.images}
    return {
        "to": to,
        "from": getattr(source, "layout", "lerobot"),
        "read": read.given() if read else {},
        "source": _identity(source),
        **(_named(_tasks(source, config)) if to == "lerobot" else {"task": config.task}),
        **form,
        "extras": {name: asdict(extra) for name, extra in columns.items()},
        "left_out": left_out,
    }


def _identity(source: Dataset) -> str:
    """SHA-256 over the Spec and all numbers: other numbers are another conversion."""
    hash_ = hashlib.sha256(repr(source.spec).encode())
    for index in range(len(source.lengths)):
        episode = source.episode(index)
        for values in (episode.state, episode.action):
            hash_.update(repr(values.shape).encode() + values.tobytes())
    return hash_.hexdigest()


def _named(tasks: list[str]) -> dict[str, Any]:
    return {"task": tasks[0]} if len(tasks) == 1 else {"tasks": tasks}


def _tasks(source: Dataset, config: ConvertConfig) -> list[str]:
    """What the episodes of a dataset of LeRobot's layout show, each once, in their order."""
    return [*dict.fromkeys(_shown(source, index, config) for index in range(len(source.lengths)))]


def _shown(source: Dataset, index: int, config: ConvertConfig) -> str:
    """What an episode is said to show in a dataset of LeRobot's layout."""
    return config.task or str(getattr(source.episode(index), "task", "")) or NAMELESS


def _fitting(video: VideoConfig, spec: Spec) -> VideoConfig:
    """With colours at full resolution where a frame has an odd number of rows or columns."""
    odd = any(c.height % 2 or c.width % 2 for c in spec.cameras)
    return replace(video, chroma="444") if odd else video


def _is_exact(config: ConvertConfig, to: To) -> bool:
    return config.video.codec == "lossless" if to == "lerobot" else config.images == "plain"


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out} is a file; give a new folder for the copy")
    if out.is_dir() and not (out / REPORT).is_file():
        others = sorted(p.name for p in out.iterdir() if p.name not in (_STAGING, WRITER))
        if others:
            raise BadInput(
                f"{out} is not empty and no conversion of imitact (it holds {others[:3]}); give a "
                "new folder"
            )


def _begun(out: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The conversion that was begun in `out`, None where there is none."""
    if not (out / REPORT).is_file():
        return None
    told = read_conversion(out)
    before = told.get("settings")
    now = with_checksum({"settings": settings})["settings"]  # as they come back from JSON
    if before != now:
        there = before if isinstance(before, dict) else {}
        unlike = [n for n in {**now, **there} if there.get(n) != now.get(n)]
        raise BadInput(
            f"{out} holds a conversion that was begun with other settings "
            f"({', '.join(unlike)}); give a new folder, or remove this one"
        )
    return told


def _write(out: Path, told: Mapping[str, Any], staging: Path) -> dict[str, Any]:
    value = with_checksum({"format": FORMAT, **told})
    write_json(out / REPORT, value, staging)
    return {name: part for name, part in value.items() if name != "sha256"}


# --- writing -------------------------------------------------------------------------------------


def _target(
    source: Dataset, out: Path, to: To, config: ConvertConfig, settings: Mapping[str, Any]
) -> _Target:
    columns = _columns(settings)
    if to == "lerobot":
        return _LeRobot(source, out, config, settings, columns)
    return _Aloha(source, out, config, columns)


def _columns(settings: Mapping[str, Any]) -> dict[str, Extra]:
    return {name: Extra(**about) for name, about in settings["extras"].items()}


class _LeRobot:
    """A dataset in LeRobot's layout."""

    def __init__(
        self,
        source: Dataset,
        out: Path,
        config: ConvertConfig,
        settings: Mapping[str, Any],
        columns: Mapping[str, Extra],
    ) -> None:
        self._source, self._out, self._columns = source, out, columns
        self._config = config
        self._staging = out / _STAGING
        tasks: list[str] = settings.get("tasks") or [settings["task"]]
        self._writer = WideWriter(
            out, source.spec, task=tasks, video=config.video, staging=self._staging,
            columns=columns,
        )  # fmt: skip
        spec = source.spec
        self._settings = {
            **_named(tasks),
            "video": asdict(config.video),
            "units": {"state": list(spec.state_units), "action": list(spec.action_units)},
            "stages": [],
            "extras": settings["extras"],
            "conversion": {k: settings[k] for k in ("from", "read", "source")},
        }
        self._told = [_origin(source, index) for index in range(self._writer.episodes)]

    @property
    def episodes(self) -> int:
        return self._writer.episodes

    def add(self, index: int) -> None:
        source, spec = self._source, self._source.spec
        episode = source.episode(index)
        sampled = sampled_ticks(len(episode.state))
        videos, pixels = {}, {}
        for number, camera in enumerate(spec.cameras):
            path = videos[camera.name] = self._staging / f"{number}.mp4"
            counts = PixelCounts()
            with VideoWriter(
                path, camera.height, camera.width, spec.rate_hz, self._config.video
            ) as film:
                for tick, frame in enumerate(episode.frames(camera.name)):
                    film.add(frame)
                    if tick in sampled:
                        counts.add(frame)
            pixels[camera.name] = counts.result()
        self._told.append(_origin(source, index))
        facts = {"format": 2, "settings": self._settings, "episodes": self._told, "failed": []}
        values = values_of(source, index, self._columns)
        task = _shown(source, index, self._config)
        self._writer.append_wide(episode, values, videos, pixels, with_checksum(facts), task)

    def opened(self) -> Dataset:
        return LeRobotDataset(self._out)


class _Aloha:
    """A folder in the ALOHA HDF5 layout."""

    def __init__(
        self, source: Dataset, out: Path, config: ConvertConfig, columns: Mapping[str, Extra]
    ) -> None:
        self._source, self._out, self._task = source, out, config.task
        self._columns = columns
        self._writer = AlohaWriter(out, source.spec, images=config.images, staging=out / _STAGING)

    @property
    def episodes(self) -> int:
        return self._writer.episodes

    def add(self, index: int) -> None:
        source = self._source
        episode = source.episode(index)
        homeless = self._writer.append(
            episode.state,
            episode.action,
            {c.name: episode.frames(c.name) for c in source.spec.cameras},
            extras=values_of(source, index, self._columns),
            task=self._task or str(getattr(episode, "task", "")),
            sim=_origin(source, index).get("sim", True),
        )
        if homeless:
            raise ImitactError(f"episode {index}: no place for {homeless}")

    def opened(self) -> Dataset:
        return AlohaDataset(self._out)


def _origin(source: Dataset, index: int) -> dict[str, Any]:
    """Where an episode comes from, as meta/imitact.json keeps it, and gives it back."""
    episode = source.episode(index)
    if isinstance(episode, AlohaEpisode):
        moved = episode.read.action_offset
        sim = True if moved or episode.file.sim is None else episode.file.sim
        return {"file": episode.file.path.name, "sim": sim}
    told = source.meta.get("episodes", []) if isinstance(source, LeRobotDataset) else []
    if index < len(told) and isinstance(told[index], dict):
        return {
            k: v
            for k, v in told[index].items()
            if k in ("file", "name", "sim", "seed", "variation", "first_ticks")
        }
    return {"name": str(getattr(episode, "name", index))}


# --- comparing -----------------------------------------------------------------------------------


def _verified(
    source: Dataset,
    copy: Dataset,
    columns: Mapping[str, Extra],
    config: ConvertConfig,
    to: To,
    staging: Path,
    on_progress: Progress,
) -> list[dict[str, Any]]:
    """A row an episode of how the copy compares; raises where it is not the same."""
    if copy.lengths != source.lengths:
        raise ImitactError(
            f"the copy has episodes of {copy.lengths[:10]} ticks ..., the dataset of "
            f"{source.lengths[:10]} ...; this is a defect of imitact"
        )
    if (copy.spec.cameras, copy.spec.rate_hz) != (source.spec.cameras, source.spec.rate_hz):
        raise ImitactError(f"the copy has {copy.spec}, the dataset {source.spec}")
    there = columns_of(copy)
    if lacking := [name for name in columns if name not in there]:
        raise ImitactError(f"the copy lacks {lacking}; this is a defect of imitact")
    if to == "lerobot":
        _check_tasks(source, copy, config)
    file = staging / _VERIFIED
    rows = _rows_of(file)
    with file.open("ab", buffering=0) as journal:
        for index in range(len(rows), len(source.lengths)):
            on_progress("verified", index)
            row = {"episode": index, "ticks": source.lengths[index],
                   "cameras": _compared(source, copy, index, columns, config, to)}  # fmt: skip
            rows.append(row)
            append_whole(journal.fileno(), journal_line(row))
    fsync(file)
    on_progress("verified", len(source.lengths))
    return rows


def _check_tasks(source: Dataset, copy: Dataset, config: ConvertConfig) -> None:
    for index in range(len(source.lengths)):
        wanted, there = _shown(source, index, config), _shown(copy, index, ConvertConfig())
        if wanted != there:
            raise ImitactError(
                f"episode {index} shows {wanted!r}, in the copy {there!r}; this is a defect of "
                "imitact"
            )


def _rows_of(file: Path) -> list[dict[str, Any]]:
    """The rows of a comparison that was cut off."""
    rows: list[dict[str, Any]] = []
    if file.is_file():
        data = file.read_bytes()
        for each in data.split(b"\n")[:-1]:
            try:
                row = parse_journal_line(each, required=True)
            except ValueError:
                break
            if row.get("episode") != len(rows):
                break
            rows.append(row)
        # What follows a line that was cut off is compared again.
        file.write_bytes(b"".join(journal_line(row) for row in rows))
    return rows


def _compared(
    source: Dataset,
    copy: Dataset,
    index: int,
    columns: Mapping[str, Extra],
    config: ConvertConfig,
    to: To,
) -> dict[str, Any]:
    """Of each camera how near its frames are; raises where numbers or frames are not the same."""
    ours, theirs = source.episode(index), copy.episode(index)
    pairs = {"state": (ours.state, theirs.state), "action": (ours.action, theirs.action)}
    extras = values_of(source, index, columns), values_of(copy, index, columns)
    pairs |= {name: (extras[0][name], extras[1][name]) for name in columns}
    for name, (one, other) in pairs.items():
        if (one.shape, one.dtype, one.tobytes()) != (other.shape, other.dtype, other.tobytes()):
            raise ImitactError(
                f"episode {index}: {name} of the copy is not what was read; this is a defect of "
                "imitact, the copy is not to be used"
            )
    found = {}
    exact = _is_exact(config, to)
    for camera in source.spec.cameras:
        near = _nearness(ours, theirs, camera.name, source.lengths[index])
        found[camera.name] = near
        if exact and not near["exact"]:
            raise ImitactError(
                f"episode {index}, camera {camera.name!r}: frames of the copy differ from those "
                "that were read, though nothing should be lost; this is a defect of imitact"
            )
        if not near["exact"] and near["psnr_db"] < config.least_psnr_db:
            lossless = (
                "--video.codec lossless, or a lower --video.crf"
                if to == "lerobot"
                else "--images plain"
            )
            raise BadInput(
                f"episode {index}, camera {camera.name!r}: compressed frames have "
                f"{near['psnr_db']:.1f} dB, at least {config.least_psnr_db:g} are asked for. Use "
                f"{lossless} in a new folder, or allow less with --least-psnr-db"
            )
    return found


def _nearness(ours: Episode, theirs: Episode, camera: str, length: int) -> dict[str, Any]:
    """How near the frames of two episodes are: dB over all of them, and of the worst one."""
    total = worst = 0.0
    count, pixels = 0, 1
    for one, other in _in_step(ours.frames(camera), theirs.frames(camera)):
        if one is None or other is None or one.shape != other.shape:
            raise ImitactError(f"camera {camera!r}: the copy has other frames at tick {count}")
        error = float(np.square(one.astype(np.int32) - other).sum())
        total, worst, count, pixels = total + error, max(worst, error), count + 1, one.size
    if count != length:
        raise ImitactError(f"camera {camera!r}: {count} frames of {length} ticks")
    return {
        "exact": total == 0,
        "psnr_db": _decibel(total / (count * pixels)),
        "worst_frame_db": _decibel(worst / pixels),
    }


def _in_step(one: Iterator[Any], other: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
    return itertools.zip_longest(one, other)


def _decibel(mean_square: float) -> float:
    """Peak signal to noise, of 8 bits; 100 stands for equal."""
    return 100.0 if not mean_square else round(10 * math.log10(255**2 / mean_square), 2)


def _frames_told(rows: list[dict[str, Any]], spec: Spec) -> dict[str, Any]:
    """Of each camera the episode that is farthest from what was read."""
    return {
        camera.name: {
            "exact": all(row["cameras"][camera.name]["exact"] for row in rows),
            "least_psnr_db": min(row["cameras"][camera.name]["psnr_db"] for row in rows),
            "worst_frame_db": min(row["cameras"][camera.name]["worst_frame_db"] for row in rows),
        }
        for camera in spec.cameras
    }
