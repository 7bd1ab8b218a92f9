"""Output guard: a verb writes into a new folder or one of its own kind, never into another's.

What imitact and the programs around it write is recognised by the names of a few files (`KINDS`).
An output that is such a thing, or lies in one at any depth, is refused before anything is written.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from imitact.core.errors import BadInput
from imitact.storage.regular_file import open_regular

_MAX_NAMES = 10_000
"""Names of a folder that are compared with patterns."""


@dataclass(frozen=True)
class _Kind:
    """What one kind of folder looks like on disk.

    Attributes:
        files: files of which it has at least one; all of them where they are joined by " + ".
        patterns: the same as patterns of file and folder names.
        least: names that must fit `patterns`.
        loose_patterns: patterns that count for the output itself, not for the folders above it.
        admits: kinds that may lie in it; "*" for all.
        replaces: folders in it that are replaced where it is begun anew.
        folders: folders that its verb writes to.
    """

    files: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    least: int = 1
    loose_patterns: tuple[str, ...] = ()
    admits: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


_DATASET_FOLDERS = ("meta", "data", "videos", "images", ".staging")

KINDS = {
    "checkpoint": _Kind(("trainer.json", "trainer.safetensors")),
    "demo": _Kind(
        ("phases.json", "demo.json"),
        admits=("*",),
        folders=("data", "training", "evaluation", "compared", "registered"),
    ),
    "training": _Kind(
        ("metrics.jsonl", "training.json"),
        admits=("tuning", "cache"),
        replaces=("policy",),
        folders=("checkpoints", "policy", "cache"),
    ),
    "policy": _Kind(("policy.json",)),
    "checkpoint of another program": _Kind(
        ("config.json + model.safetensors", "train_config.json", "policy_best.ckpt")
    ),
    "conversion": _Kind(("conversion.json",), folders=_DATASET_FOLDERS),
    "recording": _Kind(("meta/imitact.json",), folders=_DATASET_FOLDERS),
    "dataset": _Kind(
        ("meta/info.json", "meta/episode_ends", "meta/episode_ends/.zarray", ".zgroup"),
        ("episode_*.hdf5", "episode_*.h5"),
        least=2,  # one is a dataset by itself, whatever lies beside it
        loose_patterns=("*.hdf5", "*.h5", "*.hdf", "*.zarr.zip"),
    ),
    "evaluation": _Kind(("evaluation.json", "episodes.jsonl"), folders=("videos",)),
    "tuning": _Kind(("tune.json", "tune.jsonl")),
    "export": _Kind(
        ("certificate.json", "policy.openvino", "policy.onnx"),
        admits=("evaluation",),
        folders=(".exporting",),
    ),
    "robot run": _Kind(("ticks.jsonl",)),
    "cache": _Kind(("cache.json",), ("frames-" + "?" * 16,)),
}
"""The kinds of folders, in the order in which they are recognised: the first that fits counts."""

DATASETS = ("conversion", "recording", "dataset")
"""The kinds that are datasets."""

_FIXED = ("policy",)
"""Kinds that no verb continues: written at once, and replaced whole."""


def check_output(
    out: Path | str,
    own: str = "",
    *,
    option: str = "--out",
    is_file: bool = False,
    starts: bytes = b"",
) -> None:
    """Refuse an output that is, or lies in, something that its verb did not begin.

    Args:
        out: where the verb is to write: its folder, or its file.
        own: the kind of `KINDS` that the verb writes, which it continues at `out`; another word
            for what is no kind ("copy"), which must not be there.
        option: the option that gives `out`, for the message.
        is_file: whether `out` is a file.
        starts: how the verb's own files start; a file that does not is never replaced.

    Raises:
        BadInput: the message says what is there, and which path to give instead.
    """
    given = Path(out)
    # The path as it is typed, and where it leads to: either may lie in something.
    for start in dict.fromkeys((Path(os.path.abspath(given)), Path(os.path.realpath(given)))):
        found = list(_things(start, own, is_file))
        if not is_file and found and found[0] == (start, own) and own not in _FIXED:
            break  # to be continued, wherever it lies
        if own in _FIXED and found == [(start, own)]:
            break
        if found:
            raise BadInput(_refusal(given, start, found, own, option, is_file))
    if is_file:
        _check_file(given, option, starts)
    elif own in KINDS:
        _check_inside(given, own, option)


def kind_of(folder: Path, *, loose: bool = False) -> str:
    """Return the kind of a folder, "" for none; `loose` counts the loose patterns, too."""
    names: list[str] | None = None
    for kind, marks in KINDS.items():
        if any(_has_all(folder, files) for files in marks.files):
            return kind
        patterns = marks.patterns + (marks.loose_patterns if loose else ())
        if patterns:
            if names is None:
                names = list(_names(folder))
            fitting = sum(any(fnmatch(name, pattern) for pattern in patterns) for name in names)
            if fitting >= (1 if loose else marks.least):
                return kind
    return ""


def _things(start: Path, own: str, is_file: bool) -> Iterator[tuple[Path, str]]:
    """Yield what `start` is and lies in, from the inside out, where `own` may not lie in it."""
    for folder in start.parents if is_file else (start, *start.parents):
        if folder.exists() and not folder.is_dir():
            raise BadInput(f"{folder} is a file; give a folder")
        is_start = folder == start
        kind = kind_of(folder, loose=is_start) if folder.is_dir() else ""
        admits = () if is_start else KINDS[kind].admits if kind else ("*",)
        if kind and own not in admits and "*" not in admits:
            yield folder, kind


def _refusal(
    given: Path,
    start: Path,
    found: list[tuple[Path, str]],
    own: str,
    option: str,
    is_file: bool,
) -> str:
    """Return what is there and what to give instead."""

    def shown(path: Path) -> str:
        here = Path.cwd()
        short = not given.is_absolute() and path.is_relative_to(here)
        return str(path.relative_to(here) if short else path)

    (inner, kind), (outer, outer_kind) = found[0], found[-1]
    what = f"{_article(kind)} {kind}"
    if outer != inner:
        what += f" of the {outer_kind} {shown(outer)}"
    place = f"is {what}" if inner == start else f"lies in {shown(inner)}, {what}"
    name = f"{outer.name}-{start.name if is_file else (own or 'copy').split()[0]}"
    new = next(
        path
        for number in itertools.count(1)
        if not os.path.lexists(path := _numbered(outer.with_name(name), number))
    )
    advice = f"give {option} a new {'file' if is_file else 'folder'}, such as {shown(new)}"
    ours = [folder for folder, each in found if each == own and own not in _FIXED]
    if ours:
        advice = f"give {option} {shown(ours[-1])} to continue that {own}, or {advice[5:]}"
    return f"{given} {place}, into which nothing else is written; {advice}"


def _numbered(path: Path, number: int) -> Path:
    return path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")


def _check_file(out: Path, option: str, starts: bytes) -> None:
    """Refuse to replace a folder, or a file that starts otherwise."""
    if out.is_dir():
        raise BadInput(f"{out} is a folder; give {option} the name of a file")
    if starts and out.exists():
        with open_regular(out, advice=f"Give {option} another name.") as opened:
            if opened.read(len(starts)) != starts:
                raise BadInput(
                    f"{out} exists and was not written by this option; give {option} another name"
                )


def _check_inside(out: Path, own: str, option: str) -> None:
    """Refuse what would be replaced in `out`, and folders in it that are links."""
    marks = KINDS[own]
    if kind_of(out) != own:
        for name in marks.replaces:
            if inside := kind_of(out / name):
                raise BadInput(
                    f"{out / name} is {_article(inside)} {inside}, which this {own} would replace; "
                    f"give {option} a new folder"
                )
    for top in marks.folders:
        for folder, names, _ in os.walk(out / top):
            for path in (out / top, *(Path(folder, name) for name in names)):
                if path.is_symlink() and path.is_dir():
                    raise BadInput(
                        f"{path} is a link to {os.path.realpath(path)}, through which nothing is "
                        f"written; move that folder to its place, or give {option} a new folder"
                    )


def _has_all(folder: Path, files: str) -> bool:
    return all(os.path.lexists(folder / name) for name in files.split(" + "))


def _names(folder: Path) -> Iterator[str]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in itertools.islice(entries, _MAX_NAMES):
            if not entry.name.startswith("."):
                yield entry.name


def _article(kind: str) -> str:
    return "an" if kind[0] in "aeiou" else "a"
