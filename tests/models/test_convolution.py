"""Tests of the convolutions: equal to torch's, and used where they are faster."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from imitact.models.convolution import convolve, weight_gradient
from imitact.models.resnet import Backbone, FrozenNorm, convolve_and_norm


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(autouse=True)
def avx2_alone(monkeypatch: pytest.MonkeyPatch):
    """Pretend that the processor has AVX2 only, where `weight_gradient` is used."""
    monkeypatch.setattr("imitact.models.convolution._has_avx2_only", lambda: True)


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("k", "stride"), list(itertools.product((1, 3, 5, 7), (1, 2, 3))))
@pytest.mark.parametrize("size", [(9, 14), (12, 11), (7, 8)])
def test_the_weight_gradient_equals_torchs(k: int, stride: int, size: tuple[int, int]):
    x = channels_last(draw(2, 5, *size))
    weight = draw(7, 5, k, k, seed=1).requires_grad_()
    y = nn.functional.conv2d(x, weight, None, stride, k // 2)
    grad = channels_last(draw(*y.shape, seed=2))
    y.backward(grad)
    torch.testing.assert_close(weight_gradient(x, grad, k, stride), weight.grad)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_returns_all_gradients(stride: int):
    bias = draw(48, seed=3, dtype=torch.float32)
    answers = []
    for function in (
        lambda x, w: convolve(x, w, bias, stride),
        lambda x, w: nn.functional.conv2d(x, w, bias, stride, 1),
    ):
        x = channels_last(draw(2, 64, 10, 12, dtype=torch.float32)).requires_grad_()
        weight = draw(48, 64, 3, 3, seed=1, dtype=torch.float32).requires_grad_()
        y = function(x, weight)
        (y.square().sum()).backward()
        answers.append((y.detach(), x.grad, weight.grad))
    for ours, theirs in zip(*answers, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-2)


def test_the_weight_gradient_is_used_only_where_it_is_faster(monkeypatch: pytest.MonkeyPatch):
    def kind(x: Tensor, weight: Tensor) -> str:
        node = convolve(x, weight, None, 1).grad_fn
        return type(node).__name__ if node is not None else "none"

    x = draw(1, 64, 6, 6, dtype=torch.float32)
    weight = draw(4, 64, 3, 3, dtype=torch.float32).requires_grad_()
    assert kind(x, weight) == "_ConvolutionBackward"
    assert kind(x.double(), weight.detach().double().requires_grad_()) == "ConvolutionBackward0"
    assert kind(x[:, :3], weight[:, :3].detach().requires_grad_()) == "ConvolutionBackward0"
    assert kind(x, weight[:, :, 1:2, 1:2].detach().requires_grad_()) == "ConvolutionBackward0"
    assert kind(x, weight.detach()) == "none"
    with torch.no_grad():
        assert kind(x, weight) == "none"
    monkeypatch.setattr("imitact.models.convolution._has_avx2_only", lambda: False)
    assert kind(x, weight) == "ConvolutionBackward0"


def test_a_folded_frozen_norm_equals_one_after_the_convolution():
    norm = FrozenNorm(6).double()
    for n, (name, buffer) in enumerate(norm.named_buffers()):
        values = draw(6, seed=n)
        buffer.copy_(values.abs() + 0.1 if name == "running_var" else values)
    conv = nn.Conv2d(5, 6, 3, 2, 1, bias=False).double()
    with torch.no_grad():
        conv.weight.copy_(draw(6, 5, 3, 3, seed=9))
    x = draw(2, 5, 8, 10, seed=10)
    folded = convolve_and_norm(x, conv, norm)
    after = nn.functional.batch_norm(
        conv(x), norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, 1e-5
    )
    torch.testing.assert_close(folded, after)
    torch.testing.assert_close(norm(conv(x)), after)
    given = draw(*folded.shape, seed=11)
    (ours,) = torch.autograd.grad(folded, conv.weight, given, retain_graph=True)
    (theirs,) = torch.autograd.grad(after, conv.weight, given)
    torch.testing.assert_close(ours, theirs)


def test_a_convolution_does_not_change_its_input():
    """In-place operations of the backbone must not change tensors that backward still needs."""
    backbone = Backbone(width=64, norm="frozen").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    backbone.initialize(torch.Generator().manual_seed(0))
    frames = channels_last(draw(2, 3, 64, 64, dtype=torch.float32))
    before = frames.clone()
    backbone(frames).sum().backward()
    assert torch.equal(frames, before)
    gradients = {n: p.grad.clone() for n, p in backbone.named_parameters() if p.grad is not None}
    backbone.zero_grad()
    plain = backbone.double()
    plain(frames.double()).sum().backward()
    for name, parameter in plain.named_parameters():
        assert parameter.grad is not None
        error = (gradients[name].double() - parameter.grad).norm() / parameter.grad.norm()
        assert error < 1e-3, (name, float(error))
