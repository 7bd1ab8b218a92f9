"""LeRobot features: the Spec and the extra columns that `meta/info.json` describes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imitact.core.errors import BadInput
from imitact.core.types import Camera, ExtraColumn, Spec
from imitact.datasets.lerobot.layout import ACTION, CAMERA_PREFIX, INDEX_COLUMNS, STATE
from imitact.datasets.read_config import MAX_VECTOR_SIZE

UNKNOWN_UNIT = "unknown"
"""Unit of a value whose dataset does not store one; LeRobot's layout has no place for units."""

_NOT_EXTRA = {STATE, ACTION, *INDEX_COLUMNS}
_EXTRA_TYPES = ("float32", "float64", "int64", "bool", "int32", "float16")


@dataclass(frozen=True)
class StoredCamera:
    """How the frames of a camera are stored: as one PNG or JPEG per tick, or in a video."""

    key: str
    """Name of the feature."""

    as_images: bool


@dataclass(frozen=True)
class Features:
    """What is read of a dataset."""

    spec: Spec
    stored: Mapping[str, StoredCamera]
    """How each camera is stored, by its name."""

    notices: tuple[str, ...]
    """The features that are left out, one sentence each."""


def read_features(
    features: Mapping[str, Mapping[str, Any]],
    rate_hz: float,
    units: Mapping[str, tuple[str, ...]],
    path: Path,
) -> Features:
    """Derive the Spec from the features of a dataset.

    Cameras are the features of dtype video or image, in their order; `observation.images.top` is
    the camera "top". Depth maps and grey images are left out, with a notice.

    Args:
        features: "features" of `meta/info.json`.
        units: units of "state" and "action", where the dataset stores them.

    Raises:
        BadInput: no state or no action, two cameras of one name, or frames that are not RGB.
    """
    cameras: list[Camera] = []
    stored: dict[str, StoredCamera] = {}
    notices: list[str] = []
    for key, feature in features.items():
        if feature.get("dtype") not in ("video", "image"):
            continue
        shape = list(feature.get("shape") or [])
        ends = (shape[0], shape[2]) if len(shape) == 3 else ()
        if _is_depth(feature) or (1 in ends and 3 not in ends):
            notices.append(f"{key} is left out: it is a depth map or grey, not RGB")
            continue
        name = key.removeprefix(CAMERA_PREFIX).removeprefix("observation.")
        if name in stored:
            raise BadInput(
                f"{path}: the cameras {stored[name].key} and {key} would both be called "
                f'"{name}"; rename one of them with LeRobot\'s own tools'
            )
        if 3 not in ends:
            raise BadInput(f"{key} has shape {shape}; imitact reads RGB frames, (H, W, 3)")
        height, width = shape[:2] if shape[2] == 3 else shape[1:]
        cameras.append(Camera(name, height, width))
        stored[name] = StoredCamera(key, feature["dtype"] == "image")
    state_names = _names(features, STATE, "state")
    action_names = _names(features, ACTION, "action")
    spec = Spec(
        state_names=state_names,
        action_names=action_names,
        state_units=units.get("state", (UNKNOWN_UNIT,) * len(state_names)),
        action_units=units.get("action", (UNKNOWN_UNIT,) * len(action_names)),
        cameras=tuple(cameras),
        rate_hz=rate_hz,
    )
    return Features(spec, stored, tuple(notices))


def read_extra_columns(
    features: Mapping[str, Mapping[str, Any]], converted: Any
) -> dict[str, ExtraColumn]:
    """Return the features that are columns of numbers beside state, action and frames.

    `converted` is "extras" of the settings in `meta/imitact.json`: the type and width that each
    column had before a conversion to LeRobot's types; entries that do not fit are ignored.
    """
    columns: dict[str, ExtraColumn] = {}
    for name, feature in features.items():
        shape, dtype = list(feature.get("shape") or []), feature.get("dtype")
        if name in _NOT_EXTRA or dtype not in _EXTRA_TYPES:
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


def _is_depth(feature: Mapping[str, Any]) -> bool:
    # LeRobot 0.6 has is_depth_map, those before it video.is_depth_map, the first in video_info.
    info = feature.get("info") or feature.get("video_info") or {}
    return bool(info.get("is_depth_map") or info.get("video.is_depth_map"))


def _names(features: Mapping[str, Mapping[str, Any]], key: str, stem: str) -> tuple[str, ...]:
    """Return the names of the values: as stored, in any nesting, else stem_0, stem_1, ..."""
    if key not in features:
        raise BadInput(f"the dataset has no {key}; it has {', '.join(sorted(features))}")
    shape = features[key].get("shape") or []
    if len(shape) != 1:
        raise BadInput(f"{key} has shape {list(shape)}; imitact reads vectors")
    if not 1 <= shape[0] <= MAX_VECTOR_SIZE:
        raise BadInput(f"{key} has {shape[0]} values; imitact reads 1 to {MAX_VECTOR_SIZE}")
    names = tuple(_leaves(features[key].get("names")))
    if len(names) == shape[0] and len(set(names)) == len(names):
        return names
    return tuple(f"{stem}_{i}" for i in range(shape[0]))


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
