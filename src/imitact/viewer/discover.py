"""What there is to look at in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imitact.core.errors import BadInput
from imitact.datasets.open import is_dataset

Kind = Literal["dataset", "training", "evaluation"]

_SIGNS: dict[Kind, tuple[str, ...]] = {
    "dataset": ("meta/info.json", "*.hdf5", "meta/episode_ends"),
    "training": ("metrics.jsonl",),
    "evaluation": ("evaluation.json", "episodes.jsonl"),
}


@dataclass(frozen=True)
class Found:
    """One thing to look at: its kind, its folder, and a name that no other on the page has."""

    kind: Kind
    path: Path
    name: str


def kind_of(folder: Path) -> Kind | None:
    """What a folder is, by the files in it."""
    if is_dataset(folder):
        return "dataset"
    for kind, signs in _SIGNS.items():
        if any((folder / sign).is_file() for sign in signs):
            return kind
    return None


def find(paths: list[Path]) -> list[Found]:
    """The datasets, trainings and evaluations at `paths`, in that order.

    A path is such a folder, or one whose folders are some, as a demo's; a file stands for its
    folder. Refuses a path at which there is nothing to look at.
    """
    kinds: list[tuple[Kind, Path]] = []
    for path in paths:
        if not path.exists():
            raise BadInput(f"no such folder: {path}")
        folder = path if path.is_dir() or is_dataset(path) else path.parent
        own = kind_of(folder)
        inner = _folders(folder) if own is None else [folder]
        here: list[tuple[Kind, Path]] = [
            (kind, p) for p in inner if (kind := kind_of(p)) is not None
        ]
        if not here:
            signs = "; ".join(f"{k}: {' or '.join(files)}" for k, files in _SIGNS.items())
            raise BadInput(
                f"{path} holds nothing to look at, nor do its folders. What tells one: {signs}"
            )
        kinds += here
    order = list(_SIGNS)
    kinds.sort(key=lambda pair: order.index(pair[0]))  # stable: else as they were given
    names = _names([path for _, path in kinds])
    return [Found(kind, path, name) for (kind, path), name in zip(kinds, names, strict=True)]


def _folders(path: Path) -> list[Path]:
    """The folders in a folder by name, those that are named after a kind first: a demo's main
    evaluation before the ones that it is compared with."""
    inner = (p for p in path.iterdir() if p.is_dir())
    return sorted(inner, key=lambda p: (p.name not in _SIGNS, p.name))


def _names(paths: list[Path]) -> list[str]:
    """The shortest ends of paths that differ from one another; a number where none does."""
    whole = [path.absolute().parts for path in paths]
    for depth in range(1, max(len(parts) for parts in whole) + 1):
        names = ["/".join(parts[-depth:]) for parts in whole]
        if len(set(names)) == len(names):
            return names
    return [f"{'/'.join(parts[-2:])} ({at})" for at, parts in enumerate(whole, 1)]
