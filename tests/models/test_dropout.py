"""Tests of dropout with fast masks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from imitact.models import dropout as module
from imitact.models.dropout import dropout, dropout_mask, kept_scale, relu_dropout_unscaled
from imitact.models.transformer import Attention, EncoderLayer


@pytest.fixture(autouse=True)
def seeded():
    state = torch.get_rng_state()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(state)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_elements_are_dropped_at_rate_p(p: float):
    count = 400_000
    share = dropout_mask((count,), p).float().mean().item()
    assert abs(share - p) < 5 * (p * (1 - p) / count) ** 0.5 + 2**-16


def test_neighboring_elements_are_dropped_independently():
    """Four elements share one random number, but must not be correlated."""
    dropped = dropout_mask((100_000, 4), 0.3).double()
    correlation = torch.corrcoef(dropped.T) - torch.eye(4)
    assert correlation.abs().max() < 0.02
    along = torch.corrcoef(torch.stack([dropped[:-1].flatten(), dropped[1:].flatten()]))
    assert along[0, 1].abs() < 0.02


def test_dropout_preserves_the_mean():
    assert dropout(torch.ones(1_000_000), 0.1, True).mean().item() == pytest.approx(1, abs=2e-3)


def test_kept_elements_are_scaled_and_the_others_zero():
    y = dropout(torch.full((1000,), 3.0), 0.25, True)
    assert set(y.unique().tolist()) == {0.0, torch.tensor(3.0 * kept_scale(0.25)).item()}


@pytest.mark.parametrize("shape", [(0,), (1,), (3,), (5, 7)])
def test_dropout_accepts_any_shape(shape: tuple[int, ...]):
    assert dropout(torch.ones(shape), 0.1, True).shape == shape


def test_restoring_torchs_state_restores_the_masks():
    state = torch.get_rng_state()
    first, second = dropout_mask((1000,), 0.5), dropout_mask((1000,), 0.5)
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(dropout_mask((1000,), 0.5), first)


def test_outside_training_nothing_is_dropped_and_no_number_is_drawn():
    before = torch.get_rng_state()
    x = torch.randn(10, generator=torch.Generator().manual_seed(1))
    assert torch.equal(dropout(x, 0.5, False), x)
    y, factor = relu_dropout_unscaled(x.clone(), 0.5, False)
    assert torch.equal(y * factor, x.relu())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_gradient_passes_kept_elements_only():
    x = torch.linspace(-1, 1, 1000, dtype=torch.float64, requires_grad=True)
    y, factor = relu_dropout_unscaled(x * 1, 0.4, True)
    (y * factor).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad != 0, y > 0)
    assert set(x.grad.unique().tolist()) == {0.0, kept_scale(0.4)}
    assert (y[x <= 0] == 0).all()


def layer(p: float) -> EncoderLayer:
    made = EncoderLayer(16, 4, 32, p).double().train()
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(torch.randn(weight.shape, generator=draw, dtype=torch.float64))
    return made


def answer(made: EncoderLayer, keep: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    x = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    pos = torch.randn(9, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    y = made(x, pos, keep, None)
    made.zero_grad()
    y.square().sum().backward()
    return y.detach(), [p.grad.clone() for p in made.parameters() if p.grad is not None]


@pytest.mark.parametrize("masked", [False, True])
def test_a_dropout_rate_near_zero_equals_no_dropout(masked: bool):
    """Dropout takes another code path, with unfused attention."""
    keep = torch.ones(2, 9, dtype=torch.bool)
    keep[1, 5:] = False
    without = answer(layer(0.0), keep if masked else None)
    almost = answer(layer(1e-9), keep if masked else None)  # rounds to a rate of 0
    torch.testing.assert_close(almost, without)


def test_attention_dropout_is_distributed_as_torchs(monkeypatch: pytest.MonkeyPatch):
    """Over many masks, mean and deviation of both agree."""
    attention = Attention(8, 2, 0.3).double().train()
    draw = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for weight in attention.parameters():
            weight.copy_(torch.randn(weight.shape, generator=draw, dtype=torch.float64))
    x = torch.randn(1, 5, 8, generator=draw, dtype=torch.float64).expand(4000, 5, 8)
    ours = attention(x, x, x, None)
    monkeypatch.setattr("imitact.models.transformer._fused", lambda query, p: True)
    theirs = attention(x, x, x, None)
    error = theirs.std(dim=0) / 4000**0.5
    assert ((ours.mean(dim=0) - theirs.mean(dim=0)).abs() < 6 * error).all()
    torch.testing.assert_close(ours.std(dim=0), theirs.std(dim=0), rtol=0.1, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_bf16_attention_gradients_are_as_accurate_as_torchs(
    masked: bool, monkeypatch: pytest.MonkeyPatch
):
    """Attention is unfused there, because the gradient of torch's kernel is slow."""
    attention = Attention(64, 2, 0.0)
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in attention.parameters():
            weight.copy_(torch.randn(weight.shape, generator=draw) / 4)
    x, aim = torch.randn(2, 16, 50, 64, generator=draw)
    keep = torch.arange(50) < torch.arange(35, 51)[:, None] if masked else None

    def gradients(bf16: bool) -> list[Tensor]:
        attention.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            (attention(x, x, x, keep) * aim).sum().backward()
        return [p.grad.clone() for p in attention.parameters() if p.grad is not None]

    exact, ours = gradients(False), gradients(True)
    monkeypatch.setattr("imitact.models.transformer._fused", lambda query, p: True)
    theirs = gradients(True)
    assert not all(map(torch.equal, ours, theirs))  # two code paths
    for one, other, true in zip(ours, theirs, exact, strict=True):
        assert (one - true).norm() < 1.5 * (other - true).norm()


def test_other_devices_use_torchs_dropout(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> Tensor:
        raise AssertionError("masks are drawn on the CPU for tensors of the CPU only")

    monkeypatch.setattr(module, "dropout_mask", refuse)
    assert dropout(torch.ones(3, device="meta"), 0.1, True).device.type == "meta"
