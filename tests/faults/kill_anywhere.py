"""Kill test: kill -9 at random moments of recording and training, then the same command again.

    python -m tests.faults.kill_anywhere [--of record|train|both] [--kills 50] [--seed 0]
        [--out FILE.json]

A recording or training starts in a new folder, is killed at a random moment, and is run again by
the same command. After the kill, everything that can be read must be whole. After the second run
the dataset must equal the uninterrupted one byte for byte, and the policy and the numbers of every
step the uninterrupted ones bit for bit. Of ten kills one hits the start of the program and nine its
work; every second one also kills its workers. Exit code 0 if all of that holds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imitact.core.errors import BadInput
from imitact.core.validate import check_dataset
from imitact.datasets.lerobot.layout import finished
from imitact.datasets.open import open_dataset
from imitact.models.policy import TorchPolicy

STEPS = 120
"""Training steps, enough to take most of the time of the program."""

TIMINGS = ("samples_per_s", "data_wait", "crc32")
"""Keys of metrics.jsonl that depend on the clock."""


@dataclass(frozen=True)
class Job:
    """A program that is killed.

    Attributes:
        name: its name in the report.
        command: its command line for an output folder.
        left_behind: describes what an interrupted run left; raises where that is not whole.
        result: the result of a finished run, which is compared.
    """

    name: str
    command: Callable[[Path], list[str]]
    left_behind: Callable[[Path], str]
    result: Callable[[Path], Any]


def recording() -> Job:
    return Job(
        "record",
        lambda out: [sys.executable, "-m", "tests.faults.record_dot", str(out), "6", "2", "0.002"],
        episodes_left,
        tree,
    )


def training(data: Path) -> Job:
    return Job(
        "train",
        lambda out: [
            sys.executable,
            "-m",
            "tests.faults.train_dot",
            str(out),
            str(data),
            str(STEPS),
        ],
        checkpoint_left,
        trained,
    )


def tree(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def episodes_left(out: Path) -> str:
    """Check the dataset of an interrupted recording and return its number of episodes."""
    if not (out / "meta/info.json").is_file():
        return "0 episodes"
    dataset = open_dataset(out)
    check_dataset(dataset)
    assert len(dataset.lengths) == finished(out)[0]
    return f"{len(dataset.lengths)} episodes"


def checkpoint_left(out: Path) -> str:
    """Load the policies of an interrupted training and describe the newest."""
    if (out / "policy").exists():
        TorchPolicy.load(out / "policy")
        return "policy"
    found = sorted((out / "checkpoints").glob("step-*"))
    for path in found:
        TorchPolicy.load(path / "policy")
    if not found:
        return "no checkpoint"
    quarter = int(found[-1].name.partition("-")[2]) * 4 // STEPS + 1
    return f"a checkpoint of quarter {quarter}"


def trained(out: Path) -> Any:
    """Return policy, numbers without times, and validation of a finished training."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    held = json.loads((out / "held_out.json").read_text())
    untimed = [{k: v for k, v in line.items() if k not in TIMINGS} for line in lines]
    return tree(out / "policy"), untimed, held


def start(job: Job, out: Path) -> subprocess.Popen[str]:
    """Start a job in a session of its own."""
    return subprocess.Popen(
        job.command(out),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def run_to_the_end(job: Job, out: Path) -> tuple[float, float]:
    """Run a job; return the seconds until its work begins, and those of its work."""
    began = time.monotonic()
    program = start(job, out)
    assert program.stdout is not None
    program.stdout.readline()
    working = time.monotonic()
    _, errors = program.communicate(timeout=300)
    assert (program.returncode, errors) == (0, ""), f"{job.name} failed: {errors}"
    return working - began, time.monotonic() - working


def kill(job: Job, out: Path, after_s: float, *, working: bool, with_workers: bool) -> bool:
    """Start a job and kill it after a time; return whether it was still running."""
    program = start(job, out)
    assert program.stdout is not None
    if working:
        program.stdout.readline()
    time.sleep(after_s)
    hit = program.poll() is None
    if hit and with_workers:
        os.killpg(program.pid, signal.SIGKILL)
    elif hit:
        program.kill()
    program.communicate(timeout=60)  # returns once its last worker has ended
    return hit


def run(job: Job, kills: int, seed: int, folder: Path) -> dict[str, Any]:
    """Kill a job at random moments, run it again, and return the counts."""
    draw = random.Random(f"{job.name} {seed}")
    whole = folder / "whole"
    start_s, work_s = run_to_the_end(job, whole)
    uninterrupted_s = {"start": round(start_s, 2), "work": round(work_s, 2)}
    expected = job.result(whole)
    left: Counter[str] = Counter()
    wrong: list[str] = []
    done = missed = 0
    began = time.monotonic()
    while done < kills:
        out = folder / f"kill-{done}"
        working = done % 10 != 9
        after_s = draw.uniform(0.0, work_s if working else start_s)
        hit = kill(job, out, after_s, working=working, with_workers=done % 2 == 1)
        if not hit:  # it had ended already
            missed += 1
            if working:  # the machine was busier when the job was timed
                work_s = min(work_s, after_s)
            else:
                start_s = min(start_s, after_s)
            shutil.rmtree(out)
            continue
        try:
            left[job.left_behind(out) if out.exists() else "nothing"] += 1
            run_to_the_end(job, out)
            if job.result(out) != expected:
                wrong.append(f"kill {done} after {after_s:.3f} s: another result")
        except (AssertionError, BadInput, OSError) as error:
            wrong.append(f"kill {done} after {after_s:.3f} s: {type(error).__name__}: {error}")
        done += 1
        shutil.rmtree(out)
        print(f"{job.name}: {done} of {kills} kills, {len(wrong)} wrong", file=sys.stderr)
    shutil.rmtree(whole)
    return {
        "kills": done,
        "whole_and_equal": done - len(wrong),
        "too_late_and_drawn_again": missed,
        "left_by_the_kill": dict(sorted(left.items())),
        "uninterrupted_s": uninterrupted_s,
        "wall_s": round(time.monotonic() - began, 1),
        "wrong": wrong,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--of", choices=("record", "train", "both"), default="both")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="imitact-kill-") as temporary:
        folder = Path(temporary)
        if args.of != "train":
            found["record"] = run(recording(), args.kills, args.seed, folder)
        if args.of != "record":
            data = folder / "data"
            run_to_the_end(recording(), data)
            found["train"] = run(training(data), args.kills, args.seed, folder)
    text = json.dumps(found, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
    return 1 if any(part["wrong"] for part in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
