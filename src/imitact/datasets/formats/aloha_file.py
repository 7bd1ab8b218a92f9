"""ALOHA file layout: where state, action, images and further columns are in an HDF5 file.

Layout: tonyzhaozh/act record_sim_episodes.py, tonyzhaozh/aloha record_episodes.py, and
MarkFzp/act-plus-plus compress_data.py and utils.py; docs/formats.md describes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from imitact.core.errors import BadInput, DamagedFile
from imitact.datasets.formats import hdf5
from imitact.datasets.formats.hdf5 import COPY, Hdf5Array, Hdf5Reader, check_readable
from imitact.datasets.read_config import MAX_VECTOR_SIZE

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
        actions: arrays whose columns, side by side, are the action.
        extras: array of each further feature, by the names of `feature_of`.
        left_out: paths of arrays that are not read, with the reason.
        metadata: what imitact stored in the attribute `METADATA`; empty in files of others.
        sim: the attribute "sim"; None where it is missing.
    """

    path: Path
    length: int
    state: Hdf5Array
    actions: tuple[Hdf5Array, ...]
    images: Mapping[str, Hdf5Array]
    extras: Mapping[str, Hdf5Array]
    left_out: Mapping[str, str]
    metadata: Mapping[str, Any]
    sim: bool | None

    @property
    def action_widths(self) -> list[int]:
        """Values per tick of each array in `actions`."""
        return [array.width for array in self.actions]

    def stored_spec(self) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]], float]:
        """Names and units by "state" and "action", and the rate in Hz, from `metadata`."""
        sizes = {"state": self.state.width, "action": sum(self.action_widths)}
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
    files = [p for p in found if p.is_file() and not p.name.startswith(".")]
    if not files:
        raise BadInput(f"{path} has no file that matches {' or '.join(patterns)}")
    return sorted(files, key=lambda p: hdf5.natural_sort_key(p.name))


def locate_arrays(reader: Hdf5Reader, path: Path) -> AlohaFile:
    """Locate the arrays of an episode; refuses a file of another layout or a damaged one."""
    arrays = reader.arrays(path)
    for name in (STATE, ACTION):
        if name not in arrays:
            found = ", ".join(a.description for a in list(arrays.values())[:12]) or "no array"
            raise DamagedFile(
                f"{path} has no {name}, which the ALOHA layout requires; it has {found}. {COPY}"
            )
    attributes = reader.attributes(path)
    metadata = _parse_metadata(attributes.get(METADATA), path)
    state = _check_vectors(path, arrays[STATE])
    actions = tuple(_check_vectors(path, arrays[p]) for p in (ACTION, BASE_ACTION) if p in arrays)
    length = state.shape[0]
    for array in actions:
        _check_length(path, array, length)
    images: dict[str, Hdf5Array] = {}
    extras: dict[str, Hdf5Array] = {}
    left_out: dict[str, str] = {}
    invented = [str(name) for name in metadata.get("invented", ())]
    for name, array in arrays.items():
        if name in (STATE, ACTION, BASE_ACTION):
            if np.dtype(array.dtype) not in (np.float16, np.float32):  # float32 may lose digits
                extras[feature_of(name)] = array
        elif name == LENGTHS or name in invented:
            continue
        elif name.startswith(IMAGES):
            if reason := _why_no_camera(array):
                left_out[name] = reason
            else:
                _check_length(path, check_readable(path, array), length)
                images[name.removeprefix(IMAGES)] = array
        elif reason := _why_no_column(array, length):
            left_out[name] = reason
        else:
            extras[feature_of(name)] = check_readable(path, array)
    sim = attributes.get("sim")
    return AlohaFile(path, length, state, actions, images, extras, left_out, metadata,
                     None if sim is None else bool(sim))  # fmt: skip


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


def _why_no_camera(array: Hdf5Array) -> str:
    """Why an array among the images is not a camera; empty where it is one."""
    axes, dtype = len(array.shape), array.dtype
    if "/" in array.path.removeprefix(IMAGES):
        return "in a nested group"
    if array.kind == "bytes" or (array.kind == "plain" and dtype[1:2] == "S"):
        return "" if axes == 1 else f"images of shape {array.shape}"
    if np.dtype(dtype) != np.uint8 or "depth" in array.path.rpartition("/")[2]:
        return "a depth or grey image"
    if axes == 2 or (axes == 4 and array.shape[3] == 3 and min(array.shape[1:3]) > 0):
        return ""
    return f"not colour images: shape {array.shape}"


def _why_no_column(array: Hdf5Array, length: int) -> str:
    """Why an array is not a column of numbers; empty where it is one."""
    if not array.is_numeric or not array.is_local:
        return "not numbers"
    if len(array.shape) not in (1, 2) or array.shape[0] != length:
        return f"not one row per tick: shape {array.shape}"
    if not 1 <= array.width <= MAX_VECTOR_SIZE:
        return f"{array.width} values per tick"
    parts = array.path.strip("/").split("/")
    if len(parts) > 2 or (len(parts) == 2 and parts[0] != "observations"):
        return "in a group that the layout does not define"
    return ""


def _check_vectors(path: Path, array: Hdf5Array) -> Hdf5Array:
    where = f"{path}: {array.path}"
    if not array.is_numeric:
        raise DamagedFile(f"{where} has type {array.dtype}, expected numbers. {COPY}")
    check_readable(path, array)
    if len(array.shape) > 2 or not 1 <= array.width <= MAX_VECTOR_SIZE:
        raise DamagedFile(f"{where} has shape {array.shape}, expected (ticks, values). {COPY}")
    return array


def _check_length(path: Path, array: Hdf5Array, length: int) -> None:
    if array.shape[0] != length:
        raise DamagedFile(
            f"{path}: {array.path} has {array.shape[0]} rows, {STATE} has {length}; one of them is "
            f"incomplete. {COPY}"
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
