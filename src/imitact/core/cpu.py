"""CPU: the processor's name, its instruction sets, and the cores that this process may use."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def cpu_flags(path: Path = _CPUINFO) -> frozenset[str]:
    """Return the processor's feature flags as in Linux; empty on other systems."""
    return frozenset(_first(path, "flags").split())


def processor_name(path: Path = _CPUINFO) -> str:
    """Return the name of the processor."""
    return _first(path, "model name") or platform.processor() or platform.machine()


def _first(path: Path, field: str) -> str:
    """Return the first value of a field of /proc/cpuinfo; empty where there is none."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in pairs if name.strip() == field), "")


def arithmetic() -> str:
    """Return the flag of the widest instruction set for matrix products.

    Processors of one name can differ in it, and by a factor of five in speed.
    """
    found = cpu_flags()
    widest = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "asimd")
    return next((flag for flag in widest if flag in found), platform.machine())


def available_cores() -> int:
    """Return the CPUs that this process may use; a container or `taskset` may allow fewer."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class OtherProcesses:
    """How many of this process's cores other processes use, from one look to the next.

    A virtual machine's cores that its host takes away count, too. Linux only.
    """

    def __init__(self, path: Path = Path("/proc/stat")) -> None:
        self._path = path
        self._before = self._times()

    def cores(self) -> float | None:
        """Return the mean number of cores since the last call; None where it is unknown."""
        before, self._before = self._before, self._times()
        if before is None or self._before is None:
            return None
        wall_s, busy_s, own_s = (now - then for now, then in zip(self._before, before, strict=True))
        return max(0.0, busy_s - own_s) / wall_s if wall_s > 0 else None

    def _times(self) -> tuple[float, float, float] | None:
        """Return the time, the time that all cores were busy, and this process's share of it, s."""
        try:
            lines = [line.split() for line in self._path.read_text().splitlines()]
            ticks = os.sysconf("SC_CLK_TCK")
            usable = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        except (OSError, AttributeError, ValueError):
            return None
        # user, nice, system, idle, iowait, irq, softirq, steal; guests are in user and nice.
        rows = [[int(word) for word in words[1:9]] for words in lines if words[0] in usable]
        busy = sum(sum(row) - sum(row[3:5]) for row in rows)
        return time.monotonic(), busy / ticks, time.process_time()
