"""Reader fuzzing: Hypothesis alters policies, datasets and settings, and the readers must survive.

    python -m tests.faults.fuzz_readers [--cases 100000] [--only KIND] [--workers 2] [--seed 0]
        [--out FILE.json]

A case takes one file (or the settings of a network, or a command line) and applies one to three
changes: cuts, flips, inserts, repeats or exchanges bytes; replaces, retypes, renames, repeats or
reorders JSON values; inserts values that break parsers (NaN, numbers of 5000 digits, 2^60 as a
size, a hundred thousand brackets, invalid UTF-8). In half of the cases the checksums are updated,
so that the code behind them is reached. The reader must then read the file, or refuse it with one
of imitact's errors for bad input. Anything else is a defect, as is more than 5 s of CPU time, more
than 1 GiB of memory above that of the idle process, or the death of the process.

Datasets of other layouts (aloha, robomimic, replay: a diffusion-policy zarr) are altered in their
bytes, and with h5py in their structure: arrays dropped, renamed, retyped, reordered or linked
elsewhere. HDF5's library may crash on such a file, in the isolated process that reads it; these
crashes are counted (`crashes_apart`) and are no defect as long as the reader refuses the file.

Cases run in worker processes that the main process watches. Exit code 0 if there is no defect; each
defect is printed with the smallest case that Hypothesis finds.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import hashlib
import io
import json
import mmap
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from imitact.core.types import Dataset

CASE_S = 5.0
"""Limit of a case in CPU time, which does not depend on the load of the machine."""
MEMORY_BYTES = 1 << 30
SILENT_S = 600.0
"""A worker that starts no case for this long hangs where Python cannot interrupt it."""
BATCH = 500
"""Cases of one Hypothesis run; its seed is its number, so that any run can be repeated."""

# -- changes of bytes ------------------------------------------------------------------------------

PLACE = st.integers(0, 2**20)
"""Position, modulo the size, so that Hypothesis can shrink it for any file."""

HOSTILE_NUMBERS = [
    value.to_bytes(8, order) for value in (2**60, 2**63 - 1, 2**64 - 1, 2**31) for order in
    ("little", "big")
]  # fmt: skip

BYTE_CHANGE = st.one_of(
    st.tuples(st.just("cut"), PLACE),
    st.tuples(st.just("flip"), PLACE, st.integers(0, 7)),
    st.tuples(st.just("byte"), PLACE, st.integers(0, 255)),
    st.tuples(st.just("insert"), PLACE, st.binary(min_size=1, max_size=12)),
    st.tuples(st.just("delete"), PLACE, st.integers(1, 64)),
    st.tuples(st.just("repeat"), PLACE, st.integers(1, 64), st.integers(1, 8)),
    st.tuples(st.just("exchange"), PLACE, PLACE, st.integers(1, 64)),
    st.tuples(st.just("number"), PLACE, st.sampled_from(HOSTILE_NUMBERS)),
)


def change_bytes(data: bytes, change: tuple[Any, ...]) -> bytes:
    """Apply one of BYTE_CHANGE."""
    kind, place, *more = change
    at = place % (len(data) + 1)
    match kind:
        case "cut":
            return data[:at]
        case "flip":
            altered = bytearray(data or b"\0")
            altered[at % len(altered)] ^= 1 << more[0]
            return bytes(altered)
        case "byte":
            altered = bytearray(data or b"\0")
            altered[at % len(altered)] = more[0]
            return bytes(altered)
        case "insert":
            return data[:at] + more[0] + data[at:]
        case "delete":
            return data[:at] + data[at + more[0] :]
        case "repeat":
            return data[:at] + data[at : at + more[0]] * more[1] + data[at:]
        case "number":
            return data[:at] + more[0] + data[at + 8 :]
        case _:
            other, size = more[0] % (len(data) + 1), more[1]
            first, second = sorted((at, other))
            first_end = min(first + size, second)
            return (
                data[:first] + data[second : second + size] + data[first_end:second]
                + data[first:first_end] + data[second + size :]
            )  # fmt: skip


# -- changes of JSON -------------------------------------------------------------------------------

VALUE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, -1, 1, 2**31, 2**60, 2**64, 10**30, 1e308, -1e-308, 0.5]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=10),
    st.sampled_from(["", "..", "/dev/zero", "{chunk_index:2000000000d}", "\0", "top=0:9,0:9"]),
    st.lists(st.integers(-5, 5), max_size=3),
    st.sampled_from([[], {}, [[]], {"": {}}]),
)

RAW = [
    b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"-0", b"1" + b"0" * 400, b"[" * 100_000,
    b'{"a":' * 20_000, b"[" * 500 + b"]" * 500, b'"\xff\xfe"', b'"\\ud800"', b'"' + b"x" * 10**6 +
    b'"', b"[" + b"0," * 200_000 + b"0]", b"", b"nul", b"\xef\xbb\xbf1", b"[[[],[]],[[],[]]]",
]  # fmt: skip

JSON_CHANGE = st.one_of(
    st.tuples(st.just("set"), PLACE, VALUE),
    st.tuples(st.just("set"), PLACE, VALUE),
    st.tuples(st.just("raw"), PLACE, st.sampled_from(RAW)),
    st.tuples(st.just("drop"), PLACE),
    st.tuples(st.just("rename"), PLACE, st.text(max_size=8)),
    st.tuples(st.just("add"), PLACE, st.text(max_size=8), VALUE),
    st.tuples(st.just("reorder"), PLACE),
    st.tuples(st.just("twice"), PLACE, VALUE),
    st.tuples(st.just("nudge"), PLACE, st.sampled_from([-1, 1, 1e-9, 1000, -(2**40)])),
)

_HERE = "@raw@"


def change_json(value: Any, changes: list[tuple[Any, ...]], seal: Callable[[Any], Any]) -> bytes:
    """Apply JSON changes to a value and return its text; `seal` updates its checksum."""
    value = copy.deepcopy(value)
    raw: list[bytes] = []
    twice: list[tuple[str, Any]] = []
    for kind, place, *more in changes:
        places = _places(value)
        if not places:
            break
        holder, key = places[place % len(places)]
        match kind:
            case "set":
                holder[key] = copy.deepcopy(more[0])  # inserted twice, it could contain itself
            case "raw":
                holder[key] = _HERE
                raw.append(more[0])
            case "drop":
                del holder[key]
            case "rename" if isinstance(holder, dict):
                holder[more[0]] = holder.pop(key)
            case "add" if isinstance(holder, dict):
                holder[more[0]] = copy.deepcopy(more[1])
            case "add":
                holder.insert(key, copy.deepcopy(more[1]))
            case "reorder" if isinstance(holder, dict):
                kept = list(holder.items())
                holder.clear()
                holder.update(kept[key_index(kept, key) :] + kept[: key_index(kept, key)])
            case "reorder":
                holder.reverse()
            case "twice":
                twice.append((str(key), more[0]))
            case "nudge" if isinstance(holder[key], int | float):
                with contextlib.suppress(OverflowError):
                    holder[key] = holder[key] + more[0]
    if isinstance(value, dict):
        with contextlib.suppress(Exception):  # a value that cannot be sealed stays as it is
            value = seal(value)
    text = json.dumps(value).encode()
    for key, other in twice:  # a duplicate key, of which parsers take either
        text = b"{" + json.dumps({key: other}).encode()[1:-1] + b", " + text[1:]
    for part in raw:
        text = text.replace(json.dumps(_HERE).encode(), part, 1)
    return text


def key_index(items: list[tuple[str, Any]], key: str) -> int:
    return next(i for i, (name, _) in enumerate(items) if name == key)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return every nested value as its container and its key."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        if isinstance(holder, dict):
            keys: Any = list(holder)
        elif isinstance(holder, list):
            keys = range(min(len(holder), 8))  # later items are of the same kind
        else:
            continue
        for key in keys:
            found.append((holder, key))
            waiting.append(holder[key])
    return found


# -- changes of the structure of an HDF5 file ------------------------------------------------------

ODD_VALUES = [
    [], [1.5], [[1, 2], [3, 4]], [float("nan")] * 3, [2**62] * 2, [b"abc", b"d"], [True, False],
    [[[[255, 0, 1]]]], "text",
]  # fmt: skip
ODD_SHAPES = [(), (0,), (2**40,), (2**31, 2**31), (3,), (3, 14), (2, 14, 1), (1, 2**20), (3, 0)]
ODD_ATTRIBUTES = [True, -1, 2**63, float("nan"), "", "{}", "[" * 500, '{"format": 1}',
                  '{"format": 1, "cameras": 3}', [1, 2], b"\xff"]  # fmt: skip
HDF5_CHANGE = st.one_of(
    st.tuples(st.just("drop"), PLACE),
    st.tuples(st.just("values"), PLACE, st.integers(0, len(ODD_VALUES) - 1)),
    st.tuples(st.just("type"), PLACE, st.sampled_from(["f2", "f8", ">i4", "u1", "S4", "?", "c16"])),
    st.tuples(st.just("shape"), PLACE, st.sampled_from(ODD_SHAPES)),
    st.tuples(st.just("exchange"), PLACE, PLACE),
    st.tuples(st.just("rename"), PLACE, st.sampled_from(["x", "data", "obs", "\u2028", "x\udcff"])),
    st.tuples(st.just("link"), PLACE, st.sampled_from(["/", "/nowhere", "self", "out"])),
    st.tuples(st.just("attribute"), st.sampled_from(["sim", "compress", "imitact", "env_args"]),
              st.integers(0, len(ODD_ATTRIBUTES) - 1)),
)  # fmt: skip


def change_hdf5(data: bytes, changes: list[tuple[Any, ...]], scratch: Path) -> bytes:
    """Apply changes to the structure of an HDF5 file; those that h5py refuses are skipped."""
    import h5py

    scratch.write_bytes(data)
    with h5py.File(scratch, "a") as file:
        for kind, place, *more in changes:
            names: list[str] = []
            file.visit(names.append)
            if not names:
                break
            name = names[place % len(names)] if isinstance(place, int) else ""
            with contextlib.suppress(Exception):
                match kind:
                    case "drop":
                        del file[name]
                    case "values":
                        del file[name]
                        file[name] = ODD_VALUES[more[0]]
                    case "type":
                        values = cast("Any", file[name])[()].astype(more[0])
                        del file[name]
                        file[name] = values
                    case "shape":
                        chunks = tuple(max(1, min(n, 4)) for n in more[0]) or None
                        del file[name]
                        file.create_dataset(name, more[0], "f4", chunks=chunks)
                    case "exchange":
                        other = names[more[0] % len(names)]
                        file.move(name, "aside")
                        file.move(other, name)
                        file.move("aside", other)
                    case "rename":
                        path = f"{name.rpartition('/')[0]}/{more[0]}"
                        file.move(name, path.encode(errors="surrogateescape"))
                    case "link":
                        del file[name]
                        if more[0] == "self":
                            file[name] = file[name.rpartition("/")[0] or "/"]
                        elif more[0] == "out":
                            file[name] = h5py.ExternalLink("/dev/zero", "/action")
                        else:
                            file[name] = h5py.SoftLink(more[0])
                    case "attribute":
                        (file if place != "env_args" else file["data"]).attrs[place] = (
                            ODD_ATTRIBUTES[more[0]]
                        )
    return scratch.read_bytes()


# -- cases -----------------------------------------------------------------------------------------

POLICY = ["policy/policy.json", "policy/policy.json", "policy/model.safetensors"]
DATASET = [
    "meta/info.json", "meta/info.json", "meta/imitact.json", "meta/stats.json",
    "meta/imitact/chunk-000/file-001.json", "meta/episodes/chunk-000/file-001.parquet",
    "data/chunk-000/file-001.parquet", "videos/observation.images.top/chunk-000/file-000.mp4",
]  # fmt: skip
OTHERS = [
    "checkpoints/step-00000001/trainer.json", "checkpoints/step-00000001/trainer.safetensors",
    "evaluation/evaluation.json", "evaluation/episodes.jsonl",
]  # fmt: skip


ALOHA = [f"aloha/{name}/episode_{i}.hdf5" for name in ("plain", "jpeg") for i in (0, 1)]
ROBOMIMIC = ["robomimic/demo.hdf5"]
REPLAY = [f"replay/{name}" for name in (
    "data/img/.zarray", "data/state/.zarray", "meta/episode_ends/.zarray", "meta/episode_ends/0",
    "data/img/0.0.0.0", "data/img/1.0.0.0", "data/state/0.0", "data/action/0.0",
)]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One file and its changes.

    Attributes:
        file: path of the file, or `config`.
        fits: whether checksums are updated to the altered contents.
        as_json: whether the changes alter the structure, not bytes.
        changes: the changes.
    """

    file: str
    fits: bool
    as_json: bool
    changes: tuple[tuple[Any, ...], ...]


def _of(files: list[str]) -> st.SearchStrategy[Case]:
    byte_changes = st.lists(BYTE_CHANGE, min_size=1, max_size=3).map(tuple)
    json_changes = st.lists(JSON_CHANGE, min_size=1, max_size=3).map(tuple)
    name, fits = st.sampled_from(files), st.booleans()
    of_bytes = st.builds(Case, name, fits, st.just(False), byte_changes)
    structural = st.builds(Case, name, fits, st.just(True), json_changes)
    return st.one_of(structural, of_bytes)


def _of_hdf5(files: list[str]) -> st.SearchStrategy[Case]:
    plain = st.lists(BYTE_CHANGE, min_size=1, max_size=3).map(tuple)
    structure = st.lists(HDF5_CHANGE, min_size=1, max_size=3).map(tuple)
    name, no = st.sampled_from(files), st.just(False)
    return st.one_of(
        st.builds(Case, name, no, no, plain), st.builds(Case, name, no, st.just(True), structure)
    )


KINDS = {
    "policy": _of(POLICY),
    "data": _of([f"data/{name}" for name in DATASET]),
    "config": _of(["config"]),
    "others": _of(OTHERS),
    "aloha": _of_hdf5(ALOHA),
    "robomimic": _of_hdf5(ROBOMIMIC),
    "replay": _of(REPLAY),
}
FOREIGN = ("aloha", "robomimic", "replay")


def cases_of(kind: str) -> st.SearchStrategy[Case]:
    """Return the cases of a kind, or of "all", with twice as many of datasets."""
    return KINDS[kind] if kind != "all" else st.one_of(*KINDS.values(), KINDS["data"])


OPTIONS = (
    "--model.chunk-size", "--model.crop", "--model.hidden-dim", "--model.backbone-norm",
    "--model.random-shift", "--model.dropout", "--train.steps", "--train.lr", "--train.seed",
    "--train.batch-size", "--train.precision", "--train.cache-limit-gb", "--preset", "--resume",
    "data", "--out",
)  # fmt: skip
WORDS = st.one_of(
    st.sampled_from(OPTIONS),
    st.text(max_size=8).filter(lambda text: "\0" not in text),
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from(["nan", "inf", "1e999", "9" * 5000, "None", "true", "-", "--", "--help"]),
)
LINES = st.lists(WORDS, max_size=6)
LINE_EVERY = 250
"""One case in this many is a command line, because parsing one takes longer than a file."""
FIRST = [
    "policy/policy.json", "data/meta/info.json", *OTHERS, "config", ALOHA[0], ALOHA[2],
    *ROBOMIMIC, REPLAY[0],
]  # fmt: skip
"""Files that are read unaltered first, so that all code is imported."""
MODULE = "tests.faults.fuzz_readers"


# -- readers ---------------------------------------------------------------------------------------


class Material:
    """Small files of every kind; each case alters one, reads it and restores it.

    `_fit` updates the checksums.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        self.bytes = {name: path.read_bytes() for name, path in self.files.items()}
        from imitact.parallel.isolated_process import IsolatedProcess

        self._process = IsolatedProcess()

    def altered(self, case: Case) -> bytes:
        """Return the altered contents."""
        data = config() if case.file == "config" else self.bytes[case.file]
        if not case.as_json:
            for change in case.changes:
                data = change_bytes(data, change)
            return data
        if case.file.endswith(".hdf5"):
            return change_hdf5(data, list(case.changes), self.folder / "scratch")
        if case.file.endswith(".safetensors"):
            size = int.from_bytes(data[:8], "little")
            header = change_json(json.loads(data[8 : 8 + size]), list(case.changes), lambda v: v)
            return len(header).to_bytes(8, "little") + header + data[8 + size :]
        if not case.file.endswith((".json", "config", ".zarray")):
            for _, place, *_ in case.changes:
                data = change_bytes(data, ("flip", place, place % 8))
            return data
        return change_json(
            json.loads(data), list(case.changes), self._seal(case.file) if case.fits else _as_it_is
        )

    def read(self, case: Case) -> None:
        """Write the altered file, read it, and restore it."""
        data = self.altered(case)
        if case.file == "config":
            read_config(data)
            return
        changed = [case.file, *self._fit(case, data)]
        self.files[case.file].write_bytes(data)
        try:
            self._reader(case)()
        finally:
            for name in changed:
                self.files[name].parent.mkdir(parents=True, exist_ok=True)
                self.files[name].write_bytes(self.bytes[name])

    def _seal(self, name: str) -> Callable[[Any], Any]:
        from imitact.storage.checksum import with_checksum

        if name.endswith("trainer.json"):
            from imitact.training.checkpoint import _own_sha256

            return lambda value: {**value, "own_sha256": _own_sha256(value)}
        return _as_it_is if name.endswith(("info.json", "stats.json")) else with_checksum

    def _fit(self, case: Case, data: bytes) -> list[str]:
        """Update the checksums of `data` in other files, and return their names."""
        if not case.fits:
            return []
        if case.file == "policy/model.safetensors":
            about = json.loads(self.bytes["policy/policy.json"])
            about["weights"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            from imitact.storage.checksum import with_checksum

            self.files["policy/policy.json"].write_text(json.dumps(with_checksum(about)))
            return ["policy/policy.json"]
        if case.file.split("/")[0] in FOREIGN:
            return []
        if case.file.startswith("data/") and "meta/imitact/" not in case.file:
            removed = [name for name in self.files if name.startswith("data/meta/imitact/")]
            for name in removed:  # without them nothing is compared
                self.files[name].unlink(missing_ok=True)
            return removed
        if case.file.startswith("checkpoints/") and case.file.endswith(".safetensors"):
            name = "checkpoints/step-00000001/trainer.json"
            record = json.loads(self.bytes[name])
            record["sha256"]["trainer.safetensors"] = hashlib.sha256(data).hexdigest()
            self.files[name].write_text(json.dumps(self._seal(name)(record)))
            return [name]
        return []

    def _reader(self, case: Case) -> Callable[[], Any]:
        kind = case.file.split("/")[0]
        return {
            "policy": self._policy,
            "data": self._data,
            "checkpoints": self._checkpoint,
            "evaluation": self._evaluation,
            "aloha": lambda: self._aloha(self.folder / Path(*Path(case.file).parts[:2])),
            "robomimic": self._robomimic,
            "replay": self._replay,
        }[kind]

    def _policy(self) -> None:
        from imitact.models.policy import TorchPolicy

        TorchPolicy.load(self.folder / "policy")

    def _data(self) -> None:
        from imitact.datasets.open import open_dataset
        from imitact.recording.manifest import read_report

        read_whole(open_dataset(self.folder / "data"))
        read_report(self.folder / "data")

    def _aloha(self, folder: Path) -> None:
        from imitact.datasets.formats.aloha import AlohaDataset
        from imitact.datasets.read_config import ReadConfig

        read_whole(AlohaDataset(folder, ReadConfig(colour="bgr"), process=self._process))

    def _robomimic(self) -> None:
        from imitact.datasets.formats.robomimic import RobomimicDataset
        from imitact.datasets.read_config import ReadConfig

        read = ReadConfig(state=("robot0_eef_pos", "robot0_gripper_qpos"), subset="train")
        file = self.folder / "robomimic/demo.hdf5"
        read_whole(RobomimicDataset(file, read, process=self._process))

    def _replay(self) -> None:
        from imitact.datasets.formats.diffusion_policy import DiffusionPolicyDataset
        from imitact.datasets.read_config import ReadConfig

        read = ReadConfig(state=("state",), rate_hz=10)
        read_whole(DiffusionPolicyDataset(self.folder / "replay", read, process=self._process))

    def _checkpoint(self) -> None:
        from imitact.training.checkpoint import load

        load(self.folder / "checkpoints" / "step-00000001")

    def _evaluation(self) -> None:
        from imitact.evaluation import report
        from imitact.evaluation.results import EnvInfo, EpisodeRow
        from imitact.storage.journal import Journal

        report.read(self.folder / "evaluation")
        journal = Journal(self.folder / "evaluation" / "episodes.jsonl")
        journal.entries("world", EnvInfo)
        journal.entries("episode", EpisodeRow)
        journal.entries("clock_s", float)


def read_whole(dataset: Dataset) -> None:
    """Read every number and frame of a dataset."""
    for index in range(len(dataset.lengths)):
        episode = dataset.episode(index)
        _ = episode.state, episode.action, episode.task
        episode.extra_values([*dataset.extra_columns])
        for camera in dataset.spec.cameras:
            for _ in episode.frames(camera.name):
                pass
    _ = dataset.fingerprint


def _as_it_is(value: Any) -> Any:
    return value


@cache
def config() -> bytes:
    """Return the settings of a network as stored in policy.json."""
    from imitact.models.config import MODEL_PRESETS

    return json.dumps(MODEL_PRESETS["quick"].to_json()).encode()


def read_config(data: bytes) -> None:
    """Read settings of a network as stored in policy.json, and derive its views."""
    from imitact.models.config import ActConfig
    from imitact.storage.json_file import parse_json_object
    from tests.support.dot_env import TWO_CAMERAS, dot_spec

    values = parse_json_object(data, Path("config.json"))
    known = {key: value for key, value in values.items() if key in ActConfig().to_json()}
    ActConfig.from_json(known).views(dot_spec(TWO_CAMERAS))


def read_line(words: list[str]) -> None:
    """Parse the options of a command line of `imitact train`."""
    from imitact.cli import train
    from imitact.cli.options import HelpShown, parse

    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(HelpShown):
        parse("imitact train", train.with_preset(None), words)


# -- a worker --------------------------------------------------------------------------------------


class TooSlowError(Exception):
    """A case took longer than CASE_S."""


@dataclass
class CaseCounts:
    """How many cases were read and refused."""

    read: int = 0
    refused: int = 0
    of: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    crashes_apart: int = 0

    @property
    def cases(self) -> int:
        return self.read + self.refused


def run_case(read: Callable[[], None], counts: CaseCounts, name: str) -> None:
    """Run a reader and count whether it read or refused; any other exception is raised."""
    from imitact.core.errors import BadInput, NotFinite

    began = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, CASE_S)
    try:
        read()
        counts.read += 1
    except (BadInput, NotFinite) as error:
        counts.refused += 1
        counts.crashes_apart += "the library that reads it" in str(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        counts.slowest_s = max(counts.slowest_s, time.process_time() - began)
    counts.of[name] += 1


def limit_memory() -> int:
    """Limit memory to MEMORY_BYTES above the current use, and return the limit."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return limit


def work(folder: Path, first: int, cases: int, number: int, many: int, only: str) -> None:
    """Run that many cases; print a line of JSON for each batch and each defect."""
    import torch

    torch.set_num_threads(1)
    material = Material(folder)
    counts = CaseCounts()

    def alarm(number: int, frame: object) -> None:
        raise TooSlowError(f"still running after {CASE_S} s")

    signal.signal(signal.SIGPROF, alarm)
    for name in FIRST:  # import all code
        material.read(Case(name, False, False, ()))
    strategy = cases_of(only)
    if LINE_EVERY:
        read_line(["a", "--out", "b"])
    limit_memory()
    beat = (folder / "beat").open("r+b")
    note = mmap.mmap(beat.fileno(), 4096)

    def note_case(case: object) -> None:
        text = repr(case).encode()[:4000]
        note[: len(text) + 1] = text + b"\0"
        os.utime(beat.fileno())

    def report(**values: Any) -> None:
        print(json.dumps(values), flush=True)

    batch = number
    while counts.cases < cases:
        left = min(BATCH, cases - counts.cases)

        @seed(first + batch)
        @settings(
            max_examples=left, database=None, deadline=None, verbosity=Verbosity.quiet,
            phases=(Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck),
            print_blob=False,
        )  # fmt: skip
        @given(strategy)
        def files(case: Case) -> None:
            note_case(case)
            kind = case.file.split("/")[0]
            run_case(lambda: material.read(case), counts, kind)

        @seed(first + batch)
        @settings(
            max_examples=max(1, left // (LINE_EVERY or left)), database=None, deadline=None,
            verbosity=Verbosity.quiet, phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck), print_blob=False,
        )  # fmt: skip
        @given(LINES)
        def lines(words: list[str]) -> None:
            note_case(words)
            run_case(lambda: read_line(words), counts, "command line")

        for check in (lines, files) if LINE_EVERY and only == "all" else (files,):
            seen: list[Any] = []
            try:
                check()
            except Exception as error:
                seen = traceback.format_exception(error)[-12:]
                text = bytes(note[:]).split(b"\0")[0].decode(errors="replace")
                report(defect=f"{type(error).__name__}: {error}"[:2000], case=text, trace=seen)
        batch += many
        report(read=counts.read, refused=counts.refused, of=counts.of, slowest_s=counts.slowest_s,
               crashes_apart=counts.crashes_apart)  # fmt: skip


# -- the main process ------------------------------------------------------------------------------


def make(folder: Path) -> None:
    """Write the material of all cases."""
    from tests.faults import material

    material.policy(folder / "policy")
    material.dataset(folder / "data")
    material.checkpoint(folder / "checkpoints", 1)
    material.evaluation(folder / "evaluation")
    material.foreign_datasets(folder)
    (folder / "beat").write_bytes(bytes(4096))


@dataclass
class Worker:
    """A worker process, its folder and its output."""

    folder: Path
    process: subprocess.Popen[str]
    log: Path


def start(folder: Path, first: int, cases: int, number: int, many: int, only: str) -> Worker:
    """Start a worker."""
    log = folder / "log"
    command = [sys.executable, "-m", MODULE, "--work", str(folder), "--seed", str(first)]
    command += ["--cases", str(cases), "--number", str(number), "--workers", str(many)]
    command += ["--only", only]
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    return Worker(folder, process, log)


def watch(worker: Worker) -> str:
    """Wait for a worker and return what killed it, empty if it ended by itself."""
    while worker.process.poll() is None:
        time.sleep(0.2)
        if time.time() - (worker.folder / "beat").stat().st_mtime > SILENT_S + CASE_S:
            worker.process.kill()
            worker.process.wait()
            return f"no case finished for {SILENT_S:.0f} s"
    code = worker.process.returncode
    return "" if code == 0 else f"the process died with exit code {code}"


def summed(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sum of the counts of all workers."""
    of: Counter[str] = Counter()
    for part in parts:
        of.update(part["of"])
    return {
        "cases": sum(part["read"] + part["refused"] for part in parts),
        "read": sum(part["read"] for part in parts),
        "refused": sum(part["refused"] for part in parts),
        "of": dict(sorted(of.items())),
        "crashes_apart": sum(part.get("crashes_apart", 0) for part in parts),
        "slowest_cpu_ms": round(1000 * max((part["slowest_s"] for part in parts), default=0.0), 1),
    }


def collected(workers: list[Worker]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Wait for all workers; return the last counts of each, and all defects."""
    parts, defects = [], []
    try:
        for worker in workers:
            end = watch(worker)
            last: dict[str, Any] = {"read": 0, "refused": 0, "of": {}, "slowest_s": 0.0}
            text = worker.log.read_text(errors="replace")
            for line in text.splitlines():
                try:
                    values = json.loads(line)
                except ValueError:
                    continue
                if "defect" in values:
                    defects.append(values)
                else:
                    last = values
            if end:
                case = (worker.folder / "beat").read_bytes().split(b"\0")[0]
                tail = text[-1500:]
                defects.append({"defect": end, "case": case.decode(errors="replace"),
                                "trace": [tail]})  # fmt: skip
            parts.append(last)
    finally:
        for worker in workers:
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait()
    return parts, defects


def conclude(found: dict[str, Any], wanted: int, out: Path | None) -> int:
    """Print and write the result, and return the exit code."""
    text = json.dumps(found, indent=1)
    print(text)
    if out:
        out.write_text(text + "\n")
    return 1 if found["defects"] or found["cases"] < wanted else 0


def run_workers(args: argparse.Namespace) -> dict[str, Any]:
    """Run all cases in worker processes and return the result."""
    shared = Path("/dev/shm")
    where = str(shared) if os.access(shared, os.W_OK) else None
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="imitact-fuzz-", dir=where) as place:
        first = Path(place) / "0"
        first.mkdir()
        make(first)
        folders = [first, *(Path(place) / str(n) for n in range(1, args.workers))]
        for folder in folders[1:]:
            shutil.copytree(first, folder)
        share = -(-args.cases // args.workers)
        workers = [
            start(folder, args.seed, share, number, args.workers, args.only)
            for number, folder in enumerate(folders)
        ]
        parts, defects = collected(workers)
    wall_s = time.monotonic() - began
    found = summed(parts)
    return {
        "command": f"python -m {MODULE} --cases {args.cases} --workers "
        f"{args.workers} --seed {args.seed}"
        + (f" --only {args.only}" if args.only != "all" else ""),
        **found,
        "defects": defects,
        "case_limit_s": CASE_S,
        "memory_limit_bytes": MEMORY_BYTES,
        "wall_s": round(wall_s, 1),
        "cases_per_s": round(found["cases"] / wall_s, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["all", *KINDS], default="all")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work, args.seed, args.cases, args.number, args.workers, args.only)
        return 0
    return conclude(run_workers(args), args.cases, args.out)


if __name__ == "__main__":
    sys.exit(main())
