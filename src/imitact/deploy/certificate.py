"""Export certificate: how far a file deviates from its policy, how fast it answers and loads."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from imitact.core.errors import BadInput
from imitact.core.types import Dataset, Observation, Policy, Spec

WARM_UP_CALLS = 20
"""Calls before latency is measured; the first ones still allocate memory."""


def observations(source: Dataset, spec: Spec, count: int, shift: float) -> list[Observation]:
    """Return `count` observations, spread evenly over all ticks of all episodes.

    The dataset must have the joints and cameras of `spec`, the policy's. `shift` from 0 to 1 is
    where each observation lies in its share of the ticks; other shifts give others.
    """
    advice = (
        "Give the dataset that the policy was trained on; `imitact import-policy --data` gives an "
        "imported policy the names of one"
    )
    spec.check_same(source.spec, "the dataset", "the policy", advice=advice)
    total = sum(source.lengths)
    ends = np.cumsum(source.lengths)
    found = []
    for place in sorted({int((at + shift) * total / count) for at in range(count)}):
        index = int(np.searchsorted(ends, place, side="right"))
        episode = source.episode(index)
        tick = place - int(ends[index]) + source.lengths[index]
        names = [camera.name for camera in spec.cameras]
        frames = {name: next(iter(episode.frames(name, tick, tick + 1))) for name in names}
        found.append(Observation(episode.state[tick], frames))
    return found


def answers(policy: Policy, seen: Sequence[Observation]) -> NDArray[np.float64]:
    """Return the chunks for N observations, (N, K, A)."""
    return np.stack([np.asarray(policy.chunk(one), np.float64) for one in seen])


def deviation(
    wanted: NDArray[np.float64], got: NDArray[np.float64], std: NDArray[np.float64], spec: Spec
) -> dict[str, Any]:
    """Return how far the file's chunks `got` (N, K, A) are from the policy's, as JSON values.

    "of_std" values are multiples of `std` (A,), by which the policy standardizes actions.
    """
    error = np.abs(got - wanted)
    share = error / std
    observation, tick, joint = np.unravel_index(int(np.argmax(share)), share.shape)
    actions = zip(spec.action_names, spec.action_units, strict=True)
    return {
        "observations": len(error),
        "max_of_std": float(share.max()),
        "mean_of_std": float(share.mean()),
        "worst": {
            "observation": int(observation),
            "tick": int(tick),
            "joint": spec.action_names[joint],
        },
        "per_joint": [
            {
                "joint": name,
                "unit": unit,
                "std": float(std[at]),
                "max": float(error[:, :, at].max()),
                "mean": float(error[:, :, at].mean()),
                "max_of_std": float(share[:, :, at].max()),
                "mean_of_std": float(share[:, :, at].mean()),
            }
            for at, (name, unit) in enumerate(actions)
        ],
        "per_tick": {
            "max_of_std": share.max(axis=(0, 2)).tolist(),
            "mean_of_std": share.mean(axis=(0, 2)).tolist(),
        },
    }


def latency(policy: Policy, seen: Sequence[Observation], calls: int) -> dict[str, Any]:
    """Return the latency of `calls` answers in ms, from captured frames to physical actions."""
    taken = np.empty(calls)
    for at in range(-min(WARM_UP_CALLS, calls), calls):
        began = time.perf_counter()
        policy.chunk(seen[at % len(seen)])
        taken[at] = time.perf_counter() - began
    p50, p90, p99, most = np.percentile(taken * 1e3, (50, 90, 99, 100)).tolist()
    return {
        "calls": calls,
        "p50_ms": p50,
        "p90_ms": p90,
        "p99_ms": p99,
        "max_ms": most,
        "p99_over_p50": p99 / p50,
    }


_LOADING = """
import json, sys, time
began = time.perf_counter()
from imitact.deploy.runtime import load
imported = time.perf_counter()
load(sys.argv[1], threads=int(sys.argv[2]))
print(json.dumps({"import_s": imported - began, "load_s": time.perf_counter() - imported,
                  "torch": "torch" in sys.modules}))
"""


def loading(path: Path, threads: int) -> dict[str, Any]:
    """Measure in a fresh process: seconds to import the runtime and to load a file, and whether
    torch was imported."""
    command = [sys.executable, "-c", _LOADING, str(path), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BadInput(f"{path} does not load in a fresh process: {done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch compute with `count` threads in the block, so that both are timed alike."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
