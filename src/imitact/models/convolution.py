"""Convolution with a faster weight gradient on CPUs with AVX2.

Legend: B frames, C input and O output channels, H and W rows and columns, N positions, k kernel.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from imitact.core.cpu import arithmetic


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """Convolve (B, C, H, W) to (B, O, H', W') with a square kernel, padded by half of it.

    `bias` is a constant: it gets no gradient.
    """
    padding = weight.shape[-1] // 2
    if _is_faster(x, weight):
        return _Convolution.apply(x, weight, bias, stride)  # type: ignore[return-value]
    return F.conv2d(x, weight, bias, stride, padding)


def _is_faster(x: Tensor, weight: Tensor) -> bool:
    """Whether `weight_gradient` is faster than oneDNN: float32 on processors with AVX2 only.

    oneDNN has separate kernels for bf16; with fewer than 64 input channels the products are too
    narrow, and 1x1 kernels gain nothing.
    """
    return (
        _has_avx2_only()
        and weight.requires_grad
        and torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and weight.shape[1] >= 64
        and weight.shape[-1] > 1
    )


@cache
def _has_avx2_only() -> bool:
    return arithmetic() == "avx2"


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight = ctx.saved_tensors
        stride, grad = ctx.stride, grads[0]
        padding = weight.shape[-1] // 2
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.ops.aten.convolution_backward(
                grad, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1,
                [True, False, False],
            )[0]  # fmt: skip
        if ctx.needs_input_grad[1]:
            grad_weight = weight_gradient(x, grad, weight.shape[-1], stride)
        return grad_x, grad_weight, None, None


def weight_gradient(x: Tensor, grad: Tensor, k: int, stride: int) -> Tensor:
    """Return the gradient of a convolution's weights, (O, C, k, k).

    It is one matrix product per frame and kernel position. The output gradient is laid out on a
    grid with rows as wide as the padded input's, so that outputs and the inputs under one kernel
    position are a constant distance apart, and each product reads both in place, without im2col.
    Grid cells that are padding have gradient zero.

    With AVX2 this is faster than oneDNN's float32 kernel, more so on larger grids, and with AVX-512
    slower; docs/performance.md has the figures. The input x (B, C, H, W) and the gradient of the
    output (B, O, H', W') are channels last.
    """
    batch, channels = x.shape[:2]
    outputs, rows, columns = grad.shape[1:]
    padding = k // 2
    # One grid per phase of the stride, wide enough for every kernel position.
    tall, wide = rows + (k - 1) // stride, columns + (k - 1) // stride
    padded = _framed(x, padding, tall * stride, wide * stride)
    spread = _framed(grad, 0, rows, wide)
    # The last row needs no padding, so that every slice ends within the grid.
    count = (rows - 1) * wide + columns
    left = spread.view(batch, rows * wide, outputs)[:, :count].transpose(1, 2)  # (B, O, N)
    phases = [
        [
            padded[:, down::stride, right::stride].reshape(batch, tall * wide, channels)
            for right in range(min(stride, k))
        ]
        for down in range(min(stride, k))
    ]
    result = grad.new_empty(k, k, outputs, channels)
    for down in range(k):
        for right in range(k):
            first = (down // stride) * wide + right // stride
            under = phases[down % stride][right % stride][:, first : first + count]  # (B, N, C)
            torch.sum(torch.bmm(left, under), 0, out=result[down, right])
    return result.permute(2, 3, 0, 1)


def _framed(x: Tensor, offset: int, tall: int, wide: int) -> Tensor:
    """Return x (B, C, H, W) at (offset, offset) of an otherwise zero (B, tall, wide, C)."""
    batch, channels, height, width = x.shape
    height, width = min(height, tall - offset), min(width, wide - offset)
    result = x.new_empty(batch, tall, wide, channels)
    # Only the margin is set to zero, which saves a pass over the whole tensor.
    result[:, :offset] = 0
    result[:, offset + height :] = 0
    result[:, :, :offset] = 0
    result[:, :, offset + width :] = 0
    inner = x.permute(0, 2, 3, 1)[:, :height, :width]
    result[:, offset : offset + height, offset : offset + width] = inner
    return result
