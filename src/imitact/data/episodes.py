"""Open a dataset whatever its format, choose episodes from it, hold some of them back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imitact.contract import BadInput, Episode, Frame, Source, Spec
from imitact.data.aloha_hdf5 import AlohaSource, natural
from imitact.data.diffusion_policy import DiffusionPolicySource, is_diffusion_policy
from imitact.data.hdf5 import Hdf5
from imitact.data.lerobot import IMITACT, INFO, Complain
from imitact.data.lerobot_v21 import open_lerobot
from imitact.data.read_config import Layout, ReadConfig
from imitact.data.robomimic import RobomimicSource, is_robomimic

_HDF5 = (".hdf5", ".h5", ".hdf")


def open_source(
    path: Path | str, read: ReadConfig | None = None, complain: Complain | None = None
) -> Source:
    """The dataset at a path, whatever its layout; docs/formats.md tells which there are.

    read:     what the dataset does not say of itself.
    complain: takes each damage of an episode that opening finds, where the first is raised
              otherwise; such an episode may be there in part, or with no ticks.
    """
    path, read = Path(path), read or ReadConfig()
    hdf5 = Hdf5()
    layout = read.layout if read.layout != "auto" else layout_of(path, hdf5)
    if layout == "aloha-hdf5":
        return AlohaSource(path, read, complain, hdf5)
    if layout == "robomimic":
        return RobomimicSource(_the_file(path), read, complain, hdf5)
    if layout == "diffusion-policy":
        return DiffusionPolicySource(path, read, complain)
    read.refuse_others("lerobot", ())
    return _open_lerobot(path, complain)


def _open_lerobot(path: Path, complain: Complain | None) -> Source:
    """A folder in LeRobot's layout, of any version that is read."""
    return open_lerobot(path, complain=complain)


def layout_of(path: Path, hdf5: Hdf5 | None = None) -> Layout:
    """The layout of the dataset at a path, by what is on disk; where nothing tells, LeRobot's."""
    if path.is_dir() and any((path / name).is_file() for name in (INFO, IMITACT)):
        return "lerobot"
    if is_diffusion_policy(path):
        return "diffusion-policy"
    files = _hdf5_files(path)
    if files:
        return "robomimic" if is_robomimic((hdf5 or Hdf5()).arrays(files[0])) else "aloha-hdf5"
    if path.is_file():
        raise BadInput(
            f"{path} is no dataset that can be read: a file is one episode of ALOHA (.hdf5), a "
            "robomimic dataset (.hdf5), or a diffusion-policy dataset (.zarr.zip)"
        )
    return "lerobot"


def is_dataset(path: Path) -> bool:
    """Whether a dataset of any layout seems to be at a path; nothing is opened."""
    return (path / INFO).is_file() or is_diffusion_policy(path) or bool(_hdf5_files(path))


def _hdf5_files(path: Path) -> list[Path]:
    """HDF5 files at a path, in natural order: those of a folder, or the file that it is."""
    if path.is_file():
        return [path] if path.suffix.lower() in _HDF5 else []
    if not path.is_dir():
        return []
    found = [
        p
        for p in path.iterdir()
        if p.suffix.lower() in _HDF5 and not p.name.startswith(".") and p.is_file()
    ]
    return sorted(found, key=lambda p: natural(p.name))


def _the_file(path: Path) -> Path:
    """The one robomimic file of a folder, or the file that a path is."""
    files = _hdf5_files(path)
    if len(files) != 1:
        raise BadInput(
            f"{path} holds {len(files)} HDF5 files, and a robomimic dataset is one; give that file"
        )
    return files[0]


class Subset:
    """Some episodes of a Source, in the order given, numbered from 0; itself a Source."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        count = len(source.lengths)
        for index in indices:
            if not 0 <= index < count:
                raise BadInput(f"no episode {index} to choose; the dataset has {count}")
        if len(set(indices)) != len(indices):
            raise BadInput("an episode was chosen twice")
        self.source = source
        self.indices = tuple(int(index) for index in indices)

    @property
    def spec(self) -> Spec:
        return self.source.spec

    @property
    def lengths(self) -> tuple[int, ...]:
        lengths = self.source.lengths
        return tuple(lengths[index] for index in self.indices)

    @property
    def fingerprint(self) -> str:
        """Of the Source and the choice."""
        text = f"{self.source.fingerprint} {self.indices}"
        return hashlib.sha256(text.encode()).hexdigest()

    def episode(self, index: int) -> Episode:
        if not 0 <= index < len(self.indices):
            raise BadInput(f"no episode {index} in this choice of {len(self.indices)}")
        return _Renumbered(index, self.source.episode(self.indices[index]))


class _Renumbered:
    """An Episode under its number in a Subset."""

    def __init__(self, index: int, episode: Episode) -> None:
        self._index = index
        self._episode = episode

    @property
    def index(self) -> int:
        return self._index

    @property
    def state(self) -> NDArray[np.float32]:
        return self._episode.state

    @property
    def action(self) -> NDArray[np.float32]:
        return self._episode.action

    def frames(self, camera: str, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        return self._episode.frames(camera, start, stop)


def split(source: Source, held_out: int) -> tuple[Subset, Subset]:
    """(train, held): the last `held_out` episodes are held back.

    The last ones, not some at random: of demonstrations from even starts they are those whose
    starts the others cover best, while a random one leaves a hole around its start, in which the
    policy then fails (docs/architecture.md); of a teleoperated session they are the latest.
    """
    count = len(source.lengths)
    if not 0 <= held_out < count:
        raise BadInput(
            f"{held_out} of {count} episodes were to be held out; at least one must be left"
        )
    kept = count - held_out
    return Subset(source, range(kept)), Subset(source, range(kept, count))
