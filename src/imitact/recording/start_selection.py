"""Start selection: an order of initial states in which few demonstrations cover all of them."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray


def coverage_order(starts: NDArray[np.float64]) -> list[int]:
    """Order initial states, (N, D), so that every prefix of the order covers all of them well.

    Each next row is the one that most reduces the sum over all rows of the squared distance to
    the nearest selected row. This is the greedy algorithm of facility location (Nemhauser, Wolsey
    and Fisher 1978, doi:10.1007/BF01588971), within 1 - 1/e of the best set of its size. Costs
    O(N^2) at first and little per row after that, because the gain of a row only shrinks and is
    computed again only when it is the largest. Of two equally good rows, the lower comes first.
    """

    # Before the first selection every row is equally far away: twice the diagonal.
    extent = np.ptp(starts, axis=0)
    nearest = np.full(len(starts), 2.0 * float(extent @ extent))

    def with_row(row: int) -> tuple[NDArray[np.float64], float]:
        """`nearest` with this row selected, and the negative of what that gains."""
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
