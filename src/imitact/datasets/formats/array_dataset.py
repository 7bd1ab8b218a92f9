"""Array datasets: base classes of the HDF5 and zarr layouts, whose episodes are rows of arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput, DamagedFile
from imitact.core.types import Dataset, Episode, Frame, Spec
from imitact.datasets.read_config import Layout, OnDamage, ReadConfig
from imitact.datasets.row_blocks import as_float32, checked_stop


class EpisodeArrays(Protocol):
    """Where the arrays of one episode are."""

    @property
    def length(self) -> int: ...


E = TypeVar("E", bound=EpisodeArrays)
Name = TypeVar("Name")


class ArrayDataset(Dataset, Generic[E]):
    """Dataset whose episodes are located when it is opened and read when they are used.

    Subclasses set `_spec` and `_located`, and implement `_open` and `_fingerprint_parts`.

    Args:
        path: file or folder of the dataset.
        read: read options; refuses those that are not in `READ_OPTIONS`.
    """

    LAYOUT: ClassVar[Layout]
    READ_OPTIONS: ClassVar[tuple[str, ...]]

    _spec: Spec
    _located: Sequence[E | None]
    """The episodes in order; None where an episode is damaged."""

    def __init__(self, path: Path | str, read: ReadConfig | None) -> None:
        self._path = Path(path)
        self.read = read or ReadConfig()
        self.read.refuse_unused(self.LAYOUT, self.READ_OPTIONS)

    @property
    def spec(self) -> Spec:
        return self._spec

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(arrays.length if arrays else 0 for arrays in self._located)

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        hash_ = hashlib.sha256()
        for part in self._fingerprint_parts():
            hash_.update(part)
        return hash_.hexdigest()

    @property
    def path(self) -> Path:
        return self._path

    @property
    def layout(self) -> str:
        return self.LAYOUT

    @property
    def read_options(self) -> Mapping[str, Any]:
        return self.read.given()

    def episode(self, index: int) -> ArrayEpisode:
        if not 0 <= index < len(self._located):
            raise BadInput(
                f"{self.path} has no episode {index}; it has {len(self._located)}, numbered from 0"
            )
        arrays = self._located[index]
        if arrays is None:
            raise DamagedFile(
                f"episode {index} of {self.path} is damaged. Copy the file again from its source, "
                "or record it again."
            )
        return self._open(index, arrays)

    def _open(self, index: int, arrays: E) -> ArrayEpisode:
        raise NotImplementedError

    def _fingerprint_parts(self) -> Iterator[bytes]:
        raise NotImplementedError


class ArrayEpisode(Episode):
    """Episode whose numbers are read once, at first use, and whose frames at each call.

    Args:
        index: position in the dataset.
        length: number of ticks T.
        spec: the Spec of the dataset.
        bgr_cameras: cameras whose stored channels are in the order BGR.
    """

    def __init__(
        self, index: int, length: int, spec: Spec, bgr_cameras: Collection[str] = ()
    ) -> None:
        self._index = index
        self._length = length
        self._spec = spec
        self._bgr_cameras = frozenset(bgr_cameras)

    @property
    def index(self) -> int:
        return self._index

    @property
    def state(self) -> NDArray[np.float32]:
        return self._state

    @cached_property
    def _state(self) -> NDArray[np.float32]:
        return _side_by_side(self._read_state())

    @property
    def action(self) -> NDArray[np.float32]:
        return self._action

    @cached_property
    def _action(self) -> NDArray[np.float32]:
        return _side_by_side(self._read_action())

    def frames(self, camera: str, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Frames of ticks `start` to `stop`; holds a few megabytes of them at a time."""
        self._spec.camera(camera)
        stop = checked_stop(self._index, self._length, start, stop)
        for frame in self._read_frames(camera, start, stop):
            is_bgr = camera in self._bgr_cameras
            yield np.ascontiguousarray(frame[..., ::-1]) if is_bgr else frame

    def _read_state(self) -> Iterable[NDArray[Any]]:
        """Arrays with a row per tick whose columns, side by side, are the state."""
        raise NotImplementedError

    def _read_action(self) -> Iterable[NDArray[Any]]:
        """Arrays with a row per tick whose columns, side by side, are the action."""
        raise NotImplementedError

    def _read_frames(self, camera: str, start: int, stop: int) -> Iterator[Frame]:
        """Frames with the channels in their stored order."""
        raise NotImplementedError


def locate_episodes(
    names: Iterable[Name], locate: Callable[[Name], E], on_damage: OnDamage | None
) -> list[E | None]:
    """Locate every episode; a damaged one is raised, or given to `on_damage` and left None."""
    located: list[E | None] = []
    for index, name in enumerate(names):
        try:
            located.append(locate(name))
        except DamagedFile as error:
            if on_damage is None:
                raise
            on_damage(error, [index])
            located.append(None)
    return located


def _side_by_side(arrays: Iterable[NDArray[Any]]) -> NDArray[np.float32]:
    return np.concatenate([as_float32(values) for values in arrays], axis=1)
