"""What a LeRobot dataset says of its features (in `meta/info.json`), as a Spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imitact.core.errors import BadInput
from imitact.core.types import Camera, Spec

STATE = "observation.state"
ACTION = "action"
CAMERA_PREFIX = "observation.images."

MOST_VALUES = 10_000
"""A state or action of more is a mistake; it would have to be named in memory."""

UNKNOWN_UNIT = "unknown"
"""The unit of a value whose dataset does not say; LeRobot's layout has no place for units."""


@dataclass(frozen=True)
class Stored:
    """How the frames of a camera are stored.

    key:         of the feature.
    as_pictures: one PNG a tick in the data files; else in a video.
    """

    key: str
    as_pictures: bool


@dataclass(frozen=True)
class Features:
    """What is read of a dataset.

    stored:  each camera of the Spec, by its name.
    notices: what is left out, and why, in words.
    """

    spec: Spec
    stored: Mapping[str, Stored]
    notices: tuple[str, ...]


def read_features(
    features: Mapping[str, Mapping[str, Any]],
    rate_hz: float,
    units: Mapping[str, tuple[str, ...]],
    path: Path,
) -> Features:
    """The Spec of these features.

    units: of "state" and "action", where the dataset tells them.

    Cameras are the features whose dtype is video or image, in their order there; an
    `observation.images.top` is the camera "top". Depth is left out, with a notice. Refused: no
    state or no action, two cameras of one name, frames of two or four channels.
    """
    cameras: list[Camera] = []
    stored: dict[str, Stored] = {}
    notices: list[str] = []
    for key, feature in features.items():
        if feature.get("dtype") not in ("video", "image"):
            continue
        shape = list(feature.get("shape") or [])
        ends = (shape[0], shape[2]) if len(shape) == 3 else ()
        if _is_depth(feature) or (1 in ends and 3 not in ends):
            notices.append(f"{key!r} is a depth map or grey, not colour frames: it is left out")
            continue
        name = key.removeprefix(CAMERA_PREFIX).removeprefix("observation.")
        if name in stored:
            raise BadInput(
                f"{path}: the cameras {stored[name].key!r} and {key!r} would both be called "
                f"{name!r}; rename one of them with LeRobot's own tools"
            )
        if 3 not in ends:
            raise BadInput(f"{key!r} has shape {shape}; imitact reads colour frames, (H, W, 3)")
        height, width = shape[:2] if shape[2] == 3 else shape[1:]
        cameras.append(Camera(name, height, width))
        stored[name] = Stored(key, feature["dtype"] == "image")
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


def _is_depth(feature: Mapping[str, Any]) -> bool:
    # LeRobot 0.6 says is_depth_map, those before it video.is_depth_map, the first in video_info.
    info = feature.get("info") or feature.get("video_info") or {}
    return bool(info.get("is_depth_map") or info.get("video.is_depth_map"))


def _names(features: Mapping[str, Mapping[str, Any]], key: str, stem: str) -> tuple[str, ...]:
    """Names of the values: those given as a list or dict, however nested, else stem_0, stem_1."""
    if key not in features:
        raise BadInput(f"the dataset has no {key!r}; it has {sorted(features)}")
    shape = features[key].get("shape") or []
    if len(shape) != 1:
        raise BadInput(f"{key!r} has shape {list(shape)}; imitact reads vectors")
    if not 1 <= shape[0] <= MOST_VALUES:
        raise BadInput(f"{key!r} has {shape[0]} values; imitact reads 1 to {MOST_VALUES}")
    names = tuple(_leaves(features[key].get("names")))
    if len(names) == shape[0] and len(set(names)) == len(names):
        return names
    return tuple(f"{stem}_{i}" for i in range(shape[0]))


def _leaves(names: Any) -> Iterator[str]:
    if isinstance(names, str):
        yield names
    elif isinstance(names, dict):
        # {"motors": ["a", "b"]} names by its values, {"a": 0, "b": 1} by its keys.
        for key, value in names.items():
            yield from _leaves(str(key) if isinstance(value, int) else value)
    elif isinstance(names, list):
        for value in names:
            yield from _leaves(value)
