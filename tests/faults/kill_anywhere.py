"""kill -9 at random moments of recording and of training; then the same command to the end.

    kill_anywhere.py [--of record|train|both] [--kills 50] [--seed 0] [--out FILE.json]

Each time a recording (or a training) begins in a new folder, is killed at a random moment, and is
started again by the same command. Before that second start whatever can be read must be whole.
Then the dataset must be the uninterrupted one, file for file and byte for byte; the policy the
uninterrupted one, bit for bit, with the same numbers of every step. Of ten kills one falls into the
start of the program and nine anywhere in its work; every other one ends its workers with it.
Exit code 0 if all of that holds.
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
from imitact.core.validate import check_source
from imitact.datasets.lerobot.reader import finished
from imitact.datasets.open import open_dataset
from imitact.models.policy import TorchPolicy

STEPS = 120
"""Of a training: so many that most of its time is theirs."""

TIMINGS = ("samples_per_s", "data_wait", "crc32")
"""What of a line of metrics.jsonl depends on the clock."""


@dataclass(frozen=True)
class Job:
    """What is killed.

    command: of an output folder.
    look:    what an interrupted one left, in a word; raises where something there is not whole.
    result:  of a finished one, to be compared.
    """

    name: str
    command: Callable[[Path], list[str]]
    look: Callable[[Path], str]
    result: Callable[[Path], Any]


def recording() -> Job:
    return Job(
        "record",
        lambda out: [sys.executable, "-m", "tests.faults.record_dot", str(out), "6", "2", "0.002"],
        look_at_dataset,
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
        look_at_training,
        trained,
    )


def tree(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def look_at_dataset(out: Path) -> str:
    if not (out / "meta/info.json").is_file():
        return "0 episodes"
    source = open_dataset(out)
    check_source(source)
    assert len(source.lengths) == finished(out)[0]
    return f"{len(source.lengths)} episodes"


def look_at_training(out: Path) -> str:
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
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    held = json.loads((out / "held_out.json").read_text())
    untimed = [{k: v for k, v in line.items() if k not in TIMINGS} for line in lines]
    return tree(out / "policy"), untimed, held


def start(job: Job, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        job.command(out),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def to_the_end(job: Job, out: Path) -> tuple[float, float]:
    """Run it; gives the seconds until it begins its work, and those of its work."""
    began = time.monotonic()
    program = start(job, out)
    assert program.stdout is not None
    program.stdout.readline()
    working = time.monotonic()
    _, errors = program.communicate(timeout=300)
    assert (program.returncode, errors) == (0, ""), f"{job.name} failed: {errors}"
    return working - began, time.monotonic() - working


def killed(job: Job, out: Path, after_s: float, *, working: bool, everything: bool) -> bool:
    """Start it and kill it then; whether it was still at work."""
    program = start(job, out)
    assert program.stdout is not None
    if working:
        program.stdout.readline()
    time.sleep(after_s)
    hit = program.poll() is None
    if hit and everything:
        os.killpg(program.pid, signal.SIGKILL)
    elif hit:
        program.kill()
    program.communicate(timeout=60)  # returns once its last worker is gone
    return hit


def run(job: Job, kills: int, seed: int, folder: Path) -> dict[str, Any]:
    draw = random.Random(f"{job.name} {seed}")
    whole = folder / "whole"
    start_s, work_s = to_the_end(job, whole)
    alone = {"start": round(start_s, 2), "work": round(work_s, 2)}
    wanted = job.result(whole)
    left: Counter[str] = Counter()
    wrong: list[str] = []
    done = missed = 0
    began = time.monotonic()
    while done < kills:
        out = folder / f"kill-{done}"
        working = done % 10 != 9
        after_s = draw.uniform(0.0, work_s if working else start_s)
        hit = killed(job, out, after_s, working=working, everything=done % 2 == 1)
        if not hit:  # it was faster this time
            missed += 1
            if working:  # as it is by and by on a machine that was busy when it was timed
                work_s = min(work_s, after_s)
            else:
                start_s = min(start_s, after_s)
            shutil.rmtree(out)
            continue
        try:
            left[job.look(out) if out.exists() else "nothing"] += 1
            to_the_end(job, out)
            if job.result(out) != wanted:
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
        "uninterrupted_s": alone,
        "wall_s": round(time.monotonic() - began, 1),
        "wrong": wrong,
    }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--of", choices=("record", "train", "both"), default="both")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="imitact-kill-") as place:
        folder = Path(place)
        if args.of != "train":
            found["record"] = run(recording(), args.kills, args.seed, folder)
        if args.of != "record":
            data = folder / "data"
            to_the_end(recording(), data)
            found["train"] = run(training(data), args.kills, args.seed, folder)
    text = json.dumps(found, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
    return 1 if any(part["wrong"] for part in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
