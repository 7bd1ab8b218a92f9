"""Thread count: fewer threads of torch while other processes use the cores.

Threads wait for each other at every operation, so one that has lost its core holds up all: on two
cores beside one or two busy processes, two threads train 0.4 times as fast as one
(benchmarks/results/busy_threads.json).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

from imitact.core.cpu import OtherProcesses
from imitact.core.words import counted
from imitact.training.device import TrainingDevice

LOOK_S = 10.0
"""Time between looks. A change of the number of threads changes how sums are rounded."""

_IGNORED_CORES = 0.4
"""Use by others that does not cost a thread. One busy process beside as many threads as cores gets
two thirds of a core or more."""


class ThreadCount:
    """Adapts torch's number of threads, where that is left to imitact: on a CPU, in one process."""

    def __init__(
        self,
        device: TrainingDevice,
        num_threads: int,
        *,
        others: OtherProcesses | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        is_left_to_us = num_threads == 0 and device.device.type == "cpu" and device.ranks.count == 1
        self._most = device.threads if is_left_to_us else 1
        self._now = device.threads
        self._others = others or OtherProcesses()
        self._clock = clock
        self._looked_s = clock()

    def look(self) -> str | None:
        """Adapt the number of threads if it is time to; return a line if it has changed."""
        if self._most == 1 or self._clock() - self._looked_s < LOOK_S:
            return None
        self._looked_s = self._clock()
        cores = self._others.cores()
        if cores is None:
            return None
        before, taken = self._now, math.ceil(max(0.0, cores - _IGNORED_CORES))
        self._now = max(1, self._most - taken)
        if self._now == before:
            return None
        torch.set_num_threads(self._now)
        return (
            f"{self._now} instead of {counted(before, 'thread')}, as other processes use "
            f"{cores:.1f} cores (the weights will differ by rounding; --train.num-threads "
            f"{self._most} keeps them)"
        )
