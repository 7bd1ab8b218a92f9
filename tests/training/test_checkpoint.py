"""Checkpoints: complete or absent, read back exactly, verified before use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from imitact.core.errors import DamagedFile, DiskFull
from imitact.training import checkpoint
from imitact.training.checkpoint import Checkpoint


def state(step: int) -> Checkpoint:
    torch_rng = torch.Generator().manual_seed(step)
    tensors = {
        "net.weight": torch.randn(3, 4, generator=torch_rng),
        "net.count": torch.tensor(step),
        "net.half": torch.randn(2, generator=torch_rng).to(torch.bfloat16),
        "random.cpu": torch_rng.get_state(),
    }
    return Checkpoint(step, tensors, {"note": f"after {step}", "rate": 0.1 + 0.2})


def policy(path: Path) -> None:
    path.mkdir()
    (path / "policy.json").write_text("{}")


def save(folder: Path, step: int) -> Path:
    return checkpoint.save(folder, state(step), policy)


def no_message(line: str) -> None:
    raise AssertionError(f"unexpected message: {line}")


def test_what_was_saved_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    path = save(tmp_path / "deep" / "checkpoints", 7)
    loaded, saved = checkpoint.load(path), state(7)
    assert loaded.step == 7
    assert loaded.numbers == saved.numbers
    assert loaded.tensors.keys() == saved.tensors.keys()
    for name, tensor in saved.tensors.items():
        assert loaded.tensors[name].dtype == tensor.dtype
        assert torch.equal(loaded.tensors[name], tensor)
    assert (path / "policy" / "policy.json").is_file()


def test_the_last_two_are_kept_and_the_newest_is_found(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        save(tmp_path, step)
    assert [p.name for p in checkpoint.list_checkpoints(tmp_path)] == [
        "step-00000100",
        "step-00000010",
    ]
    found = checkpoint.load_newest(tmp_path, no_message)
    assert found is not None
    assert found[1].step == 100


def test_a_folder_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path, no_message) is None
    assert checkpoint.load_newest(tmp_path / "nowhere", no_message) is None


@pytest.mark.parametrize("name", ["trainer.safetensors", "trainer.json", "policy/policy.json"])
@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_a_damaged_checkpoint_is_reported_and_the_previous_one_used(
    tmp_path: Path, name: str, harm: str
) -> None:
    save(tmp_path, 1)
    file = save(tmp_path, 2) / name
    data = bytearray(file.read_bytes())
    if harm == "flip":
        data[0] ^= 1
        file.write_bytes(data)
    elif harm == "truncate":
        file.write_bytes(data[:-1])
    else:
        file.unlink()
    lines: list[str] = []
    found = checkpoint.load_newest(tmp_path, lines.append)
    assert found is not None
    assert found[1].step == 1
    assert len(lines) == 1
    assert "step-00000002" in lines[0]


@pytest.mark.parametrize(("key", "value"), [("step", 3), ("numbers", {})])
def test_an_altered_value_in_trainer_json_is_damage(
    tmp_path: Path, key: str, value: object
) -> None:
    file = save(tmp_path, 2) / "trainer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(DamagedFile, match=r"trainer\.json is not what was written"):
        checkpoint.load(file.parent)


def test_a_renamed_checkpoint_is_damage(tmp_path: Path) -> None:
    renamed = save(tmp_path, 2).rename(tmp_path / "step-00000009")
    with pytest.raises(DamagedFile, match="its SHA-256 or step differs"):
        checkpoint.load(renamed)


def test_if_all_checkpoints_are_damaged_resuming_is_refused(tmp_path: Path) -> None:
    for step in (1, 2):
        (save(tmp_path, step) / "trainer.safetensors").write_bytes(b"no")
    with pytest.raises(DamagedFile, match=r"no checkpoint .* can be read: .*SHA-256 differs"):
        checkpoint.load_newest(tmp_path, lambda line: None)


def test_another_checkpoint_format_is_refused_with_both_numbers(tmp_path: Path) -> None:
    file = save(tmp_path, 1) / "trainer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    with pytest.raises(DamagedFile, match=r"format 99, this imitact \(.*\) reads 1; resume with"):
        checkpoint.load(file.parent)


def test_a_full_disk_leaves_previous_checkpoints_and_no_partial_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(DiskFull, match="the checkpoints before it are untouched"):
        save(tmp_path, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]
    assert checkpoint.load(tmp_path / "step-00000002").step == 2


def test_a_full_disk_reported_by_safetensors_raises_disk_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise checkpoint.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(DiskFull, match=r"no room left while writing .*before it are untouched"):
        save(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_save_leaves_no_checkpoint_and_the_next_save_removes_its_files(
    tmp_path: Path,
) -> None:
    save(tmp_path, 1)
    half = tmp_path / ".building-step-00000002"
    (half / "policy").mkdir(parents=True)
    found = checkpoint.load_newest(tmp_path, no_message)
    assert found is not None
    assert found[1].step == 1
    save(tmp_path, 3)
    assert not half.exists()


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    save(tmp_path, 5)
    again = Checkpoint(5, state(6).tensors, {})
    checkpoint.save(tmp_path, again, policy)
    assert torch.equal(
        checkpoint.load(tmp_path / "step-00000005").tensors["net.weight"],
        again.tensors["net.weight"],
    )
