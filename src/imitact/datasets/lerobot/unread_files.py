"""Unread files: videos and images in a dataset's folder that no feature or no episode refers to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa

from imitact.datasets.lerobot.layout import CAMERA_PREFIX, INFO, is_shown

UNDESCRIBED = f"{INFO} does not describe it"

_CHUNK = re.compile(r"chunk-\d+")


def undescribed_cameras(root: Path, features: Collection[str]) -> dict[str, str]:
    """Return why cameras are not read whose files lie there, but that no feature describes."""
    found: dict[str, str] = {}
    for folder, pattern, what in (("videos", "*.mp4", "video"), ("images", "*.png", "image")):
        keys = Counter(key for key, _ in _files(root, folder, pattern))
        for key, count in sorted(keys.items()):
            if key not in features and key not in found:
                s = "" if count == 1 else "s"
                found[key] = f"{UNDESCRIBED}, but {folder} holds {count:,} {what}{s} of it"
    return found


def videos_without_episode(
    root: Path, keys: Collection[str], used: Collection[Path]
) -> dict[str, str]:
    """Return the videos of the features `keys` that are not among those that episodes use."""
    unused = (f for key, f in _files(root, "videos", "*.mp4") if key in keys and f not in used)
    return {str(file.relative_to(root)): "no episode has it" for file in unused}


def is_camera_column(name: str, kind: pa.DataType) -> bool:
    """Whether a column of the data looks like the images of a camera."""
    is_image = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    return is_image or name.startswith(CAMERA_PREFIX)


def _files(root: Path, folder: str, pattern: str) -> Iterator[tuple[str, Path]]:
    """Yield feature and path of each file: v2.1 has a folder for it in each chunk, v3.0 above."""
    for file in sorted((root / folder).rglob(pattern)):
        if is_shown(file, root):
            folders = file.relative_to(root / folder).parts[:-1]
            keys = [part for part in folders if not _CHUNK.fullmatch(part)]
            yield (keys[0] if keys else str(file.relative_to(root))), file
