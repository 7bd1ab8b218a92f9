"""CPU: the processor's name, its instruction sets, and how many cores this process may use."""

from __future__ import annotations

import os
import platform
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
