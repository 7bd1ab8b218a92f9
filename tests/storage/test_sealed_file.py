"""Sealed files: no byte changes unseen, and whatever is not one is refused by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from imitact.core.errors import BadInput, DamagedFile
from imitact.storage.sealed_file import FOOTER_BYTES, seal, unseal, with_footer

PARTS = bytes(range(64))
ABOUT = {"parts": {"weights": [0, 40], "table": [40, 64]}, "name": "Ä"}


def test_a_sealed_file_gives_back_its_parts_and_its_metadata(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(seal(PARTS, ABOUT))
    sealed = unseal(path)
    assert sealed.about == ABOUT
    assert bytes(sealed.part("weights")) == PARTS[:40]
    assert bytes(sealed.part("table")) == PARTS[40:]
    assert sealed.sha256 == bytes(sealed.data[-64:]).decode()


def test_every_altered_or_missing_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    data = seal(PARTS, ABOUT)
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(DamagedFile, match=str(path)):
            unseal(path)
        path.write_bytes(data[:at])
        with pytest.raises(DamagedFile, match=str(path)):
            unseal(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [(b"{", "metadata is not JSON"), (b"[1]", "metadata holds list, expected an object")],
)
def test_metadata_that_is_not_an_object_is_refused(text: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(with_footer(PARTS + text, len(PARTS), len(text)))
    with pytest.raises(DamagedFile, match=says):
        unseal(path)


def test_the_footer_has_a_fixed_size_and_a_missing_file_is_named(tmp_path: Path) -> None:
    assert len(with_footer(PARTS, 0, 3)) == len(PARTS) + FOOTER_BYTES
    with pytest.raises(BadInput, match="no such file"):
        unseal(tmp_path / "b")
