"""A batch that is a part of a larger one: it draws and counts as if the whole were here.

Several processes that each hold a part of a batch learn what one with all of it learns, if what
they draw at random is what the one would have drawn for the same samples, and if their losses add
up to its loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BatchShard:
    """Which rows of the larger batch these are; Part() is a batch that is whole.

    first:     row of the larger batch that is row 0 here.
    samples:   rows of the larger batch.
    valid:     ticks of its chunks that are no padding.
    generator: what is drawn from, in the same state wherever a part of this batch is; None for
               torch's global random state.
    """

    first: int = 0
    samples: int | None = None
    valid: int = 0
    generator: torch.Generator | None = None

    def drawn(
        self,
        draw: Callable[[int, torch.Generator | None], Tensor],
        count: int,
        axis: int = 0,
    ) -> Tensor:
        """Random numbers for the `count` samples here, along `axis`.

        draw: gives those of a number of samples, from a generator (None: the global state). It is
              asked for the larger batch's, so that they do not depend on how that is split.
        """
        if self.samples is None:
            return draw(count, None)
        return draw(self.samples, self.generator).narrow(axis, self.first, count)

    def mean(self, values: Tensor) -> Tensor:
        """What these samples add to the mean of `values` (B, ...) over the larger batch."""
        if self.samples is None:
            return values.mean()
        return values.sum() / (self.samples * values[0].numel())

    def valid_ticks(self, is_pad: Tensor) -> Tensor:
        """How many ticks of the larger batch's chunks are no padding; is_pad (B, K) is of these."""
        if self.samples is None:
            return (~is_pad).sum()
        return is_pad.new_full((), self.valid, dtype=torch.int64)


WHOLE = BatchShard()
"""A batch that is no part of another."""
