"""Append episodes to a folder in the ALOHA HDF5 layout, each file whole or not there.

What the released code needs is there: `sim`, /observations/qvel, /observations/images/CAMERA,
/action (tonyzhaozh/act utils.py), and for compressed images `compress` and /compress_len
(MarkFzp/act-plus-plus compress_data.py). What the layout has no place for (names, units, rate, the
order of cameras and of colours, the task) is JSON in the attribute "imitact", which other readers
ignore.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from imitact.core.aloha_joints import ALOHA_BASE
from imitact.core.errors import BadInput, SpecMismatch
from imitact.core.types import Frame, Spec
from imitact.datasets import images as stills
from imitact.datasets.formats.aloha import (
    ACTION,
    BASE_ACTION,
    IMAGES,
    LENGTHS,
    STATE,
    TOLD,
    TOLD_FORMAT,
    VELOCITY,
    path_of,
)
from imitact.storage.atomic import disk_full_guard, fsync, move_into_place

Images = Literal["plain", "jpeg"]
JPEG_COLOUR = "bgr"
"""As the ALOHA recorders store JPEG: decoded by OpenCV without conversion, it is RGB, which is how
act-plus-plus reads it."""


class AlohaWriter:
    """Appends episodes to `out`; opening it again goes on after the last one that is there.

    out:     created if it is not there; episode i is the file episode_i.hdf5.
    images:  "plain" stores every pixel, 0.9 MB a frame of 480x640; "jpeg" compresses each frame.
    staging: a folder on the same disk; what is not finished lies there, and nowhere else.

    Only one writer may be open.
    """

    def __init__(self, out: Path, spec: Spec, *, images: Images, staging: Path) -> None:
        for camera in spec.cameras:
            if "/" in camera.name or camera.name in (".", ".."):
                raise BadInput(f"camera {camera.name!r}: HDF5 allows no such name")
        self.out = out
        self._spec = spec
        self._images: Images = images
        self._staging = staging
        for file in staging.glob("episode_*"):
            file.unlink()
        self._episodes = 0
        while self._file(self._episodes).is_file():
            self._episodes += 1
        later = [n for n in _numbers_in(out) if n > self._episodes]
        if later:
            raise BadInput(
                f"{out} holds episode_{later[0]}.hdf5 and no episode_{self._episodes}.hdf5; give "
                "a new folder"
            )

    @property
    def episodes(self) -> int:
        """How many are finished."""
        return self._episodes

    def append(
        self,
        state: NDArray[np.floating[Any]],
        action: NDArray[np.floating[Any]],
        frames: Mapping[str, Iterable[Frame]],
        *,
        extras: Mapping[str, NDArray[Any]],
        task: str = "",
        sim: bool = True,
    ) -> list[str]:
        """Add one episode of T ticks; gives the features among `extras` that it has no place for.

        state, action: (T, S) and (T, A); stored as float32. Values of a mobile base at the end of
                       the action (`BASE`) go to /base_action.
        frames:        camera name to its T frames, taken one by one.
        extras:        feature name to a row for each tick (docs/formats.md).
        sim:           whether action[t] answers the observation of t; where it is false the
                       released code moves the actions by one tick.
        """
        spec, length = self._spec, len(state)
        want = ((length, spec.state_size), (length, spec.action_size))
        if (state.shape, action.shape) != want or length < 1:
            raise SpecMismatch(
                f"state {state.shape}, action {action.shape}; expected {want}, T >= 1"
            )
        arrays, homeless = self._arrays(state, action, extras)
        file = self._file(self._episodes)
        staged = self._staging / file.name
        told = self._told(task, invented=[VELOCITY] if VELOCITY not in arrays else [])
        arrays.setdefault(VELOCITY, np.zeros_like(state, dtype=np.float32))
        try:
            with disk_full_guard(self.out), _full_disks_are_told():
                self._write(staged, arrays, frames, length, sim, told)
                fsync(staged)
                move_into_place(staged, file)
        finally:
            staged.unlink(missing_ok=True)
        self._episodes += 1
        return homeless

    def _arrays(
        self,
        state: NDArray[np.floating[Any]],
        action: NDArray[np.floating[Any]],
        extras: Mapping[str, NDArray[Any]],
    ) -> tuple[dict[str, NDArray[Any]], list[str]]:
        """Everything but images by its path, and the features that have no path of their own."""
        arms = self._spec.action_size - based_values(self._spec)
        arrays: dict[str, NDArray[Any]] = {STATE: np.asarray(state, np.float32)}
        arrays[ACTION] = np.asarray(action[:, :arms], np.float32)
        if arms < self._spec.action_size:
            arrays[BASE_ACTION] = np.asarray(action[:, arms:], np.float32)
        homeless = []
        for name, values in extras.items():
            path = path_of(name)
            if path in arrays:  # the same numbers with more digits, or other numbers
                with np.errstate(over="ignore"):
                    rounded = values.astype(np.float32)
                if rounded.tobytes() != arrays[path].tobytes():
                    homeless.append(name)
                    continue
            elif "/" in name or path.count("/") > 2 or path.startswith(IMAGES):
                homeless.append(name)
                continue
            arrays[path] = values
        return arrays, homeless

    def _write(
        self,
        staged: Path,
        arrays: Mapping[str, NDArray[Any]],
        frames: Mapping[str, Iterable[Frame]],
        length: int,
        sim: bool,
        told: str,
    ) -> None:
        import h5py

        cameras = self._spec.cameras
        if self._images == "plain":
            self._check_room(sum(length * c.height * c.width * 3 for c in cameras))
        with h5py.File(staged, "w", rdcc_nbytes=2 << 20) as file:
            file.attrs["sim"] = sim
            file.attrs[TOLD] = told
            file.create_group(IMAGES)
            for path, values in arrays.items():
                file.create_dataset(path, data=values)
            lengths = {}
            for camera in cameras:
                path, given = IMAGES + camera.name, frames[camera.name]
                checked = self._checked(given, camera.name, length)
                if self._images == "plain":
                    shape = (camera.height, camera.width, 3)
                    array = file.create_dataset(
                        path, (length, *shape), dtype="uint8", chunks=(1, *shape)
                    )
                    for tick, frame in enumerate(checked):
                        array[tick] = frame
                else:
                    lengths[camera.name] = self._write_jpeg(file, path, checked, length)
            if lengths:
                file.attrs["compress"] = True
                # A row a camera in the order of the names, as compress_data.py has it.
                rows = np.array([lengths[name] for name in sorted(lengths)], np.float32)
                file.create_dataset(LENGTHS, data=rows)

    def _write_jpeg(self, file: Any, path: str, frames: Iterator[Frame], length: int) -> list[int]:
        """The size of each image in bytes. Images wait in a file until the longest is known."""
        waiting = self._staging / "episode_images"
        sizes = []
        try:
            with waiting.open("wb") as out:
                for frame in frames:
                    data = stills.jpeg(np.ascontiguousarray(frame[..., ::-1]))
                    sizes.append(len(data))
                    out.write(data)
            widest = max(sizes)
            self._check_room(widest * length)
            array = file.create_dataset(path, (length, widest), dtype="uint8", chunks=(1, widest))
            with waiting.open("rb") as back:
                for tick, size in enumerate(sizes):
                    array[tick] = np.frombuffer(back.read(size).ljust(widest, b"\0"), np.uint8)
        finally:
            waiting.unlink(missing_ok=True)
        return sizes

    def _checked(self, frames: Iterable[Frame], camera: str, length: int) -> Iterator[Frame]:
        count = 0
        for count, frame in enumerate(frames, 1):
            if count > length:
                break
            self._spec.check_frame(camera, frame, f"tick {count - 1}")
            yield frame
        if count != length:
            raise SpecMismatch(
                f"camera {camera!r} gave {count} frames, the episode has {length} ticks"
            )

    def _told(self, task: str, invented: list[str]) -> str:
        spec = self._spec
        told: dict[str, Any] = {
            "format": TOLD_FORMAT,
            "state": {"names": list(spec.state_names), "units": list(spec.state_units)},
            "action": {"names": list(spec.action_names), "units": list(spec.action_units)},
            "rate_hz": spec.rate_hz,
            "cameras": [camera.name for camera in spec.cameras],
            "invented": invented,
        }
        if task:
            told["task"] = task
        if self._images == "jpeg":
            told["colour"] = JPEG_COLOUR
        text = json.dumps(told, ensure_ascii=True)
        if len(text) > 60_000:  # an attribute holds 64 kB
            raise BadInput(f"names of {spec.state_size + spec.action_size} values are too long "
                           "for an HDF5 attribute")  # fmt: skip
        return text

    def _check_room(self, needed: int) -> None:
        free = shutil.disk_usage(self._staging).free
        if free < needed:
            raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed", str(self.out))

    def _file(self, index: int) -> Path:
        return self.out / f"episode_{index}.hdf5"


def based_values(spec: Spec) -> int:
    """How many of the last values of an action are those of a mobile base."""
    names = tuple(ALOHA_BASE)
    if spec.action_size > len(names) and spec.action_names[-len(names) :] == names:
        return len(names)
    count = 0
    while count < spec.action_size - 1 and re.fullmatch(r"base_\d+", spec.action_names[-1 - count]):
        count += 1
    return count


def _numbers_in(out: Path) -> list[int]:
    found = (re.fullmatch(r"episode_([0-9]{1,9})\.hdf5", p.name) for p in out.glob("episode_*"))
    return sorted(int(match[1]) for match in found if match)


@contextmanager
def _full_disks_are_told() -> Iterator[None]:
    """HDF5 tells the system's errors in words; a full disk becomes one that `room_for` knows."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        found = re.search(r"errno = (\d+)", str(error))
        if found and int(found[1]) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(int(found[1]), "no room left") from error
        raise
