"""The robomimic HDF5 layout, read: one file, one group a demonstration.

ARISE-Initiative/robomimic docs/datasets/overview.md describes it: data/demo_N/actions,
data/demo_N/obs/KEY, and mask/KEY with names of demonstrations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput, DamagedFile, SpecMismatch
from imitact.core.types import Frame, Spec
from imitact.datasets.formats.aloha import natural
from imitact.datasets.formats.hdf5 import Array, Hdf5
from imitact.datasets.formats.key_selection import choose, spec_of
from imitact.datasets.lerobot.reader import MOST_VALUES, Complain
from imitact.datasets.read_config import ReadConfig
from imitact.datasets.row_blocks import in_blocks, in_float32, last_of
from imitact.storage.checksum import file_sha256

LAYOUT = "robomimic"
_TAKES = ("rate_hz", "state", "action", "cameras", "colour", "subset")
_COPY = "Copy the file again from where it came."


@dataclass(frozen=True)
class Demo:
    """Where one demonstration lies.

    obs:     observation to its array.
    actions: array name to the array, of those directly in the demonstration's group.
    """

    name: str
    length: int
    obs: Mapping[str, Array]
    actions: Mapping[str, Array]


class RobomimicDataset:
    """Demonstrations of a robomimic file; itself a Source.

    path: the file.
    read: above all which observations make up the state (`read.state`).

    Demonstrations come in natural order, demo_2 before demo_10. Cameras are the observations of
    shape (T, H, W, 3) and type uint8. The rate is the environment's control_freq, unless said.
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
        arrays = self._hdf5.arrays(self.path)
        found: dict[str, dict[str, Array]] = {}
        for place, array in arrays.items():
            parts = place.split("/")
            if len(parts) >= 4 and parts[1] == "data":
                found.setdefault(parts[2], {})["/".join(parts[3:])] = array
        names = sorted(found, key=natural)
        if self.read.subset:
            names = self._subset(arrays, names)
        if not names:
            raise DamagedFile(f"{self.path} has no demonstration below /data. {_COPY}")
        first = self._look(names[0], found[names[0]], None)
        self._keys = choose(
            self.path,
            self.read,
            vectors=_vectors(first.obs),
            images=_images(first.obs),
            actions=_vectors(first.actions),
            usual_action="actions",
        )
        self._spec = spec_of(
            self._keys,
            vectors=_vectors(first.obs),
            images=_images(first.obs),
            actions=_vectors(first.actions),
            rate_hz=self.read.rate_hz or self._rate_hz(),
        )
        self.demos: list[Demo | None] = []
        for index, name in enumerate(names):
            try:
                demo = self._look(name, found[name], first)
                self._check(demo)
                self.demos.append(demo)
            except DamagedFile as error:
                if complain is None:
                    raise
                complain(error, [index])
                self.demos.append(None)
        self._left_out = sorted(
            {*first.obs, *first.actions} - {*self._keys.state, *self._keys.cameras,
                                            self._keys.action}
        )  # fmt: skip

    @property
    def spec(self) -> Spec:
        return self._spec

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(demo.length if demo else 0 for demo in self.demos)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the file, the Spec, and which demonstrations and keys are read."""
        return self._fingerprint

    @property
    def left_out(self) -> dict[str, str]:
        """What the demonstrations hold and this Source does not."""
        return dict.fromkeys(self._left_out, "not asked for")

    def episode(self, index: int) -> RobomimicEpisode:
        if not 0 <= index < len(self.demos):
            raise BadInput(f"no episode {index} in {self.path}; it has {len(self.demos)}")
        demo = self.demos[index]
        if demo is None:
            raise DamagedFile(f"episode {index} of {self.path} cannot be read. {_COPY}")
        return RobomimicEpisode(index, demo, self)

    @cached_property
    def _fingerprint(self) -> str:
        about = (repr(self._spec), self._keys, self.read.colour == "bgr",
                 [demo.name for demo in self.demos if demo])  # fmt: skip
        hash_ = hashlib.sha256(repr(about).encode())
        hash_.update(file_sha256(self.path).encode())
        return hash_.hexdigest()

    def _look(self, name: str, arrays: Mapping[str, Array], first: Demo | None) -> Demo:
        """A demonstration's arrays; of the first one all, of the others those that are read."""
        wanted = None if first is None else set(self._keys.all)
        obs = {k.removeprefix("obs/"): a for k, a in arrays.items() if k.startswith("obs/")}
        own = {k: a for k, a in arrays.items() if "/" not in k and a.is_numbers}
        obs = {k: a for k, a in obs.items() if "/" not in k and (not wanted or k in wanted)}
        length = next((a.shape[0] for a in own.values() if len(a.shape) >= 1), 0)
        action = self._keys.action if first else self.read.action or "actions"
        if action in own and own[action].shape:
            length = own[action].shape[0]
        return Demo(name, length, obs, own)

    def _check(self, demo: Demo) -> None:
        """Refuse a demonstration that lacks something, or whose arrays have other sizes."""
        spec, keys = self._spec, self._keys
        where = f"{self.path}: /data/{demo.name}"
        widths = {k: w for k, w in _vectors(demo.obs).items() if k in keys.state}
        for key in keys.state:
            if key not in widths:
                raise DamagedFile(f"{where} has no numbers /obs/{key}. {_COPY}")
        if keys.action not in _vectors(demo.actions):
            raise DamagedFile(f"{where} has no numbers /{keys.action}. {_COPY}")
        size = _vectors(demo.actions)[keys.action]
        if sum(widths.values()) != spec.state_size or size != spec.action_size:
            raise SpecMismatch(
                f"{where} has {sum(widths.values())} values of the state and {size} of the action, "
                f"the first demonstration has {spec.state_size} and {spec.action_size}"
            )
        images = _images(demo.obs)
        for camera in spec.cameras:
            if images.get(camera.name) != (camera.height, camera.width):
                raise SpecMismatch(
                    f"{where}/obs/{camera.name} has size {images.get(camera.name)}, that of the "
                    f"first demonstration {(camera.height, camera.width)}"
                )
        arrays = [demo.actions[keys.action],
                  *(demo.obs[k] for k in (*keys.state, *keys.cameras))]  # fmt: skip
        for array in arrays:
            self._hdf5.checked(self.path, array)
            if array.shape[0] != demo.length:
                raise DamagedFile(
                    f"{self.path}: {array.path} has {array.shape[0]} rows, the actions have "
                    f"{demo.length}. {_COPY}"
                )

    def _subset(self, arrays: Mapping[str, Array], there: list[str]) -> list[str]:
        path = f"/mask/{self.read.subset}"
        masks = [p.removeprefix("/mask/") for p in arrays if p.startswith("/mask/")]
        if path not in arrays or len(arrays[path].shape) != 1:
            raise BadInput(f"{self.path} has no filter key {self.read.subset!r}; it has {masks}")
        array = arrays[path]
        cells = self._hdf5.cells(self.path, array, 0, min(array.shape[0], 1_000_000))
        names = {cell.rstrip(b"\0").decode(errors="replace") for cell in cells}
        if unknown := names - set(there):
            raise DamagedFile(
                f"{self.path}: {path} names demonstrations that are not there: "
                f"{sorted(unknown)[:5]}. {_COPY}"
            )
        return [name for name in there if name in names]

    def _rate_hz(self) -> float:
        text = self._hdf5.attributes(self.path, "/data").get("env_args", "")
        try:
            told = msgspec.json.decode(str(text).encode())
            rate = told["env_kwargs"]["control_freq"]
            if isinstance(rate, int | float) and 0 < rate < float("inf"):
                return float(rate)
        except (msgspec.DecodeError, KeyError, TypeError, RecursionError):
            pass
        raise BadInput(
            f"{self.path} does not say its rate (env_args of /data has no control_freq); give "
            "--read.rate-hz"
        )


class RobomimicEpisode:
    """One demonstration; its numbers are read at first use, its frames each time."""

    def __init__(self, index: int, demo: Demo, source: RobomimicDataset) -> None:
        self.name = demo.name
        self._index = index
        self._demo = demo
        self._source = source

    @property
    def index(self) -> int:
        return self._index

    @property
    def state(self) -> NDArray[np.float32]:
        return self._state

    @cached_property
    def _state(self) -> NDArray[np.float32]:
        rows = [self._numbers(self._demo.obs[key]) for key in self._source._keys.state]
        return np.concatenate(rows, axis=1)

    @property
    def action(self) -> NDArray[np.float32]:
        return self._action

    @cached_property
    def _action(self) -> NDArray[np.float32]:
        return self._numbers(self._demo.actions[self._source._keys.action])

    def frames(self, camera: str, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """The frames of ticks start to stop; a few megabytes of them are in memory at a time."""
        self._source.spec.camera(camera)
        stop = last_of(self._index, self._demo.length, start, stop)
        array = self._demo.obs[camera]
        read = partial(self._source._hdf5.rows, self._source.path, array)
        for frame in in_blocks(read, start, stop, array.row_bytes, array.chunk_rows):
            swapped = self._source.read.colour == "bgr"
            yield np.ascontiguousarray(frame[..., ::-1]) if swapped else frame

    def _numbers(self, array: Array) -> NDArray[np.float32]:
        return in_float32(self._source._hdf5.numbers(self._source.path, array))


def is_robomimic(arrays: Mapping[str, Array]) -> bool:
    """Whether a file of these arrays is of this layout."""
    return any(path.startswith("/data/") and path.count("/") >= 3 for path in arrays)


def _vectors(arrays: Mapping[str, Array]) -> dict[str, int]:
    """Arrays that can be a part of a state, and their values a tick."""
    widths = {k: a.shape[1] if len(a.shape) == 2 else 1 for k, a in arrays.items()
              if a.is_numbers and len(a.shape) in (1, 2)}  # fmt: skip
    return {key: width for key, width in widths.items() if 1 <= width <= MOST_VALUES}


def _images(arrays: Mapping[str, Array]) -> dict[str, tuple[int, int]]:
    """Arrays that are cameras, and the height and width of their frames."""
    return {k: (a.shape[1], a.shape[2]) for k, a in arrays.items()
            if a.kind == "plain" and np.dtype(a.dtype) == np.uint8 and len(a.shape) == 4
            and a.shape[3] == 3 and min(a.shape[1:3]) > 0}  # fmt: skip
