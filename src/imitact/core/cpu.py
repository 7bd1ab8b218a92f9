"""What the processor says of itself."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The processor's feature flags as Linux names them; empty where it does not tell."""
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
    """The processor's name, as it says itself."""
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
    """The widest unit that the processor multiplies matrices with, as Linux names its flag.

    Two processors of one name can differ by a factor of five here.
    """
    found = cpu_flags()
    for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "asimd"):
        if flag in found:
            return flag
    return platform.machine()


def available_cores() -> int:
    """CPUs that this process may use: a container or `taskset` may allow fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
