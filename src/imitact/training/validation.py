"""Validation: L1 error of the predicted actions on the validation episodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from imitact.core.errors import NotFinite
from imitact.training.optimizer_step import Updater
from imitact.training.sampler import Sampler

LOGGED = ("held_out_l1_rad", "held_out_l1_per_joint", "held_out_l1_rad_per_tick")
"""Keys of a result that metrics.jsonl has too."""


def validate(updater: Updater, validation: Sampler, samples: int) -> dict[str, Any]:
    """Compare predictions of `updater.averaged` at z = 0 with the demonstrations.

    Over the ticks within the episode of about `samples` evenly spaced samples, of which each rank
    evaluates a share. Collective. Raises NotFinite for an error that is not finite.

    Returns:
        `held_out_l1_rad`, the mean over the joints in rad (over all dimensions if none is in rad);
        `held_out_l1_per_joint`, by action dimension in its unit; `held_out_l1_rad_per_tick`, by
        tick of the chunk over the joints in rad; `held_out_l1_per_joint_per_tick`, by both.
    """
    policy, device = updater.averaged, updater.device
    spec = policy.spec
    sums = np.zeros((policy.config.chunk_size, spec.action_size))
    counts = np.zeros((policy.config.chunk_size, 1))
    policy.net.eval()
    for batch in validation.evenly_spaced(samples):
        with torch.inference_mode(), device.autocast():
            predicted = policy.predict(device.tensors(batch)).float().cpu().numpy()
        valid = ~batch.is_pad[:, :, None]
        sums += (np.abs(predicted - batch.action) * valid).sum(axis=0)
        counts += valid.sum(axis=0)
    for array in (sums, counts):
        device.ranks.all_reduce(torch.from_numpy(array))
    joints = [i for i, unit in enumerate(spec.action_units) if unit == "rad"]
    joints = joints or list(range(spec.action_size))
    per_joint = sums.sum(axis=0) / counts.sum()
    mean = float(per_joint[joints].mean())
    if not np.isfinite(mean):
        raise NotFinite(f"the validation L1 is {mean}")
    reached = counts[:, 0] > 0
    per_tick = sums[reached][:, joints].mean(axis=1) / counts[reached, 0]
    matrix = (sums[reached] / counts[reached]).T  # (A, ticks)

    def by_joint(values: np.ndarray) -> dict[str, Any]:
        return dict(zip(spec.action_names, values.tolist(), strict=True))

    return {
        "held_out_l1_rad": mean,
        "held_out_l1_per_joint": by_joint(per_joint),
        "held_out_l1_rad_per_tick": per_tick.tolist(),
        "held_out_l1_per_joint_per_tick": by_joint(matrix),
    }
