"""Array datasets: base classes of the HDF5 and zarr layouts, whose episodes are rows of arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput, DamagedFile
from imitact.core.types import Dataset, Episode, Frame, Spec, overridable
from imitact.datasets.frame_arrays import FrameShape, as_uint8, top_of_range
from imitact.datasets.read_config import Layout, OnDamage, ReadConfig
from imitact.datasets.row_blocks import as_float32, checked_stop
from imitact.parallel.isolated_process import IsolatedProcess


class HasLength(Protocol):
    @property
    def length(self) -> int: ...


E = TypeVar("E", bound=HasLength)
"""Where the arrays of one episode are."""

Name = TypeVar("Name")


class ArrayDataset(Dataset, Generic[E]):
    """Dataset whose episodes are located when it is opened and read when they are used.

    Subclasses implement the methods below `episode`. Read options that are not in `READ_OPTIONS`
    are refused.

    `on_damage` takes the damage of each episode; without it the first is raised. A running
    `process`, which reads the files, saves starting another.
    """

    LAYOUT: ClassVar[Layout]
    READ_OPTIONS: ClassVar[tuple[str, ...]]

    _spec: Spec
    _located: Sequence[E | None]
    """The episodes in order; None where an episode is damaged."""
    _shapes: Mapping[str, FrameShape]
    """How the frames of each camera are stored."""
    _notices: Sequence[str] = ()
    _unread_cameras: Sequence[str] = ()

    def __init__(
        self,
        path: Path | str,
        read: ReadConfig | None = None,
        on_damage: OnDamage | None = None,
        process: IsolatedProcess | None = None,
    ) -> None:
        self._path = Path(path)
        self.read = read or ReadConfig()
        self.read.refuse_unused(self.LAYOUT, self.READ_OPTIONS)
        self._process = process or IsolatedProcess()
        self._white: dict[str, int] = {}
        self._open(on_damage)

    @property
    def spec(self) -> Spec:
        return self._spec

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(arrays.length if arrays else 0 for arrays in self._located)

    @overridable
    def fingerprint(self) -> str:
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

    @property
    def notices(self) -> tuple[str, ...]:
        return (*self._notices,)

    @property
    def unread_cameras(self) -> tuple[str, ...]:
        return (*self._unread_cameras,)

    def episode(self, index: int) -> Episode:
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
        return ArrayEpisode(self, index, arrays)

    def _open(self, on_damage: OnDamage | None) -> None:
        """Set `_spec`, `_located` and `_shapes`, and what is not read."""
        raise NotImplementedError

    def _fingerprint_parts(self) -> Iterator[bytes]:
        raise NotImplementedError

    def read_state(self, arrays: E) -> Iterable[NDArray[Any]]:
        """Arrays with a row per tick whose columns, side by side, are the state."""
        raise NotImplementedError

    def read_action(self, arrays: E) -> Iterable[NDArray[Any]]:
        """Arrays with a row per tick whose columns, side by side, are the action."""
        raise NotImplementedError

    def read_frames(self, arrays: E, camera: str, start: int, stop: int) -> Iterator[Frame]:
        """Frames as they are stored."""
        raise NotImplementedError

    def white(self, camera: str) -> int:
        """Which number is white in frames that are not uint8: 1 or 255."""
        if camera not in self._white:
            episodes = (arrays for arrays in self._located if arrays is not None)
            frames = (f for e in episodes for f in self.read_frames(e, camera, 0, e.length))
            self._white[camera] = top_of_range(frames)
        return self._white[camera]

    def rgb(self, frame: NDArray[Any], camera: str, index: int, tick: int) -> Frame:
        """Return a stored frame of a camera as uint8 RGB."""
        if frame.dtype != np.uint8:
            where = f"{self.path}: {camera} of episode {index} at tick {tick}"
            frame = as_uint8(frame, self.white(camera), where)
        frame = self._shapes[camera].to_rgb(frame)
        return np.ascontiguousarray(frame[..., ::-1]) if self.is_bgr(camera) else frame

    def is_bgr(self, camera: str) -> bool:
        """Whether the stored channels of a camera are in the order BGR."""
        return self.read.colour == "bgr"

    def read_extra(self, arrays: E, name: str) -> NDArray[Any]:
        """Values of an extra column."""
        raise BadInput(f"{self.path} has no column {name}")

    def origin(self, arrays: E) -> Mapping[str, Any] | None:
        """`Episode.origin`; None for the default."""
        return None

    def task(self, arrays: E) -> str:
        """`Episode.task`."""
        return ""


class ArrayEpisode(Episode, Generic[E]):
    """Episode whose numbers are read once, at first use, and whose frames at each call."""

    def __init__(self, dataset: ArrayDataset[E], index: int, arrays: E) -> None:
        self._dataset, self._index, self._arrays = dataset, index, arrays

    @property
    def index(self) -> int:
        return self._index

    @overridable
    def state(self) -> NDArray[np.float32]:
        return _side_by_side(self._dataset.read_state(self._arrays))

    @overridable
    def action(self) -> NDArray[np.float32]:
        return _side_by_side(self._dataset.read_action(self._arrays))

    def frames(self, camera: str, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Frames of ticks `start` to `stop`; holds a few megabytes of them at a time."""
        self._dataset.spec.camera(camera)
        stop = checked_stop(self._index, self._arrays.length, start, stop)
        frames = self._dataset.read_frames(self._arrays, camera, start, stop)
        for tick, frame in enumerate(frames, start):
            yield self._dataset.rgb(frame, camera, self._index, tick)

    @property
    def task(self) -> str:
        return self._dataset.task(self._arrays)

    @property
    def origin(self) -> Mapping[str, Any]:
        return self._dataset.origin(self._arrays) or {"name": str(self._index)}

    def extra_values(self, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        return {name: self._dataset.read_extra(self._arrays, name) for name in names}


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
