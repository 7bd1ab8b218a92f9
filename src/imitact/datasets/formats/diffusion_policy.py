"""The diffusion-policy layout, read: a zarr group of arrays over all ticks, and where episodes end.

real-stanford/diffusion_policy diffusion_policy/common/replay_buffer.py: data/KEY, every array with
a row for each tick, and meta/episode_ends.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput, DamagedFile
from imitact.core.types import Frame, Spec
from imitact.datasets.formats.hdf5 import MOST_TICKS
from imitact.datasets.formats.key_selection import choose, spec_of
from imitact.datasets.formats.zarr import Store, ZarrArray, open_array
from imitact.datasets.lerobot.reader import MOST_VALUES, Complain
from imitact.datasets.read_config import ReadConfig
from imitact.datasets.row_blocks import in_blocks, in_float32, last_of
from imitact.parallel.isolated_process import IsolatedProcess

LAYOUT = "diffusion-policy"
ENDS = "meta/episode_ends"
_TAKES = ("rate_hz", "state", "action", "cameras", "colour")
_COPY = "Copy the dataset again from where it came."


class DiffusionPolicyDataset:
    """Episodes of a diffusion-policy replay buffer; itself a Source.

    path: the folder (…zarr), or a zip file of it (…zarr.zip).
    read: above all which arrays make up the state (`read.state`), and the rate (`read.rate_hz`).

    Cameras are the arrays of shape (ticks, H, W, 3): uint8, or floats that are whole numbers from
    0 to 255.
    """

    layout = LAYOUT

    def __init__(
        self,
        path: Path | str,
        read: ReadConfig | None = None,
        complain: Complain | None = None,
        apart: IsolatedProcess | None = None,
    ) -> None:
        self.path = Path(path)
        self.read = read or ReadConfig()
        self.read.refuse_others(LAYOUT, _TAKES)
        self._apart = apart or IsolatedProcess()
        store = Store(self.path)
        self._ends = self._read_ends(open_array(store, ENDS))
        total = self._ends[-1]
        self._arrays = {name: open_array(store, f"data/{name}") for name in store.arrays("data")}
        for array in self._arrays.values():
            if array.shape[0] < total:
                raise DamagedFile(
                    f"{self.path}: {array.name} has {array.shape[0]} rows, {ENDS} counts {total} "
                    f"ticks. {_COPY}"
                )
        vectors = {n: w for n, a in self._arrays.items() if (w := _width(a))}
        images = {n: (a.shape[1], a.shape[2]) for n, a in self._arrays.items() if _is_image(a)}
        self._keys = choose(
            self.path, self.read, vectors=vectors, images=images, actions=vectors,
            usual_action="action",
        )  # fmt: skip
        if not self.read.rate_hz:
            raise BadInput(f"{self.path} does not say its rate; give --read.rate-hz")
        self._spec = spec_of(
            self._keys, vectors=vectors, images=images, actions=vectors, rate_hz=self.read.rate_hz
        )

    @property
    def spec(self) -> Spec:
        return self._spec

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(np.diff([0, *self._ends]).tolist())

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the Spec, where episodes end, and every chunk that is read."""
        return self._fingerprint

    @property
    def left_out(self) -> dict[str, str]:
        """Arrays that are there and not in this Source."""
        return dict.fromkeys(sorted(set(self._arrays) - set(self._keys.all)), "not asked for")

    def episode(self, index: int) -> DiffusionPolicyEpisode:
        if not 0 <= index < len(self._ends):
            raise BadInput(f"no episode {index} in {self.path}; it has {len(self._ends)}")
        return DiffusionPolicyEpisode(index, self)

    def bounds(self, index: int) -> tuple[int, int]:
        """First row of an episode, and the row after its last."""
        return (self._ends[index - 1] if index else 0), self._ends[index]

    @cached_property
    def _fingerprint(self) -> str:
        about = (repr(self._spec), self._keys, self._ends, self.read.colour == "bgr")
        hash_ = hashlib.sha256(repr(about).encode())
        for key in self._keys.all:
            array = self._arrays[key]
            hash_.update(repr((array.shape, array.chunks, array.dtype.str, array.codec)).encode())
            for name in array.chunk_names():
                data = array.store.read(name, limit=1 << 32) if array.store.has(name) else b""
                hash_.update(hashlib.sha256(data).digest())
        return hash_.hexdigest()

    def _read_ends(self, array: ZarrArray) -> list[int]:
        file = array.store.file(ENDS)
        if len(array.shape) != 1 or array.dtype.kind not in "iu":
            raise DamagedFile(f"{file} is {array.told}; expected whole numbers in a row. {_COPY}")
        if not 1 <= array.shape[0] <= MOST_TICKS:
            raise BadInput(f"{file} counts {array.shape[0]} episodes; record some first")
        ends = [int(end) for end in array.rows(self._apart, 0, array.shape[0])]
        if any(b <= a for a, b in zip([0, *ends], ends, strict=False)) or ends[-1] > MOST_TICKS:
            raise DamagedFile(f"{file}: the ends of episodes do not rise from 1 tick on. {_COPY}")
        return ends


class DiffusionPolicyEpisode:
    """One episode; its numbers are read at first use, its frames each time."""

    def __init__(self, index: int, source: DiffusionPolicyDataset) -> None:
        self._index = index
        self._source = source

    @property
    def index(self) -> int:
        return self._index

    @property
    def state(self) -> NDArray[np.float32]:
        return self._state

    @cached_property
    def _state(self) -> NDArray[np.float32]:
        return np.concatenate([self._numbers(key) for key in self._source._keys.state], axis=1)

    @property
    def action(self) -> NDArray[np.float32]:
        return self._action

    @cached_property
    def _action(self) -> NDArray[np.float32]:
        return self._numbers(self._source._keys.action)

    def frames(self, camera: str, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """The frames of ticks start to stop; a few megabytes of them are in memory at a time."""
        source = self._source
        source.spec.camera(camera)
        first, end = source.bounds(self._index)
        stop = last_of(self._index, end - first, start, stop)
        array = source._arrays[camera]
        read = partial(array.rows, source._apart)
        rows = in_blocks(read, first + start, first + stop, array.row_bytes, array.chunks[0])
        for tick, row in enumerate(rows, start):
            frame = row if row.dtype == np.uint8 else self._whole(row, array, tick)
            yield np.ascontiguousarray(frame[..., ::-1] if source.read.colour == "bgr" else frame)

    def _numbers(self, key: str) -> NDArray[np.float32]:
        source = self._source
        first, end = source.bounds(self._index)
        return in_float32(source._arrays[key].rows(source._apart, first, end))

    def _whole(self, row: NDArray[Any], array: ZarrArray, tick: int) -> Frame:
        """A frame whose whole numbers are stored as floats (as pusht_cchi_v7_replay.zarr has)."""
        with np.errstate(invalid="ignore"):
            frame = np.clip(row, 0, 255).astype(np.uint8)
        if not np.array_equal(frame, row):
            raise BadInput(
                f"{self._source.path}: {array.name} is not made of whole numbers from 0 to 255 "
                f"(episode {self._index}, tick {tick}); imitact reads no other colours"
            )
        return frame


def is_diffusion_policy(path: Path) -> bool:
    """Whether there is a replay buffer at a path."""
    if path.is_dir():
        return (path / ENDS / ".zarray").is_file()
    return path.name.endswith((".zarr.zip", ".zip")) and path.is_file()


def _width(array: ZarrArray) -> int:
    """Values a tick of an array that can be a part of a state; 0 of others."""
    if len(array.shape) not in (1, 2):
        return 0
    width = array.shape[1] if len(array.shape) == 2 else 1
    return width if width <= MOST_VALUES else 0


def _is_image(array: ZarrArray) -> bool:
    shape = array.shape
    kind = array.dtype == np.uint8 or array.dtype.kind == "f"
    return kind and len(shape) == 4 and shape[3] == 3 and min(shape[1:3]) > 0
