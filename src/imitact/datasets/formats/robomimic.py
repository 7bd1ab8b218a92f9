"""robomimic reader: one HDF5 file with a group per demonstration.

Layout: ARISE-Initiative/robomimic, docs/datasets/overview.md: data/demo_N/actions,
data/demo_N/obs/KEY, and mask/KEY with the names of demonstrations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray

from imitact.core.errors import BadInput, DamagedFile, SpecMismatch
from imitact.core.types import Frame
from imitact.core.words import counted
from imitact.datasets.formats.array_dataset import ArrayDataset, locate_episodes
from imitact.datasets.formats.hdf5 import Hdf5Array, Hdf5Reader, check_readable, natural_sort_key
from imitact.datasets.frame_arrays import FrameShape, without_maps
from imitact.datasets.key_selection import AvailableKeys, classify
from imitact.datasets.read_config import OnDamage
from imitact.datasets.row_blocks import in_blocks
from imitact.storage.checksum import file_sha256

_COPY = "Copy the file again from its source."


@dataclass(frozen=True)
class Demo:
    """Arrays of one demonstration; `actions` are those directly in its group, "demo_0"."""

    name: str
    length: int
    obs: Mapping[str, Hdf5Array]
    actions: Mapping[str, Hdf5Array]


class RobomimicDataset(ArrayDataset[Demo]):
    """Demonstrations of a robomimic file, in natural order: demo_2 before demo_10.

    Cameras are the observations in the shape of colour or grey frames. The rate is the control_freq
    of the environment, unless `read.rate_hz` is given; `read.state`, which names the observations
    of the state, is required.
    """

    LAYOUT = "robomimic"
    READ_OPTIONS = ("rate_hz", "state", "action", "environment", "cameras", "colour", "subset")

    def _open(self, on_damage: OnDamage | None) -> None:
        self._hdf5 = Hdf5Reader(self._process)
        arrays = self._hdf5.arrays(self.path)
        groups: dict[str, dict[str, Hdf5Array]] = {}
        for path_in_file, array in arrays.items():
            parts = path_in_file.split("/")
            if len(parts) >= 4 and parts[1] == "data":
                groups.setdefault(parts[2], {})["/".join(parts[3:])] = array
        names = sorted(groups, key=natural_sort_key)
        if self.read.subset:
            names = self._in_subset(arrays, names)
        if not names:
            raise DamagedFile(f"{self.path} has no demonstration below /data. {_COPY}")
        action = (self.read.action or ("actions",))[0]
        first = _demo(names[0], groups[names[0]], action)
        if not first.obs:
            raise BadInput(
                f"{self.path} has no observations, only what a simulator needs to make them; "
                "robomimic's dataset_states_to_obs.py writes a file with them"
            )
        vectors, self._shapes, unreadable, others = _classified(first.obs)
        self._shapes, maps = without_maps(
            self._shapes,
            lambda key: first.obs[key].dtype,
            lambda key: self._hdf5.rows(self.path, first.obs[key], 0, 1),
        )
        unreadable |= maps
        available = AvailableKeys(
            vectors, self._shapes, _classified(first.actions)[0], unreadable, others
        )
        self._keys = available.select(self.path, self.read, ("actions",))
        unreadable, others = self._with_unshared(groups, names, first, unreadable, others)
        available = replace(available, unreadable=unreadable, others=others)
        self._unread_cameras = tuple(unreadable)
        how = {name: s.stored_so(first.obs[name].dtype) for name, s in self._shapes.items()}
        self._notices = available.notices(self._keys, self.read, how)
        self._spec = available.spec(self._keys, self.read.rate_hz or self._control_freq_hz())
        self._left_out = self._keys.left_out((*first.obs, *first.actions)) | unreadable | others
        groups_of_demo = {key.partition("/")[0] for key in groups[names[0]] if "/" in key}
        for group in sorted(groups_of_demo - {"obs"}):
            self._left_out[group] = "not the observations of the tick"
        self._located = locate_episodes(
            names, lambda name: self._checked(_demo(name, groups[name], action)), on_damage
        )

    @property
    def left_out(self) -> Mapping[str, str]:
        return self._left_out

    def origin(self, arrays: Demo) -> Mapping[str, Any]:
        return {"name": arrays.name}

    def read_state(self, arrays: Demo) -> list[NDArray[Any]]:
        keys = (*self._keys.state, *self._keys.environment)
        return [self._hdf5.values(self.path, arrays.obs[key]) for key in keys]

    def read_action(self, arrays: Demo) -> list[NDArray[Any]]:
        return [self._hdf5.values(self.path, arrays.actions[key]) for key in self._keys.action]

    def read_frames(self, arrays: Demo, camera: str, start: int, stop: int) -> Iterator[Frame]:
        array = arrays.obs[camera]
        read = partial(self._hdf5.rows, self.path, array)
        return in_blocks(read, start, stop, array.row_bytes, array.chunk_rows)

    def _fingerprint_parts(self) -> Iterator[bytes]:
        names = [demo.name for demo in self._located if demo]
        yield repr((repr(self._spec), self._keys, self.read.colour == "bgr", names)).encode()
        yield file_sha256(self.path).encode()

    def _checked(self, demo: Demo) -> Demo:
        """Return the demonstration; refuse one that lacks an array or differs in size."""
        spec, keys = self._spec, self._keys
        where = f"{self.path}: /data/{demo.name}"
        vectors, images, _, _ = _classified(demo.obs)
        widths = {f"obs/{key}": width for key, width in vectors.items()}
        widths |= _classified(demo.actions)[0]
        state = [f"obs/{key}" for key in (*keys.state, *keys.environment)]
        for name in (*state, *keys.action):
            if name not in widths:
                raise DamagedFile(f"{where} has no numeric array /{name}. {_COPY}")
        sizes = tuple(sum(widths[name] for name in part) for part in (state, keys.action))
        if sizes != (spec.state_size, spec.action_size):
            raise SpecMismatch(
                f"{where} has {sizes[0]} state and {sizes[1]} action values per tick; the first "
                f"demonstration has {spec.state_size} and {spec.action_size}"
            )
        for camera in spec.cameras:
            found = images.get(camera.name)
            if found != self._shapes[camera.name]:
                raise SpecMismatch(
                    f"{where}/obs/{camera.name} has frames of size {found and found.size}; the "
                    f"first demonstration has {(camera.height, camera.width)}"
                )
        observations = [demo.obs[key] for key in (*keys.state, *keys.environment, *keys.cameras)]
        for array in (*(demo.actions[key] for key in keys.action), *observations):
            check_readable(self.path, array)
            if array.shape[0] != demo.length:
                raise DamagedFile(
                    f"{self.path}: {array.path} has {counted(array.shape[0], 'row')}, the action "
                    f"has {demo.length}. {_COPY}"
                )
        return demo

    def _with_unshared(
        self,
        groups: Mapping[str, Mapping[str, Hdf5Array]],
        names: Sequence[str],
        first: Demo,
        unreadable: Mapping[str, str],
        others: Mapping[str, str],
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Return what cannot be a camera, and what else cannot be read, of all demonstrations."""
        cameras, more = dict(unreadable), dict(others)
        for name in names:
            for path, array in groups[name].items():
                key = path.removeprefix("obs/")
                if not path.startswith("obs/") or key in {*first.obs, *cameras, *more}:
                    continue
                _, images, depth, _ = _classified({key: array})
                why = f"not in every demonstration: {name} has it, {first.name} not"
                if "/" in key:
                    why = "it is in a nested group"
                (cameras if key in {*images, *depth} else more)[key] = why
        for key, array in first.obs.items():
            if not array.is_numeric:
                more.setdefault(key, "it is not numbers")
        return cameras, more

    def _in_subset(self, arrays: Mapping[str, Hdf5Array], demos: list[str]) -> list[str]:
        path = f"/mask/{self.read.subset}"
        masks = ", ".join(p.removeprefix("/mask/") for p in arrays if p.startswith("/mask/"))
        if path not in arrays or len(arrays[path].shape) != 1:
            raise BadInput(
                f'{self.path} has no filter key "{self.read.subset}"; available: {masks or "none"}'
            )
        array = arrays[path]
        cells = self._hdf5.byte_rows(self.path, array, 0, min(array.shape[0], 1_000_000))
        names = {cell.rstrip(b"\0").decode(errors="replace") for cell in cells}
        if unknown := names - set(demos):
            raise DamagedFile(
                f"{self.path}: {path} lists demonstrations that are not in the file: "
                f"{', '.join(sorted(unknown)[:5])}. {_COPY}"
            )
        return [name for name in demos if name in names]

    def _control_freq_hz(self) -> float:
        text = self._hdf5.attributes(self.path, "/data").get("env_args", "")
        try:
            rate = msgspec.json.decode(str(text).encode())["env_kwargs"]["control_freq"]
            if isinstance(rate, int | float) and 0 < rate < float("inf"):
                return float(rate)
        except (msgspec.DecodeError, KeyError, TypeError, RecursionError):
            pass
        raise BadInput(
            f"{self.path} has no rate (no control_freq in env_args of /data); give --read.rate-hz"
        )


def is_robomimic(reader: Hdf5Reader, file: Path) -> bool:
    """Whether an HDF5 file has arrays where robomimic keeps them; stops at the first."""
    return reader.has_array(file, "/data")


def _demo(name: str, arrays: Mapping[str, Hdf5Array], action: str) -> Demo:
    obs = {path.removeprefix("obs/"): a for path, a in arrays.items() if path.startswith("obs/")}
    obs = {key: array for key, array in obs.items() if "/" not in key}
    own = {key: array for key, array in arrays.items() if "/" not in key and array.is_numeric}
    timed = [own[action], *own.values()] if action in own else [*own.values()]
    return Demo(name, next((a.shape[0] for a in timed if a.shape), 0), obs, own)


def _classified(
    arrays: Mapping[str, Hdf5Array],
) -> tuple[dict[str, int], dict[str, FrameShape], dict[str, str], dict[str, str]]:
    """What arrays of numbers can be, as `classify` tells them apart."""
    numbers = {key: (a.shape, a.dtype) for key, a in arrays.items() if a.is_numeric}
    return classify(numbers, named=lambda key: key.endswith("image"))
