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

    def squares(row: int) -> NDArray[np.float64]:
        return ((starts - starts[row]) ** 2).sum(axis=1)

    # Nothing chosen yet counts as far away, the same from every row.
    nearest = np.full(len(starts), 2.0 * float(np.ptp(starts, axis=0) @ np.ptp(starts, axis=0)))
    gains = [(-float((nearest - squares(row)).sum()), row) for row in range(len(starts))]
    heapq.heapify(gains)
    order = []
    while gains:
        _, row = heapq.heappop(gains)
        gain = float(np.maximum(nearest - squares(row), 0.0).sum())
        if gains and (-gain, row) > gains[0]:
            heapq.heappush(gains, (-gain, row))
            continue
        order.append(row)
        nearest = np.minimum(nearest, squares(row))
    return order
