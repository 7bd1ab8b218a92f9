"""imitact's side of `make bench`: the work of benchmarks/lerobot_side.py, timed.

    .venv/bin/python benchmarks/imitact_side.py WORK '{"cameras": 1, ...}'

Prints one line of JSON. A training step is `Updater.update` as the loop calls it, from uint8 frames
to changed weights: pixel normalization, forward, backward, clipping, AdamW. LeRobot's side starts
at normalized floats, so the time of normalization counts against imitact only.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scene
import torch

from imitact.core.feature_statistics import Stats
from imitact.core.types import Observation
from imitact.core.version import __version__
from imitact.datasets.open import open_dataset
from imitact.deploy.export import export
from imitact.deploy.export_config import ExportConfig
from imitact.models.config import MODEL_PRESETS
from imitact.models.policy import TorchPolicy
from imitact.training import device
from imitact.training.config import PRESETS
from imitact.training.flops import count_flops
from imitact.training.frame_cache import open_frames
from imitact.training.optimizer_step import Updater
from imitact.training.sampler import SampleBatch, Sampler


def policy(work: dict[str, Any]) -> TorchPolicy:
    """Return an untrained policy of the preset that the work names."""
    config = MODEL_PRESETS[work.get("preset", "released")]
    changes = {"pretrained_backbone": "none", **work.get("model", {})}
    config = type(config)(**{**vars(config), **changes, "chunk_size": work.get("chunk", 100)})
    spec = scene.spec(work["cameras"], work["height"], work["width"])
    ones = np.ones(scene.JOINTS)
    stats = Stats(0 * ones, ones, -5 * ones, 5 * ones, 1000)
    stats_by_name: dict[str, Stats] = dict.fromkeys(("state", "action", "delta"), stats)
    return TorchPolicy.create(spec, stats_by_name, config, seed=0, fingerprint="bench")


def batch(policy: TorchPolicy, size: int) -> SampleBatch:
    """Return a batch of noise with the shapes of the policy."""
    draw = np.random.default_rng(1)
    chunk = policy.config.chunk_size
    return SampleBatch(
        state=draw.standard_normal((size, scene.JOINTS)).astype(np.float32),
        frames={
            name: draw.integers(0, 256, (size, *view.size, 3), dtype=np.uint8)
            for name, view in policy.views.items()
        },
        action=draw.standard_normal((size, chunk, scene.JOINTS)).astype(np.float32),
        is_pad=np.zeros((size, chunk), dtype=bool),
        episode=np.zeros(size, dtype=np.int64),
        tick=np.zeros(size, dtype=np.int64),
    )


def updater(work: dict[str, Any]) -> Updater:
    """Return the updater of the published training settings, with LeRobot's gradient clipping."""
    config = replace(PRESETS["released"][1], grad_clip_norm=10.0)
    chosen = device.choose_device(work["precision"], "cpu", work["threads"])
    chosen.seed(0)
    return Updater(policy(work), config, chosen)


def train(work: dict[str, Any]) -> dict[str, Any]:
    """Return the seconds of each training step, and its floating point operations."""
    stepper = updater(work)
    given = batch(stepper.policy, work["batch"])
    flop = count_flops(stepper, given)
    seconds = []
    for step in range(work["repeats"] + 1):
        began = time.perf_counter()
        stepper.update(step, given)
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds[1:], "gflop": flop / 1e9}


def infer(work: dict[str, Any]) -> list[float]:
    """Return the seconds of each inference with torch, from captured frames to radians."""
    untrained = policy(work)
    untrained.net.eval()
    frame = np.zeros((work["height"], work["width"], 3), dtype=np.uint8)
    frames = {camera.name: frame for camera in untrained.spec.cameras}
    observation = Observation(np.zeros(scene.JOINTS), frames)
    seconds = []
    for _ in range(work["repeats"] + 2):
        began = time.perf_counter()
        untrained.chunk(observation)
        seconds.append(time.perf_counter() - began)
    return seconds[2:]


def export_policy(work: dict[str, Any]) -> dict[str, Any]:
    """Export an untrained policy and return its certificate, for the latencies in it.

    Its deviations say nothing about trained policies.
    """
    untrained = policy(work)
    untrained.net.eval()
    config = ExportConfig(
        to=work.get("to", "openvino"),
        precision=work["precision"],
        observations=work["observations"],
        calibration=work["observations"],
        limit=1e9,
        calls=work["repeats"],
        torch_calls=1,
        threads=work["threads"],
    )
    dataset, out = open_dataset(Path(work["dataset"])), Path(work["out"])
    found = export(untrained, dataset, out, config, policy_sha256="untrained")
    return {"seconds": [found["latency"]["p50_ms"] / 1000], "certificate": found}


def rate(work: dict[str, Any]) -> dict[str, Any]:
    """Return the best rate of a matrix product and of a convolution, in GFLOP/s."""
    kind = torch.bfloat16 if work["precision"] == "bf16" else torch.float32
    left, right = torch.randn(2, 2048, 2048).to(kind)
    frames = torch.randn(8, 256, 30, 40).to(kind).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 3, 3).to(kind).contiguous(memory_format=torch.channels_last)
    best = {}
    for name, gflop, run in (
        ("product", 2 * 2048**3 / 1e9, lambda: left @ right),
        ("convolution", 2 * 8 * 30 * 40 * 256 * 256 * 9 / 1e9,
         lambda: torch.nn.functional.conv2d(frames, weight, None, 1, 1)),
    ):  # fmt: skip
        seconds = []
        for _ in range(work["repeats"]):
            began = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - began)
        best[name] = gflop / min(seconds)
    return {"seconds": [0.0], "gflops": best}


def load(work: dict[str, Any]) -> dict[str, Any]:
    """Return the seconds of each batch from the frame cache, in training order, after one epoch.

    Also the cost of building the cache: seconds, size, and the peak memory of a process.
    """
    dataset = open_dataset(Path(work["dataset"]))
    views = policy(work).views
    began = time.perf_counter()
    opening = partial(
        open_frames,
        dataset,
        views,
        cache_dir=Path(work["cache"]),
        cache_limit_bytes=10**11,
        memory_limit_bytes=256 << 20,
        workers=work["workers"],
        log=lambda line: None,
    )
    samples = Sampler(dataset, opening, chunk=100, batch_size=work["batch"], seed=0)
    built_s = time.perf_counter() - began
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF,
             resource.RUSAGE_CHILDREN)]  # fmt: skip
    with closing(samples.stream(0)) as batches:
        for _ in range(-(-len(samples) // work["batch"])):
            next(batches)
        seconds = []
        for _ in range(work["repeats"]):
            began = time.perf_counter()
            next(batches)
            seconds.append(time.perf_counter() - began)
    return {
        "seconds": seconds,
        "built_s": built_s,
        "cache_gb": sum(f.stat().st_size for f in Path(work["cache"]).rglob("*.u8")) / 1e9,
        "build_peak_gb": max(peaks) * 1024 / 1e9,
    }


WORKS = {"train": train, "infer": infer, "load": load, "export": export_policy, "rate": rate}


def main() -> None:
    name, work = sys.argv[1], json.loads(sys.argv[2])
    torch.set_num_threads(work["threads"])
    found = WORKS[name](work)
    if isinstance(found, list):
        found = {"seconds": found}
    versions = f"imitact {__version__}, torch {torch.__version__}"
    print(json.dumps({**found, "versions": versions}))


if __name__ == "__main__":
    main()
