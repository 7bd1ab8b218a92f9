"""Imported policies: a foreign checkpoint's weights and statistics, assembled to a TorchPolicy."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from imitact.core.feature_statistics import Stats
from imitact.models.normalization import Scaling
from imitact.models.policy import TorchPolicy
from imitact.models.policy_folder import PolicyRecord


@dataclass(frozen=True)
class ImportedPolicy:
    """An imported policy, and what the user must know about the import, one line each."""

    policy: TorchPolicy
    notes: tuple[str, ...]


def complete_stats(
    known: Mapping[str, NDArray[Any]], size: int, what: str, notes: list[str]
) -> Stats:
    """Return full statistics of a state or an action; add a note for every unknown part.

    `known` has "mean", "std", "min" and "max" (size,) and "count" (1,), as far as a checkpoint
    holds them; those that are not finite count as unknown. An unknown range becomes the mean alone,
    of one row: an empty range claims nothing.
    """
    rows = {n: v.astype(np.float64) for n, v in known.items() if np.all(np.isfinite(v))}
    mean, std, low, high = (rows.get(name) for name in ("mean", "std", "min", "max"))
    if mean is None or std is None:
        if low is None or high is None:
            notes.append(f"mean, deviation and range of {what} are not in the checkpoint")
            mean, std = np.zeros(size), np.ones(size)
        else:
            notes.append(f"mean and deviation of {what} are not in the checkpoint, its range is")
            mean, std = (low + high) / 2, (high - low) / 2
    elif low is None or high is None:
        notes.append(f"the range of {what} is not in the checkpoint")
    if low is None or high is None:
        low = high = mean
    count = rows.get("count", np.ones(1))
    is_count = count.size == 1 and count[0] >= 1
    return Stats(mean, std, low, high, int(count[0]) if is_count else 1)


def side_by_side(parts: Sequence[Stats]) -> Stats:
    """Return the statistics of several features as those of one, which has all their values."""
    rows = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("mean", "std", "min", "max")
    }
    return Stats(**rows, count=min(part.count for part in parts))


def assemble_policy(
    record: PolicyRecord, scaling: Scaling, weights: Mapping[str, Tensor], where: str
) -> TorchPolicy:
    """Return the policy with weights by imitact's names; `where` is their path, for errors.

    A digest of the weights is added to the record's fingerprint. `scaling` is the normalization of
    the other program, kept only if it differs from imitact's own.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().numpy().tobytes())
    plain = Scaling.plain(record.spec, record.stats, record.config)
    record = replace(
        record,
        fingerprint=f"{record.fingerprint} {digest.hexdigest()}",
        scaling=None if scaling.is_close(plain) else scaling,
    )
    settings = "the checkpoint's settings"
    return TorchPolicy.from_weights(record, weights, where=where, settings=settings)
