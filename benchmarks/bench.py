"""Benchmark of `make bench`: training, loading and inference of imitact and of LeRobot 0.6.1.

    python benchmarks/bench.py --lerobot-python .venv-lerobot/bin/python [--record]

Prints the tables with versions and processor, and compares every ratio with the one recorded for
this processor in benchmarks/results/bench/: one that fell by more than a tenth fails the run (exit
code 1). --record writes the file instead. It takes at most half an hour on two cores and needs an
idle machine. Both sides are timed in turn, in separate processes, twice; the faster median of a
side counts, so that one busy moment does not decide.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cost
import scene
import torch
from tables import write as write_documents

from imitact.core.cpu import arithmetic, processor_name
from imitact.training.device import choose_precision

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "bench"
REGRESSION = 0.9

Row = dict[str, Any]


class Sides:
    """Runs timed work on either side, and keeps the versions of both."""

    def __init__(self, lerobot_python: str, threads: int) -> None:
        self.threads = threads
        self.versions: dict[str, str] = {}
        self.gflop = 0.0  # of the last timed training step
        self._argv = {
            "lerobot": [lerobot_python, str(HERE / "lerobot_side.py")],
            "imitact": [sys.executable, str(HERE / "imitact_side.py")],
        }

    def run(self, side: str, name: str, **work: Any) -> Row:
        """Run one work on one side and return its result."""
        arguments = json.dumps({"threads": self.threads, **work}, default=str)
        done = subprocess.run(
            [*self._argv[side], name, arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"},
        )
        if done.returncode:
            raise SystemExit(f"{side}, {name} {arguments} failed:\n{done.stderr[-3000:]}")
        found = json.loads(done.stdout.splitlines()[-1])
        self.versions[side] = found.pop("versions")
        self.gflop = found.get("gflop", self.gflop)
        return found

    def median_s(self, side: str, name: str, **work: Any) -> float:
        """Run one work on one side and return its median time in s."""
        return statistics.median(self.run(side, name, **work)["seconds"])

    def both(self, name: str, works: dict[str, Row], rounds: int = 2) -> dict[str, float]:
        """Return the faster median of each work in s, by its label, which begins with the side."""
        found: dict[str, float] = {}
        for _ in range(rounds):
            for label, work in works.items():
                side = label.split()[0]
                found[label] = min(found.get(label, 1e9), self.median_s(side, name, **work))
        return found


def training(sides: Sides, precisions: list[str], rates: dict[str, float]) -> list[Row]:
    """Time training steps of both sides, and of `quick` on imitact's."""
    rows = []
    for cameras, batch, repeats in ((1, 8, 2), (4, 2, 1)):
        size = {"cameras": cameras, "height": 480, "width": 640, "batch": batch}
        works = {
            f"{side} {precision}": {**size, "precision": precision, "repeats": repeats}
            for precision in precisions
            for side in ("lerobot", "imitact")
        }
        seconds = sides.both("train", works)
        fastest = min(s for label, s in seconds.items() if label.startswith("imitact"))
        best = max(rates.values())
        rows.append(
            {
                "work": f"{cameras} camera{'s' * (cameras > 1)} 480x640, batch {batch}",
                **{f"{label} s/step": s for label, s in seconds.items()},
                "gflop a sample": sides.gflop / batch,
                "processor's best rate GFLOP/s": best,
                "floor s/step": sides.gflop / best,
                **{f"ratio to lerobot {p}": seconds[f"lerobot {p}"] / fastest for p in precisions},
            }
        )
    quick = {"preset": "quick", "cameras": 1, "height": 480, "width": 640, "batch": 16}
    step_s = min(
        sides.median_s("imitact", "train", **quick, precision=p, repeats=30) for p in precisions
    )
    rows.append({"work": "quick, 1 camera 120x160, batch 16", "imitact samples/s": 16 / step_s})
    return rows


def inference(
    sides: Sides, precisions: list[str], datasets: dict[int, Path], out: Path
) -> list[Row]:
    """Time inference of both sides with torch, and of exported files."""
    rows = []
    for preset, cameras, repeats, calls in (
        ("released", 1, 20, 200),
        ("released", 4, 8, 60),
        ("quick", 1, 100, 2000),
    ):
        size = {"cameras": cameras, "height": 480, "width": 640}
        theirs = ["lerobot"] if preset == "released" else []
        works = {
            f"{side} {p}": {**size, "precision": p, "repeats": repeats, "preset": preset}
            for side in (*theirs, "imitact")
            for p in (precisions if side == "lerobot" else ["fp32"])
        }
        row: Row = {"work": f"{preset}, {cameras} camera{'s' * (cameras > 1)} 480x640"}
        found = sides.both("infer", works)
        row |= {f"{label.replace('imitact', 'torch')} ms": 1e3 * s for label, s in found.items()}
        if theirs and cameras == 1:
            each = sides.run("lerobot", "infer", **{**works["lerobot fp32"], "repeats": calls})
            percentiles = statistics.quantiles(each["seconds"], n=100)
            row["lerobot fp32 p99/p50"] = percentiles[98] / percentiles[49]
        for to, precision in (
            *(("openvino", p) for p in (*precisions, "int8")),
            *([("onnx", "fp32")] if cameras == 1 else []),
        ):
            made = sides.run(
                *("imitact", "export"),
                **{**size, "preset": preset, "precision": precision, "repeats": calls, "to": to},
                observations=8,
                dataset=datasets[cameras],
                out=out / f"{preset}-{cameras}-{to}-{precision}",
            )["certificate"]
            row[f"{to} {precision} ms"] = made["latency"]["p50_ms"]
            row[f"{to} {precision} p99/p50"] = made["latency"]["p99_over_p50"]
            row[f"{to} {precision} import and load s"] = (
                made["loading"]["import_s"] + made["loading"]["load_s"]
            )
            if theirs:
                ratio = row["lerobot fp32 ms"] / made["latency"]["p50_ms"]
                row[f"ratio of {to} {precision} to lerobot fp32"] = ratio
        rows.append(row)
    return rows


def loading(sides: Sides, dataset: Path, cache: Path) -> list[Row]:
    """Time the batches of both data loaders."""
    cores = os.cpu_count() or 1
    work = {"dataset": dataset, "batch": 8, "cameras": 1, "height": 480, "width": 640}
    ours = sides.run("imitact", "load", **work, cache=cache, workers=cores, repeats=200)
    theirs = sides.run("lerobot", "load", **work, backend="pyav", workers=cores, repeats=20)
    # Mean over all batches, not the median: workers that fill a queue deliver most batches at once.
    rate, lerobot = (8 * len(s["seconds"]) / sum(s["seconds"]) for s in (ours, theirs))
    return [
        {
            "work": "batches of 8, 1 camera 480x640, chunk 100",
            "lerobot samples/s": lerobot,
            "imitact samples/s": rate,
            "cache GB": ours["cache_gb"],
            "building it s": ours["built_s"],
            "largest process while building GB": ours["build_peak_gb"],
            "ratio to lerobot": rate / lerobot,
        }
    ]


def simulator(out: Path) -> list[Row]:
    """Time recording and evaluation of a few episodes, and scale to 50 and 500."""

    def timed(*argv: str) -> float:
        began = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "imitact.cli.main", *argv], check=True, stdout=sys.stderr
        )
        return time.monotonic() - began

    data, run = out / "cube", out / "cube-run"
    record_s = timed("record", "--env", "cube", "--episodes", "4", "--out", str(data))
    timed("train", str(data), "--out", str(run), "--preset", "quick", "--train.steps", "2",
          "--train.val-episodes", "0")  # fmt: skip
    evaluate = (
        "evaluate",
        str(run / "policy"),
        "--env",
        "cube",
        "--chunking",
        "replay:50",
        "--out",
    )
    few = timed(*evaluate, str(out / "few"), "--episodes", "4")
    many = timed(*evaluate, str(out / "many"), "--episodes", "44")
    return [
        {
            "work": "cube, 1 camera 480x640, default spread",
            "recording 50 min (from 4)": record_s * 50 / 4 / 60,
            "500 evaluations, replay:50, min (from 40)": (many - few) / 40 * 500 / 60,
        }
    ]


def regressions(now: Row, before: Row) -> list[str]:
    """Return a line for each ratio that fell by more than a tenth."""
    found = []
    for table, rows in before.items():
        for old in rows:
            new = next((r for r in now.get(table, []) if r["work"] == old["work"]), {})
            for key, value in old.items():
                if key.startswith("ratio") and new.get(key, 0.0) < REGRESSION * value:
                    found.append(
                        f"{table}, {old['work']}, {key}: {new.get(key, 0.0):.2f}, recorded "
                        f"{value:.2f}"
                    )
    return found


def show(tables: dict[str, list[Row]]) -> None:
    """Print tables to the terminal."""
    for name, rows in tables.items():
        print(f"\n{name}")
        for row in rows:
            print(f"  {row['work']}")
            for key, value in row.items():
                if isinstance(value, float):
                    print(f"    {key:45} {value:10.3g}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--lerobot-python", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--record", action="store_true", help="write the numbers, do not compare")
    parser.add_argument("--only", nargs="*", help="names of the tables to measure", default=None)
    given = parser.parse_args()
    began = time.monotonic()
    if (os.getloadavg()[0]) > 0.5:
        print(f"note: the machine is busy (load {os.getloadavg()[0]:.1f}); numbers are unreliable")
    given.out.mkdir(parents=True, exist_ok=True)
    sides = Sides(given.lerobot_python, given.threads)
    has_bf16 = choose_precision("auto", torch.device("cpu")).name == "bf16"
    precisions = ["fp32", "bf16"] if has_bf16 else ["fp32"]
    if not has_bf16:
        print("bf16 is left out: this processor has no bf16 arithmetic")
    rates = {
        p: max(sides.run("imitact", "rate", precision=p, repeats=10)["gflops"].values())
        for p in precisions
    }
    sizes = {"cameras": 1, "height": 480, "width": 640}
    datasets = {
        1: scene.make(given.out / "data-1", episodes=12, **sizes),
        4: scene.make(given.out / "data-4", episodes=1, **{**sizes, "cameras": 4}, ticks=64),
    }
    works = {
        "training": lambda: training(sides, precisions, rates),
        "inference": lambda: inference(sides, precisions, datasets, given.out),
        "loader": lambda: loading(sides, datasets[1], given.out / "cache"),
        "simulator": lambda: simulator(given.out),
        "cost": lambda: cost.measure(sides, precisions[-1]),
    }
    slug = f"{processor_name()} {arithmetic()} {given.threads}".lower()
    file = RESULTS / f"{re.sub(r'[^a-z0-9]+', '-', slug).strip('-')}.json"
    whole = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    recorded: dict[str, list[Row]] = whole.get("tables", {})
    versions = whole.get("machine", {}).get("versions", {}) if given.record else {}
    tables: dict[str, list[Row]] = {}
    machine: Row = {}
    for name, work in works.items():
        if given.only is not None and name not in given.only:
            continue
        tables[name] = work()
        show({name: tables[name]})
        machine = {
            "processor": processor_name(),
            "arithmetic": arithmetic(),
            "threads": given.threads,
            "versions": {**versions, **sides.versions},
        }
        if given.record:  # written at once, so that it is not lost if the next table fails
            RESULTS.mkdir(parents=True, exist_ok=True)
            whole = {"machine": machine, "tables": {**recorded, **tables}}
            file.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    print("\n" + json.dumps({**machine, "wall_s": round(time.monotonic() - began)}, indent=1))
    if given.record:
        if "cost" in tables:
            cost.draw(tables["cost"], HERE.parent / "docs" / "images" / "cost.svg")
        write_documents(file)
        print(f"recorded in {file}")
        return 0
    if not file.exists():
        print(f"no ratios are recorded for this processor ({file}); --record writes them")
        return 0
    worse = regressions(tables, {name: recorded[name] for name in tables if name in recorded})
    for line in worse:
        print(f"REGRESSION: {line}")
    print("no ratio fell by more than a tenth" if not worse else f"{len(worse)} ratios fell")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
