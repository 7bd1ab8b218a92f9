"""Batch shards: the part of a larger batch that one rank holds.

Ranks that each hold a shard learn what one process with the whole batch learns: random numbers
are drawn for the whole batch and sliced, and the losses of all shards add up to its loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BatchShard:
    """Rows of a larger batch. The default, `WHOLE`, is a complete batch.

    Attributes:
        first: Row of the larger batch that is row 0 of the shard.
        samples: Rows of the larger batch; None if the shard is the whole batch.
        valid: Ticks in the larger batch's chunks that are not padding.
        generator: Generator in the same state for every shard of the batch; None uses torch's
            global random state.
    """

    first: int = 0
    samples: int | None = None
    valid: int = 0
    generator: torch.Generator | None = None

    def drawn(
        self, draw: Callable[[int, torch.Generator | None], Tensor], count: int, axis: int = 0
    ) -> Tensor:
        """Return random numbers for the `count` samples of the shard, which are along `axis`.

        `draw` draws for a number of samples from a generator (None: the global state). It is called
        for the larger batch, so that the numbers do not depend on the sharding.
        """
        if self.samples is None:
            return draw(count, None)
        return draw(self.samples, self.generator).narrow(axis, self.first, count)

    def mean(self, values: Tensor) -> Tensor:
        """Return the shard's share of the mean of `values` (B, ...) over the larger batch."""
        if self.samples is None:
            return values.mean()
        return values.sum() / (self.samples * values[0].numel())

    def valid_ticks(self, is_pad: Tensor) -> Tensor:
        """Return the number of unpadded ticks of the larger batch; is_pad (B, K) is the shard's."""
        if self.samples is None:
            return (~is_pad).sum()
        return is_pad.new_full((), self.valid, dtype=torch.int64)


WHOLE = BatchShard()
"""A batch that is not sharded."""
