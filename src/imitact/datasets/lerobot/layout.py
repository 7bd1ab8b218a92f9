"""LeRobot layout: where the files of a LeRobotDataset v3.0 lie, and its `meta/info.json`.

docs/formats.md describes the layout; `reader_v21.py` has the paths of version 2.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from imitact.core.errors import BadInput, DamagedFile
from imitact.datasets.lerobot.checksums import DatasetChecksums
from imitact.storage.checksum import CHECKSUM_KEY, verified
from imitact.storage.json_file import read_json_object

INFO = "meta/info.json"
STATS = "meta/stats.json"
TASKS = "meta/tasks.parquet"
IMITACT = "meta/imitact.json"
"""What imitact recorded beside LeRobot's own files: `Dataset.facts`."""

EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEOS = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
FILES_PER_CHUNK = 1000

STATE = "observation.state"
ACTION = "action"
CAMERA_PREFIX = "observation.images."
INDEX_COLUMNS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""The columns that every dataset has beside its features."""

V30, V21 = ("v3.",), ("v2.1", "v2.0")
"""Prefixes of `codebase_version` in the layouts that are read."""

_DESCRIPTIONS = {V30: "meta/episodes", V21: "meta/episodes.jsonl"}
"""Where each of them describes its episodes."""

RESTORE = "Copy the dataset again from its origin, or record it again."

MAX_EPISODES = 1_000_000
"""Higher counts of episodes or tasks are wrong."""

_INFO_TYPES = {
    "fps": (int, float),
    "features": (dict,),
    "total_episodes": (int,),
    "total_frames": (int,),
}
"""Required keys of info.json and their types."""


def file_numbers(index: int) -> dict[str, int]:
    """Return the chunk and file number of the file at position `index`, for the path templates."""
    return {"chunk_index": index // FILES_PER_CHUNK, "file_index": index % FILES_PER_CHUNK}


def stored_numbers(row: Mapping[str, Any], prefix: str) -> dict[str, int]:
    """Return the chunk and file number that a row of metadata has under a prefix."""
    return {name: int(row[f"{prefix}/{name}"]) for name in ("chunk_index", "file_index")}


def is_inside(path: str) -> bool:
    """Whether a path from a dataset's files stays in its folder, by its name alone.

    Links are followed wherever they lead: a Hub cache consists of links.
    """
    return not (Path(path).anchor or ".." in Path(path).parts or "\0" in path)


def is_shown(file: Path, root: Path) -> bool:
    """Whether neither a file nor a folder on its way from `root` begins with a dot.

    Macs leave a companion ._NAME beside every file on other file systems.
    """
    return not any(part.startswith(".") for part in file.relative_to(root).parts)


@contextmanager
def layout_errors_as_damage(file: Path) -> Iterator[None]:
    """Raise DamagedFile for contents that JSON or Parquet allow and the layout does not.

    A null or a missing key would otherwise surface as a KeyError or TypeError without a file name.
    """
    try:
        yield
    except (
        *(KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError),
        *(RecursionError, pa.ArrowException),
    ) as error:
        cause = f"{type(error).__name__}: {error}"
        raise DamagedFile(f"{file} does not follow its layout ({cause}). {RESTORE}") from error


def read_info(path: Path, versions: Sequence[str] = V30) -> dict[str, Any]:
    """Read `meta/info.json` of a dataset whose `codebase_version` begins with one of `versions`.

    Raises:
        BadInput: there is no dataset, no finished episode, or another version.
        DamagedFile: the file is not readable, or not the one that imitact wrote last.
    """
    if not path.is_dir():
        raise BadInput(f"no such folder: {path}")
    file = path / INFO
    if not file.exists():  # something that is no regular file is refused where it is read
        begun = " A recording was begun there but no episode is finished; run it again."
        raise BadInput(
            f"{path} holds no finished dataset: there is no {INFO}."
            + (begun if (path / IMITACT).is_file() else "")
        )
    info = _read_verified_info(path)
    version = str(info.get("codebase_version"))
    if not version.startswith(tuple(versions)):
        raise BadInput(
            f"{file} has layout {version}, imitact reads v2.0, v2.1 and v3.0; convert it with "
            "LeRobot's own converters"
        )
    if mixed := lies_as_other_version(path):
        raise DamagedFile(mixed)
    for key, types in _INFO_TYPES.items():
        if key not in info:
            raise DamagedFile(f'{file} lacks "{key}". {RESTORE}')
        if type(info[key]) not in types:
            found = type(info[key]).__name__
            raise DamagedFile(
                f'{file}: "{key}" is of type {found}, expected {types[-1].__name__}. {RESTORE}'
            )
    for key in info["features"]:
        if not is_inside(key):
            raise DamagedFile(f'{file}: the feature "{key[:200]}" has a name that no file can have')
    if info["total_frames"] < info["total_episodes"]:
        raise DamagedFile(
            f"{file} counts {info['total_frames']:,} ticks in {info['total_episodes']:,} "
            f"episodes; each has one at least. {RESTORE}"
        )
    if info["total_episodes"] > MAX_EPISODES:
        raise DamagedFile(
            f"{file} counts {info['total_episodes']:,} episodes, expected at most "
            f"{MAX_EPISODES:,}. {RESTORE}"
        )
    if info["total_episodes"] < 1:
        raise BadInput(f"{path} holds no episode; record some first")
    return info


def finished(path: Path) -> tuple[int, int]:
    """Return the number of finished episodes and of their ticks; (0, 0) where there are none."""
    file = path / INFO
    if not file.is_file():
        return 0, 0
    info = _read_verified_info(path)
    with layout_errors_as_damage(file):
        return int(info["total_episodes"]), int(info["total_frames"])


def version_of(path: Path | str) -> str:
    """Return the version of the LeRobot dataset in a folder, such as "v2.1"; "" without one."""
    file = Path(path) / INFO
    if not file.is_file():
        return ""
    return str(read_json_object(file, advice=RESTORE).get("codebase_version"))


def lies_as_other_version(path: Path) -> str:
    """Return what is wrong where files lie as in another version than info.json says, else ""."""
    version = version_of(path)
    for versions, own in _DESCRIPTIONS.items():
        other, *_ = [v for v in _DESCRIPTIONS if v != versions]
        if version.startswith(versions) and not (path / own).exists():
            found = path / _DESCRIPTIONS[other]
            if found.exists():
                lies = "v3.0" if other == V30 else other[0]
                return (
                    f"{path / INFO} has codebase_version {version}, but the files lie as in "
                    f"{lies}: there is {found.relative_to(path)} and no {own}. Set "
                    f'codebase_version to "{lies}", or convert the dataset with LeRobot\'s own '
                    "converter"
                )
    return ""


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object; `imitact.json` must match its checksum from format 2 on."""
    value = read_json_object(file, advice=RESTORE)
    if file.name == Path(IMITACT).name and (value.get("format", 1) != 1 or CHECKSUM_KEY in value):
        return verified(value, file, required=True, advice=RESTORE)
    return value


def read_facts(path: Path, total_episodes: int) -> dict[str, Any]:
    """Read `meta/imitact.json`, limited to the finished episodes; {} in others' datasets."""
    file = path / IMITACT
    if not file.is_file():
        return {}
    facts = read_json(file)
    with layout_errors_as_damage(file):
        return {**facts, "episodes": list(facts.get("episodes", []))[:total_episodes]}


def _read_verified_info(path: Path) -> dict[str, Any]:
    """Read `meta/info.json`; refuse another than imitact wrote after the last episode."""
    info = read_json_object(path / INFO, advice=RESTORE)
    total = info.get("total_episodes")
    if type(total) is int and total > 0:
        DatasetChecksums(path).check_dataset(path / DATA.format(**file_numbers(total - 1)), [INFO])
    return info
