"""Convolutions of the trunk, with a frozen norm folded in and a faster gradient of the weights.

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
    """A square convolution that pads by half its kernel; (B, C, H, W) -> (B, O, H', W').

    `bias` is a constant: it gets no gradient.
    """
    padding = weight.shape[-1] // 2
    if _ours(x, weight):
        return _Convolution.apply(x, weight, bias, stride)  # type: ignore[return-value]
    return F.conv2d(x, weight, bias, stride, padding)


def _ours(x: Tensor, weight: Tensor) -> bool:
    """Where our gradient of the weights is faster than oneDNN's: float32 with channels last, on a
    processor that has AVX2 and no more.

    bf16 has kernels of its own there, with fewer input channels our products are too narrow, and
    of a 1x1 kernel there is nothing to gain.
    """
    return (
        _avx2_alone()
        and weight.requires_grad
        and torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and weight.shape[1] >= 64
        and weight.shape[-1] > 1
    )


@cache
def _avx2_alone() -> bool:
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
    """The gradient of a convolution's weights, (O, C, k, k), as one matrix product a frame and
    place in the kernel.

    x (B, C, H, W) is what went in, grad (B, O, H', W') the gradient of what came out; both with
    channels last. Written on one grid of rows as wide as the padded input, the outputs meet the
    inputs under a place of the kernel at a constant distance, so each product reads both as they
    lie: nothing is gathered. Where the grid is padding, the gradient is zero.

    With AVX2 it is faster than oneDNN's kernel for float32 with channels last, the more so the
    larger the grid, and with AVX-512 slower; docs/performance.md has the figures.
    """
    batch, channels = x.shape[:2]
    outputs, rows, columns = grad.shape[1:]
    padding = k // 2
    # One grid for each phase of the stride, wide enough for every place in the kernel.
    tall, wide = rows + (k - 1) // stride, columns + (k - 1) // stride
    padded = _framed(x, padding, tall * stride, wide * stride)
    spread = _framed(grad, 0, rows, wide)
    # The last row needs no padding behind it, so that every slice ends within the grid.
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
    """x (B, C, H, W) at (offset, offset) of an otherwise zero (B, tall, wide, C)."""
    batch, channels, height, width = x.shape
    height, width = min(height, tall - offset), min(width, wide - offset)
    result = x.new_empty(batch, tall, wide, channels)
    # Only the frame is set to zero: all of it would be one more pass over memory.
    result[:, :offset] = 0
    result[:, offset + height :] = 0
    result[:, :, :offset] = 0
    result[:, :, offset + width :] = 0
    inner = x.permute(0, 2, 3, 1)[:, :height, :width]
    result[:, offset : offset + height, offset : offset + width] = inner
    return result
