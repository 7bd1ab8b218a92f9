"""Which starts to demonstrate first, so that few demonstrations cover all of them."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray


def evenly(starts: NDArray[np.float64]) -> list[int]:
    """Row numbers of `starts` (N, D) in the order that covers them best, each exactly once.

    Each next row is the one that most lowers the sum over all rows of the squared distance to the
    nearest row chosen so far; so every beginning of the order is spread over all the starts. The
    greedy choice of facility location (Nemhauser, Wolsey and Fisher 1978,
    doi:10.1007/BF01588971), within 1 - 1/e of the best set of its size. Of equals the first row
    is taken. Costs N^2 at first and little a row after that (lazily: a row's gain only shrinks).
    """

    # Nothing chosen yet counts as far away, the same from every row.
    extent = np.ptp(starts, axis=0)
    nearest = np.full(len(starts), 2.0 * float(extent @ extent))

    def with_row(row: int) -> tuple[NDArray[np.float64], float]:
        """What `nearest` becomes with this row, and the loss, minus what that gains."""
        then = np.minimum(nearest, ((starts - starts[row]) ** 2).sum(axis=1))
        return then, -float((nearest - then).sum())

    losses = [(with_row(row)[1], row) for row in range(len(starts))]
    heapq.heapify(losses)
    order = []
    while losses:
        _, row = heapq.heappop(losses)
        then, loss = with_row(row)
        if losses and (loss, row) > losses[0]:
            heapq.heappush(losses, (loss, row))
            continue
        order.append(row)
        nearest = then
    return order
