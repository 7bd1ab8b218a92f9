"""FLOP count: floating point operations of one optimizer step, measured on a real batch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from imitact.training.optimizer_step import Updater
from imitact.training.sampler import SampleBatch


def count_flops(updater: Updater, batch: SampleBatch) -> int:
    """Count the operations of matrix products and convolutions, forward and backward.

    A multiplication and an addition count as two. The count is of one step over all ranks.
    Weights, buffers and random state are left unchanged. Collective.
    """
    net, device = updater.policy.net, updater.device
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    random_state = device.random_state()
    net.train()
    with FlopCounterMode(display=False, custom_mapping=_cpu_attention()) as counter:
        with device.autocast():
            losses = updater.policy.loss(device.tensors(batch), shard=device.shard(batch))
        losses.total.backward()
    net.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, buffer in net.named_buffers():
            buffer.copy_(buffers[name])
    device.restore_random_state(random_state)
    return int(device.ranks.all_reduce(torch.tensor(counter.get_total_flops())))


def _cpu_attention() -> dict[Any, Any]:
    """The CPU's fused attention, which torch's counter does not count."""
    aten = torch.ops.aten

    def backward(grad: Any, query: Any, key: Any, value: Any, *args: Any, **named: Any) -> int:
        # Scores again, then the gradients of values, weights, queries and keys: 5 products to 2.
        return _attention(query, key, value) * 5 // 2

    return {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }


def _attention(query: Any, key: Any, value: Any, *args: Any, **named: Any) -> int:
    """Two products for every batch row and head: (T, D) by (D, S), then (T, S) by (S, D)."""
    batches = math.prod(query[:-2])
    return 2 * batches * query[-2] * key[-2] * (query[-1] + value[-1])
