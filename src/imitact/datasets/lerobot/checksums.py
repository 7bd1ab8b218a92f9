"""Dataset checksums: the SHA-256 of every file of a dataset, one small JSON file per episode.

`meta/imitact/chunk-CCC/file-FFF.json` lists the SHA-256 of the data, metadata and videos with that
chunk and file number. It also lists those of `info.json`, `stats.json` and `tasks.parquet` as they
are after that episode; the list of the last finished episode counts. LeRobot ignores these files,
and appending an episode rewrites none. A dataset without them (of another program, or recorded
before imitact stored checksums) is read unchecked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from imitact.core.errors import DamagedFile
from imitact.storage.checksum import bytes_sha256, file_sha256, verified, with_checksum
from imitact.storage.json_file import read_bytes, read_json_object

CHECKSUM_FOLDER = "meta/imitact"
CHECKSUMS = CHECKSUM_FOLDER + "/chunk-{chunk_index:03d}/file-{file_index:03d}.json"

_MAX_DATA_BYTES = 512 << 20
"""Of a file with the numbers of one episode, which take a hundredth."""

_FORMAT = 1
_RESTORE = (
    "Copy the dataset again from its origin, or record it again. If you altered it on purpose, "
    f"remove its folder {CHECKSUM_FOLDER}, which holds the checksums."
)


@dataclass(frozen=True)
class EpisodeChecksums:
    """SHA-256 by path within the dataset: of an episode's own `files`, and of those of the whole
    `dataset`, which every episode changes, as they are after this one."""

    files: Mapping[str, str]
    dataset: Mapping[str, str]

    def to_dict(self) -> dict[str, object]:
        return with_checksum({"format": _FORMAT, "files": self.files, "dataset": self.dataset})


class DatasetChecksums:
    """The checksums of the dataset in `root`, each file of them read at first use."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._episodes: dict[Path, EpisodeChecksums | None] = {}
        self._verified: set[Path] = set()

    def of_episode(self, file: Path) -> EpisodeChecksums | None:
        """Return the checksums for the chunk and file number of `file`; None without any."""
        stored = self._root / CHECKSUM_FOLDER / file.parent.name / f"{file.stem}.json"
        if stored not in self._episodes:
            self._episodes[stored] = _read(stored) if stored.is_file() else None
        return self._episodes[stored]

    def has(self, file: Path) -> bool:
        """Whether the SHA-256 of a file is stored."""
        return self._sha256(file) is not None

    def read(self, file: Path) -> bytes:
        """Read a file; raise DamagedFile where it differs from its checksum."""
        data = read_bytes(file, limit=_MAX_DATA_BYTES, advice=_RESTORE)
        self.compare(file, bytes_sha256(data))
        return data

    def check(self, file: Path) -> None:
        """Raise DamagedFile where a file differs from its checksum; each is hashed once."""
        if file not in self._verified and self.has(file):
            self.compare(file, file_sha256(file, advice=_RESTORE))

    def compare(self, file: Path, found: str) -> None:
        """Raise DamagedFile where the SHA-256 `found` of a file is not the stored one."""
        expected = self._sha256(file)
        if expected is not None and found != expected:
            raise DamagedFile(_altered(file))
        self._verified.add(file)

    def check_dataset(self, last: Path, names: Iterable[str]) -> None:
        """Raise DamagedFile where files differ from the list of the last episode.

        `last` is any file of the last finished episode, `names` are paths within the dataset.
        """
        for name in names:
            file = self._root / name
            if expected := self._allowed_after(last, name):
                data = read_bytes(file, advice=_RESTORE)
                if bytes_sha256(data) not in expected:
                    raise DamagedFile(_altered(file))

    def _allowed_after(self, last: Path, name: str) -> set[str]:
        """Return the SHA-256 values that a file may have after the last finished episode.

        A killed writer may leave the statistics of the next episode, whose checksums are then
        there too. Empty: no checksum is stored, and any is allowed.
        """
        stored = self.of_episode(last)
        if stored is None or name not in stored.dataset:
            return set()
        following = (self.of_episode(file) for file in _next_files(last))
        return {stored.dataset[name], *(f.dataset.get(name, "") for f in following if f)}

    def _sha256(self, file: Path) -> str | None:
        stored = self.of_episode(file)
        if stored is None or not file.is_relative_to(self._root):
            return None
        return stored.files.get(file.relative_to(self._root).as_posix())


def missing_checksums(file: Path) -> DamagedFile:
    """Return the error for an episode without checksums among others that have them."""
    return DamagedFile(
        f"{CHECKSUM_FOLDER}/{file.parent.name}/{file.stem}.json is missing beside {file}. "
        f"{_RESTORE}"
    )


def _read(file: Path) -> EpisodeChecksums:
    value = verified(
        read_json_object(file, limit=1 << 24, advice=_RESTORE), file, required=True, advice=_RESTORE
    )
    files, dataset = value.get("files"), value.get("dataset")
    if value.get("format") != _FORMAT or not _is_text_map(files) or not _is_text_map(dataset):
        raise DamagedFile(
            f"{file} has format {value.get('format')}, this imitact reads {_FORMAT}. {_RESTORE}"
        )
    return EpisodeChecksums(files, dataset)  # type: ignore[arg-type]


def _next_files(file: Path) -> list[Path]:
    """Return where the next episode's file may lie: next number, or first of the next chunk."""
    found = re.fullmatch(r"chunk-(\d+)/file-(\d+)", f"{file.parent.name}/{file.stem}")
    if not found:
        return []
    chunk, number = int(found[1]), int(found[2])
    return [
        file.with_name(f"file-{number + 1:03d}{file.suffix}"),
        file.parents[1] / f"chunk-{chunk + 1:03d}" / f"file-000{file.suffix}",
    ]


def _is_text_map(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(part, str) for part in value.values())


def _altered(file: Path) -> str:
    return f"{file} differs from the file that was written: its SHA-256 is another. {_RESTORE}"
