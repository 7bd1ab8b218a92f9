"""diffusion-policy reader: a zarr group whose arrays hold the ticks of all episodes.

Layout: real-stanford/diffusion_policy, diffusion_policy/common/replay_buffer.py: data/KEY, arrays
with a row per tick, and meta/episode_ends.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from imitact.core.errors import BadInput, DamagedFile
from imitact.core.types import Frame
from imitact.core.words import counted
from imitact.datasets.formats.array_dataset import ArrayDataset
from imitact.datasets.formats.zarr import COPY, ZarrArray, ZarrStore, open_array
from imitact.datasets.frame_arrays import without_maps
from imitact.datasets.key_selection import AvailableKeys, classify
from imitact.datasets.read_config import MAX_EPISODE_TICKS, OnDamage
from imitact.datasets.row_blocks import in_blocks

ENDS = "meta/episode_ends"
MAX_EPISODES = 1_000_000
"""Higher counts of episodes are wrong."""

_MAX_MISSING = 1000
"""Missing chunks of an array, beyond which it is refused: a header of a few bytes may promise ten
million."""


@dataclass(frozen=True)
class RowSpan:
    """Rows `first` to `stop` (exclusive) of every array, which hold one episode."""

    first: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.first


class DiffusionPolicyDataset(ArrayDataset[RowSpan]):
    """Episodes of a diffusion-policy replay buffer.

    Cameras are the arrays in the shape of colour or grey frames. The path is the folder NAME.zarr,
    or a zip file of it. Required are `read.state`, which names the arrays of the state, and
    `read.rate_hz`. `on_damage` is not used: damage to one of the shared arrays concerns every
    episode.
    """

    LAYOUT = "diffusion-policy"
    READ_OPTIONS = ("rate_hz", "state", "action", "environment", "cameras", "colour")

    def _open(self, on_damage: OnDamage | None) -> None:
        store = ZarrStore(self.path)
        self._ends = self._read_ends(open_array(store, ENDS))
        self._located = [RowSpan(*ends) for ends in itertools.pairwise([0, *self._ends])]
        self._arrays = {name: open_array(store, f"data/{name}") for name in store.arrays("data")}
        for array in self._arrays.values():
            if array.shape[0] < self._ends[-1]:
                raise DamagedFile(
                    f"{self.path}: {array.name} has {counted(array.shape[0], 'row')}, but {ENDS} "
                    f"gives {counted(self._ends[-1], 'tick')}. {COPY}"
                )
        numbers = {n: (a.shape, a.dtype.str) for n, a in self._arrays.items()}
        vectors, self._shapes, unreadable, others = classify(numbers)
        self._shapes, maps = without_maps(
            self._shapes,
            lambda name: self._arrays[name].dtype,
            lambda name: self._rows(name, 0, 1),
        )
        unreadable |= maps
        others |= dict.fromkeys(store.unread("data"), "it is no array of zarr's format 2")
        if (videos := self.path.parent / "videos").is_dir() and not self._shapes:
            unreadable[str(videos)] = (
                "imitact reads frames from the buffer, not from videos beside it"
            )
        available = AvailableKeys(vectors, self._shapes, vectors, unreadable, others)
        self._keys = available.select(self.path, self.read, ("action",))
        self._unread_cameras = tuple(unreadable)
        how = {n: shape.stored_so(self._arrays[n].dtype.str) for n, shape in self._shapes.items()}
        self._notices = available.notices(self._keys, self.read, how)
        self._left_out = self._keys.left_out(self._arrays) | unreadable | others
        if not self.read.rate_hz:
            raise BadInput(f"{self.path} does not store its rate; give --read.rate-hz")
        self._spec = available.spec(self._keys, self.read.rate_hz)

    @property
    def left_out(self) -> Mapping[str, str]:
        return self._left_out

    def read_state(self, arrays: RowSpan) -> list[NDArray[Any]]:
        keys = (*self._keys.state, *self._keys.environment)
        return [self._rows(key, arrays.first, arrays.stop) for key in keys]

    def read_action(self, arrays: RowSpan) -> list[NDArray[Any]]:
        return [self._rows(key, arrays.first, arrays.stop) for key in self._keys.action]

    def read_frames(self, arrays: RowSpan, camera: str, start: int, stop: int) -> Iterator[Frame]:
        array, first = self._arrays[camera], arrays.first
        read = partial(self._rows, camera)
        return in_blocks(read, first + start, first + stop, array.row_bytes, array.chunks[0])

    def _rows(self, key: str, first: int, stop: int) -> NDArray[Any]:
        return self._arrays[key].rows(self._process, first, stop)

    def _fingerprint_parts(self) -> Iterator[bytes]:
        is_bgr = self.read.colour == "bgr"
        yield repr((repr(self._spec), self._keys, self._ends, is_bgr)).encode()
        for key in self._keys.all:
            array = self._arrays[key]
            yield repr((array.shape, array.chunks, array.dtype.str, array.codec)).encode()
            missing = 0
            for name in array.chunk_names():
                is_there = array.store.has(name)
                missing += not is_there
                if missing > _MAX_MISSING:
                    raise DamagedFile(
                        f"{array.store.path}: more than {_MAX_MISSING:,} chunks of "
                        f"{array.description} are missing. {COPY}"
                    )
                data = array.store.read(name, limit=1 << 32) if is_there else b""
                yield hashlib.sha256(data).digest()

    def _read_ends(self, array: ZarrArray) -> list[int]:
        file = array.store.path / ENDS
        if len(array.shape) != 1 or array.dtype.kind not in "iu":
            raise DamagedFile(
                f"{file} is {array.description}; expected one axis of integers. {COPY}"
            )
        if not 1 <= array.shape[0] <= MAX_EPISODES:
            raise BadInput(
                f"{file} lists {array.shape[0]:,} episodes; expected 1 to {MAX_EPISODES:,}"
            )
        ends = [int(end) for end in array.rows(self._process, 0, array.shape[0])]
        lengths = [b - a for a, b in itertools.pairwise([0, *ends])]
        if min(lengths) < 1 or max(lengths) > MAX_EPISODE_TICKS:
            raise DamagedFile(
                f"{file}: the ends of episodes must increase, by at most {MAX_EPISODE_TICKS:,} "
                f"ticks. {COPY}"
            )
        return ends


def is_diffusion_policy(path: Path) -> bool:
    """Whether there is a replay buffer at a path."""
    if path.is_dir():
        return os.path.lexists(path / ENDS / ".zarray")
    return path.name.endswith((".zarr.zip", ".zip")) and path.is_file()
