"""Learning benchmark: loss curves of imitact's fast path and of plain PyTorch, three seeds each.

    python benchmarks/learning.py --data runs/demo/data [--write benchmarks/results/learning.json]

Trains `released` at 120x160 on batches of 8 for 500 steps: once as `imitact train` does, in the
precision that it chooses, and once in fp32 with torch's own dropout, attention, convolution
gradients and unfolded frozen norms. Each training has one thread; as many run at a time as there
are cores. Losses are compared in windows of 50 steps: the difference of the means of both sides
against the range over seeds. Also compared is the gradient of one batch at 480x640 from the same
weights and the same z, without dropout: its cosine for every group of parameters.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from imitact.core.cpu import processor_name
from imitact.datasets.open import open_dataset
from imitact.models import convolution, dropout, resnet, transformer
from imitact.models.config import MODEL_PRESETS
from imitact.training import device
from imitact.training.config import PrecisionName, TrainConfig
from imitact.training.loop import train

WINDOW = 50
SIDES = ("fast", "plain")


def use_plain_torch() -> None:
    """Replace imitact's fast operations by torch's own in this process."""

    def convolved(x: Any, conv: Any, norm: Any) -> Any:
        y = conv(x)
        if isinstance(norm, resnet.FrozenNorm):
            return torch.nn.functional.batch_norm(
                y, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, 1e-5
            )
        return norm(y)

    resnet.convolve_and_norm = convolved
    convolution._is_faster = lambda *_: False  # type: ignore[attr-defined]
    dropout._is_fast_here = lambda *_: False  # type: ignore[attr-defined]
    transformer._fused = lambda *_: True  # type: ignore[attr-defined]


def train_one(side: str, seed: int, data: Path, out: Path, steps: int, cache: Path) -> None:
    """Train one side with one seed."""
    if side == "plain":
        use_plain_torch()
    model = dataclasses.replace(
        MODEL_PRESETS["released"], input_height=120, input_width=160, pretrained_backbone="none"
    )
    config = TrainConfig(
        steps=steps,
        seed=seed,
        log_every=1,
        precision="fp32" if side == "plain" else "auto",
        num_threads=1,
        num_workers=1,
        checkpoint_every=0,
        checkpoint_minutes=0.0,
        cache_dir=str(cache),
    )
    train(open_dataset(data), out, model, config)


def gradients(side: str, precision: PrecisionName, out: Path) -> None:
    """Save the gradient of one batch at 480x640."""
    import imitact_side
    import numpy as np

    if side == "plain":
        use_plain_torch()
    work = {"cameras": 1, "height": 480, "width": 640, "model": {"dropout": 0.0}}
    policy = imitact_side.policy(work)
    batch = imitact_side.batch(policy, 8)
    given = {
        "state": torch.from_numpy(batch.state),
        "frames": {n: torch.from_numpy(f) for n, f in batch.frames.items()},
        "action": torch.from_numpy(batch.action),
        "is_pad": torch.from_numpy(batch.is_pad),
    }
    noise = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    policy.net.train()
    with device.choose_device(precision, "cpu").autocast():
        loss = policy.loss(given, noise=noise).total
    loss.backward()
    found = {n: p.grad.numpy() for n, p in policy.net.named_parameters() if p.grad is not None}
    np.savez(out, **found)


def gradient(side: str, precision: PrecisionName, folder: Path) -> dict[str, Any]:
    """Return what `gradients` saves, by parameter name, computed in another process."""
    import numpy as np

    file = folder / "gradient.npz"
    argv = [sys.executable, __file__, "--gradient", side, precision, "--out", file]
    subprocess.run(argv, check=True)
    with np.load(file) as stored:
        found = {n: stored[n].astype(np.float64).ravel() for n in stored.files}
    file.unlink()
    return found


def cosines(first: dict[str, Any], second: dict[str, Any]) -> dict[str, float]:
    """Return the cosine of two gradients for each group of parameters (module path of depth 2)."""
    sums: dict[str, list[float]] = {}
    for name, a in first.items():
        group = ".".join(name.split(".")[:2])
        b = second[name]
        total = sums.setdefault(group, [0.0, 0.0, 0.0])
        for index, value in enumerate((a @ b, a @ a, b @ b)):
            total[index] += float(value)
    return {g: ab / max((aa * bb) ** 0.5, 1e-300) for g, (ab, aa, bb) in sums.items()}


def loss_curve(run: Path) -> list[float]:
    """Return the training loss of every step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def summary(run: Path) -> dict[str, Any]:
    """Return training.json of a run."""
    return json.loads((run / "training.json").read_text(encoding="utf-8"))


def compare(curves: dict[str, list[list[float]]]) -> list[dict[str, float]]:
    """Return means, their difference and the range over seeds, for windows of WINDOW steps."""
    rows = []
    for first in range(0, len(curves["fast"][0]), WINDOW):
        means = {
            side: [statistics.fmean(c[first : first + WINDOW]) for c in curves[side]]
            for side in SIDES
        }
        fast, slow = (statistics.fmean(means[side]) for side in SIDES)
        spread = max(max(m) - min(m) for m in means.values())
        rows.append(
            {"step": first + WINDOW, "fast": fast, "plain": slow, "apart": abs(fast - slow),
             "spread": spread}
        )  # fmt: skip
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--data", type=Path, help="dataset, such as runs/demo/data")
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--write", type=Path, default=Path("benchmarks/results/learning.json"))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--gradient", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.gradient:
        side, precision = given.gradient
        gradients(side, precision, given.out)
        return 0
    if not given.data:
        parser.error("give --data, a dataset such as runs/demo/data")
    cache = given.out / "cache"
    if given.one:
        side, seed = given.one
        train_one(side, int(seed), given.data, given.out / f"{side}-{seed}", given.steps, cache)
        return 0
    given.out.mkdir(parents=True, exist_ok=True)
    curves: dict[str, list[list[float]]] = {side: [] for side in SIDES}
    # Finished runs are kept. The slow side comes first, so that no core idles at the end.
    jobs = [(side, str(seed)) for side in reversed(SIDES) for seed in range(given.seeds)]
    jobs = [j for j in jobs if not (given.out / f"{j[0]}-{j[1]}" / "training.json").exists()]
    common = ["--data", str(given.data), "--out", str(given.out), "--steps", str(given.steps)]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        argvs = [[sys.executable, __file__, *common, "--one", *job] for job in jobs]
        list(pool.map(partial(subprocess.run, check=True), argvs))
    precisions = {side: summary(given.out / f"{side}-0")["precision"] for side in SIDES}
    for side in SIDES:
        curves[side] = [loss_curve(given.out / f"{side}-{seed}") for seed in range(given.seeds)]
    rows = compare(curves)
    # The gradient of the trained path, and in fp32 the effect of our operations alone.
    by_torch = gradient("plain", "fp32", given.out)
    alike = {
        how: cosines(gradient("fast", how, given.out), by_torch)
        for how in dict.fromkeys((precisions["fast"], "fp32"))
    }
    lowest = {how: min(groups.values()) for how, groups in alike.items()}
    result = {
        "steps": given.steps,
        "seeds": given.seeds,
        "precisions": precisions,
        "processor": processor_name(),
        "windows": rows,
        "cosines": alike,
    }
    result["same"] = bool(
        all(r["apart"] <= r["spread"] for r in rows) and min(lowest.values()) >= 0.99
    )
    given.write.parent.mkdir(parents=True, exist_ok=True)
    given.write.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for row in rows:
        print("step {step:4d}: fast {fast:.4f}, plain {plain:.4f}, difference {apart:.4f}, "
              "range over seeds {spread:.4f}".format(**row))  # fmt: skip
    for how, cosine in lowest.items():
        print(f"lowest cosine of a group's gradient, {how}: {cosine:.6f}")
    print("both sides learn the same" if result["same"] else "the two sides DIFFER")
    return 0 if result["same"] else 1


if __name__ == "__main__":
    sys.exit(main())
