"""Corruption test: alters a byte, or truncates, a file of every kind that imitact writes.

    python -m tests.faults.flip_bytes [--most 500] [--seed 0] [--kinds policy.json ...]
        [--out FILE.json]

One of three must hold. Reading ends in an error that names the file. Or, where the lost data can be
made again (frame cache, a checkpoint with one before it, a line of metrics), reading reports the
damage and continues. Or all values equal those that were written (an altered blank of a JSON file).
--most is the number of altered bytes per file, spread evenly; 0 alters every byte. Exit code 0 if
this holds everywhere.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from imitact.cli.phases import Phases
from imitact.core.camera_view import View
from imitact.core.errors import BadInput
from imitact.datasets.open import open_dataset
from imitact.evaluation import report, runner
from imitact.evaluation.episode_journal import EVALUATION_JOURNAL
from imitact.models.policy import TorchPolicy
from imitact.recording.manifest import read_report
from imitact.storage.checksum import verified, with_checksum
from imitact.storage.json_file import read_json_object
from imitact.training import checkpoint
from imitact.training.frame_cache import open_frames
from imitact.training.metrics import MetricsLog
from tests.faults import material
from tests.support.fake_dataset import FakeDataset
from tests.support.tiny_arm import Reacher, TinyArm

Read = Callable[[Callable[[str], None]], Any]
"""Reads a file, passes a line about repaired damage to the callback, returns comparable values."""


@dataclass(frozen=True)
class Kind:
    """A file, and how it is read.

    Attributes:
        file: the file.
        read: its reader.
        repaired: part of the reported line that means that damage was repaired.
        is_log: whether missing lines at the end are normal, as after a kill.
    """

    file: Path
    read: Read
    repaired: str = ""
    is_log: bool = False


def read_dataset(root: Path) -> Any:
    dataset = open_dataset(root)
    values = [dataset.spec, dataset.fingerprint, dataset.lengths, read_report(root)]
    for index in range(len(dataset.lengths)):
        episode = dataset.episode(index)
        values += [episode.state.tobytes(), episode.action.tobytes(), episode.task]
        for camera in dataset.spec.cameras:
            values.append(b"".join(frame.tobytes() for frame in episode.frames(camera.name)))
    return values


def read_policy(root: Path) -> Any:
    policy = TorchPolicy.load(root)
    weights = {name: value.numpy().tobytes() for name, value in policy.net.state_dict().items()}
    return weights, policy.spec, policy.config, {n: s.to_dict() for n, s in policy.stats.items()}


def read_checkpoints(folder: Path, log: Callable[[str], None]) -> Any:
    found = checkpoint.load_newest(folder, log)
    assert found is not None
    state = found[1]
    return state.step, state.numbers, {n: v.numpy().tobytes() for n, v in state.tensors.items()}


def read_cache(folder: Path, log: Callable[[str], None]) -> Any:
    frames = open_frames(
        FakeDataset((5, 4)), {"top": View(12, 16)}, cache_dir=folder, cache_limit_bytes=1 << 30,
        memory_limit_bytes=0, workers=1, log=log,
    )  # fmt: skip
    return frames.gather("top", np.arange(9)).tobytes()


def read_journal(folder: Path) -> Any:
    evaluation = runner.evaluate(
        Reacher, TinyArm, seeds=range(4), execution="replay:3", workers=0, out=folder
    )
    return [replace(row, wall_s=0.0) for row in evaluation.rows]


def read_metrics(path: Path, log: Callable[[str], None]) -> Any:
    with closing(MetricsLog(path, resumed=5, log=log)):
        return [json.loads(line) for line in path.read_bytes().splitlines()]


def read_phases(path: Path) -> Any:
    phases = Phases(path, {"steps": 5})
    return phases.wall_s, phases.done("record")


def read_sealed(path: Path) -> Any:
    from imitact.storage.sealed_file import unseal

    sealed = unseal(path)
    return bytes(sealed.data), sealed.about


def kinds(folder: Path) -> dict[str, Kind]:
    """Write each file into its own folder, and return it with its reader."""
    root = material.dataset(folder / "data")
    found = {}
    for name in (
        "meta/info.json",
        "meta/stats.json",
        "meta/tasks.parquet",
        "meta/imitact.json",
        "meta/imitact/chunk-000/file-001.json",
        "meta/episodes/chunk-000/file-001.parquet",
        "data/chunk-000/file-001.parquet",
        "videos/observation.images.top/chunk-000/file-001.mp4",
    ):
        found[name] = Kind(root / name, lambda log: read_dataset(root))
    policy = material.policy(folder / "policy")
    for name in ("policy.json", "model.safetensors"):
        found[name] = Kind(policy / name, lambda log: read_policy(policy))
    for step in (1, 2):
        newest = material.checkpoint(folder / "checkpoints", step)
    for name in ("trainer.json", "trainer.safetensors", "policy/policy.json"):
        found[f"checkpoint {name}"] = Kind(
            newest / name,
            lambda log: read_checkpoints(folder / "checkpoints", log),
            repaired="damaged checkpoint skipped: ",
        )
    read_cache(folder / "cache", lambda line: None)
    (cache,) = (folder / "cache").glob("frames-*/")
    for name in ("cache.json", "camera-0.u8"):
        found[f"cache {name}"] = Kind(
            cache / name, lambda log: read_cache(folder / "cache", log), repaired="is damaged ("
        )
    evaluation = material.evaluation(folder / "evaluation")
    found["evaluation.json"] = Kind(
        evaluation / "evaluation.json", lambda log: report.read(evaluation)
    )
    found["episodes.jsonl"] = Kind(
        evaluation / EVALUATION_JOURNAL, lambda log: read_journal(evaluation)
    )
    metrics = material.metrics(folder / "metrics.jsonl")
    found["metrics.jsonl"] = Kind(
        metrics, lambda log: read_metrics(metrics, log), repaired="): removed", is_log=True
    )
    phases = folder / "phases.json"
    with Phases(phases, {"steps": 5}).phase("record"):
        pass
    found["phases.json"] = Kind(phases, lambda log: read_phases(phases))
    summary = folder / "training.json"
    summary.write_text(json.dumps(with_checksum({"steps": 5, "held_out_l1_rad": 0.0125}), indent=2))
    found["training.json"] = Kind(
        summary, lambda log: verified(read_json_object(summary), summary, required=True)
    )
    try:
        import onnx  # noqa: F401
    except ModuleNotFoundError:
        return found
    sealed = material.sealed(folder / "exported")
    found["policy.onnx"] = Kind(sealed, lambda log: read_sealed(sealed))
    return found


def alterations(data: bytes, most: int, draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield altered contents, each with a description."""
    step = max(1, len(data) // most) if most else 1
    for at in range(draw.randrange(step), len(data), step):
        altered = bytearray(data)
        altered[at] ^= draw.randrange(1, 256)
        yield f"byte {at} is {altered[at]:#x}", bytes(altered)
    for end in sorted({0, 1, len(data) // 2, len(data) - 1, *draw.sample(range(len(data)), 12)}):
        yield f"cut at {end}", data[:end]


def run(kind: Kind, most: int, draw: random.Random) -> dict[str, Any]:
    """Alter one file in many ways; return how often it was refused, repaired or read as before."""
    root = next(p for p in (kind.file, *kind.file.parents) if p.parent.name.startswith("imitact-"))
    before = tree(root)
    data = kind.file.read_bytes()
    expected = kind.read(lambda line: None)
    counts = {"refused": 0, "made good": 0, "equal": 0}
    wrong: list[str] = []
    began = time.monotonic()
    for what, altered in alterations(data, most, draw):
        kind.file.write_bytes(altered)
        lines: list[str] = []
        try:
            got = kind.read(lines.append)
            if kind.repaired and any(kind.repaired in line for line in lines):
                counts["made good"] += 1
            elif got == expected or (kind.is_log and got == expected[: len(got)] and "cut" in what):
                counts["equal"] += 1
            else:
                wrong.append(f"{what}: other values were read")
        except BadInput as error:
            # An episode's checksum file is named by the error about the file that it covers.
            if kind.file.name in str(error):
                counts["refused"] += 1
            else:
                wrong.append(f"{what}: the error does not name the file: {error}")
        except Exception as error:
            wrong.append(f"{what}: {type(error).__name__}: {error}")
        restore(root, before)
    return {
        "bytes": len(data),
        "tried": sum(counts.values()) + len(wrong),
        **counts,
        "wall_s": round(time.monotonic() - began, 1),
        "wrong": wrong[:20],
    }


def tree(root: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in (root, *root.rglob("*")) if p.is_file()}


def restore(root: Path, before: dict[Path, bytes]) -> None:
    for path in [p for p in root.rglob("*") if p.is_file() and p not in before]:
        path.unlink()
    for path, data in before.items():
        if not path.is_file() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--most", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory(prefix="imitact-flip-") as folder:
        for name, kind in kinds(Path(folder)).items():
            if not args.kinds or name in args.kinds:
                found[name] = run(kind, args.most, random.Random(f"{name} {args.seed}"))
                print(f"{name}: {json.dumps(found[name])}", file=sys.stderr)
    text = json.dumps(found, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
    return 1 if not found or any(part["wrong"] for part in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
