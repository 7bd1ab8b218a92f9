"""Batch norms whose statistics are of the whole batch, where that is spread over ranks.

torch's SyncBatchNorm does the same on GPUs only.

Legend: B frames, C channels, H and W rows and columns.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imitact.training.distributed import Ranks


def sync_batch_norms(net: nn.Module, ranks: Ranks) -> None:
    """Let every BatchNorm2d in `net` normalise by the whole batch; its parameters, buffers and
    their names stay."""
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            net.set_submodule(name, RankSyncBatchNorm(module, ranks))


class RankSyncBatchNorm(nn.BatchNorm2d):
    """A BatchNorm2d with the parameters and buffers of `norm`. In train mode collective, forward
    and backward."""

    def __init__(self, norm: nn.BatchNorm2d, ranks: Ranks) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        for name, parameter in norm.named_parameters():
            setattr(self, name, parameter)
        for name, buffer in norm.named_buffers():
            setattr(self, name, buffer)
        self.ranks = ranks

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if not self.training:
            return super().forward(input)
        with torch.no_grad():
            mean, var, count = self._statistics(input)
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.float(), self.momentum)
            self.running_var.lerp_((var * count / (count - 1)).float(), self.momentum)
        given = (mean.float(), var.float(), count.float())
        return _Normalised.apply(input, self.weight, self.bias, *given, self.eps, self.ranks)  # type: ignore[return-value]

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and variance (C,) of all ranks' values, and how many there are a channel (1,)."""
        # Torch's own pass over x, as BatchNorm2d has it: a float32 copy of x and var_mean take five
        # times as long. It gives float32 only where it has float32 statistics to move.
        moved = x.new_zeros((2, x.shape[1]), dtype=torch.float32).unbind()
        mean, var = torch.batch_norm_update_stats(x, *moved, momentum=1.0)
        count = mean.new_full((1,), x.numel() // x.shape[1])
        found = self.ranks.gathered(torch.cat([count, mean, var]).double())
        counts = found[:, :1]  # ranks may have unequal shares
        means, variances = found[:, 1:].chunk(2, dim=1)
        total = counts.sum(dim=0)
        mean = (counts * means).sum(dim=0) / total
        var = (counts * (variances + (means - mean).square())).sum(dim=0) / total
        return mean, var, total


class _Normalised(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) * weight + bias, where mean and var follow from x, here and on
    the other ranks."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        var: Tensor,
        count: Tensor,
        eps: float,
        ranks: Ranks,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps, ctx.ranks = eps, ranks
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight, mean, var, count = ctx.saved_tensors
        # As if mean and var were constants: dy * weight / std, sum(dy * normalised x), sum(dy).
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grads[0], x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        # What their dependence on every x of every rank takes away.
        sums = ctx.ranks.sum(torch.stack([grad_bias, grad_weight]).float())
        scale = weight * (var + ctx.eps).rsqrt() / count
        grad_x -= F.batch_norm(x, mean, var, scale * sums[1], scale * sums[0], False, 0.0, ctx.eps)
        return grad_x, grad_weight, grad_bias, None, None, None, None, None
