"""Dropout with fast masks on CPUs.

torch draws a CPU's masks one number at a time on one thread, which takes a sixth of a training step
of the `released` preset. Here four elements share one 64-bit number of SFC64 (Doty-Humphrey's
PractRand, NumPy's fastest generator), seeded by one draw from torch's global random state, so that
restoring that state restores the masks. Other devices use torch's own dropout.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_LEVELS = 2**16


def kept_scale(p: float) -> float:
    """Return the factor of kept elements that preserves the mean.

    On CPUs the rate p is rounded to a multiple of 2^-16 (0.1 to 0.100006); the factor is exact for
    the rounded rate.
    """
    return 1 / (1 - _threshold(p) / _LEVELS)


def dropout_mask(shape: torch.Size | tuple[int, ...], p: float) -> Tensor:
    """Return a CPU mask that is true for dropped elements, each with probability p."""
    seed = int(torch.randint(2**62, ()))
    count = math.prod(shape)
    words = np.random.SFC64(seed).random_raw(-(-count // 4))
    levels = torch.from_numpy(words.view(np.int16))[:count].view(shape)
    return levels < _threshold(p) - _LEVELS // 2


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Do what `torch.nn.functional.dropout` does."""
    result, factor = dropout_unscaled(x, p, training)
    return result if factor == 1 else result.mul_(factor)


def dropout_unscaled(x: Tensor, p: float, training: bool) -> tuple[Tensor, float]:
    """Return dropout and the factor that its result still has to be multiplied by.

    The caller applies the factor to a smaller tensor of the linear operation that follows.
    """
    if not _is_fast_here(x, p, training):
        return F.dropout(x, p, training), 1.0
    return torch.where(dropout_mask(x.shape, p), 0.0, x), kept_scale(p)


def relu_dropout_unscaled(x: Tensor, p: float, training: bool) -> tuple[Tensor, float]:
    """Return dropout of ReLU(x) and the factor that it lacks; overwrites x.

    Elements above zero were kept, so the result is its own mask in the backward pass.
    """
    if not _is_fast_here(x, p, training):
        return F.dropout(F.relu(x, inplace=True), p, training), 1.0
    return _ReluDropout.apply(x, p), kept_scale(p)  # type: ignore[return-value]


class _ReluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        torch.where(dropout_mask(x.shape, p), x.new_zeros(()), x.relu_(), out=x)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grads[0], y, 0.0), None


def _is_fast_here(x: Tensor, p: float, training: bool) -> bool:
    return training and p > 0 and x.device.type == "cpu"


def _threshold(p: float) -> int:
    return min(round(p * _LEVELS), _LEVELS - 1)
