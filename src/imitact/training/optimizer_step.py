"""From one batch to new weights: gradients, clipping, AdamW, the averaged copy.

The state of it is named tensors, so that a checkpoint needs no pickle.
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
from imitact.models import policy as policies
from imitact.models.act import Losses
from imitact.models.batch_shard import BatchShard
from imitact.models.policy import TorchPolicy
from imitact.training.config import TrainConfig
from imitact.training.device import TrainingDevice
from imitact.training.sampler import SampleBatch
from imitact.training.sync_batchnorm import sync_batch_norms

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def lr_scale(config: TrainConfig, step: int) -> float:
    """Return the factor on both peak learning rates in the step after `step` steps.

    Linear warm-up from 1 / warmup_steps to 1, then half a cosine down to final_lr_fraction.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.final_lr_fraction + (1 - config.final_lr_fraction) * cosine


class Updater:
    """The weights under training, the optimiser's moments, and the weights' moving average.

    policy:   the weights under training.
    averaged: the policy to keep: its weights are the exponential moving average of the other's,
              or the very same policy where ema_decay is 0. BatchNorm's running statistics (and
              every other buffer of floating point) are averaged like the weights, because they
              describe the activations that those weights give; whole numbers are copied.

    Of several ranks each has it all, and after each update the same: they add up what their shares
    of the batch give to the loss and its gradient, then do what one process does. The constructor
    and `update` are collective.
    """

    def __init__(self, policy: TorchPolicy, config: TrainConfig, devices: TrainingDevice) -> None:
        self.policy = policy
        self.config = config
        self.devices = devices
        policy.to(devices.device)
        self.averaged = copy.deepcopy(policy) if config.ema_decay else policy
        self._loss: Callable[..., Losses] = _loss_of(policy, devices)
        trained = [(n, p) for n, p in policy.net.named_parameters() if p.requires_grad]
        self._named = dict(trained)
        trunk = [p for n, p in trained if is_backbone(n)]
        rest = [p for n, p in trained if not is_backbone(n)]
        groups = [
            {"params": rest, "lr": config.lr, "full_lr": config.lr},
            {"params": trunk, "lr": config.lr_backbone, "full_lr": config.lr_backbone},
        ]
        self.optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            fused=True,  # one pass over memory instead of one an operation
        )
        self._pairs = self._float_pairs()
        self._pending: tuple[Callable[[], Tensor], float] | None = None

    def update(self, step: int, batch: SampleBatch) -> dict[str, float]:
        """One update from `batch`, after `step` updates; gives its numbers.

        Refuses (NotFinite) a loss or gradient that is not finite, and then changes no weight.

        Where the device is not the CPU nothing waits for it: the numbers, and the refusal, are
        those of the update before (none at first), and `settle` waits for the last one. From a
        refused update on the weights stay as they are.
        """
        scale = lr_scale(self.config, step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["full_lr"] * scale
        self.policy.net.train()
        self.optimizer.zero_grad(set_to_none=True)
        self.devices.begin(step)
        ranks = self.devices.ranks
        with ranks.heard():
            with self.devices.autocast():
                losses = self._loss(self.devices.tensors(batch), part=self.devices.part(batch))
            losses.total.backward()
        lost = ranks.sum(torch.stack([losses.total, losses.l1, losses.kl]).detach())
        gradients = [p.grad for p in self._named.values() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        found = torch.cat([lost, norm[None]])
        if self.devices.waits:
            numbers = _checked(found, self.config, scale)
            if self.config.grad_clip_norm and numbers["grad_norm"] > self.config.grad_clip_norm:
                self._clip(norm)
        else:
            numbers = self.settle()
            self._refuse(found)
            if self.config.grad_clip_norm:
                self._clip(norm)
            self._pending = (self.devices.fetched(found), scale)
        self.optimizer.step()
        self._average(step)
        return numbers

    def settle(self) -> dict[str, float]:
        """Wait for the last update, and give its numbers if they were not given yet; else none."""
        if self._pending is None:
            return {}
        (fetch, scale), self._pending = self._pending, None
        return _checked(fetch(), self.config, scale)

    def check_alike(self) -> None:
        """Refuse to go on where the ranks' weights or statistics are not the same, bit for bit.
        Collective."""
        ranks = self.devices.ranks
        if ranks.count == 1:
            return
        held = self.policy.net.state_dict()
        bits = {n: t.view(torch.int32) for n, t in held.items() if t.dtype == torch.float32}
        sums = ranks.gathered(torch.stack([b.sum(dtype=torch.int64) for b in bits.values()]))
        same = (sums == sums[0]).all(dim=0).tolist()
        unlike = [name for name, alike in zip(bits, same, strict=True) if not alike]
        if unlike:
            raise ImitactError(
                f"the weights of the {ranks.count} ranks are no longer the same ({unlike[0]!r} and "
                f"{len(unlike) - 1} more): do they run on processors of different kinds, which "
                "round differently? Use machines of one kind."
            )

    def _refuse(self, found: Tensor) -> None:
        """Have the optimiser leave the weights alone, from now on, if these are not finite; the
        device decides, so that nobody waits for it."""
        bad = (~found.isfinite().all()).float()
        before: Tensor | None = getattr(self.optimizer, "found_inf", None)
        self.optimizer.found_inf = bad if before is None else torch.maximum(bad, before)  # type: ignore[attr-defined]

    def _clip(self, norm: Tensor) -> None:
        torch.nn.utils.clip_grads_with_norm_(
            self._named.values(), self.config.grad_clip_norm, norm, foreach=True
        )

    @torch.no_grad()
    def _average(self, step: int) -> None:
        if self.averaged is self.policy:
            return
        # A young average forgets faster, so that it does not remember the random start.
        decay = min(self.config.ema_decay, (1 + step) / (10 + step))
        mean, now = self._pairs
        get_ema_multi_avg_fn(decay)(mean, now, step)
        for name, buffer in self.averaged.net.named_buffers():
            if not buffer.is_floating_point():
                buffer.copy_(self.policy.net.get_buffer(name))

    def _float_pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        """Tensors of the averaged network and of the trained one, those that change and can be
        averaged."""
        if self.averaged is self.policy:
            return [], []
        mean, now = self.averaged.net.state_dict(), self.policy.net.state_dict()
        names = [n for n, t in now.items() if t.is_floating_point()]
        return [mean[n] for n in names], [now[n] for n in names]

    def tensors(self) -> dict[str, Tensor]:
        """All that the next update depends on, as copies on the CPU; `settle` first."""
        found = {f"net.{n}": t for n, t in self.policy.net.state_dict().items()}
        if self.averaged is not self.policy:
            found |= {f"ema.{n}": t for n, t in self.averaged.net.state_dict().items()}
        for name, parameter in self._named.items():
            for moment, tensor in self.optimizer.state.get(parameter, {}).items():
                found[f"adamw.{moment}.{name}"] = tensor
        found |= {f"random.{n}": t for n, t in self.devices.random_state().items()}
        return {n: t.detach().cpu().clone().contiguous() for n, t in found.items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on exactly where `tensors` was taken. Refuses the state of another network."""
        networks = {"net.": self.policy.net}
        if self.averaged is not self.policy:
            networks["ema."] = self.averaged.net
        for prefix, net in networks.items():
            have = {n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)}
            want = net.state_dict()
            unlike = sorted(
                n
                for n in have.keys() | want.keys()
                if n not in have or n not in want or have[n].shape != want[n].shape
            )
            if unlike:
                raise DamagedFile(
                    f"the checkpoint is of another network: {len(unlike)} tensors differ, "
                    f"{unlike[0]!r} first"
                )
            for name, tensor in want.items():
                tensor.copy_(have[name])
        for name, parameter in self._named.items():
            moments = {
                m: tensors[f"adamw.{m}.{name}"] for m in _MOMENTS if f"adamw.{m}.{name}" in tensors
            }
            if moments:
                self.optimizer.state[parameter] = {
                    m: t.clone() if m == "step" else torch.empty_like(parameter).copy_(t)
                    for m, t in moments.items()
                }
                if self.devices.device.type != "cpu":
                    state = self.optimizer.state[parameter]
                    state["step"] = state["step"].to(self.devices.device)
        self.devices.restore_random_state(
            {n[len("random.") :]: t for n, t in tensors.items() if n.startswith("random.")}
        )


class _Loss(nn.Module):
    """A policy's loss as a module, which is what torch can spread over ranks. It has no buffers:
    torch would send them again before each loss, and they are the same anyway."""

    def __init__(self, policy: TorchPolicy) -> None:
        super().__init__()
        self.weights = nn.ParameterList(p for p in policy.net.parameters() if p.requires_grad)
        self._loss = policy.loss

    def forward(self, batch: policies.Batch, part: BatchShard) -> Losses:
        return self._loss(batch, part=part)


def _loss_of(policy: TorchPolicy, devices: TrainingDevice) -> Callable[..., Losses]:
    """The policy's loss of a batch; of several ranks one whose gradients are added up over all of
    them, bucket by bucket while the backward pass still goes on."""
    if devices.ranks.count == 1:
        return policy.loss
    sync_batch_norms(policy.net, devices.ranks)
    spread = DistributedDataParallel(_Loss(policy), gradient_as_bucket_view=True)
    spread.register_comm_hook(None, _added_up)
    return spread


def _added_up(state: object, bucket):  # torch refuses annotations that are text
    """The sum, where torch would take the mean: the losses of all ranks add up to that of the
    batch."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    return work.get_future().then(lambda done: done.value()[0])


def _checked(found: Tensor, config: TrainConfig, scale: float) -> dict[str, float]:
    """The numbers of an update: loss, l1, kl and gradient norm as they came, and its rates."""
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


def is_backbone(name: str) -> bool:
    """Whether a parameter of that name belongs to the image trunk, which has its own rate."""
    return name.startswith("backbone.")
