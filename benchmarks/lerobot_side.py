"""LeRobot 0.6.1's side of `make bench`: its ACT and its data loader, timed as its users run them.

    .venv-lerobot/bin/python benchmarks/lerobot_side.py WORK '{"cameras": 1, ...}'

Prints one line of JSON. Runs in LeRobot's own environment and imports nothing of imitact. The
configuration is the default (51.6M parameters, chunk 100, dropout 0.1) without ImageNet weights,
which do not affect time. A training step is what `lerobot-train` does: forward, backward, gradients
clipped at 10, AdamW, zero_grad. Frames are normalized floats already, so preprocessing is not
timed.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch


def policy(work: dict[str, Any]) -> Any:
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy

    torch.manual_seed(0)
    size = (3, work["height"], work["width"])
    images = {
        f"observation.images.{n}": PolicyFeature(FeatureType.VISUAL, size)
        for n in range(work["cameras"])
    }
    return ACTPolicy(
        ACTConfig(
            input_features={
                **images,
                "observation.state": PolicyFeature(FeatureType.STATE, (14,)),
            },
            output_features={"action": PolicyFeature(FeatureType.ACTION, (14,))},
            device="cpu",
            pretrained_backbone_weights=None,
            chunk_size=work.get("chunk", 100),
            n_action_steps=work.get("chunk", 100),
        )
    )


def batch(work: dict[str, Any], size: int) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(1)
    chunk = work.get("chunk", 100)
    shape = (size, 3, work["height"], work["width"])
    return {
        "observation.state": torch.randn(size, 14, generator=draw),
        "action": torch.randn(size, chunk, 14, generator=draw),
        "action_is_pad": torch.zeros(size, chunk, dtype=torch.bool),
        **{
            f"observation.images.{n}": torch.randn(shape, generator=draw)
            for n in range(work["cameras"])
        },
    }


def precision(work: dict[str, Any]) -> Any:
    if work["precision"] == "fp32":
        return nullcontext()
    return torch.autocast("cpu", dtype=torch.bfloat16)


def train(work: dict[str, Any]) -> list[float]:
    """Return the seconds of each training step."""
    net = policy(work)
    net.train()
    given = batch(work, work["batch"])
    optimizer = torch.optim.AdamW(net.get_optim_params(), lr=1e-5, weight_decay=1e-4)
    seconds = []
    for _ in range(work["repeats"] + 1):
        began = time.perf_counter()
        with precision(work):
            loss, _ = net.forward(given)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def infer(work: dict[str, Any]) -> list[float]:
    """Return the seconds of each inference."""
    net = policy(work)
    net.eval()
    given = batch(work, 1)
    del given["action"], given["action_is_pad"]
    seconds = []
    for _ in range(work["repeats"] + 2):
        began = time.perf_counter()
        with torch.inference_mode(), precision(work):
            net.predict_action_chunk(given)
        seconds.append(time.perf_counter() - began)
    return seconds[2:]


def load(work: dict[str, Any]) -> list[float]:
    """Return the seconds of each batch of its DataLoader, in training order.

    The first batches are not counted: workers start and the prefetch queue fills.
    """
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset(
        "imitact/bench",
        root=Path(work["dataset"]),
        video_backend=work.get("backend"),
        delta_timestamps={"action": [tick / 50 for tick in range(100)]},
    )
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=work["batch"],
        shuffle=True,
        num_workers=work["workers"],
        generator=torch.Generator().manual_seed(0),
    )
    batches = iter(loader)
    skipped = 2 * work["workers"] + 2
    for _ in range(skipped):
        next(batches)
    seconds = []
    for _ in range(work["repeats"]):
        began = time.perf_counter()
        next(batches)
        seconds.append(time.perf_counter() - began)
    return seconds


WORKS = {"train": train, "infer": infer, "load": load}


def main() -> None:
    import lerobot

    name, work = sys.argv[1], json.loads(sys.argv[2])
    torch.set_num_threads(work["threads"])
    seconds = WORKS[name](work)
    versions = f"lerobot {lerobot.__version__}, torch {torch.__version__}"
    print(json.dumps({"seconds": seconds, "versions": versions}))


if __name__ == "__main__":
    main()
