"""LeRobot features: the Spec and the extra columns that `meta/info.json` describes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from imitact.core.errors import BadInput
from imitact.core.types import UNKNOWN_UNIT, ExtraColumn, Spec
from imitact.datasets.frame_arrays import FrameShape, frame_shape, frames_or_reason, is_depth_name
from imitact.datasets.key_selection import (
    AvailableKeys,
    Keys,
    numbered,
    value_names,
    vector_width,
)
from imitact.datasets.lerobot.layout import ACTION, CAMERA_PREFIX, INDEX_COLUMNS, STATE
from imitact.datasets.read_config import MAX_VECTOR_SIZE, ReadConfig

_NOT_EXTRA = {STATE, ACTION, *INDEX_COLUMNS}
_NUMBER_TYPES = (
    *("float16", "float32", "float64", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
_OTHER_SHAPE = "it has shape"
_EXTRA_TYPES = ("float32", "float64", "int64", "bool", "int32", "float16")


@dataclass(frozen=True)
class StoredCamera:
    """How the frames of a camera are stored."""

    key: str
    """Name of the feature."""

    kind: Literal["video", "image", "array"]
    """In a video, as one PNG or JPEG image per tick, or as numbers."""

    shape: FrameShape

    @property
    def as_images(self) -> bool:
        return self.kind == "image"


@dataclass(frozen=True)
class Features:
    """What is read of a dataset."""

    spec: Spec
    stored: Mapping[str, StoredCamera]
    """How each camera is stored, by its name."""

    keys: Keys
    """The features that form state and action."""

    notices: tuple[str, ...]
    """What a policy could need and is left out, and what is read as a camera; one sentence each."""

    left_out: Mapping[str, str]
    """Why a feature cannot be read, for those that look as if they could."""

    unread_cameras: tuple[str, ...]
    """Features that look like cameras and are not read."""


def read_features(
    features: Mapping[str, Mapping[str, Any]],
    rate_hz: float,
    units: Mapping[str, tuple[str, ...]],
    path: Path,
    read: ReadConfig | None = None,
    environment_size: int = 0,
    maps: Mapping[str, str] | None = None,
) -> Features:
    """Derive the Spec from the features of a dataset.

    Cameras are the features of dtype video or image, and those of numbers in the shape of colour or
    grey frames, in their order; `observation.images.top` is the camera "top". Depth maps are left
    out, with a notice.

    Args:
        features: "features" of `meta/info.json`.
        units: units of "state" and "action", where the dataset stores them.
        read: features to read instead of `observation.state`, `action` and all cameras.
        maps: what has the shape of frames and is no camera by its values, with the reason.
        environment_size: how many of the last values of `observation.state` are the environment's.

    Raises:
        BadInput: no state or no action, two cameras of one name, or frames that are not RGB.
    """
    read = read or ReadConfig()
    vectors: dict[str, int] = {}
    cameras: dict[str, StoredCamera] = {}
    unreadable: dict[str, str] = {}
    others: dict[str, str] = {}
    for key, feature in features.items():
        if key in INDEX_COLUMNS:
            continue
        found = (True, maps[key]) if maps and key in maps else _role(key, feature)
        if isinstance(found, StoredCamera):
            cameras[key] = found
        elif isinstance(found, int):
            vectors[key] = found
        elif found is not None:
            is_camera, why = found
            (unreadable if is_camera else others)[key] = why
            if is_camera and why.startswith(_OTHER_SHAPE) and not read.cameras:
                raise BadInput(
                    f"{path}: {key} {why.removeprefix('it ')}. --read.cameras names others"
                )
    stored = _named_cameras(cameras, path, read)
    names = {camera.key: name for name, camera in stored.items()}
    read = replace(read, cameras=tuple(names.get(camera, camera) for camera in read.cameras))
    available = AvailableKeys(
        vectors, {n: s.shape for n, s in stored.items()}, vectors, unreadable, others
    )
    keys = available.select(path, read, (ACTION,), (STATE,))
    spec = available.spec(keys, rate_hz, lambda key, width: _names(features[key], key, width))
    spec = _with_units(spec, keys, units, environment_size)
    how = {n: _stored_so(s, features[s.key]) for n, s in stored.items()}
    notices = available.notices(keys, read, how)
    return Features(
        spec,
        {name: stored[name] for name in keys.cameras},
        keys,
        tuple(notices),
        {**unreadable, **others},
        tuple(unreadable),
    )


def _role(key: str, feature: Mapping[str, Any]) -> StoredCamera | int | tuple[bool, str] | None:
    """Return what a feature can be: a camera, or a vector of so many values.

    For one that looks as if it could be either and cannot: whether it looks like a camera, and why
    it is none. None for any other, such as text.
    """
    kind, shape = feature.get("dtype"), list(feature.get("shape") or ())
    is_named = key.startswith(CAMERA_PREFIX)
    if kind == "video" or kind == "image":
        if _is_depth(key, feature):
            return True, "it is a depth map"
        found = frame_shape(shape, is_named=True)
        if found is None:
            return (
                True,
                f"{_OTHER_SHAPE} {shape}; imitact reads RGB frames, (H, W, 3), and grey ones",
            )
        return StoredCamera(key, kind, found)
    if kind not in _NUMBER_TYPES:
        return None
    if not all(type(size) is int for size in shape):
        raise ValueError(f"{key} has shape {shape}")
    width = vector_width((1, *shape))
    if width and not is_named:
        return width
    found = frames_or_reason(key, shape, np.dtype(kind), is_named=is_named)
    if isinstance(found, FrameShape):
        return StoredCamera(key, "array", found)
    return found is not None, found or f"it has shape {shape} per tick; imitact reads vectors"


def _named_cameras(
    cameras: Mapping[str, StoredCamera], path: Path, read: ReadConfig
) -> dict[str, StoredCamera]:
    """Return the cameras by name; of several with one name, that whose feature `read` names."""
    named: dict[str, StoredCamera] = {}
    for key, stored in cameras.items():
        name = key.removeprefix(CAMERA_PREFIX).removeprefix("observation.")
        if name in named and key not in read.cameras:
            if named[name].key not in read.cameras:
                raise BadInput(
                    f"{path}: the cameras {named[name].key} and {key} would both be called "
                    f'"{name}"; choose cameras by these names with --read.cameras, or rename one '
                    "of them with LeRobot's own tools"
                )
            continue
        named[name] = stored
    return named


def _with_units(
    spec: Spec, keys: Keys, units: Mapping[str, tuple[str, ...]], environment_size: int
) -> Spec:
    """Return the Spec with the units that the dataset stores for its own state and action."""
    more: dict[str, Any] = {}
    if keys.state == (STATE,):
        own = spec.state_size - spec.environment_size
        unknown = (UNKNOWN_UNIT,) * spec.environment_size
        more["state_units"] = units.get("state", (UNKNOWN_UNIT,) * own) + unknown
        more["environment_size"] = spec.environment_size + environment_size
    if keys.action == (ACTION,) and "action" in units:
        more["action_units"] = units["action"]
    return replace(spec, **more)


def _stored_so(stored: StoredCamera, feature: Mapping[str, Any]) -> str:
    """How the frames of a camera are stored, in words, where it is neither as video nor as RGB."""
    if stored.kind == "array":
        return f"{stored.key}, numbers {feature['dtype']} {list(feature['shape'])}"
    return f"{stored.key}, which has one channel (grey)" if stored.shape.channels == 1 else ""


def read_extra_columns(
    features: Mapping[str, Mapping[str, Any]], converted: Any, keys: Keys
) -> dict[str, ExtraColumn]:
    """Return the features that are columns of numbers beside those of `keys` and frames.

    `converted` is "extras" of the settings in `meta/imitact.json`: the type and width that each
    column had before a conversion to LeRobot's types; entries that do not fit are ignored.
    """
    columns: dict[str, ExtraColumn] = {}
    for name, feature in features.items():
        shape, dtype = list(feature.get("shape") or []), feature.get("dtype")
        if name in _NOT_EXTRA or name in keys.vectors or dtype not in _EXTRA_TYPES:
            continue
        if len(shape) != 1 or not isinstance(shape[0], int) or not 1 <= shape[0] <= MAX_VECTOR_SIZE:
            continue
        column = ExtraColumn(np.dtype(dtype).str, None if shape == [1] else shape[0])
        columns[name] = _before_conversion(converted, name, column)
    return columns


def storable_columns(
    columns: Mapping[str, ExtraColumn],
) -> tuple[dict[str, ExtraColumn], dict[str, str]]:
    """Return the columns that LeRobot's layout can store, and the reason for each other one."""
    stored = {
        name: column
        for name, column in columns.items()
        if name not in _NOT_EXTRA
        and "/" not in name
        and not name.startswith(CAMERA_PREFIX)
        and np.dtype(column.dtype) != np.uint64
    }
    refused = sorted(columns.keys() - stored.keys())
    return stored, dict.fromkeys(refused, "LeRobot's layout has no such name or type")


def stored_type(column: ExtraColumn) -> type[np.generic]:
    """Return the type in which the layout stores a column: it holds every value of the column's."""
    dtype = np.dtype(column.dtype)
    if dtype.kind == "f":
        return np.float64 if dtype.itemsize > 4 else np.float32
    return np.int64


def _before_conversion(converted: Any, name: str, stored: ExtraColumn) -> ExtraColumn:
    about = converted.get(name) if isinstance(converted, dict) else None
    if not isinstance(about, dict):
        return stored
    try:
        column = ExtraColumn(np.dtype(str(about["dtype"])).str, about["width"])
    except (KeyError, TypeError):
        return stored
    fits = column.width in ((None, 1) if stored.width is None else (stored.width,))
    return column if fits and np.dtype(column.dtype).kind in "biuf" else stored


def _is_depth(key: str, feature: Mapping[str, Any]) -> bool:
    # LeRobot 0.6 has is_depth_map, those before it video.is_depth_map, the first in video_info.
    info = feature.get("info") or feature.get("video_info") or {}
    is_deep = re.fullmatch(r"gray\d+(le|be)", str(info.get("video.pix_fmt") or ""))
    is_marked = info.get("is_depth_map") or info.get("video.is_depth_map")
    is_grey = 1 in list(feature.get("shape") or ())
    return bool(is_marked or is_deep or (is_grey and is_depth_name(key)))


def _names(feature: Mapping[str, Any], key: str, width: int) -> tuple[str, ...]:
    """Return the names of the values: as stored, in any nesting, else numbered."""
    names = tuple(_leaves(feature.get("names")))
    if len(names) == width:
        return names
    if key in (STATE, ACTION):
        return numbered(key.removeprefix("observation."), width)
    return value_names(key.removeprefix("observation."), width)


def _leaves(names: Any) -> Iterator[str]:
    if isinstance(names, str):
        yield names
    elif isinstance(names, dict):
        # {"motors": ["a", "b"]} has the names as values, {"a": 0, "b": 1} as keys.
        for key, value in names.items():
            yield from _leaves(str(key) if isinstance(value, int) else value)
    elif isinstance(names, list):
        for value in names:
            yield from _leaves(value)
