"""imitact's side of `make bench`: the same works as benchmarks/lerobot_side.py, timed.

    .venv/bin/python benchmarks/imitact_side.py WORK '{"cameras": 1, ...}'

Prints one line of JSON. A training step is the loop's own `Updater.update`, from uint8 frames to
changed weights: normalising pixels, forward, backward, clipping, AdamW. LeRobot's side begins at
normalised floats, so whatever that costs counts against imitact only.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import torch

import imitact
from imitact.contract import Camera, Observation, Spec
from imitact.data.samples import Batch
from imitact.model import act
from imitact.model.policy import TorchPolicy
from imitact.stats import Stats
from imitact.train import devices
from imitact.train.update import Rates, Updater

JOINTS = 14


def policy(work: dict[str, Any]) -> TorchPolicy:
    """An untrained policy of the preset that the work names."""
    config = act.PRESETS[work.get("preset", "released")]
    changes = {"pretrained": "none", **work.get("model", {})}
    config = type(config)(**{**vars(config), **changes, "chunk": work.get("chunk", 100)})
    names = tuple(f"joint_{i}" for i in range(JOINTS))
    units = ("rad",) * JOINTS
    cameras = tuple(
        Camera(f"camera_{n}", work["height"], work["width"]) for n in range(work["cameras"])
    )
    spec = Spec(
        state_names=names,
        action_names=names,
        state_units=units,
        action_units=units,
        cameras=cameras,
        rate_hz=50,
    )
    ones = np.ones(JOINTS)
    stats = Stats(0 * ones, ones, -5 * ones, 5 * ones, 1000)
    given = dict.fromkeys(("state", "action", "delta"), stats)
    return TorchPolicy.create(spec, given, config, seed=0, fingerprint="bench")


def batch(policy: TorchPolicy, size: int) -> Batch:
    draw = np.random.default_rng(1)
    chunk = policy.config.chunk
    return Batch(
        state=draw.standard_normal((size, JOINTS)).astype(np.float32),
        frames={
            name: draw.integers(0, 256, (size, *view.size, 3), dtype=np.uint8)
            for name, view in policy.views.items()
        },
        action=draw.standard_normal((size, chunk, JOINTS)).astype(np.float32),
        is_pad=np.zeros((size, chunk), dtype=bool),
        episode=np.zeros(size, dtype=np.int64),
        tick=np.zeros(size, dtype=np.int64),
    )


def updater(work: dict[str, Any]) -> Updater:
    rates = Rates(
        lr=1e-5,
        lr_backbone=1e-5,
        betas=(0.9, 0.999),
        weight_decay=1e-4,
        clip_norm=10.0,
        ema_decay=0.0,
        warmup_steps=0,
        steps=1000,
        final_lr_fraction=1.0,
    )
    here = devices.choose(work["precision"], "cpu", work["threads"])
    here.seed(0)
    return Updater(policy(work), rates, here)


def train(work: dict[str, Any]) -> list[float]:
    """Seconds of each step."""
    stepper = updater(work)
    given = batch(stepper.policy, work["batch"])
    seconds = []
    for step in range(work["repeats"] + 1):
        began = time.perf_counter()
        stepper.update(step, given)
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def infer(work: dict[str, Any]) -> list[float]:
    """Seconds of each chunk of the torch policy, from captured uint8 frames to radians."""
    chooser = policy(work)
    chooser.net.eval()
    given = batch(chooser, 1)
    observation = Observation(
        state=given.state[0],
        frames={
            c.name: np.zeros((c.height, c.width, 3), dtype=np.uint8) for c in chooser.spec.cameras
        },
    )
    seconds = []
    for _ in range(work["repeats"] + 2):
        began = time.perf_counter()
        chooser.chunk(observation)
        seconds.append(time.perf_counter() - began)
    return seconds[2:]


WORKS = {"train": train, "infer": infer}


def main() -> None:
    name, work = sys.argv[1], json.loads(sys.argv[2])
    torch.set_num_threads(work["threads"])
    seconds = WORKS[name](work)
    versions = f"imitact {imitact.__version__}, torch {torch.__version__}"
    print(json.dumps({"seconds": seconds, "versions": versions}))


if __name__ == "__main__":
    main()
