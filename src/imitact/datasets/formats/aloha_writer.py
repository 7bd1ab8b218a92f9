"""ALOHA writer: episodes appended to a folder in the ALOHA HDF5 layout, each file atomically.

A file has what the released code reads: `sim`, /observations/qvel, /observations/images/CAMERA and
/action (tonyzhaozh/act utils.py), and `compress` and /compress_len for compressed images
(MarkFzp/act-plus-plus compress_data.py). What the layout has no place for (names, units, rate,
order of cameras and channels, task) is JSON in the attribute "imitact", which other readers ignore.
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
from imitact.core.words import counted
from imitact.datasets import images as stills
from imitact.datasets.formats import aloha_file
from imitact.datasets.formats.aloha_file import ACTION, BASE_ACTION, IMAGES, STATE, VELOCITY
from imitact.datasets.row_blocks import check_shapes
from imitact.storage.atomic import write_atomically
from imitact.storage.regular_file import create_file

Images = Literal["plain", "jpeg"]
JPEG_CHANNELS = "bgr"
"""Channel order of stored JPEG images, as the ALOHA recorders write them: OpenCV, used without
conversion, decodes them to RGB, which is how act-plus-plus reads them."""

_MAX_ATTRIBUTE_BYTES = 60_000
"""HDF5 limits an attribute to 64 kB."""


class AlohaWriter:
    """Appends episodes to a folder; a new writer continues after the last finished episode.

    Only one writer may be open per folder.

    Args:
        out: created if it is missing; episode i becomes the file episode_i.hdf5.
        images: "plain" stores every pixel, 0.9 MB per frame of 480x640; "jpeg" compresses frames.
        staging: folder on the same disk for unfinished files.
    """

    def __init__(self, out: Path, spec: Spec, *, images: Images, staging: Path) -> None:
        for camera in spec.cameras:
            if "/" in camera.name or camera.name in (".", ".."):
                raise BadInput(f'camera "{camera.name}": HDF5 does not allow this name; rename it')
        self.out = out
        self._spec = spec
        self._images: Images = images
        self._staging = staging
        self.episodes = 0
        """Number of finished episodes."""
        while self._file(self.episodes).is_file():
            self.episodes += 1
        names = (re.fullmatch(r"episode_([0-9]{1,9})\.hdf5", p.name) for p in out.glob("episode_*"))
        later = min((int(n[1]) for n in names if n and int(n[1]) > self.episodes), default=None)
        if later is not None:
            raise BadInput(
                f"{out} has episode_{later}.hdf5 but no episode_{self.episodes}.hdf5; give a new "
                "folder"
            )

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
        """Append one episode of T ticks; return the extras that the layout has no place for.

        Args:
            state: (T, S), stored as float32.
            action: (T, A), stored as float32; values of a mobile base at its end (`ALOHA_BASE`)
                become /base_action.
            frames: T frames of each camera, taken one at a time.
            extras: features with a row per tick (docs/formats.md).
            sim: whether action[t] answers the observation of tick t; where it is False, the
                released code delays the action by one tick.
        """
        check_shapes(self._spec, state, action)
        arrays, unsupported = self._arrays(state, action, extras)
        invented = [VELOCITY] if VELOCITY not in arrays else []
        attributes = {"sim": sim, aloha_file.METADATA: self._metadata(task, invented)}
        arrays.setdefault(VELOCITY, np.zeros_like(state, dtype=np.float32))

        def write(path: Path) -> None:
            with _hdf5_errors_as_os_errors():
                self._write(path, arrays, frames, attributes)

        write_atomically(self._file(self.episodes), write, self._staging)
        self.episodes += 1
        return unsupported

    def _arrays(
        self,
        state: NDArray[np.floating[Any]],
        action: NDArray[np.floating[Any]],
        extras: Mapping[str, NDArray[Any]],
    ) -> tuple[dict[str, NDArray[Any]], list[str]]:
        """All arrays but the images by path, and the extras that have no path."""
        arms = self._spec.action_size - _base_width(self._spec)
        arrays: dict[str, NDArray[Any]] = {STATE: np.asarray(state, np.float32)}
        arrays[ACTION] = np.asarray(action[:, :arms], np.float32)
        if arms < self._spec.action_size:
            arrays[BASE_ACTION] = np.asarray(action[:, arms:], np.float32)
        unsupported = []
        for name, values in extras.items():
            path = aloha_file.path_of(name)
            if path in arrays:  # maybe the same values with more digits
                with np.errstate(over="ignore"):
                    fits = values.astype(np.float32).tobytes() == arrays[path].tobytes()
            else:
                fits = "/" not in name and path.count("/") <= 2 and not path.startswith(IMAGES)
            if fits:
                arrays[path] = values
            else:
                unsupported.append(name)
        return arrays, unsupported

    def _write(
        self,
        staged: Path,
        arrays: Mapping[str, NDArray[Any]],
        frames: Mapping[str, Iterable[Frame]],
        attributes: Mapping[str, Any],
    ) -> None:
        import h5py

        cameras, length = self._spec.cameras, len(arrays[STATE])
        if self._images == "plain":
            self._check_free_space(sum(length * c.height * c.width * 3 for c in cameras))
        staged.unlink(missing_ok=True)  # a killed process's, or a link
        with h5py.File(staged, "w", rdcc_nbytes=2 << 20) as file:
            file.attrs.update(attributes)
            file.create_group(IMAGES)
            for path, values in arrays.items():
                file.create_dataset(path, data=values)
            lengths = {}
            for camera in cameras:
                path = IMAGES + camera.name
                checked = self._checked(frames[camera.name], camera.name, length)
                if self._images == "plain":
                    shape = (camera.height, camera.width, 3)
                    # `array` stays open until the next one is created: that fixes the file's bytes.
                    array = file.create_dataset(
                        path, (length, *shape), dtype="uint8", chunks=(1, *shape)
                    )
                    for tick, frame in enumerate(checked):
                        array[tick] = frame
                else:
                    lengths[camera.name] = self._write_jpeg(file, path, checked, length)
            if lengths:
                file.attrs["compress"] = True
                # One row per camera, sorted by name, as in compress_data.py.
                rows = np.array([lengths[name] for name in sorted(lengths)], np.float32)
                file.create_dataset(aloha_file.LENGTHS, data=rows)

    def _write_jpeg(self, file: Any, path: str, frames: Iterator[Frame], length: int) -> list[int]:
        """Return the size of each image in bytes.

        Images are kept in a temporary file, because the width of the array is the longest one.
        """
        packed = self._staging / "episode_images"
        sizes = []
        try:
            with create_file(packed) as out:
                for frame in frames:
                    data = stills.jpeg(np.ascontiguousarray(frame[..., ::-1]))
                    sizes.append(len(data))
                    out.write(data)
            widest = max(sizes)
            self._check_free_space(widest * length)
            array = file.create_dataset(path, (length, widest), dtype="uint8", chunks=(1, widest))
            with packed.open("rb") as back:
                for tick, size in enumerate(sizes):
                    array[tick] = np.frombuffer(back.read(size).ljust(widest, b"\0"), np.uint8)
        finally:
            packed.unlink(missing_ok=True)
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
                f'camera "{camera}" gave {counted(count, "frame")}, '
                f"the episode has {counted(length, 'tick')}"
            )

    def _metadata(self, task: str, invented: list[str]) -> str:
        spec = self._spec
        metadata: dict[str, Any] = {
            "format": aloha_file.METADATA_FORMAT,
            "state": {"names": list(spec.state_names), "units": list(spec.state_units)},
            "action": {"names": list(spec.action_names), "units": list(spec.action_units)},
            "rate_hz": spec.rate_hz,
            "cameras": [camera.name for camera in spec.cameras],
            "invented": invented,
        }
        if spec.environment_size:
            metadata["environment_size"] = spec.environment_size
        if task:
            metadata["task"] = task
        if self._images == "jpeg":
            metadata["colour"] = JPEG_CHANNELS
        text = json.dumps(metadata, ensure_ascii=True)
        if len(text) > _MAX_ATTRIBUTE_BYTES:
            raise BadInput(
                f"the names of {counted(spec.state_size + spec.action_size, 'value')} take "
                f"{len(text):,} bytes; an HDF5 attribute holds {_MAX_ATTRIBUTE_BYTES:,}"
            )
        return text

    def _check_free_space(self, needed: int) -> None:
        free = shutil.disk_usage(self._staging).free
        if free < needed:
            raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed", str(self.out))

    def _file(self, index: int) -> Path:
        return self.out / f"episode_{index}.hdf5"


def _base_width(spec: Spec) -> int:
    """Number of values at the end of the action that command a mobile base."""
    names = tuple(ALOHA_BASE)
    if spec.action_size > len(names) and spec.action_names[-len(names) :] == names:
        return len(names)
    count = 0
    while count < spec.action_size - 1 and re.fullmatch(r"base_\d+", spec.action_names[-1 - count]):
        count += 1
    return count


@contextmanager
def _hdf5_errors_as_os_errors() -> Iterator[None]:
    """Give a full disk its errno again, which HDF5 puts into the text of its error."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        found = re.search(r"errno = (\d+)", str(error))
        if found and int(found[1]) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(int(found[1]), "no room left") from error
        raise
