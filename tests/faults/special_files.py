"""Special files: a pipe, device, socket, link or folder in the place of each file that is read.

    python -m tests.faults.special_files [--only KIND ...] [--out FILE.json]

Each file of a dataset of every layout, a policy, training, evaluation, export and a checkpoint of
another program is replaced in turn. The reader must refuse it with one of imitact's errors that
names the file, or not need it. More than 5 s of wall time (a reader that waits for a pipe), more
than 1 GiB of memory and any other error are defects. Exit code 0 if there is none.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imitact.core.errors import BadInput, ImitactError
from imitact.datasets.open import open_dataset
from imitact.datasets.read_config import ReadConfig
from tests.faults import flip_bytes, fuzz_policies, material
from tests.faults.fuzz_readers import read_whole
from tests.support.paths import ROOT

CASE_S = 5.0
MEMORY_BYTES = 1 << 30
LEROBOT = ROOT / "tests" / "fixtures" / "lerobot"


@dataclass(frozen=True)
class Thing:
    """A folder or file, and its reader.

    Attributes:
        path: where it is.
        read: reads all of the copy at the path that it is given.
        repairs: whether the reader makes good what it finds damaged.
    """

    path: Path
    read: Callable[[Path], Any]
    repairs: bool = False


class HangsError(Exception):
    """The reader waits, or reads without end."""


def things(folder: Path) -> dict[str, Thing]:
    """Write one of each kind."""

    def dataset(**options: Any) -> Callable[[Path], None]:
        return lambda path: read_whole(open_dataset(path, ReadConfig(**options)))

    material.foreign_datasets(folder)
    for step in (1, 2):
        material.checkpoint(folder / "checkpoints", step)
    (folder / "training").mkdir()
    material.metrics(folder / "training" / "metrics.jsonl")
    flip_bytes.read_cache(folder / "cache", lambda line: None)
    found = {
        "recording": Thing(material.dataset(folder / "recording"), flip_bytes.read_dataset),
        "lerobot v3.0": Thing(LEROBOT / "v30", dataset()),
        "lerobot v2.1": Thing(LEROBOT / "v21", dataset()),
        "aloha": Thing(folder / "aloha" / "plain", dataset()),
        "robomimic": Thing(
            folder / "robomimic", dataset(state=("robot0_eef_pos", "robot0_gripper_qpos"))
        ),
        "diffusion-policy": Thing(folder / "replay", dataset(state=("state",), rate_hz=10)),
        "policy": Thing(material.policy(folder / "policy"), flip_bytes.read_policy),
        "checkpoints": Thing(
            folder / "checkpoints",
            lambda path: flip_bytes.read_checkpoints(path, lambda line: None),
            repairs=True,
        ),
        "cache": Thing(
            folder / "cache",
            lambda path: flip_bytes.read_cache(path, lambda line: None),
            repairs=True,
        ),
        "evaluation": Thing(material.evaluation(folder / "evaluation"), _read_evaluation),
        "training": Thing(folder / "training", _read_training),
    }
    for kind, program in fuzz_policies.PROGRAM.items():
        fuzz_policies.parity.recreate(program, "one_camera", folder / kind)
        found[kind] = Thing(folder / kind, fuzz_policies.read)
    return found


def _read_evaluation(path: Path) -> None:
    from imitact.evaluation import report
    from imitact.storage.journal import Journal

    report.read(path)
    Journal(path / "episodes.jsonl", read_only=True)


def _read_training(path: Path) -> None:
    from imitact.viewer.trainings import training_section

    flip_bytes.read_metrics(path / "metrics.jsonl", lambda line: None)
    training_section(path)


def _folder(file: Path) -> None:
    file.mkdir()
    (file / "inside").write_text("{}")


def _socket(file: Path) -> None:
    here = Path.cwd()
    os.chdir(file.parent)  # the path of a socket has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(file.name)
    finally:
        os.chdir(here)


def _link_to_pipe(file: Path) -> None:
    os.mkfifo(file.with_name("pipe"))
    file.symlink_to("pipe")


SPECIAL: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a link to a pipe": _link_to_pipe,
    "a link to /dev/zero": lambda file: file.symlink_to("/dev/zero"),
    "a socket": _socket,
    "a folder": _folder,
    "a link to itself": lambda file: file.symlink_to(file.name),
    "a link to nothing": lambda file: file.symlink_to("nothing"),
    "a link to a folder": lambda file: file.symlink_to("/proc"),
}


def _taken_bytes() -> int:
    """Address space of this process."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


@contextmanager
def limited() -> Iterator[None]:
    """Raise HangsError in a block that takes too long or too much memory."""

    def stop(*_: Any) -> None:
        raise HangsError(f"more than {CASE_S} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, CASE_S)
    # Reading a device cannot be interrupted; this limit keeps it from taking the whole memory.
    allowed = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_taken_bytes() + 2 * MEMORY_BYTES, allowed[1]))
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, allowed)
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used) << 10
    if more > MEMORY_BYTES:
        raise HangsError(f"{more:,} bytes of memory")


def run(thing: Thing, work: Path, most: int = 0) -> dict[str, Any]:
    """Replace each file (or `most` of them) by each special file; count what the reader did."""
    files = [p.relative_to(thing.path) for p in sorted(thing.path.rglob("*")) if p.is_file()]
    if most:
        files = files[:: max(1, len(files) // most)]
    counts = {"refused": 0, "read": 0}
    wrong: list[str] = []
    for file in files:
        for what, make in SPECIAL.items():
            shutil.rmtree(work, ignore_errors=True)
            copy = work / thing.path.name
            shutil.copytree(thing.path, copy, symlinks=True)
            (copy / file).unlink()
            make(copy / file)
            try:
                with limited():
                    thing.read(copy)
                counts["read"] += 1
            except (BadInput, ImitactError) as error:
                if file.name in str(error) or file.parent.name in str(error):
                    counts["refused"] += 1
                else:
                    wrong.append(f"{file} is {what}: the error does not name it: {error}")
            except Exception as error:
                wrong.append(f"{file} is {what}: {type(error).__name__}: {error}")
    return {"files": len(files), **counts, "wrong": wrong}


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory(prefix="imitact-special-") as folder:
        for name, thing in things(Path(folder) / "made").items():
            if not args.only or name in args.only:
                found[name] = run(thing, Path(folder) / "work")
                print(f"{name}: {json.dumps(found[name], indent=1)}", file=sys.stderr)
    text = json.dumps(found, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
    return 1 if not found or any(part["wrong"] for part in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
