"""One byte altered, or the end cut off, in a file of every kind that imitact writes.

    flip_bytes.py [--most 500] [--seed 0] [--kinds policy.json ...] [--out FILE.json]

Law: reading ends in an error that names the file, or, where what is lost can be made again (frame
cache, a checkpoint with one before it, a line of metrics), says so and goes on; or every value that
is read is the one that was written (an altered blank of a JSON file). --most is how many places of
a file are altered, spread evenly; 0: every byte. Exit code 0 if it holds everywhere.
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
"""Reads, says aloud what it does about damage, gives all values as something that compares."""


@dataclass(frozen=True)
class Kind:
    """A file, and how it is read.

    mended:   a saying that means damage was seen and made good.
    is_a_log: whether fewer lines at the end are what a kill leaves, and no damage.
    """

    file: Path
    read: Read
    mended: str = ""
    is_a_log: bool = False


def of_dataset(root: Path) -> Any:
    source = open_dataset(root)
    told = [source.spec, source.fingerprint, source.lengths, read_report(root)]
    for index in range(len(source.lengths)):
        episode = source.episode(index)
        told += [episode.state.tobytes(), episode.action.tobytes(), episode.task]
        for camera in source.spec.cameras:
            told.append(b"".join(frame.tobytes() for frame in episode.frames(camera.name)))
    return told


def of_policy(root: Path) -> Any:
    policy = TorchPolicy.load(root)
    weights = {name: value.numpy().tobytes() for name, value in policy.net.state_dict().items()}
    return weights, policy.spec, policy.config, {n: s.to_dict() for n, s in policy.stats.items()}


def of_checkpoints(folder: Path, say: Callable[[str], None]) -> Any:
    found = checkpoint.load_newest(folder, say)
    assert found is not None
    state = found[1]
    return state.step, state.numbers, {n: v.numpy().tobytes() for n, v in state.tensors.items()}


def of_cache(folder: Path, say: Callable[[str], None]) -> Any:
    frames = open_frames(
        FakeDataset((5, 4)), {"top": View(12, 16)}, cache_dir=folder, cache_limit_bytes=1 << 30,
        memory_limit_bytes=0, workers=1, log=say,
    )  # fmt: skip
    return frames.gather("top", np.arange(9)).tobytes()


def of_journal(folder: Path) -> Any:
    counted = runner.evaluate(
        Reacher, TinyArm, seeds=range(4), execution="replay:3", workers=0, out=folder
    )
    return [replace(row, wall_s=0.0) for row in counted.rows]


def of_metrics(path: Path, say: Callable[[str], None]) -> Any:
    with closing(MetricsLog(path, resumed=5, log=say)):
        return [json.loads(line) for line in path.read_bytes().splitlines()]


def of_phases(path: Path) -> Any:
    phases = Phases(path, {"steps": 5})
    return phases.wall_s, phases.done("record")


def of_sealed(path: Path) -> Any:
    from imitact.storage.sealed_file import unseal

    sealed = unseal(path)
    return bytes(sealed.data), sealed.about


def kinds(folder: Path) -> dict[str, Kind]:
    """Each file, in a folder of its own, with its reader."""
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
        found[name] = Kind(root / name, lambda say: of_dataset(root))
    policy = material.policy(folder / "policy")
    for name in ("policy.json", "model.safetensors"):
        found[name] = Kind(policy / name, lambda say: of_policy(policy))
    for step in (1, 2):
        newest = material.checkpoint(folder / "checkpoints", step)
    for name in ("trainer.json", "trainer.safetensors", "policy/policy.json"):
        found[f"checkpoint {name}"] = Kind(
            newest / name,
            lambda say: of_checkpoints(folder / "checkpoints", say),
            mended="damaged checkpoint skipped: ",
        )
    of_cache(folder / "cache", lambda line: None)
    (cache,) = (folder / "cache").glob("frames-*/")
    for name in ("cache.json", "camera-0.u8"):
        found[f"cache {name}"] = Kind(
            cache / name, lambda say: of_cache(folder / "cache", say), mended="is damaged ("
        )
    evaluation = material.evaluation(folder / "evaluation")
    found["evaluation.json"] = Kind(
        evaluation / "evaluation.json", lambda say: report.read(evaluation)
    )
    found["episodes.jsonl"] = Kind(evaluation / EVALUATION_JOURNAL, lambda say: of_journal(evaluation))
    metrics = material.metrics(folder / "metrics.jsonl")
    found["metrics.jsonl"] = Kind(
        metrics, lambda say: of_metrics(metrics, say), mended="): removed", is_a_log=True
    )
    phases = folder / "phases.json"
    with Phases(phases, {"steps": 5}).phase("record"):
        pass
    found["phases.json"] = Kind(phases, lambda say: of_phases(phases))
    summary = folder / "training.json"
    summary.write_text(json.dumps(with_checksum({"steps": 5, "held_out_l1_rad": 0.0125}), indent=2))
    found["training.json"] = Kind(
        summary, lambda say: verified(read_json_object(summary), summary, required=True)
    )
    try:
        import onnx  # noqa: F401
    except ModuleNotFoundError:
        return found
    sealed = material.sealed(folder / "exported")
    found["policy.onnx"] = Kind(sealed, lambda say: of_sealed(sealed))
    return found


def harms(data: bytes, most: int, draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """The altered contents, each with what was done."""
    step = max(1, len(data) // most) if most else 1
    for at in range(draw.randrange(step), len(data), step):
        altered = bytearray(data)
        altered[at] ^= draw.randrange(1, 256)
        yield f"byte {at} is {altered[at]:#x}", bytes(altered)
    for end in sorted({0, 1, len(data) // 2, len(data) - 1, *draw.sample(range(len(data)), 12)}):
        yield f"cut at {end}", data[:end]


def run(kind: Kind, most: int, draw: random.Random) -> dict[str, Any]:
    root = next(p for p in (kind.file, *kind.file.parents) if p.parent.name.startswith("imitact-"))
    before = tree(root)
    data = kind.file.read_bytes()
    wanted = kind.read(lambda line: None)
    counts = {"refused": 0, "made good": 0, "equal": 0}
    wrong: list[str] = []
    began = time.monotonic()
    for what, altered in harms(data, most, draw):
        kind.file.write_bytes(altered)
        said: list[str] = []
        try:
            got = kind.read(said.append)
            if kind.mended and any(kind.mended in line for line in said):
                counts["made good"] += 1
            elif got == wanted or (kind.is_a_log and got == wanted[: len(got)] and "cut" in what):
                counts["equal"] += 1
            else:
                wrong.append(f"{what}: read as something else")
        except BadInput as error:
            # The checksums of an episode name the file that they belong to.
            if kind.file.name in str(error):
                counts["refused"] += 1
            else:
                wrong.append(f"{what}: the file is not named: {error}")
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
    parser = argparse.ArgumentParser()
    parser.add_argument("--most", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory(prefix="imitact-flip-") as place:
        for name, kind in kinds(Path(place)).items():
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
