"""Synchronized batch normalization: statistics of the whole batch when ranks share it.

torch's SyncBatchNorm does the same, but on GPUs only.

Shapes: B frames, C channels, H rows, W columns.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imitact.training.distributed import Ranks


def sync_batch_norms(net: nn.Module, ranks: Ranks) -> None:
    """Replace every BatchNorm2d in `net`; parameters, buffers and their names stay the same."""
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            net.set_submodule(name, RankSyncBatchNorm(module, ranks))


class RankSyncBatchNorm(nn.BatchNorm2d):
    """A BatchNorm2d over all ranks that shares the parameters and buffers of `norm`.

    Forward and backward are collective in training mode.
    """

    def __init__(self, norm: nn.BatchNorm2d, ranks: Ranks) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        for name, parameter in norm.named_parameters():
            setattr(self, name, parameter)
        for name, buffer in norm.named_buffers():
            setattr(self, name, buffer)
        self.ranks = ranks

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (B, C, H, W)."""
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
        statistics = (mean.float(), var.float(), count.float())
        return _Normalize.apply(input, self.weight, self.bias, *statistics, self.eps, self.ranks)  # type: ignore[return-value]

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean (C,), variance (C,) and values per channel (1,) over all ranks."""
        # The pass over x that BatchNorm2d uses: a float32 copy of x and var_mean take five times
        # as long. It returns float32 only if it has float32 running statistics to update.
        running = x.new_zeros((2, x.shape[1]), dtype=torch.float32).unbind()
        mean, var = torch.batch_norm_update_stats(x, *running, momentum=1.0)
        count = mean.new_full((1,), x.numel() // x.shape[1])
        gathered = self.ranks.all_gather(torch.cat([count, mean, var]).double())
        counts = gathered[:, :1]  # ranks may have shares of different size
        means, variances = gathered[:, 1:].chunk(2, dim=1)
        total = counts.sum(dim=0)
        mean = (counts * means).sum(dim=0) / total
        var = (counts * (variances + (means - mean).square())).sum(dim=0) / total
        return mean, var, total


class _Normalize(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) * weight + bias; mean and var depend on x, on all ranks."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        x, weight, bias, mean, var, count, eps, ranks = given
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps, ctx.ranks = eps, ranks
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight, mean, var, count = ctx.saved_tensors
        # With mean and var constant: dy * weight / std, sum(dy * normalized x), sum(dy).
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grads[0], x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        # The contribution of mean and var, which depend on every x of every rank.
        sums = ctx.ranks.all_reduce(torch.stack([grad_bias, grad_weight]).float())
        scale = weight * (var + ctx.eps).rsqrt() / count
        grad_x -= F.batch_norm(x, mean, var, scale * sums[1], scale * sums[0], False, 0.0, ctx.eps)
        return grad_x, grad_weight, grad_bias, None, None, None, None, None
