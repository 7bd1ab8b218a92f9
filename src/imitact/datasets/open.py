"""Open a dataset whatever its format, choose episodes from it, hold some of them back."""

from __future__ import annotations

from pathlib import Path

from imitact.core.errors import BadInput
from imitact.core.types import Dataset
from imitact.datasets.formats.aloha import AlohaDataset, natural
from imitact.datasets.formats.diffusion_policy import DiffusionPolicyDataset, is_diffusion_policy
from imitact.datasets.formats.hdf5 import Hdf5
from imitact.datasets.formats.robomimic import RobomimicDataset, is_robomimic
from imitact.datasets.lerobot.reader import IMITACT, INFO, Complain
from imitact.datasets.lerobot.reader_v21 import open_lerobot
from imitact.datasets.read_config import Layout, ReadConfig

_HDF5 = (".hdf5", ".h5", ".hdf")


def open_dataset(
    path: Path | str, read: ReadConfig | None = None, complain: Complain | None = None
) -> Dataset:
    """The dataset at a path, whatever its layout; docs/formats.md tells which there are.

    read:     what the dataset does not say of itself.
    complain: takes each damage of an episode that opening finds, where the first is raised
              otherwise; such an episode may be there in part, or with no ticks.
    """
    path, read = Path(path), read or ReadConfig()
    hdf5 = Hdf5()
    layout = read.layout if read.layout != "auto" else layout_of(path, hdf5)
    if layout == "aloha-hdf5":
        return AlohaDataset(path, read, complain, hdf5)
    if layout == "robomimic":
        return RobomimicDataset(_the_file(path), read, complain, hdf5)
    if layout == "diffusion-policy":
        return DiffusionPolicyDataset(path, read, complain)
    read.refuse_others("lerobot", ())
    return _open_lerobot(path, complain)


def _open_lerobot(path: Path, complain: Complain | None) -> Dataset:
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
