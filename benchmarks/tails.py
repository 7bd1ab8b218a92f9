"""Latency benchmark: median and 99th percentile of 2,000 inferences, beside LeRobot's.

    python benchmarks/tails.py --lerobot-python .venv-lerobot/bin/python
        [--calls 2000] [--precisions int8 bf16] [--write benchmarks/results/tails.json]

`released`, one camera of 480x640, untrained: exports to OpenVINO, then LeRobot's torch in fp32, one
after the other. It takes a quarter of an hour on two cores and needs an idle machine. `make bench`
measures the same over 200 calls.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

import scene
from bench import Sides

from imitact.core.cpu import arithmetic, processor_name


def latency(seconds: list[float]) -> dict[str, float]:
    """Return the percentiles of a list of times."""
    percentiles = statistics.quantiles(seconds, n=100)
    return {
        "calls": len(seconds),
        "p50 ms": round(1e3 * percentiles[49], 2),
        "p99 ms": round(1e3 * percentiles[98], 2),
        "longest ms": round(1e3 * max(seconds), 2),
        "p99/p50": round(percentiles[98] / percentiles[49], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--lerobot-python", required=True)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--precisions", nargs="+", default=["int8", "bf16"])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--write", type=Path, default=Path("benchmarks/results/tails.json"))
    given = parser.parse_args()
    sides = Sides(given.lerobot_python, given.threads)
    size = {"cameras": 1, "height": 480, "width": 640, "preset": "released"}
    dataset = scene.make(
        given.out / "data-1", episodes=12, **{k: size[k] for k in ("cameras", "height", "width")}
    )
    rows: dict[str, Any] = {}
    for precision in given.precisions:
        made = sides.run(
            *("imitact", "export"), **size, precision=precision, repeats=given.calls, to="openvino",
            observations=8, dataset=dataset, out=given.out / f"released-1-openvino-{precision}",
        )["certificate"]["latency"]  # fmt: skip
        rows[f"openvino {precision}"] = {
            "calls": given.calls,
            "p50 ms": made["p50_ms"],
            "p99 ms": made["p99_ms"],
            "p99/p50": made["p99_over_p50"],
        }
        print(f"openvino {precision}", rows[f"openvino {precision}"], flush=True)
    found = sides.run("lerobot", "infer", **size, precision="fp32", repeats=given.calls)
    rows["lerobot fp32"] = latency(found["seconds"])
    print("lerobot fp32", rows["lerobot fp32"], flush=True)
    results = {
        "processor": processor_name(),
        "arithmetic": arithmetic(),
        "threads": given.threads,
        "versions": sides.versions,
        "rows": rows,
    }
    given.write.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
