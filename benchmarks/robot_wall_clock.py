"""Robot wall clock: how late ticks are on emulated arms, imitact's loop beside LeRobot's.

    python benchmarks/robot_wall_clock.py --lerobot-python .venv-lerobot/bin/python
        [--seconds 180] [--only CASE ...] [--write benchmarks/results/robot_wall_clock.json]

Two arms, two cameras at 30 fps, and a policy of the preset `quick` whose weights are drawn, so that
the arms stay about where they are; an answer takes as long as a trained one's. Cases:

- aloha: imitact on ALOHA's buses at 50 Hz, the policy exported to OpenVINO in a process of its own;
- bi_so: the same on two SO-101 at 30 Hz, through LeRobot's drivers and cameras;
- lerobot: `lerobot-rollout` on the same two SO-101 at 30 Hz with the same weights, by imitact's
  plugin for LeRobot (integrations/lerobot_policy_imitact), answered in its loop as LeRobot does.

Each is run alone and beside a process that spins ("+busy"). Tick k is due at start + k / rate; a
loop that is late by a period or more skips the ticks that have passed. LeRobot has no schedule, so
the same is applied to the times at which its ticks began. Lateness and the time between two ticks
are of the loop; "sent" is from the begin of a tick until its command was sent. The first second is
left out. Run it alone on the machine; the load is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from imitact.api.run_robot import run_robot  # noqa: E402
from imitact.api.session_parts import start_pose  # noqa: E402
from imitact.core.cpu import processor_name  # noqa: E402
from imitact.robots.config import RobotConfig, read_config  # noqa: E402
from imitact.robots.emulation.bench import Bench  # noqa: E402
from imitact.robots.registry import BENCH_PATIENCE, robot_of  # noqa: E402
from imitact.robots.setup import RobotSetup  # noqa: E402
from tests.support.drawn_policy import drawn_policy  # noqa: E402

CASES = ("aloha", "bi_so", "lerobot")
CAMERAS = {"aloha": ("top", "angle"), "bi_so": ("front", "side")}
HEIGHT, WIDTH, CAMERA_HZ = 120, 160, 30.0
CHUNKING = "replay:50"
WARM_UP_S = 1.0
CAMERA_WARM_UP_S = 5
"""For which LeRobot reads a camera when it connects, and waits for each of its frames, s."""
START_TIMEOUT_S = 600.0
MARGIN_S = 300.0
"""Time beyond the run for imports and connections, s."""
SIDE = ROOT / "benchmarks" / "lerobot_rollout_side.py"
BUSY = "+busy"


class Desk:
    """A bench and the policy for its robot."""

    def __init__(self, bench: Bench, python: str) -> None:
        self.bench, self.python = bench, python
        self.folder = Path(bench.folder)
        path = self.folder / "robot.toml"
        bench.robot_toml(path)
        self.config = _with_python(read_config(path), python)
        with self.setup() as made:
            made.start()
            spec, reading = made.robot.spec, made.robot.reading()
            assert reading is not None
            # ALOHA at rest is folded: a policy may not ask for it (the filter's self-collision).
            pose = start_pose(made)
        self.rate_hz = spec.rate_hz
        self.policy = drawn_policy(
            spec, reading.values if pose is None else np.array(pose), self.folder
        )

    def setup(self) -> RobotSetup:
        """Make the robot without its leaders."""
        return robot_of(self.config, with_leaders=False, patience=BENCH_PATIENCE)

    def run_imitact(self, seconds: float) -> dict[str, Any]:
        """Run the exported policy through imitact."""
        log = Path(tempfile.mkdtemp(dir=self.folder)) / "log"
        report = run_robot(
            self.policy, robot=self.setup, seconds=seconds, chunking=CHUNKING, log=log
        )
        rows = [json.loads(line) for line in (log / "ticks.jsonl").read_text().splitlines()]
        last = max(row["phase"] for row in rows)  # the brake at the end has phase 0
        rows = [row for row in rows if row["phase"] == last]
        begin_s = np.array([row["t"] + row["late"] for row in rows])
        due_s = np.array([row["t"] for row in rows])
        by_tick = dict(zip((row["tick"] for row in rows), begin_s, strict=True))
        sent = {row["sent_tick"]: row["sent_at"] for row in rows if "sent_at" in row}
        sent_s = np.array([at - by_tick[tick] for tick, at in sent.items() if tick in by_tick])
        skipped = sum(row["skipped"] for row in rows if row["t"] >= due_s[0] + WARM_UP_S)
        found = figures(begin_s, due_s, sent_s, skipped)
        kept = ("holds", "safety", "answers", "ages")
        return found | {name: report.statistics[name] for name in kept}

    def run_lerobot(self, seconds: float) -> dict[str, Any]:
        """Run the same weights through lerobot-rollout."""
        assert self.config.lerobot is not None
        out = Path(tempfile.mkdtemp(dir=self.folder))
        device = self.config.lerobot
        plan = {
            "robot": {
                "type": device.type,
                "id": device.id,
                "calibration_dir": device.calibration,
                **device.settings,
            },
            "policy": str(self.folder / "policy"),
            "chunking": CHUNKING,
            "fps": self.rate_hz,
            "seconds": seconds,
            "out": str(out),
        }
        done = subprocess.run(
            [self.python, "-u", str(SIDE), json.dumps(plan)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds + MARGIN_S,
            check=False,
        )
        lines = done.stdout.decode(errors="replace").strip().splitlines()
        if not (out / "ticks.json").is_file():
            return {"failed": lines[-20:]}
        ticks = json.loads((out / "ticks.json").read_text())
        begin_s, sent_s = np.array(ticks["begin"]), np.array(ticks["sent"])
        due_s, skipped = schedule(begin_s, self.rate_hz)
        taken = len(sent_s)
        found = figures(begin_s, due_s, sent_s - begin_s[:taken], skipped)
        return found | ({"ended early": lines[-3:]} if done.returncode else {})


def schedule(begin_s: NDArray[np.float64], rate_hz: float) -> tuple[NDArray[np.float64], int]:
    """Return when ticks that began at these times were due, and how many were skipped.

    Both are after the warm-up; the schedule is absolute from its end on.
    """
    first = int(np.searchsorted(begin_s, begin_s[0] + WARM_UP_S))
    due_s = begin_s.copy()
    slot = 0
    for index in range(first, len(begin_s)):
        passed = int(np.floor((begin_s[index] - begin_s[first]) * rate_hz + 1e-6))
        slot = 0 if index == first else max(slot + 1, passed)
        due_s[index] = begin_s[first] + slot / rate_hz
    # A loop that is early by its clock's resolution is not late.
    return np.minimum(due_s, begin_s), max(0, slot - (len(begin_s) - 1 - first))


def figures(
    begin_s: NDArray[np.float64],
    due_s: NDArray[np.float64],
    sent_s: NDArray[np.float64],
    skipped: int,
) -> dict[str, Any]:
    """Return lateness, time between ticks and rate, after the warm-up, in ms and Hz."""
    counts = due_s >= due_s[0] + WARM_UP_S
    begin, late = begin_s[counts], (begin_s - due_s)[counts]
    return {
        "ticks": len(begin),
        "skipped": int(skipped),
        "rate_hz": round((len(begin) - 1) / (begin[-1] - begin[0]), 3),
        "late_ms": percentiles(late),
        "between_ms": percentiles(np.diff(begin)),
        "sent_ms": percentiles(sent_s),
    }


def percentiles(values_s: NDArray[np.float64]) -> dict[str, float]:
    """Return median, 99th percentile and largest, in ms."""
    if not values_s.size:
        return {}
    p50, p99 = np.percentile(values_s, (50, 99))
    return {
        "p50": round(p50 * 1e3, 3),
        "p99": round(p99 * 1e3, 3),
        "max": round(float(values_s.max()) * 1e3, 3),
    }


def _with_python(config: RobotConfig, python: str) -> RobotConfig:
    """Return the configuration with LeRobot's Python, and cameras that may start slowly."""
    if config.lerobot is None:
        return config
    settings = dict(config.lerobot.settings)
    settings["cameras"] = {
        name: {**camera, "warmup_s": CAMERA_WARM_UP_S}
        for name, camera in settings["cameras"].items()
    }
    device = dataclasses.replace(config.lerobot, python=python, settings=settings)
    return dataclasses.replace(config, lerobot=device, lerobot_leader=None)


@contextlib.contextmanager
def busy(is_busy: bool) -> Iterator[None]:
    """Let a process spin meanwhile."""
    if not is_busy:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def run_case(name: str, python: str, seconds: float, height: int, width: int) -> dict[str, Any]:
    """Run one case."""
    case = name.removesuffix(BUSY)
    kind = "aloha" if case == "aloha" else "bi_so"
    cameras = CAMERAS[kind]
    settings: dict[str, Any] = {"cameras": cameras, "height": height, "width": width}
    with Bench(kind, camera_hz=CAMERA_HZ, **settings).start(START_TIMEOUT_S) as bench:
        desk = Desk(bench, python)
        before = bench.camera_statistics()
        load, begin_s = os.getloadavg()[0], time.monotonic()
        with busy(name.endswith(BUSY)):
            run = desk.run_lerobot if case == "lerobot" else desk.run_imitact
            found = run(seconds)
        past_s = time.monotonic() - begin_s
        after = bench.camera_statistics()
    drawn = (after["drawn"] - before["drawn"]) / len(cameras) / past_s
    return {**found, "camera_hz": round(drawn, 1), "load before": round(load, 2)}


def line(name: str, found: Mapping[str, Any]) -> str:
    """Return the figures of a case on one line."""
    if "failed" in found:
        return f"{name:13} failed: {found['failed'][-1]}"
    late, between = found["late_ms"], found["between_ms"]
    return (
        f"{name:13} {found['ticks']:6} ticks {found['skipped']:5} skipped {found['rate_hz']:7.2f} "
        f"Hz   late {late['p50']:7.2f} {late['p99']:7.2f} {late['max']:8.2f}   between "
        f"{between['p50']:7.2f} {between['p99']:7.2f} {between['max']:8.2f} ms (p50, p99, max)"
    )


def main() -> int:
    """Run all cases; print and write their figures."""
    every = [f"{case}{beside}" for case in CASES for beside in ("", BUSY)]
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--lerobot-python", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--only", nargs="+", choices=every, default=every)
    parser.add_argument("--height", type=int, default=HEIGHT)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    python = str(args.lerobot_python.absolute())
    result: dict[str, Any] = {
        "seconds": args.seconds,
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "frames": [args.height, args.width, CAMERA_HZ],
        "cases": {},
    }
    for name in args.only:
        found = run_case(name, python, args.seconds, args.height, args.width)
        result["cases"][name] = found
        print(line(name, found), flush=True)
        if args.write:
            args.write.write_text(json.dumps(result, indent=1) + "\n")
    if not args.write:
        print(json.dumps(result, indent=1))
    return int(any("failed" in found for found in result["cases"].values()))


if __name__ == "__main__":
    sys.exit(main())
