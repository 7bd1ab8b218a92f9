"""Full-disk test: the disk is full from each write of a job on, then has space again.

    python -m tests.faults.full_disk [--every 1] [--jobs capture append ...] [--out FILE.json]

The moments are those at which a job opens a file for writing, makes a folder or renames (Python's
audit events). From the n-th on no file of this process can grow: RLIMIT_FSIZE is 0, so that every
write fails in the kernel with EFBIG ("file too large"), including those of FFmpeg, safetensors and
OpenVINO. A second pass limits files to sizes in between, so that a write fails in the middle of a
file. This needs no root, and imitact treats it like "no space left on device" and "quota exceeded".

The job must end in an error that the command line reports in one line with exit code 2. Files that
were there before must still be readable. With space again the same call must end with the same
result as an undisturbed one. --every N tries each N-th moment. Exit code 0 if all of that holds.
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
from imitact.core.validate import check_dataset
from imitact.datasets.lerobot.stats import PixelCounts
from imitact.datasets.lerobot.writer import LeRobotWriter
from imitact.datasets.open import open_dataset
from imitact.datasets.video import VideoWriter
from imitact.datasets.video_config import VideoConfig
from imitact.evaluation import report, runner
from imitact.evaluation.episode_journal import EVALUATION_JOURNAL
from imitact.models.policy import TorchPolicy
from imitact.recording.episode import CaptureConfig, capture_episode, read_result, seed_folder
from imitact.training import checkpoint
from imitact.training.loop import train
from tests.faults import material
from tests.faults.train_dot import CONFIG, MODEL
from tests.support.dot_env import TWO_CAMERAS, DotEnv, DotExpert, dot_spec
from tests.support.fake_dataset import FakeDataset
from tests.support.tiny_arm import Reacher, TinyArm

_WRITING = os.O_WRONLY | os.O_RDWR
SPEC = dot_spec(TWO_CAMERAS)
LOSSLESS = VideoConfig(codec="lossless")


class Disk:
    """Counts the moments before writes, and is full from one of them on."""

    def __init__(self) -> None:
        self.watching = False
        self.count = 0
        self.full_at = 0
        _, self.hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        sys.addaudithook(self._on_event)

    def _on_event(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.watching:
            return
        opens = event == "open" and isinstance(args[2], int) and args[2] & _WRITING
        if opens or event in ("os.mkdir", "os.rename"):
            self.count += 1
            if self.count == self.full_at:
                self.cap(0)

    def cap(self, size: int) -> None:
        """Limit the size of files to that many bytes; -1 removes the limit."""
        soft = self.hard if size < 0 else size
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, self.hard))

    @contextmanager
    def filling(self, *, at: int = 0, size: int = -1):
        """Be full from moment `at` on (0: never), or limit files to `size` bytes."""
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
    """A call that runs into the full disk.

    Attributes:
        prepare: writes the files that exist before.
        run: the call; returns its result, which is compared.
        check: raises unless the files that existed before are still readable.
    """

    prepare: Callable[[Path], object]
    run: Callable[[Path], Any]
    check: Callable[[Path], object]


def tree(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}


# -- the jobs --------------------------------------------------------------------------------------


def capture(out: Path) -> Any:
    """Capture one seed, as a worker of a recording does."""
    staging = out / "staging"
    staging.mkdir(parents=True, exist_ok=True)
    capture_episode(
        DotEnv(TWO_CAMERAS), DotExpert(), 4, CaptureConfig(staging, VideoConfig(), hold_ticks=10),
        check_stop=lambda: None, report_ticks=lambda count: None,
    )  # fmt: skip
    assert read_result(seed_folder(staging, 4), 2, verify=True) is not None
    return tree(staging)


def check_whole_or_absent(out: Path) -> None:
    assert list((out / "staging").glob("*")) in ([], [seed_folder(out / "staging", 4)])


def append_episode(out: Path, seed: int) -> None:
    """Append an episode to a dataset, as the recorder does."""
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


def append(out: Path) -> Any:
    append_episode(out / "data", 2)
    return tree(out / "data")


def prepare_two_episodes(out: Path) -> None:
    for seed in range(2):
        append_episode(out / "data", seed)


def check_two_or_three_episodes(out: Path) -> None:
    dataset = open_dataset(out / "data")
    check_dataset(dataset)
    assert len(dataset.lengths) in (2, 3)


DATASET = FakeDataset((7, 4, 9, 6), size=2, height=24, width=32)
SHORT = replace(CONFIG, steps=4, checkpoint_every=1, val_every=2)


def train_to_the_end(out: Path) -> Any:
    train(DATASET, out, MODEL, SHORT, resume=True)
    return tree(out / "policy")


def prepare_three_steps(out: Path) -> None:
    """Leave a training that was stopped after step 3 of 4, without policy and cache."""
    train(DATASET, out, MODEL, SHORT, resume=True)
    for path in checkpoint.list_checkpoints(out / "checkpoints")[:1]:
        shutil.rmtree(path)
    shutil.rmtree(out / "policy")
    shutil.rmtree(out / "cache")


def check_checkpoint(out: Path) -> None:
    found = checkpoint.load_newest(out / "checkpoints", lambda line: None)
    assert found is not None
    assert found[1].step >= 3
    for path in out.glob("policy"):
        TorchPolicy.load(path)


def evaluate(out: Path) -> Any:
    evaluation = runner.evaluate(
        Reacher, TinyArm, seeds=range(4), execution="replay:3", workers=0, out=out,
        videos=1,
    )  # fmt: skip
    report.write(evaluation, out)
    return [replace(row, wall_s=0.0) for row in report.read(out).rows]


def prepare_interrupted_evaluation(out: Path) -> None:
    """Leave an evaluation that was interrupted after its first episode."""
    evaluate(out)
    (out / "evaluation.json").unlink()
    journal = out / EVALUATION_JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:3]))
    shutil.rmtree(out / "videos")
    (out / "kept").write_bytes(b"".join(lines[:3]))


def check_first_episode(out: Path) -> None:
    kept = (out / "kept").read_bytes()
    assert (out / EVALUATION_JOURNAL).read_bytes().startswith(kept)


def save(out: Path) -> Any:
    material.untrained_policy(1).save(out / "p")
    return tree(out / "p")


def check_policy_loads(out: Path) -> None:
    TorchPolicy.load(out / "p")


def export(out: Path) -> Any:
    path = material.sealed(out)
    return path.read_bytes()


def check_no_partial_export(out: Path) -> None:
    from imitact.storage.sealed_file import unseal

    assert not (out / ".exporting").exists()
    for path in out.glob("policy.*"):
        unseal(path)


def run_second_phase(out: Path) -> Any:
    phases = Phases(out / "phases.json", {"a": 1})
    with phases.phase("second"):
        pass
    return phases.done("second")


def run_first_phase(out: Path) -> None:
    phases = Phases(out / "phases.json", {"a": 1})
    with phases.phase("first"):
        pass


def check_first_phase(out: Path) -> None:
    assert Phases(out / "phases.json", {"a": 1}).done("first")


def prepare_empty_folder(out: Path) -> None:
    out.mkdir(exist_ok=True)


JOBS = {
    "capture": Job(prepare_empty_folder, capture, check_whole_or_absent),
    "append": Job(prepare_two_episodes, append, check_two_or_three_episodes),
    "train": Job(prepare_three_steps, train_to_the_end, check_checkpoint),
    "evaluate": Job(prepare_interrupted_evaluation, evaluate, check_first_episode),
    "save": Job(lambda out: material.policy(out / "p", 0), save, check_policy_loads),
    "phases": Job(run_first_phase, run_second_phase, check_first_phase),
    "export": Job(prepare_empty_folder, export, check_no_partial_export),
}


# -- the trial -------------------------------------------------------------------------------------


def attempt(
    job: Job, disk: Disk, folder: Path, expected: Any, *, at: int = 0, size: int = -1
) -> tuple[bool, str]:
    """Return whether the full disk ended the job, and what was wrong, empty if nothing."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(out.with_name("out.staging"), ignore_errors=True)
    shutil.copytree(folder / "before", out)
    where = f"full at moment {at}" if at else f"files of at most {size} bytes"
    try:
        with disk.filling(at=at, size=size):
            job.run(out)
        failed = False
    except (ImitactError, OSError):  # one line and exit code 2 on the command line
        failed = True
    except Exception as error:
        return True, f"{where}: {type(error).__name__}: {error}"
    try:
        job.check(out)
        if job.run(out) != expected:
            return failed, f"{where}: another result afterwards"
    except Exception as error:
        return failed, f"{where}, afterwards: {type(error).__name__}: {error}"
    return failed, ""


def run(name: str, job: Job, disk: Disk, every: int) -> dict[str, Any]:
    """Run a job with the disk full from each of its moments on, and return the counts."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="imitact-disk-") as place:
        folder = Path(place)
        (folder / "before").mkdir()
        job.prepare(folder / "before")
        shutil.rmtree(folder / "before.staging", ignore_errors=True)
        shutil.copytree(folder / "before", folder / "out")
        with disk.filling():
            expected = job.run(folder / "out")
        moments = disk.count
        sizes = sorted({p.stat().st_size for p in (folder / "out").rglob("*") if p.is_file()})
        caps = sorted({cap for size in sizes for cap in (size // 2, size - 1) if cap > 0})
        wrong, tried, full = [], 0, 0
        kinds = [{"at": at} for at in range(1, moments + 1, every)]
        kinds += [{"size": cap} for cap in caps[::every]]
        for kind in kinds:
            failed, defect = attempt(job, disk, folder, expected, **kind)
            tried, full, wrong = tried + 1, full + failed, [*wrong, *([defect] if defect else [])]
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
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
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
