"""Checksums: every altered value is refused, every other layout of the same values is read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from imitact.core.errors import DamagedFile
from imitact.storage.checksum import bytes_sha256, file_sha256, verified, with_checksum

FILE = Path("runs") / "a.json"


@pytest.mark.parametrize("value", [{"a": 1.5, "b": [1, (2, 3)], "c": {1: None}}, {"x": -0.0}])
def test_a_json_object_with_a_checksum_may_change_its_layout_and_no_value(value: dict) -> None:
    written = with_checksum(value)
    assert with_checksum(json.loads(json.dumps(written, indent=3))) == written
    for other in ({**value, "a": 1.25}, {**value, "new": 0}, dict(list(value.items())[1:])):
        assert with_checksum(other)["sha256"] != written["sha256"]


def test_a_verified_object_is_what_was_given_without_its_checksum() -> None:
    written = with_checksum({"b": (1, 2), "a": {3: "x"}})
    assert list(written) == ["b", "a", "sha256"]
    shuffled = dict(sorted(written.items()))
    assert verified(shuffled, FILE, required=True) == {"a": {"3": "x"}, "b": [1, 2]}


@pytest.mark.parametrize(
    "change", [{"a": 2}, {"b": 0}, {"sha256": "0" * 64}, {"sha256": None}, {"a": "\ud800"}]
)
def test_an_altered_object_is_refused_by_its_file(change: dict[str, Any]) -> None:
    altered = {**with_checksum({"a": 1}), **change}
    with pytest.raises(DamagedFile, match=rf"{FILE} is not what was written: .* Evaluate again"):
        verified(altered, FILE, required=False, advice="Evaluate again")


def test_an_object_without_a_checksum_is_read_only_where_older_files_have_none() -> None:
    assert verified({"a": 1}, FILE, required=False) == {"a": 1}
    with pytest.raises(DamagedFile, match="is not what was written"):
        verified({"a": 1}, FILE, required=True)


def test_the_sha256_of_a_file_is_that_of_its_bytes_and_a_missing_one_is_named(
    tmp_path: Path,
) -> None:
    data = bytes(range(256)) * 9000
    (tmp_path / "a").write_bytes(data)
    assert file_sha256(tmp_path / "a") == bytes_sha256(data) == hashlib.sha256(data).hexdigest()
    with pytest.raises(DamagedFile, match=r"b is missing\. Train again"):
        file_sha256(tmp_path / "b", advice="Train again")
