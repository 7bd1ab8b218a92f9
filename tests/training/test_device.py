"""Training device: precision follows the hardware; the random state is saved and restored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from imitact.core.errors import BadInput, DamagedFile
from imitact.training import device
from imitact.training.config import PrecisionName
from imitact.training.device import Precision, TrainingDevice
from imitact.training.sampler import SampleBatch

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _leave_torch_as_it_was() -> Iterator[None]:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(state)


@pytest.mark.parametrize(
    ("flags", "name", "reason"),
    [
        ({"avx2", "fma"}, "fp32", "neither amx_bf16 nor avx512_bf16"),
        ({"avx512f", "avx512_vnni"}, "fp32", "neither amx_bf16 nor avx512_bf16"),
        ({"avx2", "avx512_bf16"}, "bf16", "has avx512_bf16"),
        ({"amx_bf16", "avx512_bf16", "amx_tile"}, "bf16", "has amx_bf16, avx512_bf16"),
        (set(), "fp32", "neither"),
    ],
)
def test_auto_selects_bf16_if_the_processor_supports_it_and_gives_the_reason(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], name: str, reason: str
) -> None:
    monkeypatch.setattr(device, "cpu_flags", lambda: frozenset(flags))
    chosen = device.choose_precision("auto", CPU)
    assert chosen.name == name
    assert reason in chosen.description


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_a_named_precision_is_used_on_every_processor(
    monkeypatch: pytest.MonkeyPatch, name: PrecisionName
) -> None:
    for flags in (frozenset[str](), frozenset({"amx_bf16"})):
        monkeypatch.setattr(device, "cpu_flags", lambda flags=flags: flags)
        assert device.choose_precision(name, CPU) == Precision(name, "as asked")  # type: ignore[arg-type]


def test_processor_flags_and_name_are_read_from_cpuinfo(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(
        "processor\t: 0\nmodel name\t: Some CPU @ 2.0GHz\nflags\t\t: fpu avx2 amx_bf16\n"
        "bugs\t: x\n\nprocessor\t: 1\nflags\t\t: other\n"
    )
    assert device.cpu_flags(file) == {"fpu", "avx2", "amx_bf16"}
    assert device.processor_name(file) == "Some CPU @ 2.0GHz"
    assert device.cpu_flags(tmp_path / "nowhere") == frozenset()
    assert device.processor_name(tmp_path / "nowhere")


def test_a_missing_device_is_refused_without_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match="no CUDA GPU"):
        device.choose_device("auto", "cuda")
    with pytest.raises(BadInput, match='no device "gpu"'):
        device.choose_device("auto", "gpu")
    with pytest.raises(BadInput, match="not supported"):
        device.choose_device("auto", "meta")
    with pytest.raises(BadInput, match="threads is -1"):
        device.choose_device("auto", "cpu", -1)
    with pytest.raises(BadInput, match='precision is "fp16"'):
        device.choose_device("fp16", "cpu")  # type: ignore[arg-type]
    assert device.choose_device("auto", "auto").device == CPU


def test_threads_are_set_only_if_a_number_is_given() -> None:
    before = torch.get_num_threads()
    assert device.choose_device("fp32", "cpu", 0).threads == before
    assert device.choose_device("fp32", "cpu", 1).threads == torch.get_num_threads() == 1


def test_the_random_state_is_restored_exactly() -> None:
    here = device.choose_device("fp32", "cpu")
    here.seed(3)
    torch.rand(5)
    saved = here.random_state()
    want = torch.rand(7)
    torch.rand(2)
    here.restore_random_state(saved)
    assert torch.equal(torch.rand(7), want)
    here.seed(3)
    assert not torch.equal(torch.rand(7), want)
    with pytest.raises(DamagedFile, match="no random state"):
        here.restore_random_state({})


def test_autocast_uses_the_chosen_precision() -> None:
    matrix = torch.ones(2, 2)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        here = TrainingDevice(CPU, Precision(name, "test"), 1)  # type: ignore[arg-type]
        with here.autocast():
            assert (matrix @ matrix).dtype == dtype


def test_a_batch_becomes_tensors_with_the_same_values() -> None:
    frames = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)
    batch = SampleBatch(
        np.ones((1, 2), np.float32),
        {"top": frames},
        np.ones((1, 3, 2), np.float32),
        np.array([[False, False, True]]),
        np.zeros(1, np.int64),
        np.zeros(1, np.int64),
    )
    tensors = device.choose_device("fp32", "cpu").tensors(batch)
    assert tensors.keys() == {"state", "frames", "action", "is_pad"}
    seen = tensors["frames"]
    assert isinstance(seen, dict)
    assert seen["top"].dtype == torch.uint8
    assert np.array_equal(seen["top"].numpy(), frames)
    is_pad = tensors["is_pad"]
    assert isinstance(is_pad, torch.Tensor)
    assert is_pad.dtype == torch.bool
