"""Opening datasets: the layout is detected from the files, and its reader opens them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from imitact.core.errors import BadInput, DamagedFile
from imitact.core.types import Dataset
from imitact.datasets.formats.aloha import AlohaDataset
from imitact.datasets.formats.diffusion_policy import DiffusionPolicyDataset, is_diffusion_policy
from imitact.datasets.formats.hdf5 import Hdf5Reader, natural_sort_key
from imitact.datasets.formats.robomimic import RobomimicDataset, is_robomimic
from imitact.datasets.lerobot.layout import IMITACT, INFO
from imitact.datasets.lerobot.reader_v21 import open_lerobot
from imitact.datasets.read_config import Layout, OnDamage, ReadConfig
from imitact.datasets.selection import chosen_episodes, select
from imitact.parallel.isolated_process import IsolatedProcess

_HDF5_SUFFIXES = (".hdf5", ".h5", ".hdf")


def open_dataset(
    path: Path | str, read: ReadConfig | None = None, on_damage: OnDamage | None = None
) -> Dataset:
    """Open the dataset at a path, in any layout of docs/formats.md.

    Args:
        read: what the dataset does not store about itself.
        on_damage: called with each damage of an episode that opening finds, which may then be
            incomplete or have no ticks; by default the first damage is raised.

    Raises:
        BadInput: there is no dataset that can be read, or an option is missing or not used.
        DamagedFile: a file is missing, cut short or altered.
    """
    path, read = Path(path), read or ReadConfig()
    if not read.episodes and read.every == 1:
        return _open(path, read, on_damage)
    # Damage of episodes that are not chosen is no reason to refuse the others.
    damages: list[tuple[DamagedFile, Sequence[int]]] = []
    dataset = _open(path, read, lambda error, episodes: damages.append((error, episodes)))
    indices = chosen_episodes(len(dataset.lengths), read)
    chosen = select(dataset, read, indices)
    for error, episodes in damages:
        affected = [indices.index(episode) for episode in episodes if episode in indices]
        if affected or not episodes:
            if on_damage is None:
                raise error
            on_damage(error, affected)
    return chosen


def _open(path: Path, read: ReadConfig, on_damage: OnDamage | None) -> Dataset:
    process = IsolatedProcess()
    layout = read.layout if read.layout != "auto" else layout_of(path, process)
    if layout == "aloha-hdf5":
        return AlohaDataset(path, read, on_damage, process)
    if layout == "robomimic":
        files = _hdf5_files(path)
        if len(files) != 1:
            raise BadInput(
                f"{path} holds {len(files)} HDF5 files, but a robomimic dataset is one; give that "
                "file"
            )
        return RobomimicDataset(files[0], read, on_damage, process)
    if layout == "diffusion-policy":
        return DiffusionPolicyDataset(path, read, on_damage, process)
    return open_lerobot(path, on_damage, read)


def layout_of(path: Path, process: IsolatedProcess | None = None) -> Layout:
    """Detect the layout of the dataset at a path from its files; "lerobot" for unknown folders."""
    if path.is_dir() and any((path / name).is_file() for name in (INFO, IMITACT)):
        return "lerobot"
    if is_diffusion_policy(path):
        return "diffusion-policy"
    if files := _hdf5_files(path):
        return "robomimic" if is_robomimic(Hdf5Reader(process), files[0]) else "aloha-hdf5"
    if path.is_file():
        raise BadInput(
            f"{path} is not a dataset that imitact reads: a file is one episode of ALOHA (.hdf5), "
            "a robomimic dataset (.hdf5), or a diffusion-policy dataset (.zarr.zip)"
        )
    return "lerobot"


def is_dataset(path: Path) -> bool:
    """Whether a dataset of any layout seems to be at a path; nothing is opened."""
    return (path / INFO).is_file() or is_diffusion_policy(path) or bool(_hdf5_files(path))


def _hdf5_files(path: Path) -> list[Path]:
    """Return the HDF5 files at a path, in natural order: of a folder, or the file itself."""
    if path.is_file():
        return [path] if path.suffix.lower() in _HDF5_SUFFIXES else []
    if not path.is_dir():
        return []
    found = (p for p in path.iterdir() if p.suffix.lower() in _HDF5_SUFFIXES and not p.is_dir())
    shown = (p for p in found if not p.name.startswith("."))
    return sorted(shown, key=lambda p: natural_sort_key(p.name))
