"""CPU: the processor's name, its instruction sets, and how many cores this process may use."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the processor's feature flags as in Linux; empty on other systems."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def processor_name(path: Path = Path("/proc/cpuinfo")) -> str:
    """Return the name of the processor."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def arithmetic() -> str:
    """Return the flag of the widest instruction set for matrix products.

    Processors of one name can differ in it, and by a factor of five in speed.
    """
    found = cpu_flags()
    for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "asimd"):
        if flag in found:
            return flag
    return platform.machine()


def available_cores() -> int:
    """Return the CPUs that this process may use; a container or `taskset` may allow fewer."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
