"""A disk that is full from some moment on, at each moment in turn; then room again.

    full_disk.py [--every 1] [--jobs capture append ...] [--out FILE.json]

The moments are those at which a job opens a file for writing, makes a folder or renames (Python's
audit events). From the n-th on no file of this process can grow: RLIMIT_FSIZE is 0, so that every
write fails in the kernel with EFBIG ("file too large"), those of FFmpeg, safetensors and OpenVINO
too. A second pass caps files at sizes between, so that a write fails in the middle of a file.
Nobody needs to be root for that, and imitact treats it like "no space left on device" and "quota
exceeded".

Law: the job ends in an error that the command line tells in one line with exit code 2; what was
there before can be read as before; with room again the same call ends with the same result as if
nothing had happened. --every N tries each N-th moment. Exit code 0 if all of that holds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from imitact.cli.phases import Phases
from imitact.core.errors import ImitactError
from imitact.core.validate import check_source
from imitact.datasets.lerobot.stats import PixelCounts
from imitact.datasets.lerobot.writer import LeRobotWriter
from imitact.datasets.open import open_dataset
from imitact.datasets.video_config import VideoConfig
from imitact.datasets.video import VideoWriter
from imitact.evaluation import report, runner
from imitact.models.policy import TorchPolicy
from imitact.recording.episode import capture, folder_of, read_outcome
from imitact.training import checkpoint
from imitact.training.loop import train
from tests.faults import material
from tests.faults.train_dot import CONFIG, MODEL
from tests.support.dot_env import TWO_CAMERAS, DotEnv, DotExpert, dot_spec
from tests.support.fake_dataset import FakeSource
from tests.support.tiny_arm import Reacher, TinyArm

_WRITING = os.O_WRONLY | os.O_RDWR
SPEC = dot_spec(TWO_CAMERAS)
LOSSLESS = VideoConfig(codec="lossless")


class Disk:
    """Counts the moments at which something is about to be written, and fills up at one."""

    def __init__(self) -> None:
        self.watching = False
        self.count = 0
        self.full_at = 0
        _, self.hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        sys.addaudithook(self._heard)

    def _heard(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.watching:
            return
        opens = event == "open" and isinstance(args[2], int) and args[2] & _WRITING
        if opens or event in ("os.mkdir", "os.rename"):
            self.count += 1
            if self.count == self.full_at:
                self.cap(0)

    def cap(self, size: int) -> None:
        """No file grows beyond so many bytes; -1: all may."""
        soft = self.hard if size < 0 else size
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, self.hard))

    @contextmanager
    def filling(self, *, at: int = 0, size: int = -1):
        """Full from moment `at` on (0: never), or with files of at most `size` bytes."""
        self.count, self.full_at, self.watching = 0, at, True
        if size >= 0:
            self.cap(size)
        try:
            yield
        finally:
            self.watching = False
            self.cap(-1)


@dataclass(frozen=True)
class Job:
    """What meets the full disk.

    before: makes what is there already.
    run:    the call; gives its result, to be compared.
    look:   raises unless what was there before is there still; None of its business: what came.
    """

    before: Callable[[Path], object]
    run: Callable[[Path], Any]
    look: Callable[[Path], object]


def tree(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}


# -- the jobs --------------------------------------------------------------------------------------


def capturing(out: Path) -> Any:
    """A worker's part of a recording: one seed."""
    staging = out / "staging"
    staging.mkdir(parents=True, exist_ok=True)
    capture(
        DotEnv(TWO_CAMERAS), DotExpert(), 4, staging=staging, video=VideoConfig(), hold_ticks=10,
        go_on=lambda: None, tell=lambda count: None,
    )  # fmt: skip
    assert read_outcome(folder_of(staging, 4), 2, whole=True) is not None
    return tree(staging)


def nothing_of_it(out: Path) -> None:
    assert list((out / "staging").glob("*")) in ([], [folder_of(out / "staging", 4)])


def put_episode(out: Path, seed: int) -> None:
    """The recorder's part: an episode into the dataset."""
    staging = out.with_name(out.name + ".staging")
    staging.mkdir(exist_ok=True)
    writer = LeRobotWriter(out, SPEC, task="t", video=LOSSLESS, staging=staging)
    if writer.episodes > seed:
        return
    rng = np.random.default_rng(seed)
    videos, pixels = {}, {}
    for camera in SPEC.cameras:
        counts = PixelCounts()
        path = staging / f"{camera.name}.mp4"
        with VideoWriter(path, camera.height, camera.width, SPEC.rate_hz, LOSSLESS) as video:
            for _ in range(4):
                frame = rng.integers(0, 256, (camera.height, camera.width, 3), dtype=np.uint8)
                video.add(frame)
                counts.add(frame)
        videos[camera.name], pixels[camera.name] = path, counts.result()
    rows = rng.normal(size=(2, 4, 2)).astype(np.float32)
    writer.append(rows[0], rows[1], videos, pixels, {"format": 1, "seeds": list(range(seed + 1))})


def appending(out: Path) -> Any:
    put_episode(out / "data", 2)
    return tree(out / "data")


def two_episodes(out: Path) -> None:
    for seed in range(2):
        put_episode(out / "data", seed)


def still_two(out: Path) -> None:
    source = open_dataset(out / "data")
    check_source(source)
    assert len(source.lengths) in (2, 3)


SOURCE = FakeSource((7, 4, 9, 6), size=2, height=24, width=32)
SHORT = replace(CONFIG, steps=4, checkpoint_every=1, val_every=2)


def training(out: Path) -> Any:
    train(SOURCE, out, MODEL, SHORT, resume=True)
    return tree(out / "policy")


def two_steps(out: Path) -> None:
    """A training that was stopped after two of four steps."""
    train(SOURCE, out, MODEL, SHORT, resume=True)
    for path in checkpoint.found(out / "checkpoints")[:1]:
        shutil.rmtree(path)
    shutil.rmtree(out / "policy")
    shutil.rmtree(out / "cache")


def a_checkpoint(out: Path) -> None:
    found = checkpoint.newest(out / "checkpoints", lambda line: None)
    assert found is not None
    assert found[1].step >= 3
    for path in out.glob("policy"):
        TorchPolicy.load(path)


def evaluating(out: Path) -> Any:
    counted = runner.evaluate(
        Reacher, TinyArm, seeds=range(4), chunking="replay:3", workers=0, out=out,
        videos=1,
    )  # fmt: skip
    report.write(counted, out)
    return report.read(out).rows if counted else None


def untimed_evaluating(out: Path) -> Any:
    return [replace(row, wall_s=0.0) for row in evaluating(out)]


def two_lines(out: Path) -> None:
    """An evaluation that was interrupted after its first episode."""
    evaluating(out)
    (out / "evaluation.json").unlink()
    journal = out / runner.JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:3]))
    shutil.rmtree(out / "videos")
    (out / "kept").write_bytes(b"".join(lines[:3]))


def first_episode(out: Path) -> None:
    kept = (out / "kept").read_bytes()
    assert (out / runner.JOURNAL).read_bytes().startswith(kept)


def saving(out: Path) -> Any:
    material.a_policy(1).save(out / "p")
    return tree(out / "p")


def old_or_new(out: Path) -> None:
    TorchPolicy.load(out / "p")


def exporting(out: Path) -> Any:
    path = material.sealed(out)
    return path.read_bytes()


def no_half_file(out: Path) -> None:
    from imitact.storage.sealed_file import unseal

    assert not (out / ".exporting").exists()
    for path in out.glob("policy.*"):
        unseal(path)


def a_phase(out: Path) -> Any:
    phases = Phases(out / "phases.json", {"a": 1})
    with phases.phase("second"):
        pass
    return phases.done("second")


def first_phase(out: Path) -> None:
    phases = Phases(out / "phases.json", {"a": 1})
    with phases.phase("first"):
        pass


def first_is_done(out: Path) -> None:
    assert Phases(out / "phases.json", {"a": 1}).done("first")


def nothing(out: Path) -> None:
    out.mkdir(exist_ok=True)


JOBS = {
    "capture": Job(nothing, capturing, nothing_of_it),
    "append": Job(two_episodes, appending, still_two),
    "train": Job(two_steps, training, a_checkpoint),
    "evaluate": Job(two_lines, untimed_evaluating, first_episode),
    "save": Job(lambda out: material.policy(out / "p", 0), saving, old_or_new),
    "phases": Job(first_phase, a_phase, first_is_done),
    "export": Job(nothing, exporting, no_half_file),
}


# -- the trial -------------------------------------------------------------------------------------


def try_it(
    job: Job, disk: Disk, folder: Path, wanted: Any, *, at: int = 0, size: int = -1
) -> tuple[bool, str]:
    """Whether the disk was full for the job, and what was wrong; empty if nothing."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(out.with_name("out.staging"), ignore_errors=True)
    shutil.copytree(folder / "before", out)
    where = f"full at moment {at}" if at else f"files of at most {size} bytes"
    try:
        with disk.filling(at=at, size=size):
            job.run(out)
        failed = False
    except (ImitactError, OSError):  # one line and exit code 2, by cli.py
        failed = True
    except Exception as error:
        return True, f"{where}: {type(error).__name__}: {error}"
    try:
        job.look(out)
        if job.run(out) != wanted:
            return failed, f"{where}: another result afterwards"
    except Exception as error:
        return failed, f"{where}, afterwards: {type(error).__name__}: {error}"
    return failed, ""


def run(name: str, job: Job, disk: Disk, every: int) -> dict[str, Any]:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="imitact-disk-") as place:
        folder = Path(place)
        (folder / "before").mkdir()
        job.before(folder / "before")
        shutil.rmtree(folder / "before.staging", ignore_errors=True)
        shutil.copytree(folder / "before", folder / "out")
        with disk.filling():
            wanted = job.run(folder / "out")
        moments = disk.count
        sizes = sorted({p.stat().st_size for p in (folder / "out").rglob("*") if p.is_file()})
        caps = sorted({cap for size in sizes for cap in (size // 2, size - 1) if cap > 0})
        wrong, tried, full = [], 0, 0
        for kind in ({"at": at} for at in range(1, moments + 1, every)):
            failed, told = try_it(job, disk, folder, wanted, **kind)
            tried, full, wrong = tried + 1, full + failed, [*wrong, *([told] if told else [])]
        for kind in ({"size": cap} for cap in caps[::every]):
            failed, told = try_it(job, disk, folder, wanted, **kind)
            tried, full, wrong = tried + 1, full + failed, [*wrong, *([told] if told else [])]
    return {
        "moments": len(range(1, moments + 1, every)),
        "sizes": len(caps[::every]),
        "ended_by_the_full_disk": full,
        "right": tried - len(wrong),
        "tried": tried,
        "wall_s": round(time.monotonic() - began, 1),
        "wrong": wrong,
    }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--jobs", nargs="*", choices=tuple(JOBS), default=list(JOBS))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    disk = Disk()
    found = {}
    for name in args.jobs:
        found[name] = run(name, JOBS[name], disk, args.every)
        print(f"{name}: {json.dumps(found[name])}", file=sys.stderr)
    text = json.dumps(found, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
    return 1 if any(part["wrong"] for part in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
