"""Tests of faults: what docs/reliability.md states and no other file tests.

The programs under tests/faults try many more moments and files (`make faults`); here each runs for
a few cases, to show that it works.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from imitact.cli import demo
from imitact.core.errors import BadInput, DamagedFile, DiskFull
from imitact.datasets.open import open_dataset
from imitact.evaluation import runner
from imitact.models.policy import TorchPolicy
from imitact.models.policy_folder import read_policy_json, write_policy_json
from imitact.recording.manifest import read_report
from imitact.storage.lock import WRITER
from imitact.training import checkpoint
from imitact.training.loop import Interrupted, train
from tests.faults import fuzz_readers, kill_anywhere, material
from tests.support import tiny_arm
from tests.support.paths import ROOT
from tests.training.test_loop import CONFIG, DATASET, TINY
from tests.training.test_loop import config as settings

SRC = ROOT / "src" / "imitact"


@pytest.fixture(autouse=True)
def _restore_torch() -> Iterator[None]:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(state)


@pytest.fixture(scope="module")
def dots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two demonstrations of 8 ticks in the dot environment, with two cameras."""
    return material.dataset(tmp_path_factory.mktemp("faults") / "dots")


@pytest.fixture
def copy(dots: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(dots, tmp_path / "dots"))


def script(name: str, *argv: object) -> dict[str, Any]:
    """Run a program of tests/faults and return its report."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.faults.{name}", *map(str, argv)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


# --- kills, full disks, signals -------------------------------------------------------------------


def test_a_killed_recording_resumes_to_the_same_dataset() -> None:
    """For a training see tests/training/test_loop.py, and the program with --of train."""
    found = script("kill_anywhere", "--of", "record", "--kills", 1, "--seed", 3)
    assert found["record"]["whole_and_equal"] == 1


def test_another_result_after_a_kill_is_detected(tmp_path: Path) -> None:
    count = itertools.count()

    def command(out: Path) -> list[str]:
        code = f"""
            import pathlib, time
            out = pathlib.Path({str(out)!r})
            out.mkdir(exist_ok=True)
            print("begun", flush=True)
            time.sleep(1)
            (out / "result").write_text({str(next(count))!r})
        """
        return [sys.executable, "-c", textwrap.dedent(code)]

    job = kill_anywhere.Job("other", command, lambda out: "", kill_anywhere.tree)
    (defect,) = kill_anywhere.run(job, 1, 0, tmp_path)["wrong"]
    assert "another result" in defect


def test_a_disk_full_at_any_moment_loses_nothing_and_the_same_call_continues() -> None:
    jobs = ("capture", "append", "train", "evaluate", "save", "phases")
    found = script("full_disk", "--jobs", *jobs, "--every", 11)
    assert set(found) == {*jobs}
    for part in found.values():
        assert part["right"] == part["tried"] >= 2
        assert part["ended_by_the_full_disk"] >= part["tried"] / 2


def test_sigterm_during_a_checkpoint_leaves_it_whole_and_training_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once, stopped = tmp_path / "once", tmp_path / "stopped"
    train(DATASET, once, TINY, CONFIG)
    save_file = checkpoint.save_file

    def terminated(*given: Any) -> None:
        save_file(*given)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", terminated)
        with pytest.raises(Interrupted, match=r"SIGTERM after step 4 of 13, .*checkpoint"):
            train(DATASET, stopped, TINY, CONFIG)
    assert [p.name for p in checkpoint.list_checkpoints(stopped / "checkpoints")] == [
        "step-00000004"  # the first validation, which is the best until then
    ]
    assert checkpoint.load(stopped / "checkpoints" / "step-00000004").step == 4
    assert not list((stopped / "checkpoints").glob(".building-*"))
    train(DATASET, stopped, TINY, CONFIG, resume=True)
    ours, theirs = (load_file(out / "policy" / "model.safetensors") for out in (once, stopped))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


# --- the clock ------------------------------------------------------------------------------------

WALL = {"time.time", "time.time_ns", "time.ctime", "time.localtime", "datetime.now"}
WALL |= {"datetime.utcnow", "datetime.today", "date.today", "os.path.getmtime"}


def wall_clocks(tree: ast.AST) -> list[str]:
    """Return the uses of a clock that can be set."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node).removeprefix("datetime.")
            if name in WALL or node.attr.startswith("st_mtime"):
                found.append(name)
        elif isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
            names = [alias.name for alias in node.names if alias.name != "timedelta"]
            found.extend(f"from {node.module} import {name}" for name in names)
    return found


TOLD_APART = {
    "api/session_parts.py": "the log of a run on a robot has the time of day for people",
    "datasets/lerobot/parquet.py": "a file that has changed since its footer was read is read anew",
}
"""Files that may, because no duration and no result depends on it."""


def test_no_module_reads_a_clock_that_can_be_set() -> None:
    files = {p.relative_to(SRC).as_posix(): ast.parse(p.read_text()) for p in SRC.rglob("*.py")}
    assert {name for name, tree in files.items() if wall_clocks(tree)} == {*TOLD_APART}
    assert wall_clocks(ast.parse("import time\ntime.time() - began")) == ["time.time"]
    assert wall_clocks(ast.parse("from time import time\nimport datetime")) != []
    assert wall_clocks(ast.parse("path.stat().st_mtime_ns")) != []


def test_a_clock_that_jumps_changes_no_result_and_no_duration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(DATASET, tmp_path / "steady", TINY, CONFIG)
    steady = runner.evaluate(
        tiny_arm.Reacher, tiny_arm.TinyArm, seeds=range(3), execution="replay:3", workers=0
    )
    jumps = itertools.cycle([1e9, -5e8, 3e9, 0.0])
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    monkeypatch.setattr(time, "time_ns", lambda: int(next(jumps) * 1e9))
    began = time.monotonic()
    train(DATASET, tmp_path / "jumping", TINY, CONFIG)
    jumping = runner.evaluate(
        tiny_arm.Reacher, tiny_arm.TinyArm, seeds=range(3), execution="replay:3", workers=0
    )
    lasted_s = time.monotonic() - began
    assert jumping == steady
    assert 0 < jumping.wall_s < lasted_s
    summary = json.loads((tmp_path / "jumping" / "training.json").read_text())
    assert 0 < summary["trained_s"] < summary["wall_s"] < lasted_s
    policies = [tmp_path / name / "policy" / "model.safetensors" for name in ("steady", "jumping")]
    assert policies[0].read_bytes() == policies[1].read_bytes()


# --- two processes in one folder ------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from imitact.storage.lock import exclusive_writer
with exclusive_writer(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def hold() -> Iterator[Callable[[Path, str], subprocess.Popen[str]]]:
    """Start another process that holds the lock of a folder."""
    running = []

    def start(folder: Path, what: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder), what], stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.stdout.close()
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()


def run_record(out: Path) -> object:
    return material.dataset(out)


def run_train(out: Path) -> object:
    return train(DATASET, out, TINY, settings(steps=1))


def run_evaluate(out: Path) -> object:
    return runner.evaluate(
        tiny_arm.Reacher, tiny_arm.TinyArm, seeds=[0], execution="replay:3", workers=0, out=out
    )


def run_export(out: Path) -> object:
    return material.sealed(out)


def run_demo(out: Path) -> object:
    settings = demo.with_preset(None)
    return demo.run(demo.replace(settings, out=out))


@pytest.mark.parametrize(
    ("what", "job"),
    [
        ("recording", run_record),
        ("training", run_train),
        ("evaluation", run_evaluate),
        ("export", run_export),
        ("demo", run_demo),
    ],
)
def test_a_second_process_in_a_folder_is_refused_with_the_id_of_the_first(
    what: str,
    job: Callable[[Path], object],
    tmp_path: Path,
    hold: Callable[[Path, str], subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(demo, "_check", lambda settings: None)  # needs the simulator
    first = hold(tmp_path / "out", "recording")
    before = sorted((tmp_path / "out").iterdir())
    expected = rf"another recording is writing to .*out \(process {first.pid}\); wait for it, or"
    with pytest.raises(BadInput, match=rf"{expected} stop"):
        job(tmp_path / "out")
    assert sorted((tmp_path / "out").iterdir()) == before
    if what == "demo":
        return
    first.kill()
    first.wait()
    job(tmp_path / "out")  # the file that the killed process left does not block it
    assert not (tmp_path / "out" / WRITER).exists()


# --- altered files --------------------------------------------------------------------------------


def test_an_altered_byte_of_any_file_is_refused_by_name_or_repaired() -> None:
    found = script("flip_bytes", "--most", 12)
    assert len(found) >= 18
    for name, part in found.items():
        assert part["tried"] >= 20, name
        # The others change no value: a byte of the layout, or one that is not read.
        assert part["refused"] + part["made good"] > part["tried"] / 3, name


def test_an_altered_byte_of_a_video_is_found_before_its_first_frame(copy: Path) -> None:
    file = copy / "videos/observation.images.wrist/chunk-000/file-001.mp4"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    dataset = open_dataset(copy)  # a video is verified before its first frame
    dataset.episode(1).frames("top")
    dataset.episode(0).frames("wrist")
    with pytest.raises(
        DamagedFile, match=r"wrist/chunk-000/file-001\.mp4 differs from the file that was written"
    ):
        dataset.episode(1).frames("wrist")
    with pytest.raises(
        DamagedFile, match=r"wrist/chunk-000/file-001\.mp4 differs from the file that was written"
    ):
        _ = open_dataset(copy).fingerprint
    (error,) = material.damaged_files(copy)
    assert str(file) in error


def test_every_altered_file_of_a_dataset_has_its_own_error(copy: Path) -> None:
    assert material.damaged_files(copy) == []
    files = [
        copy / "data/chunk-000/file-000.parquet",
        copy / "meta/episodes/chunk-000/file-001.parquet",
        copy / "videos/observation.images.top/chunk-000/file-001.mp4",
    ]
    for file in files:
        file.write_bytes(file.read_bytes()[:-1])
    files[0].unlink()
    errors = material.damaged_files(copy)
    assert len(errors) == 3
    assert all(any(str(file) in line for line in errors) for file in files)


def test_a_dataset_without_checksums_is_read_and_recorded_into(copy: Path, dots: Path) -> None:
    """As datasets of earlier versions and of other programs."""
    facts = json.loads((copy / "meta/imitact.json").read_text())
    del facts["sha256"]
    (copy / "meta/imitact.json").write_text(json.dumps({**facts, "format": 1}))
    shutil.rmtree(copy / "meta/imitact")
    assert open_dataset(copy).fingerprint == open_dataset(dots).fingerprint
    assert material.damaged_files(copy) == []
    material.dataset(copy, episodes=3)
    assert json.loads((copy / "meta/imitact.json").read_text())["format"] == 2
    assert [p.name for p in (copy / "meta/imitact/chunk-000").iterdir()] == ["file-002.json"]
    assert len(open_dataset(copy).lengths) == 3
    assert read_report(copy).saved == 3


def test_a_missing_checksum_file_among_others_is_an_error(copy: Path) -> None:
    material.dataset(copy, episodes=3)
    (copy / "meta/imitact/chunk-000/file-001.json").unlink()
    with pytest.raises(DamagedFile, match=r"meta/imitact/chunk-000/file-001\.json is missing"):
        open_dataset(copy)


def test_an_altered_episode_count_removes_no_episode(copy: Path) -> None:
    info = copy / "meta/info.json"
    text = info.read_text()
    assert '"total_episodes": 2' in text
    info.write_text(text.replace('"total_episodes": 2', '"total_episodes": 1'))
    before = sorted(p for p in copy.rglob("*") if p.is_file())
    with pytest.raises(DamagedFile, match=r"info\.json differs from the file that was written"):
        material.dataset(copy, episodes=3)
    assert sorted(p for p in copy.rglob("*") if p.is_file()) == before


def test_statistics_of_an_unfinished_episode_are_undone_by_the_next_recording(
    copy: Path, dots: Path
) -> None:
    """A kill after stats.json of the third episode leaves two readable episodes."""
    third = Path(shutil.copytree(copy, copy.with_name("third")))
    material.dataset(third, episodes=3)
    for name in ("meta/imitact/chunk-000/file-002.json", "meta/stats.json", "meta/imitact.json"):
        shutil.copy(third / name, copy / name)
    assert open_dataset(copy).lengths == (8, 8)
    stats = copy / "meta/stats.json"
    stats.write_text(stats.read_text() + " ")
    with pytest.raises(DamagedFile, match=r"stats\.json differs from the file that was written"):
        open_dataset(copy)
    material.dataset(copy, episodes=2)
    assert stats.read_bytes() == (dots / "meta/stats.json").read_bytes()
    assert open_dataset(copy).lengths == (8, 8)
    material.dataset(copy, episodes=3)
    assert kill_anywhere.tree(copy) == kill_anywhere.tree(third)


def test_parquet_pages_have_checksums_for_other_readers(copy: Path) -> None:
    """A reader that does not know meta/imitact still detects an altered value."""
    file = copy / "data/chunk-000/file-000.parquet"
    data = file.read_bytes()
    action = pq.ParquetFile(file).metadata.row_group(0).column(1)
    for at in range(action.data_page_offset + 60, action.data_page_offset + 64):
        damaged = bytearray(data)
        damaged[at] ^= 16
        file.write_bytes(damaged)
        with pytest.raises(OSError, match=r"(?i)crc|checksum"):
            pq.read_table(file, page_checksum_verification=True)


def test_a_staged_seed_with_an_altered_byte_is_recorded_again(tmp_path: Path) -> None:
    from tests.recording.test_recorder import capture_seed, record_dots, tree

    expected, out = tmp_path / "expected", tmp_path / "out"
    record_dots(expected, 5)
    record_dots(out, 2)
    for seed in (4, 5):
        capture_seed(out / ".staging", seed)
    for name in ("seed-000004/rows.npz", "seed-000005/0.mp4"):
        file = out / ".staging" / name
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    record_dots(out, 5)
    assert tree(out) == tree(expected)


def test_policy_json_is_rewritten_atomically_with_its_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = material.policy(tmp_path / "p")
    path = directory / "policy.json"
    text = path.read_text()
    about = read_policy_json(directory)
    write_policy_json(path, about)
    assert path.read_text() == text
    write_policy_json(path, {**about, "fingerprint": "cd"})
    assert TorchPolicy.load(directory).fingerprint == "cd"
    assert read_policy_json(directory)["fingerprint"] == "cd"

    def disk_full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    kept = path.read_text()
    monkeypatch.setattr(os, "replace", disk_full)
    with pytest.raises(DiskFull, match=r"no room left while writing .*policy\.json"):
        write_policy_json(path, about)
    assert path.read_text() == kept
    assert os.listdir(tmp_path) == ["p"]


# --- hostile files --------------------------------------------------------------------------------


def header(about: object) -> bytes:
    text = about if isinstance(about, bytes) else json.dumps(about).encode()
    return len(text).to_bytes(8, "little") + text


HUGE = 2**60
F32 = {"dtype": "F32"}
HEADERS = {
    "a header of 2^60 bytes": HUGE.to_bytes(8, "little") + b"{}",
    "a header of 2^64 - 1 bytes": b"\xff" * 8 + b"{}",
    "a tensor of 2^60 values": header({"a": {**F32, "shape": [HUGE], "data_offsets": [0, 8]}}),
    "a tensor to byte 2^60": header({"a": {**F32, "shape": [2], "data_offsets": [0, HUGE]}}),
    "sizes that multiply to 0": header(
        {"a": {**F32, "shape": [2**32, 2**32], "data_offsets": [0, 0]}}
    ),
    "a negative offset": header({"a": {**F32, "shape": [1], "data_offsets": [-4, 0]}}),
    "a hundred thousand brackets": header(b"[" * 100_000),
    "objects within objects": header(b'{"a":' * 100_000),
    "one name twice": header(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    )
    + bytes(4),
    "a number of 5000 digits": header(b'{"a":{"shape":[' + b"9" * 5000 + b"]}}"),
    "NaN": header(b'{"a":NaN}'),
    "invalid UTF-8": header(b'{"\xff\xfe":1}'),
    "a million names": header({str(n): 0 for n in range(300_000)}),
}

JSONS = {
    "brackets": b"[" * 1_000_000,
    "objects": b'{"a":' * 1_000_000,
    "a number of 100,000 digits": b'{"format":' + b"9" * 100_000 + b"}",
    "format 2^60": b'{"format":%d}' % HUGE,
    "NaN": b'{"format":NaN}',
    "one key twice": b'{"format":1,"format":2}',
    "invalid UTF-8": b'{"format":"\xff"}',
    "a lone surrogate": b'{"format":"\\ud800"}',
    "nothing": b"",
    "sixteen million blanks": b" " * (16 << 20),
    "a list of 4,000,000 lists": b"[" + b"[]," * 4_000_000 + b"[]]",
}

GUARDED = """
import json, resource, sys
from pathlib import Path
import torch
from imitact.core.types import BadInput
from imitact.datasets.open import open_dataset
from imitact.evaluation import report
from imitact.storage.journal import Journal
from imitact.models.policy import TorchPolicy
from imitact.training.checkpoint import load
folder = Path(sys.argv[1])
READERS = {
    "policy": TorchPolicy.load, "data": open_dataset, "checkpoint": load,
    "evaluation": report.read, "journal": lambda path: Journal(path / "episodes.jsonl"),
}
for reader in READERS.values():
    try:
        reader(folder / "nothing")
    except BadInput:
        pass
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (1 << 30)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
found = {}
for path in sorted(folder.glob("*/*")):
    try:
        READERS[path.parent.name](path)
        found[f"{path.parent.name} {path.name}"] = "read"
    except BadInput as error:
        found[f"{path.parent.name} {path.name}"] = f"refused: {error}"
print(json.dumps(found))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS and /proc are Linux's")
def test_hostile_files_are_refused_within_a_gigabyte(tmp_path: Path, dots: Path) -> None:
    """All readers run in one process whose memory may grow by 1 GiB."""
    policy = material.policy(tmp_path / "source" / "policy")
    saved = material.checkpoint(tmp_path / "source" / "checkpoints", 1)
    evaluation = material.evaluation(tmp_path / "source" / "evaluation")
    files = tmp_path / "files"
    count = 0
    for name, data in HEADERS.items():
        made = Path(shutil.copytree(policy, files / "policy" / name))
        (made / "model.safetensors").write_bytes(data)
        about = json.loads((made / "policy.json").read_text())
        digest = hashlib.sha256(data).hexdigest()
        about["weights"] = {"bytes": len(data), "sha256": digest}
        write_policy_json(made / "policy.json", about)
        made = Path(shutil.copytree(saved, files / "checkpoint" / name))
        (made / "trainer.safetensors").write_bytes(data)
        resign(made, "trainer.safetensors", digest)
        count += 2
    for name, data in JSONS.items():
        for kind, source, file in (
            ("policy", policy, "policy.json"),
            ("checkpoint", saved, "trainer.json"),
            ("evaluation", evaluation, "evaluation.json"),
            ("journal", evaluation, "episodes.jsonl"),
            ("data", dots, "meta/info.json"),
            ("data", dots, "meta/imitact.json"),
            ("data", dots, "meta/imitact/chunk-000/file-001.json"),
        ):
            where = f"{name} in {Path(file).name}"
            made = Path(shutil.copytree(source, files / kind / where))
            (made / file).write_bytes(data + (b"\n" if kind == "journal" else b""))
            count += 1
    for name, change in {
        "2^60 episodes": {"total_episodes": HUGE},
        "2^60 ticks": {"total_frames": HUGE},
        "a path of a gigabyte": {"data_path": "data/{chunk_index:2000000000d}"},
        "a device": {"data_path": "/dev/zero"},
    }.items():
        made = Path(shutil.copytree(dots, files / "data" / name))
        shutil.rmtree(made / "meta/imitact")
        info = json.loads((made / "meta/info.json").read_text())
        (made / "meta/info.json").write_text(json.dumps({**info, **change}))
        count += 1
    made = Path(shutil.copytree(dots, files / "data" / "a state of 2^60 values"))
    shutil.rmtree(made / "meta/imitact")
    info = json.loads((made / "meta/info.json").read_text())
    info["features"]["observation.state"].update(shape=[HUGE], names=None)
    (made / "meta/info.json").write_text(json.dumps(info))
    done = subprocess.run(
        [sys.executable, "-c", GUARDED, str(files)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert len(found) == count + 1
    # A line feed is an empty journal, and only the network knows which tensors it needs.
    read = {name for name, what in found.items() if what == "read"}
    assert read <= {"journal nothing in episodes.jsonl", "checkpoint one name twice"}
    unnamed = {name for name, what in found.items() if str(files) not in what} - read
    assert unnamed <= {"data a device", "data a state of 2^60 values"}
    assert "leads out of the dataset, to /dev/zero" in found["data a device"]
    assert f"observation.state: it has shape [{HUGE}]" in found["data a state of 2^60 values"]


def resign(made: Path, name: str, digest: str) -> None:
    """Write another file's checksum into trainer.json."""
    record = json.loads((made / "trainer.json").read_text())
    record["sha256"][name] = digest
    record["own_sha256"] = checkpoint._own_sha256(record)
    (made / "trainer.json").write_text(json.dumps(record))


def test_a_checkpoint_names_no_file_outside_itself(tmp_path: Path) -> None:
    made = material.checkpoint(tmp_path, 1)
    resign(made, "../../../../../../dev/zero", "0" * 64)  # an endless file
    with pytest.raises(DamagedFile, match="names a file outside the checkpoint"):
        checkpoint.load(made)


# --- hypothesis -----------------------------------------------------------------------------------


def test_readers_read_or_refuse_altered_files() -> None:
    found = script("fuzz_readers", "--cases", 400, "--workers", 1)
    assert found["cases"] >= 400
    assert found["defects"] == []
    assert found["refused"] > found["read"] > 0
    assert min(found["of"].values()) >= 1
    assert found["of"].keys() == {
        *("policy", "data", "config", "checkpoints", "evaluation", "command line"),
        *fuzz_readers.FOREIGN,
    }


def test_altered_lerobot_datasets_are_read_or_refused() -> None:
    found = script("fuzz_lerobot", "--cases", 100, "--workers", 1)
    assert found["cases"] >= 100
    assert found["defects"] == []
    assert min(found["refused"], found["read"]) > 20


def test_a_reader_that_fails_or_takes_too_long_is_detected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fuzz_readers, "CASE_S", 0.05)

    def slow(number: int, frame: object) -> None:
        raise fuzz_readers.TooSlowError

    def busy() -> None:
        until = time.process_time() + 5
        while time.process_time() < until:
            pass

    before = signal.signal(signal.SIGPROF, slow)
    try:
        for read, error in (
            (lambda: {}["key"], KeyError),
            (busy, fuzz_readers.TooSlowError),
        ):
            with pytest.raises(error):
                fuzz_readers.run_case(read, fuzz_readers.CaseCounts(), "policy")  # type: ignore[arg-type]
    finally:
        signal.signal(signal.SIGPROF, before)


def test_changes_of_bytes_and_json_do_what_their_names_say() -> None:
    data = bytes(range(20))
    assert fuzz_readers.change_bytes(data, ("cut", 5)) == data[:5]
    assert fuzz_readers.change_bytes(data, ("flip", 3, 7)) == data[:3] + b"\x83" + data[4:]
    assert fuzz_readers.change_bytes(data, ("exchange", 2, 10, 3)) == bytes(
        [0, 1, 10, 11, 12, 5, 6, 7, 8, 9, 2, 3, 4, *range(13, 20)]
    )
    assert len(fuzz_readers.change_bytes(data, ("repeat", 4, 2, 3))) == 26
    value = {"a": [1, 2], "b": {"c": 3}}

    def text(*changes: tuple[Any, ...]) -> bytes:
        return fuzz_readers.change_json(value, list(changes), lambda v: v)

    assert json.loads(text(("set", 0, None))) == {"a": None, "b": {"c": 3}}
    assert json.loads(text(("drop", 1))) == {"a": [1, 2]}
    assert text(("raw", 0, b"NaN")) == b'{"a": NaN, "b": {"c": 3}}'
    assert text(("twice", 0, 9)).startswith(b'{"a": 9, "a": [1, 2]')
    assert list(json.loads(text(("reorder", 1)))) == ["b", "a"]
    assert value == {"a": [1, 2], "b": {"c": 3}}
