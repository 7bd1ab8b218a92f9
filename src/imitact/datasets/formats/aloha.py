"""ALOHA reader: a dataset with one HDF5 file per episode, as ALOHA and ACT's simulation record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.aloha_joints import ALOHA_BASE, ALOHA_JOINTS, ALOHA_RATE_HZ, ARM_JOINTS
from imitact.core.errors import BadInput, DamagedFile, SpecMismatch
from imitact.core.types import UNKNOWN_UNIT, Camera, ExtraColumn, Frame, Spec, overridable
from imitact.datasets import images
from imitact.datasets.formats import aloha_file
from imitact.datasets.formats.aloha_file import ACTION, BASE_ACTION, IMAGES, STATE, AlohaFile
from imitact.datasets.formats.array_dataset import ArrayDataset, locate_episodes
from imitact.datasets.formats.hdf5 import COPY, Hdf5Array, Hdf5Reader
from imitact.datasets.frame_arrays import FrameShape
from imitact.datasets.key_selection import (
    AvailableKeys,
    Keys,
    check_names,
    distinct,
    numbered,
    value_names,
)
from imitact.datasets.read_config import OnDamage
from imitact.datasets.row_blocks import in_blocks
from imitact.storage.checksum import file_sha256

_JOINTS = {len(names): names for names in (ARM_JOINTS, ALOHA_JOINTS)}


class AlohaDataset(ArrayDataset[AlohaFile]):
    """Episodes in the ALOHA HDF5 layout, in natural order: episode_2 before episode_10.

    State is /observations/qpos; action is /action, followed by /base_action where it exists, unless
    `read` names other arrays, by path or feature. Cameras are ordered by name, or as imitact wrote
    them; images may be raw or compressed. Depth is not read. Other arrays with a row per tick
    (qvel, effort, ...) are `extra_columns`. The path is a folder of files, or the file of one
    episode.
    """

    LAYOUT = "aloha-hdf5"
    READ_OPTIONS = (
        *("rate_hz", "state", "action", "environment", "cameras", "colour"),
        *("action_offset", "files"),
    )

    def _open(self, on_damage: OnDamage | None) -> None:
        self._hdf5 = Hdf5Reader(self._process)
        files = aloha_file.find_files(self.path, self.read.files)
        locate = partial(aloha_file.locate_arrays, self._hdf5, read=self.read)
        self._located = locate_episodes(files, locate, on_damage)
        self._files = [file for file in self._located if file is not None]
        if not self._files:
            raise DamagedFile(f"{self.path} has no readable episode. {COPY}")
        first = self._files[0]
        self._cameras = self._select_cameras(first)
        self._channel_orders = {name: self._channel_order(first, name) for name in self._cameras}
        self._shapes = {
            name: first.shapes.get(name) or FrameShape(*self._image_size(first, name))
            for name in self._cameras
        }
        self._spec = self._make_spec(first)
        for file in self._files[1:]:
            self._check_alike(first, file)
        self._note_what_is_left_out(first)

    def _note_what_is_left_out(self, first: AlohaFile) -> None:
        """Set `_notices` and `_unread_cameras`."""
        unread = {path: why for file in self._files for path, why in file.left_out.items()}
        cameras = {path for file in self._files for path in file.unread_cameras}
        if not self.read.cameras:
            unshared = {
                IMAGES + n for file in self._files for n in file.images if n not in first.images
            }
            unread |= dict.fromkeys(unshared, f"not in every file: {first.path.name} lacks it")
            cameras |= unshared
        known = {array.path for array in (*first.extras.values(), *first.state, *first.actions)}
        for file in self._files[1:]:
            others = {array.path for array in file.extras.values()} - known
            unread |= dict.fromkeys(others, f"not in every file: {first.path.name} lacks it")
        vectors = {_typed(array.path): array.width for array in first.extras.values()}
        vectors |= {_typed(array.path): array.width for array in first.state}
        available = AvailableKeys(
            vectors,
            first.shapes,
            {},
            {_typed(path): why for path, why in unread.items() if path in cameras},
            {_typed(path): why for path, why in unread.items() if path not in cameras},
        )
        sizes = len(first.state) - len(self.read.environment)
        paths = [_typed(array.path) for array in first.state]
        actions = tuple(_typed(array.path) for array in first.actions)
        keys = Keys(tuple(paths[:sizes]), actions, tuple(self._cameras), tuple(paths[sizes:]))
        how = {n: shape.stored_so(first.images[n].dtype) for n, shape in first.shapes.items()}
        self._notices = available.notices(keys, self.read, how)
        self._unread_cameras = sorted(map(_typed, cameras))

    @overridable
    def extra_columns(self) -> Mapping[str, ExtraColumn]:
        shared = set.intersection(*(set(file.extras) for file in self._files))
        return {
            name: ExtraColumn(array.dtype, array.width if len(array.shape) == 2 else None)
            for name, array in self._files[0].extras.items()
            if name in shared
        }

    @property
    def left_out(self) -> Mapping[str, str]:
        reasons: dict[str, str] = {}
        for file in self._files:
            unshared = {a.path for n, a in file.extras.items() if n not in self.extra_columns}
            reasons |= {**file.left_out, **dict.fromkeys(unshared, "not in every file")}
        unread = sorted({n for file in self._files for n in file.images} - {*self._cameras})
        why = "not among the selected cameras"
        return reasons | {IMAGES + name: why for name in unread}

    def is_bgr(self, camera: str) -> bool:
        return self._channel_orders[camera] == "bgr"

    def task(self, arrays: AlohaFile) -> str:
        return str(arrays.metadata.get("task", ""))

    def origin(self, arrays: AlohaFile) -> Mapping[str, Any]:
        is_aligned = self.read.action_offset or arrays.sim is None
        return {"file": arrays.path.name, "sim": True if is_aligned else arrays.sim}

    def read_state(self, arrays: AlohaFile) -> list[NDArray[Any]]:
        return [self._values(arrays, array) for array in arrays.state]

    def read_action(self, arrays: AlohaFile) -> list[NDArray[Any]]:
        return [self._values(arrays, array) for array in arrays.actions]

    def read_extra(self, arrays: AlohaFile, name: str) -> NDArray[Any]:
        return self._values(arrays, arrays.extras[name])

    def _values(self, file: AlohaFile, array: Hdf5Array) -> NDArray[Any]:
        """All rows of an array; actions are delayed by one tick where `action_offset` is 1."""
        values = self._hdf5.values(file.path, array)
        if self.read.action_offset and array in file.actions:
            return np.concatenate([values[:1], values[:-1]])
        return values

    def read_frames(self, arrays: AlohaFile, camera: str, start: int, stop: int) -> Iterator[Frame]:
        size, array = self._spec.camera(camera), arrays.images[camera]
        is_raw = camera in arrays.shapes
        read: Callable[[int, int], Any] = partial(
            self._hdf5.rows if is_raw else self._hdf5.byte_rows, arrays.path, array
        )
        row_bytes = array.row_bytes if array.kind == "plain" else size.height * size.width
        rows = in_blocks(read, start, stop, row_bytes, array.chunk_rows)
        if is_raw:
            yield from rows
            return
        for tick, data in enumerate(rows, start):
            where = _tick_of(arrays, array, tick)
            yield images.decode(data, (size.height, size.width), where, COPY)

    def _fingerprint_parts(self) -> Iterator[bytes]:
        spec = self._spec
        yield repr(
            (spec.state_names, spec.action_names, spec.cameras, spec.rate_hz, self._channel_orders,
             self.read.action_offset)
        ).encode()  # fmt: skip
        if chosen := (self.read.state, self.read.action, self.read.environment) != ((), (), ()):
            yield repr((self.read.state, self.read.action, self.read.environment, chosen)).encode()
        for file in self._files:
            yield file_sha256(file.path).encode()

    def _select_cameras(self, file: AlohaFile) -> list[str]:
        available, given = [*file.images], [*self.read.cameras]
        listed = ", ".join(available) or "none"
        check_names(file.path, "camera", given, available, listed)
        stored = [str(name) for name in file.metadata.get("cameras", ())]
        return given or (stored if sorted(stored) == sorted(available) else available)

    def _channel_order(self, file: AlohaFile, camera: str) -> str:
        if self.read.colour != "unsaid":
            return self.read.colour
        if camera in file.shapes:
            return "rgb"
        order = file.metadata.get("colour")
        if order not in ("rgb", "bgr"):
            raise BadInput(
                f"{file.path}: {IMAGES}{camera} holds JPEG images, in which some recorders swap "
                "red and blue. Run `imitact convert SRC --colour-picture FILE.png` to see both "
                "orders, then give --read.colour rgb or --read.colour bgr"
            )
        return order

    def _make_spec(self, file: AlohaFile) -> Spec:
        read, rate_hz = self.read, ALOHA_RATE_HZ
        parts = {
            part: [_names_and_units(array) for array in arrays]
            for part, arrays in (("state", file.state), ("action", file.actions))
        }
        first_of_environment = len(file.state) - len(read.environment)
        environment_size = sum(array.width for array in file.state[first_of_environment:])
        if file.metadata:
            own = {"state": not read.state, "action": not read.action}
            names, units, rate_hz = file.stored_spec([part for part in own if own[part]])
            if own["state"]:
                parts["state"][0] = (names["state"], units["state"])
                environment_size += file.environment_size
            if own["action"]:
                parts["action"] = [(names["action"], units["action"])]
        both = {
            part: (
                distinct(name for names, _ in found for name in names),
                tuple(unit for _, units in found for unit in units),
            )
            for part, found in parts.items()
        }
        return Spec(
            state_names=both["state"][0],
            action_names=both["action"][0],
            state_units=both["state"][1],
            action_units=both["action"][1],
            cameras=tuple(Camera(name, *self._shapes[name].size) for name in self._cameras),
            rate_hz=read.rate_hz or rate_hz,
            environment_size=environment_size,
        )

    def _image_size(self, file: AlohaFile, camera: str) -> tuple[int, int]:
        """Height and width of the compressed images of a camera."""
        array = file.images[camera]
        first = self._hdf5.byte_rows(file.path, array, 0, 1)[0]
        return images.image_size(first, _tick_of(file, array, 0), COPY)

    def _check_alike(self, first: AlohaFile, file: AlohaFile) -> None:
        """Refuse a file whose arrays differ in size from those of the first."""
        for camera in self._cameras:
            if camera not in file.images:
                raise SpecMismatch(
                    f"{file.path} has no {IMAGES + camera}, which {first.path.name} has; its "
                    f"cameras: {', '.join(file.images) or 'none'}. Move the file out of the "
                    "folder, or name cameras that all files have with --read.cameras"
                )
        sizes = self._sizes(file)
        for path, expected in self._sizes(first).items():
            if sizes.get(path, expected) != expected:
                raise SpecMismatch(
                    f"{file.path}: {path} has {sizes[path]} per tick, but {expected} in "
                    f"{first.path.name}; all episodes of a dataset must have the same sizes. Move "
                    "the file out of the folder"
                )

    def _sizes(self, file: AlohaFile) -> dict[str, str]:
        """What each array has per tick, in words, by its path."""
        extras = {array.path: _value_count([array]) for array in file.extras.values()}
        images = {IMAGES + name: _image_shape(file.images[name]) for name in self._cameras}
        parts = (file.state, file.actions)
        vectors = {part[0].path: _value_count(part) for part in parts}
        return vectors | images | extras | vectors  # an extra may be one of the action's arrays


def _tick_of(file: AlohaFile, array: Hdf5Array, tick: int) -> str:
    return f"{file.path}: {array.path}, tick {tick},"


def _joint_names(count: int) -> tuple[str, ...]:
    return _JOINTS.get(count) or numbered("joint", count)


def _names_and_units(array: Hdf5Array) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and units of the values of an array, by the layout's rules for its path."""
    if array.path in (STATE, ACTION):
        names = _joint_names(array.width)
    elif array.path == BASE_ACTION:
        is_usual = array.width == len(ALOHA_BASE)
        names = tuple(ALOHA_BASE) if is_usual else numbered("base", array.width)
    else:
        names = value_names(array.path.rpartition("/")[2], array.width)
        return names, (UNKNOWN_UNIT,) * len(names)
    return names, tuple(map(_unit, names))


def _unit(name: str) -> str:
    if name in ALOHA_BASE or name.startswith(("joint_", "base_")):
        return ALOHA_BASE.get(name, UNKNOWN_UNIT)
    return "1" if name.endswith("gripper") else "rad"


def _typed(path: str) -> str:
    """The path of an array as it is given to an option."""
    return path.strip("/")


def _value_count(arrays: Sequence[Hdf5Array]) -> str:
    return " and ".join(str(array.width) for array in arrays) + " values"


def _image_shape(array: Hdf5Array) -> str:
    """Size of a camera's frames; compressed images are each checked when they are decoded."""
    if len(array.shape) < 3:
        return "a compressed image"
    sides = [size for size in array.shape[1:] if size not in (1, 3)] or array.shape[1:]
    return f"an image of {'x'.join(map(str, sides))}"
