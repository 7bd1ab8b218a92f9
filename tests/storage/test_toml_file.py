"""TOML files: what cannot be read is refused by the name of the file, and never waited for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imitact.core.errors import BadInput
from imitact.storage.toml_file import MAX_BYTES, read_toml


def test_a_file_is_read_with_or_without_a_mark_of_its_encoding(tmp_path: Path) -> None:
    file = tmp_path / "a b.toml"
    for mark in (b"", b"\xef\xbb\xbf"):
        file.write_bytes(mark + 'x = "é"\r\n'.encode())
        assert read_toml(file, "plan") == {"x": "é"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"x = 1\n# \xe9", "not UTF-8 text: line 2 has the byte 0xe9"),
        ("x = 1".encode("utf-16"), "not UTF-8"),
        (b"x = ", "no TOML"),
        (b"x = " + b"9" * 5000, "no TOML"),
        (b"x = " + b"[" * 9000, "nested too deep"),
        (b"#" * (MAX_BYTES + 1), "1,000,001 bytes"),
    ],
)
def test_what_is_no_toml_is_refused_by_the_name_of_the_file(tmp_path, data, words) -> None:
    file = tmp_path / "plan.toml"
    file.write_bytes(data)
    with pytest.raises(BadInput, match=words) as refused:
        read_toml(file, "plan")
    assert str(file) in str(refused.value)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("pipe", "loop", ".", "missing"):
        with pytest.raises(BadInput, match=r"named pipe|symbolic links|folder|missing\. Give"):
            read_toml(tmp_path / name, "plan")
