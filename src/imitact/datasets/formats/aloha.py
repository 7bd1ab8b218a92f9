"""The ALOHA HDF5 layout: one file an episode, as the ALOHA recorders and ACT's simulation write it.

Where things lie: tonyzhaozh/act record_sim_episodes.py, tonyzhaozh/aloha record_episodes.py,
MarkFzp/act-plus-plus compress_data.py and utils.py. docs/formats.md describes the layout. Writing
is `aloha_hdf5_writer.py`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput, DamagedFile, SpecMismatch
from imitact.core.types import Camera, Frame, Spec
from imitact.datasets import images as stills
from imitact.datasets.formats.hdf5 import Array, Hdf5
from imitact.datasets.lerobot.reader import MOST_VALUES, Complain
from imitact.datasets.read_config import ReadConfig
from imitact.datasets.row_blocks import in_blocks, in_float32, last_of
from imitact.storage.checksum import file_sha256

LAYOUT = "aloha-hdf5"
RATE_HZ = 50.0
"""Of every ALOHA recorder (DT = 0.02 s); the files do not say."""

STATE, ACTION, BASE_ACTION = "/observations/qpos", "/action", "/base_action"
VELOCITY = "/observations/qvel"
IMAGES = "/observations/images/"
LENGTHS = "/compress_len"
TOLD = "imitact"
"""The attribute of a file in which imitact says what the layout has no place for."""

TOLD_FORMAT = 1

_ARM = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")
JOINTS: dict[int, tuple[str, ...]] = {
    7: _ARM,
    14: tuple(f"{side}_arm_{name}" for side in ("left", "right") for name in _ARM),
}
"""By their number: one arm, or two with the left one first, as act's constants.py has them. The
names are those of the simulated ALOHA."""

BASE = {"base_linear": "m/s", "base_angular": "rad/s"}
"""The two values of a mobile base's action, and their units."""

_TAKES = ("rate_hz", "cameras", "colour", "action_offset", "files")
_COPY = "Copy the file again from where it came, or record it anew."
_RESERVED = {"timestamp", "frame_index", "episode_index", "index", "task_index", "task", "action",
             "base_action"}  # fmt: skip


@dataclass(frozen=True)
class Extra:
    """A column that a dataset has beside state, action and frames: its type, and how many values a
    tick has; None where a tick is one number and no vector of one."""

    dtype: str
    width: int | None


@dataclass(frozen=True)
class AlohaFile:
    """Where the parts of one episode lie in its file.

    actions:  arrays whose columns, side by side, are the action.
    images:   camera name to its array.
    extras:   feature name (docs/formats.md) to its array.
    left_out: paths that are not read, each with the reason.
    told:     what imitact wrote into the file about it, {} in others' files.
    sim:      the attribute of that name; None where there is none.
    """

    path: Path
    length: int
    state: Array
    actions: tuple[Array, ...]
    images: Mapping[str, Array]
    extras: Mapping[str, Array]
    left_out: Mapping[str, str]
    told: Mapping[str, Any]
    sim: bool | None


class AlohaDataset:
    """Episodes in the ALOHA HDF5 layout: a folder of files, or one file; itself a Source.

    path:     the folder, or the file of one episode. Files come in natural order: episode_2 before
              episode_10.
    read:     what the files do not say.
    complain: takes each damage that opening finds in a file, where the first is raised otherwise.
    hdf5:     what reads files; one that is at work already saves starting another.

    State is /observations/qpos, action is /action, with /base_action after it where there is one.
    Cameras come in the order of their names, or as imitact wrote it; images may be stored as they
    are or compressed. Depth is left out. What else has a row for each tick (qvel, effort, ...) is
    in `extras`.
    """

    layout = LAYOUT

    def __init__(
        self,
        path: Path | str,
        read: ReadConfig | None = None,
        complain: Complain | None = None,
        hdf5: Hdf5 | None = None,
    ) -> None:
        self.path = Path(path)
        self.read = read or ReadConfig()
        self.read.refuse_others(LAYOUT, _TAKES)
        self._hdf5 = hdf5 or Hdf5()
        self.files: list[AlohaFile | None] = []
        for index, file in enumerate(files_of(self.path, self.read.files)):
            try:
                self.files.append(look(self._hdf5, file))
            except DamagedFile as error:
                if complain is None:
                    raise
                complain(error, [index])
                self.files.append(None)
        sound = [file for file in self.files if file is not None]
        if not sound:
            raise DamagedFile(f"{self.path} holds no episode that can be read. {_COPY}")
        self._cameras = self._chosen(sound[0])
        self._colours = {name: self._colour(sound[0], name) for name in self._cameras}
        self._spec = self._make_spec(sound[0])
        for file in sound[1:]:
            self._compare(sound[0], file)
        shared = set.intersection(*(set(file.extras) for file in sound))
        self.extras = {
            name: _extra(array) for name, array in sound[0].extras.items() if name in shared
        }

    @property
    def spec(self) -> Spec:
        return self._spec

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(file.length if file else 0 for file in self.files)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the files in order, the Spec and how they are read."""
        return self._fingerprint

    @property
    def left_out(self) -> dict[str, str]:
        """What is in the files and not in this Source, with the reason."""
        told: dict[str, str] = {}
        for file in self.files:
            if file is not None:
                told |= file.left_out
                lacking = {file.extras[n].path for n in file.extras if n not in self.extras}
                told |= dict.fromkeys(lacking, "not in every file")
        unread = set.union(*(set(f.images) for f in self.files if f)) - set(self._cameras)
        return told | {IMAGES + name: "not among the cameras that were asked for"
                       for name in sorted(unread)}  # fmt: skip

    def episode(self, index: int) -> AlohaEpisode:
        if not 0 <= index < len(self.files):
            raise BadInput(f"no episode {index} in {self.path}; it has {len(self.files)}")
        file = self.files[index]
        if file is None:
            raise DamagedFile(f"episode {index} of {self.path} cannot be read. {_COPY}")
        return AlohaEpisode(index, file, self._spec, self._hdf5, self.read, self._colours,
                            tuple(self.extras))  # fmt: skip

    @cached_property
    def _fingerprint(self) -> str:
        spec = self._spec
        about = (spec.state_names, spec.action_names, spec.cameras, spec.rate_hz, self._colours,
                 self.read.action_offset)  # fmt: skip
        hash_ = hashlib.sha256(repr(about).encode())
        for file in self.files:
            if file is not None:
                hash_.update(file_sha256(file.path).encode())
        return hash_.hexdigest()

    def _chosen(self, file: AlohaFile) -> list[str]:
        there = list(file.images)
        for name in self.read.cameras:
            if name not in there:
                raise BadInput(f"{file.path} has no camera {name!r}; it has {there}")
        if len(set(self.read.cameras)) != len(self.read.cameras):
            raise BadInput(f"a camera was asked for twice: {list(self.read.cameras)}")
        if self.read.cameras:
            return list(self.read.cameras)
        told = [str(name) for name in file.told.get("cameras", ())]
        return told if sorted(told) == sorted(there) else there

    def _colour(self, file: AlohaFile, camera: str) -> str:
        if self.read.colour != "unsaid":
            return self.read.colour
        if len(file.images[camera].shape) == 4:
            return "rgb"
        colour = file.told.get("colour")
        if colour not in ("rgb", "bgr"):
            raise BadInput(
                f"{file.path}: {IMAGES}{camera} holds JPEG images, and some recorders exchange red "
                "and blue in them. Look at `imitact convert SRC --colour-picture FILE.png`, then "
                "say --read.colour rgb or --read.colour bgr"
            )
        return colour

    def _make_spec(self, file: AlohaFile) -> Spec:
        state_size = _width(file.state)
        widths = [_width(array) for array in file.actions]
        names = {"state": _joints(state_size), "action": _joints(widths[0])}
        units = {what: tuple(map(_unit, each)) for what, each in names.items()}
        if len(widths) > 1:
            based = tuple(BASE) if widths[1] == len(BASE) else _numbered("base", widths[1])
            names["action"] += based
            units["action"] += tuple(BASE.get(name, "unknown") for name in based)
        rate_hz = RATE_HZ
        if file.told:
            sizes = {"state": state_size, "action": sum(widths)}
            names, units, rate_hz = _told_spec(file, sizes)
        return Spec(
            state_names=names["state"],
            action_names=names["action"],
            state_units=units["state"],
            action_units=units["action"],
            cameras=tuple(Camera(name, *self._size(file, name)) for name in self._cameras),
            rate_hz=self.read.rate_hz or rate_hz,
        )

    def _size(self, file: AlohaFile, camera: str) -> tuple[int, int]:
        array = file.images[camera]
        if len(array.shape) == 4:
            return array.shape[1], array.shape[2]
        first = self._hdf5.cells(file.path, array, 0, 1)[0]
        try:
            return stills.size_of(first)
        except stills.NoImageError as error:
            raise DamagedFile(f"{file.path}: {array.path}, tick 0, is {error}. {_COPY}") from error

    def _compare(self, first: AlohaFile, file: AlohaFile) -> None:
        """Refuse a file that is not like the first one."""
        sizes: list[tuple[str, str, str]] = [
            (STATE, _valued([first.state]), _valued([file.state])),
            (ACTION, _valued(first.actions), _valued(file.actions)),
        ]
        for camera in self._cameras:
            path = IMAGES + camera
            if camera not in file.images:
                raise SpecMismatch(
                    f"{file.path} has no {path}, {first.path.name} has; it has {[*file.images]}. "
                    "Leave the file out, or name the cameras of all files with --read.cameras"
                )
            sizes.append((path, _pictured(first.images[camera]), _pictured(file.images[camera])))
        for path, one, other in sizes:
            if one != other:
                raise SpecMismatch(
                    f"{file.path}: {path} has {other} a tick, that of {first.path.name} has {one}; "
                    "the episodes of a dataset are alike. Put the file elsewhere"
                )
        for name, array in first.extras.items():
            if name in file.extras and _width(array) != _width(file.extras[name]):
                raise SpecMismatch(
                    f"{file.path}: {array.path} has {_width(file.extras[name])} values a tick, "
                    f"that of {first.path.name} has {_width(array)}"
                )


class AlohaEpisode:
    """One episode of an AlohaSource; its numbers are read at first use, its frames each time."""

    def __init__(
        self,
        index: int,
        file: AlohaFile,
        spec: Spec,
        hdf5: Hdf5,
        read: ReadConfig,
        colours: Mapping[str, str],
        extras: tuple[str, ...],
    ) -> None:
        self.file = file
        self._index = index
        self._spec = spec
        self._hdf5 = hdf5
        self.read = read
        self._colours = colours
        self._extras = extras

    @property
    def index(self) -> int:
        return self._index

    @property
    def task(self) -> str:
        """What was asked, in words; "" where the file does not say."""
        return str(self.file.told.get("task", ""))

    @property
    def state(self) -> NDArray[np.float32]:
        return self._state

    @cached_property
    def _state(self) -> NDArray[np.float32]:
        return in_float32(self._hdf5.numbers(self.file.path, self.file.state))

    @property
    def action(self) -> NDArray[np.float32]:
        return self._action

    @cached_property
    def _action(self) -> NDArray[np.float32]:
        parts = [in_float32(self._hdf5.numbers(self.file.path, a)) for a in self.file.actions]
        return self._moved(np.concatenate(parts, axis=1))

    @property
    def extras(self) -> dict[str, NDArray[Any]]:
        """What else has a row for each tick, by feature name, in the type of the file."""
        found = {}
        for name in self._extras:
            array = self.file.extras[name]
            values = self._hdf5.numbers(self.file.path, array)
            found[name] = self._moved(values) if array in self.file.actions else values
        return found

    def _moved(self, action: NDArray[Any]) -> NDArray[Any]:
        """With each tick's action one tick later, where that is asked for."""
        return np.concatenate([action[:1], action[:-1]]) if self.read.action_offset else action

    def frames(self, camera: str, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """The frames of ticks start to stop; a few megabytes of them are in memory at a time."""
        at = self._spec.camera(camera)
        stop = last_of(self._index, self.file.length, start, stop)
        array = self.file.images[camera]
        swapped = self._colours[camera] == "bgr"
        path, hdf5 = self.file.path, self._hdf5
        if len(array.shape) == 4:
            read: Callable[[int, int], Any] = partial(hdf5.rows, path, array)
            row_bytes = array.row_bytes
        else:
            read = partial(hdf5.cells, path, array)
            row_bytes = array.row_bytes if array.kind == "plain" else at.height * at.width
        found = in_blocks(read, start, stop, row_bytes, array.chunk_rows)
        for tick, image in enumerate(found, start):
            frame = image
            if isinstance(image, bytes):
                try:
                    frame = stills.decode(image, (at.height, at.width))
                except stills.NoImageError as error:
                    raise DamagedFile(
                        f"{path}: {array.path}, tick {tick}, is {error}. {_COPY}"
                    ) from error
            yield np.ascontiguousarray(frame[..., ::-1]) if swapped else frame


def files_of(path: Path, pattern: str = "") -> list[Path]:
    """The HDF5 files at a path in natural order: a folder's own, or that one file."""
    if path.is_file():
        return [path]
    patterns = [pattern] if pattern else ["*.hdf5", "*.h5"]
    try:
        found = {p for each in patterns for p in path.glob(each)}
    except (ValueError, NotImplementedError) as error:
        raise BadInput(f"files is {pattern!r}, which is no pattern of names: {error}") from error
    files = [p for p in found if p.is_file() and not p.name.startswith(".")]
    if not files:
        raise BadInput(f"{path} holds no file named {' or '.join(patterns)}")
    return sorted(files, key=lambda p: natural(p.name))


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts numbers within names by their size."""
    parts = re.split(r"([0-9]+)", name)
    return [(1, int(p), "") if i % 2 else (0, 0, p) for i, p in enumerate(parts)]


def look(hdf5: Hdf5, path: Path) -> AlohaFile:
    """Where things lie in a file; refuses one that is none of the layout, or not whole."""
    arrays = hdf5.arrays(path)
    listed = ", ".join(a.told for a in list(arrays.values())[:12]) or "no array"
    for name in (STATE, ACTION):
        if name not in arrays:
            raise DamagedFile(
                f"{path} has no {name}, which the ALOHA layout needs; it has {listed}. {_COPY}"
            )
    about = hdf5.attributes(path)
    told = _parse_told(about.get(TOLD), path)
    state = _vectors(hdf5, path, arrays[STATE])
    actions = (_vectors(hdf5, path, arrays[ACTION]),)
    if BASE_ACTION in arrays:
        actions += (_vectors(hdf5, path, arrays[BASE_ACTION]),)
    length = state.shape[0]
    for array in actions:
        _check_length(path, array, length)
    images: dict[str, Array] = {}
    extras: dict[str, Array] = {}
    left_out: dict[str, str] = {}
    invented = [str(name) for name in told.get("invented", ())]
    for name, array in arrays.items():
        if name in (STATE, ACTION, BASE_ACTION):
            if np.dtype(array.dtype) not in (np.float16, np.float32):  # may hold more than float32
                extras[feature_of(name)] = array
        elif name == LENGTHS or name in invented:
            continue
        elif name.startswith(IMAGES):
            if reason := _no_camera(array):
                left_out[name] = reason
            else:
                _check_length(path, hdf5.checked(path, array), length)
                images[name.removeprefix(IMAGES)] = array
        elif reason := _no_extra(array, length):
            left_out[name] = reason
        else:
            extras[feature_of(name)] = hdf5.checked(path, array)
    sim = about.get("sim")
    return AlohaFile(path, length, state, actions, images, extras, left_out, told,
                     None if sim is None else bool(sim))  # fmt: skip


def feature_of(path: str) -> str:
    """The feature that holds an array of a file: LeRobot's usual name where there is one."""
    if path == VELOCITY:
        return "observation.velocity"
    *folders, name = path.strip("/").split("/")
    if folders == ["observations"]:
        taken = name in ("qpos", "state", "velocity") or name.startswith("images")
        return f"aloha.observations.{name}" if taken else f"observation.{name}"
    if name in _RESERVED or name.startswith(("observation.", "aloha.")):
        return f"aloha.{name}"
    return name


def path_of(feature: str) -> str:
    """The array that holds a feature: what `feature_of` undoes."""
    if feature == "observation.velocity":
        return VELOCITY
    if feature.startswith("aloha.observations."):
        return "/observations/" + feature.removeprefix("aloha.observations.")
    if feature.startswith("aloha."):
        return "/" + feature.removeprefix("aloha.")
    if feature.startswith("observation."):
        return "/observations/" + feature.removeprefix("observation.")
    return "/" + feature


def is_aloha(arrays: Mapping[str, Array]) -> bool:
    """Whether a file of these arrays is an episode of this layout."""
    return ACTION in arrays or any(path.startswith("/observations/") for path in arrays)


def _no_camera(array: Array) -> str:
    """Why an array among the images is no camera's; empty where it is."""
    dims, dtype = len(array.shape), array.dtype
    if "/" in array.path.removeprefix(IMAGES):
        return "in a group of its own"
    if array.kind == "bytes" or (array.kind == "plain" and dtype[1:2] == "S"):
        return "" if dims == 1 else f"images of shape {array.shape}"
    if np.dtype(dtype) != np.uint8 or "depth" in array.path.rpartition("/")[2]:
        return "depth, or no colours"
    if dims == 2 or (dims == 4 and array.shape[3] == 3 and min(array.shape[1:3]) > 0):
        return ""
    return f"no colour images: shape {array.shape}"


def _no_extra(array: Array, length: int) -> str:
    """Why an array is no column of numbers; empty where it is."""
    if not array.is_numbers or not array.here:
        return "no numbers"
    if len(array.shape) not in (1, 2) or array.shape[0] != length:
        return f"no row of numbers for each tick: shape {array.shape}"
    if not 1 <= _width(array) <= MOST_VALUES:
        return f"{_width(array)} values a tick"
    parts = array.path.strip("/").split("/")
    if len(parts) > 2 or (len(parts) == 2 and parts[0] != "observations"):
        return "in a group that the layout does not have"
    return ""


def _vectors(hdf5: Hdf5, path: Path, array: Array) -> Array:
    where = f"{path}: {array.path}"
    if not array.is_numbers:
        raise DamagedFile(f"{where} holds {array.dtype}, expected numbers. {_COPY}")
    hdf5.checked(path, array)
    if len(array.shape) > 2 or not 1 <= _width(array) <= MOST_VALUES:
        raise DamagedFile(f"{where} has shape {array.shape}, expected (ticks, values). {_COPY}")
    return array


def _check_length(path: Path, array: Array, length: int) -> None:
    if array.shape[0] != length:
        raise DamagedFile(
            f"{path}: {array.path} has {array.shape[0]} rows, {STATE} has {length}; one of them "
            f"was not written to its end. {_COPY}"
        )


def _parse_told(text: Any, path: Path) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        told = msgspec.json.decode(str(text).encode())
        if not isinstance(told, dict) or told.get("format") != TOLD_FORMAT:
            raise ValueError(f"format {told.get('format') if isinstance(told, dict) else told!r}")
        for key in ("cameras", "invented"):
            if not isinstance(told.get(key, []), list):
                raise ValueError(f"{key} is {told[key]!r}")
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise DamagedFile(
            f"{path}: its attribute {TOLD!r} is not what imitact writes ({error}). {_COPY}"
        ) from error
    return told


def _told_spec(
    file: AlohaFile, sizes: Mapping[str, int]
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]], float]:
    """Names and units by "state" and "action", and the rate, as imitact wrote them."""
    try:
        names = {what: tuple(map(str, file.told[what]["names"])) for what in sizes}
        units = {what: tuple(map(str, file.told[what]["units"])) for what in sizes}
        rate_hz = float(file.told["rate_hz"])
        for what, size in sizes.items():
            if len(names[what]) != size or len(units[what]) != size:
                raise ValueError(f"{len(names[what])} names of {size} values of the {what}")
            if len(set(names[what])) != size:
                raise ValueError(f"two values of the {what} have one name")
        if not 0 < rate_hz < float("inf"):
            raise ValueError(f"a rate of {rate_hz} Hz")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedFile(
            f"{file.path}: its attribute {TOLD!r} does not fit what it holds "
            f"({type(error).__name__}: {error}). {_COPY}"
        ) from error
    return names, units, rate_hz


def _joints(count: int) -> tuple[str, ...]:
    return JOINTS.get(count) or _numbered("joint", count)


def _numbered(stem: str, count: int) -> tuple[str, ...]:
    return tuple(f"{stem}_{i}" for i in range(count))


def _unit(name: str) -> str:
    if name.startswith("joint_"):
        return "unknown"
    return "1" if name.endswith("gripper") else "rad"


def _extra(array: Array) -> Extra:
    return Extra(array.dtype, _width(array) if len(array.shape) == 2 else None)


def _width(array: Array) -> int:
    return array.shape[1] if len(array.shape) == 2 else 1


def _valued(arrays: Sequence[Array]) -> str:
    return " and ".join(str(_width(array)) for array in arrays) + " values"


def _pictured(array: Array) -> str:
    """What a camera's array gives; compressed images each tell their own size."""
    if len(array.shape) < 4:
        return "a compressed image"
    return f"an image of {array.shape[1]}x{array.shape[2]}"
