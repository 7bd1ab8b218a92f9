"""The SHA-256 of every file of a dataset, kept beside it, one small file an episode.

`meta/imitact/chunk-CCC/file-FFF.json` belongs to the data, metadata and videos of that chunk and
file number, and names their SHA-256. It names those of `info.json`, `stats.json` and
`tasks.parquet` too, as they are once that episode is finished; what counts is what the last
finished episode names. LeRobot looks at none of it, appending rewrites none of it, and a dataset
that has none (of another program, or of imitact before it kept them) is read unchecked.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from imitact.core.errors import DamagedFile
from imitact.storage.checksum import file_sha256, verified, with_checksum
from imitact.storage.json_file import read_bytes, read_json_object

FOLDER = "meta/imitact"
DIGESTS = FOLDER + "/chunk-{chunk_index:03d}/file-{file_index:03d}.json"

_FORMAT = 1
RESTORE = (
    "Copy the dataset again from where it came, or record it anew. If you altered it on purpose, "
    f"remove its folder {FOLDER}, which holds the checksums."
)


@dataclass(frozen=True)
class Named:
    """What one episode's file of checksums names, by path within the dataset.

    files:   of the episode's own files.
    dataset: of the files that each episode changes, as they are once it is finished.
    """

    files: Mapping[str, str]
    dataset: Mapping[str, str]

    def to_dict(self) -> dict[str, object]:
        return with_checksum({"format": _FORMAT, "files": self.files, "dataset": self.dataset})


class DatasetChecksums:
    """The checksums of the dataset in `root`, each read when it is first needed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._named: dict[Path, Named | None] = {}
        self._right: set[Path] = set()

    def named(self, file: Path) -> Named | None:
        """What is named for the chunk and number of `file`; None where nothing is."""
        place = self._root / FOLDER / file.parent.name / f"{file.stem}.json"
        if place not in self._named:
            self._named[place] = _read(place) if place.is_file() else None
        return self._named[place]

    def knows(self, file: Path) -> bool:
        """Whether a file's SHA-256 is named."""
        return self._sha256(file) is not None

    def read(self, file: Path) -> bytes:
        """The bytes of a file; refuses others than were written."""
        data = read_bytes(file, limit=1 << 34, advice=RESTORE)
        self.compare(file, hashlib.sha256(data).hexdigest())
        return data

    def check(self, file: Path) -> None:
        """Refuse a file that is not what was written; each is looked at once."""
        if file not in self._right and self.knows(file):
            self.compare(file, file_sha256(file, advice=RESTORE))

    def compare(self, file: Path, found: str) -> None:
        """Refuse a file whose SHA-256 is `found` where another is named."""
        wanted = self._sha256(file)
        if wanted is not None and found != wanted:
            raise DamagedFile(_altered(file))
        self._right.add(file)

    def check_dataset(self, last: Path, names: Iterable[str]) -> None:
        """Refuse files that every episode changes where they are not as the last one left them.

        last:  any file of the last finished episode.
        names: of the files, within the dataset.
        """
        for name in names:
            file = self._root / name
            if wanted := self.after(last, name):
                data = read_bytes(file, advice=RESTORE)
                if hashlib.sha256(data).hexdigest() not in wanted:
                    raise DamagedFile(_altered(file))

    def after(self, last: Path, name: str) -> set[str]:
        """The SHA-256 that a file may have after the last finished episode; empty: any.

        A kill may leave the statistics of the episode after it, whose checksums are there then.
        """
        named = self.named(last)
        if named is None or name not in named.dataset:
            return set()
        following = (self.named(file) for file in _after(last))
        return {named.dataset[name], *(f.dataset.get(name, "") for f in following if f)}

    def _sha256(self, file: Path) -> str | None:
        named = self.named(file)
        if named is None or not file.is_relative_to(self._root):
            return None
        return named.files.get(file.relative_to(self._root).as_posix())


def missing(file: Path) -> DamagedFile:
    """The error of an episode without checksums among others that have them."""
    return DamagedFile(
        f"{FOLDER}/{file.parent.name}/{file.stem}.json is missing beside {file}. {RESTORE}"
    )


def _read(place: Path) -> Named:
    value = verified(
        read_json_object(place, limit=1 << 24, advice=RESTORE), place, required=True, advice=RESTORE
    )
    files, dataset = value.get("files"), value.get("dataset")
    if value.get("format") != _FORMAT or not _is_named(files) or not _is_named(dataset):
        raise DamagedFile(
            f"{place} has format {value.get('format')!r}, this imitact reads {_FORMAT}. {RESTORE}"
        )
    return Named(files, dataset)  # type: ignore[arg-type]


def _after(file: Path) -> list[Path]:
    """Where the file of the next episode lies: the next number, or the first of the next chunk."""
    found = re.fullmatch(r"chunk-(\d+)/file-(\d+)", f"{file.parent.name}/{file.stem}")
    if not found:
        return []
    chunk, number = int(found[1]), int(found[2])
    return [
        file.with_name(f"file-{number + 1:03d}{file.suffix}"),
        file.parents[1] / f"chunk-{chunk + 1:03d}" / f"file-000{file.suffix}",
    ]


def _is_named(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(part, str) for part in value.values())


def _altered(file: Path) -> str:
    return f"{file} is not the file that was written: its SHA-256 is another. {RESTORE}"
