"""Optimizer step: from a batch to new weights by gradient, clipping, AdamW and a moving average.

The whole state is named tensors, so that a checkpoint needs no pickle.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

from imitact.core.errors import DamagedFile, ImitactError, NotFinite
from imitact.core.words import counted
from imitact.models import policy as policies
from imitact.models.act import Losses
from imitact.models.batch_shard import BatchShard
from imitact.models.policy import TorchPolicy
from imitact.training.config import TrainConfig
from imitact.training.device import TrainingDevice
from imitact.training.sampler import SampleBatch
from imitact.training.sync_batchnorm import sync_batch_norms

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def lr_scale(config: TrainConfig, step: int, start: int = 0) -> float:
    """Return the factor on both peak learning rates in the step after `step` steps.

    Linear warm-up from 1 / warmup_steps to 1, then half a cosine down to final_lr_fraction. The
    schedule spans the steps from `start` to config.steps.
    """
    step, steps = step - start, config.steps - start
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.final_lr_fraction + (1 - config.final_lr_fraction) * cosine


class Updater:
    """Updates a policy's weights with AdamW, and keeps their exponential moving average.

    Each rank holds the whole state, which is the same on all ranks after each update: losses and
    gradients of the ranks' shares of the batch are summed. The constructor and `update` are
    collective.

    `averaged` is the policy to keep: its weights are the moving average of those of `policy`, or it
    is `policy` itself where ema_decay is 0. Floating point buffers, such as BatchNorm's running
    statistics, are averaged too, because they describe the activations of those weights; integer
    buffers are copied. The learning rate's schedule begins at step `schedule_start`.
    """

    def __init__(
        self,
        policy: TorchPolicy,
        config: TrainConfig,
        device: TrainingDevice,
        schedule_start: int = 0,
    ) -> None:
        self.policy = policy
        self.config = config
        self.schedule_start = schedule_start
        self.device = device
        policy.to(device.device)
        self.averaged = copy.deepcopy(policy) if config.ema_decay else policy
        self._loss: Callable[..., Losses] = _summed_loss(policy, device)
        trained = [(n, p) for n, p in policy.net.named_parameters() if p.requires_grad]
        self._named = dict(trained)
        groups = [
            {
                "params": [p for n, p in trained if n.startswith("backbone.") == in_backbone],
                "lr": lr,
                "full_lr": lr,
            }
            for lr, in_backbone in ((config.lr, False), (config.lr_backbone, True))
        ]
        self.optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            fused=True,  # one pass over memory instead of one per operation
        )
        mean, now = self.averaged.net.state_dict(), policy.net.state_dict()
        floats = [n for n, t in now.items() if t.is_floating_point()]
        self._pairs = [mean[n] for n in floats], [now[n] for n in floats]
        self._pending: tuple[Callable[[], Tensor], float] | None = None

    def update(self, step: int, batch: SampleBatch) -> dict[str, float]:
        """Update the weights from `batch`, after `step` steps.

        On a device other than the CPU nothing waits for the result: the numbers returned, and the
        refusal, are those of the previous update (none at first). `synchronize` waits for the last
        one. After a refused update the weights no longer change.

        Return loss, l1, kl, grad_norm, lr and lr_backbone; NotFinite for a loss or a gradient that
        is not finite, with the weights unchanged.
        """
        scale = lr_scale(self.config, step, self.schedule_start)
        for group in self.optimizer.param_groups:
            group["lr"] = group["full_lr"] * scale
        self.policy.net.train()
        self.optimizer.zero_grad(set_to_none=True)
        self.device.seed_dropout(step)
        ranks = self.device.ranks
        with ranks.detect_lost_rank():
            with self.device.autocast():
                losses = self._loss(self.device.tensors(batch), shard=self.device.shard(batch))
            losses.total.backward()
        summed = ranks.all_reduce(torch.stack([losses.total, losses.l1, losses.kl]).detach())
        gradients = [p.grad for p in self._named.values() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        found = torch.cat([summed, norm[None]])
        limit = self.config.grad_clip_norm
        if self.device.is_synchronous:
            numbers = _verified_numbers(found, self.config, scale)
            is_small = numbers["grad_norm"] <= limit
        else:
            numbers = self.synchronize()
            self._freeze_unless_finite(found)
            self._pending = (self.device.fetch(found), scale)
            is_small = False  # the device decides
        if limit and not is_small:
            nn.utils.clip_grads_with_norm_(self._named.values(), limit, norm, foreach=True)
        self.optimizer.step()
        self._average(step)
        return numbers

    def synchronize(self) -> dict[str, float]:
        """Wait for the last update; return its numbers if `update` has not returned them yet."""
        if self._pending is None:
            return {}
        (fetch, scale), self._pending = self._pending, None
        return _verified_numbers(fetch(), self.config, scale)

    def check_ranks_agree(self) -> None:
        """Raise ImitactError if weights or buffers differ between ranks in any bit. Collective."""
        ranks = self.device.ranks
        if ranks.count == 1:
            return
        state = self.policy.net.state_dict()
        bits = {n: t.view(torch.int32) for n, t in state.items() if t.dtype == torch.float32}
        sums = ranks.all_gather(torch.stack([b.sum(dtype=torch.int64) for b in bits.values()]))
        same = (sums == sums[0]).all(dim=0).tolist()
        differing = [name for name, is_same in zip(bits, same, strict=True) if not is_same]
        if differing:
            raise ImitactError(
                f"the weights of the {counted(ranks.count, 'rank')} are no longer the same "
                f"({differing[0]} and {len(differing) - 1} more). Processors of different types "
                "round differently; use machines of one type."
            )

    def _freeze_unless_finite(self, found: Tensor) -> None:
        """Make the optimizer skip this and later steps if the numbers are not finite.

        The device decides, so the host does not wait for it.
        """
        bad = (~found.isfinite().all()).float()
        before: Tensor | None = getattr(self.optimizer, "found_inf", None)
        self.optimizer.found_inf = bad if before is None else torch.maximum(bad, before)  # type: ignore[attr-defined]

    @torch.no_grad()
    def _average(self, step: int) -> None:
        if self.averaged is self.policy:
            return
        # A shorter memory at first, so that the random initial weights are forgotten.
        decay = min(self.config.ema_decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(*self._pairs, step)
        for name, buffer in self.averaged.net.named_buffers():
            if not buffer.is_floating_point():
                buffer.copy_(self.policy.net.get_buffer(name))

    def tensors(self) -> dict[str, Tensor]:
        """Return copies on the CPU of all that the next update depends on; `synchronize` first."""
        found = {f"net.{n}": t for n, t in self.policy.net.state_dict().items()}
        if self.averaged is not self.policy:
            found |= {f"ema.{n}": t for n, t in self.averaged.net.state_dict().items()}
        for name, parameter in self._named.items():
            for moment, tensor in self.optimizer.state.get(parameter, {}).items():
                found[f"adamw.{moment}.{name}"] = tensor
        found |= {f"random.{n}": t for n, t in self.device.random_state().items()}
        return {n: t.detach().cpu().clone().contiguous() for n, t in found.items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` returned; DamagedFile for the tensors of another network."""
        device = self.device.device
        networks = {"net.": self.policy.net}
        if self.averaged is not self.policy:
            networks["ema."] = self.averaged.net
        for prefix, net in networks.items():
            stored = {n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)}
            current = net.state_dict()
            shapes = [{n: t.shape for n, t in side.items()} for side in (stored, current)]
            differing = sorted({n for n, _ in shapes[0].items() ^ shapes[1].items()})
            if differing:
                raise DamagedFile(
                    f"the checkpoint belongs to another network: {len(differing)} tensors differ, "
                    f"first {differing[0]}"
                )
            for name, tensor in current.items():
                tensor.copy_(stored[name])
        for name, parameter in self._named.items():
            found = {m: tensors.get(f"adamw.{m}.{name}") for m in _MOMENTS}
            moments = {m: t for m, t in found.items() if t is not None}
            if moments:
                self.optimizer.state[parameter] = {
                    m: torch.empty_like(parameter if m != "step" else t, device=device).copy_(t)
                    for m, t in moments.items()
                }
        self.device.restore_random_state(
            {n.removeprefix("random."): t for n, t in tensors.items() if n.startswith("random.")}
        )


class _Loss(nn.Module):
    """A policy's loss as a module, as DistributedDataParallel requires.

    It has no buffers: torch would broadcast them before each loss, although they are equal.
    """

    def __init__(self, policy: TorchPolicy) -> None:
        super().__init__()
        self.weights = nn.ParameterList(p for p in policy.net.parameters() if p.requires_grad)
        self._loss = policy.loss

    def forward(self, batch: policies.Batch, shard: BatchShard) -> Losses:
        return self._loss(batch, shard=shard)


def _summed_loss(policy: TorchPolicy, device: TrainingDevice) -> Callable[..., Losses]:
    """Return the policy's loss, with gradients summed over all ranks if there are several.

    Gradients are summed in buckets while the backward pass is still running.
    """
    if device.ranks.count == 1:
        return policy.loss
    sync_batch_norms(policy.net, device.ranks)
    parallel = DistributedDataParallel(_Loss(policy), gradient_as_bucket_view=True)
    parallel.register_comm_hook(None, _sum_gradients)
    return parallel


def _sum_gradients(state: object, bucket):  # torch refuses annotations that are strings
    """Sum over the ranks, where torch takes the mean: the ranks' losses sum to the batch's."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    return work.get_future().then(lambda done: done.value()[0])


def _verified_numbers(found: Tensor, config: TrainConfig, scale: float) -> dict[str, float]:
    """Return the numbers of an update by name; raise NotFinite for the loss or the gradient."""
    total, l1, kl, size = found.tolist()
    if not (math.isfinite(total) and math.isfinite(size)):
        raise NotFinite(f"the loss is {total} (l1 {l1}, kl {kl}), its gradient norm {size}")
    return {
        "loss": total,
        "l1": l1,
        "kl": kl,
        "grad_norm": size,
        "lr": config.lr * scale,
        "lr_backbone": config.lr_backbone * scale,
    }
