"""Dropout whose masks are drawn fast on a CPU.

torch draws a CPU's masks one number at a time on one thread: a sixth of a training step of the
`released` preset. Here four elements share one 64-bit number of SFC64 (Doty-Humphrey's PractRand,
numpy's fastest), seeded by one draw from torch's global random state, so that who restores that
state restores the masks. Other devices use torch's own.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_LEVELS = 2**16


def scale(p: float) -> float:
    """What kept elements are multiplied by, so that the mean stays.

    On a CPU a share p is rounded to a multiple of 2^-16 (0.1 to 0.100006), and this is exact for
    that share.
    """
    return 1 / (1 - _threshold(p) / _LEVELS)


def drawn(shape: torch.Size | tuple[int, ...], p: float) -> Tensor:
    """Which elements are dropped, each with probability p: bool, on the CPU."""
    seed = int(torch.randint(2**62, ()))
    count = math.prod(shape)
    words = np.random.SFC64(seed).random_raw(-(-count // 4))
    levels = torch.from_numpy(words.view(np.int16))[:count].view(shape)
    return levels < _threshold(p) - _LEVELS // 2


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """As `torch.nn.functional.dropout`."""
    if not _ours(x, p, training):
        return F.dropout(x, p, training)
    return torch.where(drawn(x.shape, p), 0.0, x).mul_(scale(p))


def dropout_unscaled(x: Tensor, p: float, training: bool) -> tuple[Tensor, float]:
    """Dropout, and the factor that its result still has to be multiplied by: what follows is
    linear, and smaller there."""
    if not _ours(x, p, training):
        return F.dropout(x, p, training), 1.0
    return torch.where(drawn(x.shape, p), 0.0, x), scale(p)


def relu_dropout_unscaled(x: Tensor, p: float, training: bool) -> tuple[Tensor, float]:
    """Dropout of ReLU(x), and the factor that it lacks; x itself is overwritten.

    What is above zero was kept, so the result is its own mask in the backward pass.
    """
    if not _ours(x, p, training):
        return F.dropout(F.relu(x, inplace=True), p, training), 1.0
    return _ReluDropout.apply(x, p), scale(p)  # type: ignore[return-value]


class _ReluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        torch.where(drawn(x.shape, p), x.new_zeros(()), x.relu_(), out=x)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grads[0], y, 0.0), None


def _ours(x: Tensor, p: float, training: bool) -> bool:
    return training and p > 0 and x.device.type == "cpu"


def _threshold(p: float) -> int:
    return min(round(p * _LEVELS), _LEVELS - 1)
