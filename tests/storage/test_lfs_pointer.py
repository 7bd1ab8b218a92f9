"""git-lfs pointers: named as such in every format, with the remedy that helps."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from imitact.core.errors import DamagedFile, library_words
from imitact.datasets.open import open_dataset
from imitact.datasets.read_config import ReadConfig
from imitact.models.interop import restricted_pickle
from imitact.models.interop.act_release import _read_tensors
from imitact.models.resnet import _read
from imitact.models.safetensors_file import read_safetensors
from imitact.storage.json_file import read_json_object
from imitact.storage.lfs_pointer import refuse_lfs_pointer
from imitact.storage.sealed_file import unseal
from tests.support import foreign_files
from tests.support.paths import FIXTURES

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9182736\n"
)
ZARR = ReadConfig(state=("state",), rate_hz=10.0)


@pytest.mark.parametrize("version", ["v21", "v30"])
@pytest.mark.parametrize("pattern", ["*.parquet", "*.mp4", "*.json*"])
def test_a_pointer_in_a_lerobot_dataset_is_named(
    version: str, pattern: str, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(FIXTURES / "lerobot" / version, tmp_path / "data"))
    for file in root.rglob(pattern):
        file.write_bytes(POINTER)
    with pytest.raises(DamagedFile, match=r"is a git-lfs pointer .* Run `git lfs pull`"):
        open_dataset(root)


def test_a_pointer_in_the_place_of_hdf5_zarr_or_a_chunk_is_named(tmp_path: Path) -> None:
    for name in ("aloha/episode_0.hdf5", "data.zarr.zip"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(POINTER)
        path = file.parent if "aloha" in name else file
        with pytest.raises(DamagedFile, match="git lfs pull"):
            open_dataset(path, ZARR if "zarr" in name else None)
    replay = foreign_files.replay_buffer(tmp_path / "replay.zarr")
    (replay / "data/state/0.0").write_bytes(POINTER)
    with pytest.raises(DamagedFile, match="git lfs pull"):
        _ = open_dataset(replay, ZARR).episode(0).state
    with zipfile.ZipFile(tmp_path / "chunk.zarr.zip", "w") as archive:
        for file in replay.rglob("*"):
            archive.write(file, file.relative_to(replay).as_posix())
    with pytest.raises(DamagedFile, match="git lfs pull"):
        _ = open_dataset(tmp_path / "chunk.zarr.zip", ZARR).episode(0).state


@pytest.mark.parametrize(
    "read",
    [
        read_safetensors,
        read_json_object,
        unseal,
        _read,
        _read_tensors,
        lambda file: restricted_pickle.loads(file.read_bytes(), file),
    ],
)
def test_a_pointer_in_the_place_of_a_policy_file_is_named(
    read: Callable[[Path], object], tmp_path: Path
) -> None:
    file = tmp_path / "file.bin"
    file.write_bytes(POINTER)
    with pytest.raises(DamagedFile, match="git lfs pull"):
        read(file)


def test_other_files_and_missing_ones_are_left_to_their_readers(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"version 2")
    refuse_lfs_pointer(tmp_path / "other")
    refuse_lfs_pointer(tmp_path / "missing")


def test_words_of_libraries_become_a_part_of_a_sentence() -> None:
    assert library_words(ValueError("no footer.\nEither way..")) == "no footer. Either way"
    assert library_words(ValueError()) == "ValueError"
