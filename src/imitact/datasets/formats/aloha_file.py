"""ALOHA file layout: where state, action, images and further columns are in an HDF5 file.

Layout: tonyzhaozh/act record_sim_episodes.py, tonyzhaozh/aloha record_episodes.py, and
MarkFzp/act-plus-plus compress_data.py and utils.py; docs/formats.md describes it.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from imitact.core.errors import BadInput, DamagedFile
from imitact.core.words import counted
from imitact.datasets.formats import hdf5
from imitact.datasets.formats.hdf5 import COPY, Hdf5Array, Hdf5Reader, check_readable
from imitact.datasets.frame_arrays import (
    FrameShape,
    frame_shape,
    frames_or_reason,
    is_depth_name,
    why_no_picture,
)
from imitact.datasets.read_config import ReadConfig

STATE, ACTION, BASE_ACTION = "/observations/qpos", "/action", "/base_action"
VELOCITY = "/observations/qvel"
IMAGES = "/observations/images/"
LENGTHS = "/compress_len"
METADATA = "imitact"
"""Attribute of a file: JSON in which imitact stores what the layout has no place for."""

METADATA_FORMAT = 1

_RESERVED = {"timestamp", "frame_index", "episode_index", "index", "task_index", "task", "action",
             "base_action"}  # fmt: skip


@dataclass(frozen=True)
class AlohaFile:
    """Arrays of one episode.

    Attributes:
        state: arrays whose columns, side by side, are the state, that of the environment last.
        actions: arrays whose columns, side by side, are the action.
        images: array of each camera.
        shapes: how the frames of a camera are stored; compressed images are not in it.
        extras: array of each further feature, by the names of `feature_of`.
        left_out: paths of arrays that are not read, with the reason.
        unread_cameras: paths of those that look like cameras.
        metadata: what imitact stored in the attribute `METADATA`; empty in files of others.
        sim: the attribute "sim"; None where it is missing.
    """

    path: Path
    length: int
    state: tuple[Hdf5Array, ...]
    actions: tuple[Hdf5Array, ...]
    images: Mapping[str, Hdf5Array]
    shapes: Mapping[str, FrameShape]
    extras: Mapping[str, Hdf5Array]
    left_out: Mapping[str, str]
    unread_cameras: tuple[str, ...]
    metadata: Mapping[str, Any]
    sim: bool | None

    @property
    def action_widths(self) -> list[int]:
        """Values per tick of each array in `actions`."""
        return [array.width for array in self.actions]

    @property
    def environment_size(self) -> int:
        """How many of the last stored states are the environment's."""
        size = self.metadata.get("environment_size", 0)
        return size if type(size) is int else 0

    def stored_spec(
        self, parts: Sequence[str]
    ) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]], float]:
        """Names and units of "state" and "action", if among `parts`, and the rate in Hz, from
        `metadata`."""
        all_sizes = {"state": self.state[0].width, "action": sum(self.action_widths)}
        sizes = {part: all_sizes[part] for part in parts}
        try:
            names = {part: tuple(map(str, self.metadata[part]["names"])) for part in sizes}
            units = {part: tuple(map(str, self.metadata[part]["units"])) for part in sizes}
            rate_hz = float(self.metadata["rate_hz"])
            for part, size in sizes.items():
                if len(names[part]) != size or len(units[part]) != size:
                    raise ValueError(f"{len(names[part])} names for {size} {part} values")
                if len(set(names[part])) != size:
                    raise ValueError(f"two {part} values have the same name")
            if not 0 < rate_hz < float("inf"):
                raise ValueError(f"a rate of {rate_hz} Hz")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedFile(
                f'{self.path}: its attribute "{METADATA}" does not match its arrays '
                f"({type(error).__name__}: {error}). {COPY}"
            ) from error
        return names, units, rate_hz


def find_files(path: Path, pattern: str = "") -> list[Path]:
    """HDF5 files at a path in natural order: those directly in a folder, or the one file."""
    if path.is_file():
        return [path]
    patterns = [pattern] if pattern else ["*.hdf5", "*.h5"]
    try:
        found = {p for each in patterns for p in path.glob(each)}
    except (ValueError, NotImplementedError) as error:
        raise BadInput(
            f'--read.files is "{pattern}", which is not a file name pattern: {error}'
        ) from error
    # Whatever has such a name, broken links included: what cannot be read is refused by name.
    files = [p for p in found if not p.name.startswith(".")]
    if not files:
        raise BadInput(f"{path} has no file that matches {' or '.join(patterns)}")
    return sorted(files, key=lambda p: hdf5.natural_sort_key(p.name))


def locate_arrays(reader: Hdf5Reader, path: Path, read: ReadConfig) -> AlohaFile:
    """Locate the arrays of an episode; refuses a file of another layout or a damaged one."""
    arrays = reader.arrays(path)
    observed = (*(read.state or [STATE]), *read.environment)
    state_paths = [array_path(name, arrays) for name in observed]
    action_paths = [array_path(name, arrays) for name in read.action or [ACTION]]
    for name in (*state_paths, *action_paths):
        if name not in arrays:
            found = ", ".join(a.description for a in list(arrays.values())[:12]) or "no array"
            given = "--read.state, --read.action and --read.environment name the arrays to read"
            raise DamagedFile(
                f"{path} has no {name}, which the ALOHA layout requires; it has {found}. {given}; "
                f"else {COPY[0].lower()}{COPY[1:]}"
                if name in (STATE, ACTION)
                else f"{path} has no array {name}; it has {found}. {given}"
            )
    if not read.action and BASE_ACTION in arrays:
        action_paths.append(BASE_ACTION)
    attributes = reader.attributes(path)
    metadata = _parse_metadata(attributes.get(METADATA), path)
    state = tuple(_check_vectors(path, arrays[p]) for p in state_paths)
    actions = tuple(_check_vectors(path, arrays[p]) for p in action_paths)
    length = state[0].shape[0]
    for array in (*state[1:], *actions):
        _check_length(path, array, length, state[0].path)
    images: dict[str, Hdf5Array] = {}
    shapes: dict[str, FrameShape] = {}
    unread: list[str] = []
    extras: dict[str, Hdf5Array] = {}
    left_out: dict[str, str] = {}
    invented = [str(name) for name in metadata.get("invented", ())]
    for name, array in arrays.items():
        if name in (STATE, ACTION, BASE_ACTION) and name in (*state_paths, *action_paths):
            if np.dtype(array.dtype) not in (np.float16, np.float32):  # float32 may lose digits
                extras[feature_of(name)] = array
        elif name == LENGTHS or name in invented:
            continue
        elif name in (STATE, ACTION, BASE_ACTION):
            left_out[name] = "not selected"
        elif name.startswith(IMAGES):
            found = _camera(array)
            if isinstance(found, FrameShape) and np.dtype(array.dtype) != np.uint8:
                found = why_no_picture(reader.rows(path, array, 0, 1)) or found
            if isinstance(found, str):
                left_out[name] = found
                unread.append(name)
            else:
                _check_length(path, check_readable(path, array), length, state[0].path)
                images[name.removeprefix(IMAGES)] = array
                if found:
                    shapes[name.removeprefix(IMAGES)] = found
        elif reason := _why_no_column(array, length):
            left_out[name] = reason
            if array.is_numeric and len(array.shape) > 2 and frame_shape(array.shape[1:]):
                left_out[name] = f"it may be frames, but cameras are below {IMAGES}"
                unread.append(name)
        else:
            extras[feature_of(name)] = check_readable(path, array)
    sim = attributes.get("sim")
    return AlohaFile(path, length, state, actions, images, shapes, extras, left_out, tuple(unread),
                     metadata, None if sim is None else bool(sim))  # fmt: skip


def array_path(name: str, arrays: Container[str]) -> str:
    """Return the path of the array that is given by its path or by its feature."""
    path = "/" + name.strip("/")
    return path if path in arrays else next((p for p in [path_of(name)] if p in arrays), path)


def feature_of(path: str) -> str:
    """Feature name of an array: the usual LeRobot name where there is one."""
    if path == VELOCITY:
        return "observation.velocity"
    *folders, name = path.strip("/").split("/")
    if folders == ["observations"]:
        is_taken = name in ("qpos", "state", "velocity") or name.startswith("images")
        return f"aloha.observations.{name}" if is_taken else f"observation.{name}"
    if name in _RESERVED or name.startswith(("observation.", "aloha.")):
        return f"aloha.{name}"
    return name


def path_of(feature: str) -> str:
    """Path of the array for a feature: the inverse of `feature_of`."""
    if feature == "observation.velocity":
        return VELOCITY
    if feature.startswith("observation."):
        return "/observations/" + feature.removeprefix("observation.")
    name = feature.removeprefix("aloha.")
    if name != feature and name.startswith("observations."):
        return name.replace("observations.", "/observations/", 1)
    return "/" + name


def _camera(array: Hdf5Array) -> FrameShape | str | None:
    """How the frames of an array among the images are stored, None where they are compressed; or
    why it is no camera."""
    axes, dtype, name = len(array.shape), array.dtype, array.path.removeprefix(IMAGES)
    if "/" in name:
        return "in a nested group"
    if array.kind == "bytes" or (array.kind == "plain" and dtype[1:2] == "S"):
        return None if axes == 1 else f"images of shape {array.shape}"
    if not array.is_numeric:
        return "not numbers"
    if axes == 2 and np.dtype(dtype) == np.uint8 and not is_depth_name(name):
        return None
    return frames_or_reason(name, array.shape[1:], np.dtype(dtype), is_named=True)


def _why_no_column(array: Hdf5Array, length: int) -> str:
    """Why an array is not a column of numbers; empty where it is one."""
    if not array.is_numeric or not array.is_local:
        return "not numbers"
    if len(array.shape) not in (1, 2) or array.shape[0] != length:
        return f"not one row per tick: shape {array.shape}"
    if not array.width:
        return f"{counted(array.shape[-1], 'value')} per tick"
    parts = array.path.strip("/").split("/")
    if len(parts) > 2 or (len(parts) == 2 and parts[0] != "observations"):
        return "in a group that the layout does not define"
    return ""


def _check_vectors(path: Path, array: Hdf5Array) -> Hdf5Array:
    where = f"{path}: {array.path}"
    if not array.is_numeric:
        raise DamagedFile(f"{where} has type {array.dtype}, expected numbers. {COPY}")
    check_readable(path, array)
    if not array.width:
        raise DamagedFile(f"{where} has shape {array.shape}, expected (ticks, values). {COPY}")
    return array


def _check_length(path: Path, array: Hdf5Array, length: int, state: str) -> None:
    if array.shape[0] != length:
        raise DamagedFile(
            f"{path}: {array.path} has {counted(array.shape[0], 'row')}, {state} has {length}; one "
            f"of them is incomplete. {COPY}"
        )


def _parse_metadata(text: Any, path: Path) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        metadata = msgspec.json.decode(str(text).encode())
        if not isinstance(metadata, dict):
            raise ValueError("expected an object")
        if metadata.get("format") != METADATA_FORMAT:
            raise ValueError(f"format {metadata.get('format')}, expected {METADATA_FORMAT}")
        for key in ("cameras", "invented"):
            if not isinstance(metadata.get(key, []), list):
                raise ValueError(f"{key} must be a list")
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise DamagedFile(
            f'{path}: its attribute "{METADATA}" was not written by imitact ({error}). {COPY}'
        ) from error
    return metadata
