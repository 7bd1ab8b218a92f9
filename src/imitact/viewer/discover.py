"""Discovery: the datasets, trainings, evaluations and runs on a robot in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imitact.core.errors import BadInput
from imitact.datasets.open import is_dataset

Kind = Literal["dataset", "training", "evaluation", "run"]

_FILES: dict[Kind, tuple[str, ...]] = {
    "dataset": ("meta/info.json", "*.hdf5", "meta/episode_ends"),
    "training": ("metrics.jsonl",),
    "evaluation": ("evaluation.json", "episodes.jsonl"),
    "run": ("ticks.jsonl",),
}
"""Files by which each kind is recognised."""


@dataclass(frozen=True)
class ViewItem:
    """One item to show.

    Attributes:
        kind: what it is.
        path: its folder or file.
        name: name that is unique on the page.
    """

    kind: Kind
    path: Path
    name: str


def kind_of(folder: Path) -> Kind | None:
    """Return the kind of a folder by its files; None if it is none of them."""
    if is_dataset(folder):
        return "dataset"
    for kind, names in _FILES.items():
        if any((folder / name).is_file() for name in names):
            return kind
    return None


def find_items(paths: list[Path]) -> list[ViewItem]:
    """Return the datasets, trainings and evaluations at `paths`, in that order.

    The paths are folders of such items, folders that contain some (as that of a demo), or files in
    them. A path without any item is refused.
    """
    kinds: list[tuple[Kind, Path]] = []
    for path in paths:
        if not path.exists():
            raise BadInput(f"no such folder: {path}")
        folder = path if path.is_dir() or is_dataset(path) else path.parent
        candidates = [folder] if kind_of(folder) else _subfolders(folder)
        found: list[tuple[Kind, Path]] = [(k, p) for p in candidates if (k := kind_of(p))]
        if not found:
            files = "; ".join(f"{kind}: {' or '.join(names)}" for kind, names in _FILES.items())
            raise BadInput(
                f"{path} and its folders hold nothing to show. Expected one of these files: {files}"
            )
        kinds += found
    order = list(_FILES)
    kinds.sort(key=lambda pair: order.index(pair[0]))  # stable: otherwise in the order given
    names = _unique_names([path for _, path in kinds])
    return [ViewItem(kind, path, name) for (kind, path), name in zip(kinds, names, strict=True)]


def _subfolders(path: Path) -> list[Path]:
    """Return the subfolders by name, those named after a kind first.

    The first puts the main evaluation of a demo before those that it is compared with.
    """
    inner = (p for p in path.iterdir() if p.is_dir())
    return sorted(inner, key=lambda p: (p.name not in _FILES, p.name))


def _unique_names(paths: list[Path]) -> list[str]:
    """Return the shortest ends of the paths that are unique; numbered where the paths are equal."""
    parts = [path.absolute().parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-depth:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{'/'.join(each[-2:])} ({number})" for number, each in enumerate(parts, 1)]
