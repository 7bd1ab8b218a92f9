"""git-lfs pointers: the short texts that a clone without git-lfs has in place of large files."""

from __future__ import annotations

from pathlib import Path

from imitact.core.errors import DamagedFile, ImitactError
from imitact.storage.regular_file import open_regular

_BEGIN = b"version https://git-lfs"
"""First bytes of every pointer (git-lfs, docs/spec.md)."""


def refuse_lfs_pointer(file: Path) -> None:
    """Raise DamagedFile where a file, which was found not to be what it should be, is a pointer."""
    try:
        with open_regular(Path(file)) as opened:
            head = opened.read(1024)
    except (ImitactError, OSError):
        return  # whoever reads the file says why it cannot be read
    refuse_pointer_bytes(head, file)


def refuse_pointer_bytes(data: bytes | memoryview, file: Path | str) -> None:
    """Raise DamagedFile where the contents of a file begin as a pointer does."""
    if bytes(data[: len(_BEGIN)]) == _BEGIN:
        raise DamagedFile(
            f"{file} is a git-lfs pointer instead of the file itself, as a clone without git-lfs "
            "has it. Run `git lfs pull` in its repository, or download the files"
        )
