"""Trackers: show the metrics, continue on resume, and never stop the training."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from imitact.core.errors import BadInput, DamagedFile
from imitact.training import trackers
from imitact.training.loop import train
from imitact.training.trackers import Trackers, flat_scalars, start_trackers
from tests.training.test_loop import CONFIG, DATASET, TINY, config

INSTALLED = [name for name in trackers.TRACKER_NAMES if trackers.find_spec(name)]


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        name not in INSTALLED,
        reason=f"{name} is not installed, so that what it writes was not read back; "
        f"pip install 'imitact[{trackers.EXTRA}]'",
    )


# Runs in a separate process, because trackers keep threads, files and settings until it exits. Its
# sockets are refused, so that a tracker that uses the network fails.
SCRIPT = """
import json, socket, sys
from pathlib import Path

def refused(self, address, *rest):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "localhost", "::1"):
        raise OSError(f"reaches for {address}")
    return connect(self, address, *rest)

connect, socket.socket.connect = socket.socket.connect, refused
from imitact.training.trackers import start_trackers
name, out, first, last = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
messages = []
held = start_trackers([name], "cubes", out, first, {"train": {"lr": 0.5}}, messages.append)
for step in range(first + 1, last + 1):
    held.log(step, {"loss": step / 4, "held": {"left": step * 2.0}, "per_tick": [1.0, 2.0, 9.0]})
held.close()
print(json.dumps(messages))
"""


def logged(name: str, out: Path, first: int, last: int) -> None:
    """Log steps first + 1 to last in a separate process."""
    env = {**os.environ, "HOME": str(out), "WANDB_MODE": "", "TRACKIO_DIR": ""}
    env = {key: value for key, value in env.items() if value}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, name, str(out), str(first), str(last)],
        capture_output=True, text=True, env=env, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"  # nothing failed, and nothing else was printed


def read_tensorboard(out: Path) -> dict[str, dict[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "trackers" / "tensorboard"))
    events.Reload()
    return {
        tag: {event.step: event.value for event in events.Scalars(tag)}
        for tag in events.Tags()["scalars"]
    }


def read_trackio(out: Path) -> dict[str, dict[int, float]]:
    (file,) = (out / "trackers" / "trackio").glob("*.db")
    with sqlite3.connect(file) as base:
        rows = base.execute("select run_name, step, metrics from metrics").fetchall()
    assert len({run for run, _, _ in rows}) == 1
    found: dict[str, dict[int, float]] = {}
    for _, step, metrics in rows:
        for name, value in json.loads(metrics).items():
            found.setdefault(name, {})[step] = value
    return found


def records(log: bytes) -> Iterator[bytes]:
    """Yield the records of a .wandb file: a header of seven bytes, then LevelDB's log format.

    Blocks of 32 KiB, records of CRC (4 bytes), length (2), kind (1; 1 whole, 2 first, 3 middle,
    4 last).
    """
    assert log[:4] == b":W&B"
    at, held = 7, b""
    while at < len(log):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768  # padded with zeros
            continue
        length, kind = struct.unpack("<4xHB", log[at : at + 7])
        held += log[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield held
            held = b""
    assert held == b""


def read_wandb(out: Path) -> dict[str, dict[int, float]]:
    from wandb.proto import wandb_internal_pb2

    found: dict[str, dict[int, float]] = {}
    runs = set()
    for file in sorted((out / "trackers" / "wandb").glob("offline-run-*/*.wandb")):
        for data in records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "run":
                runs.add((record.run.run_id, record.run.project))
            items = {
                item.key or "/".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            for name, value in items.items():
                if not name.startswith("_"):
                    found.setdefault(name, {})[int(items["_step"])] = value
    assert len(runs) == 1
    assert next(iter(runs))[1] == "cubes"
    return found


READERS = {"tensorboard": read_tensorboard, "trackio": read_trackio, "wandb": read_wandb}


@pytest.mark.parametrize("name", [pytest.param(n, marks=needs(n)) for n in trackers.TRACKER_NAMES])
def test_logged_metrics_are_read_back_and_a_resumed_run_continues(name: str, tmp_path: Path):
    out = tmp_path / "act"
    logged(name, out, 0, 3)
    logged(name, out, 3, 5)
    found = READERS[name](out)
    steps = range(1, 6)
    assert found["loss"] == {step: step / 4 for step in steps}
    assert found["held/left"] == {step: step * 2.0 for step in steps}
    assert found["per_tick/0"] == dict.fromkeys(steps, 1.0)
    assert found["per_tick/2"] == dict.fromkeys(steps, 9.0)


@needs("tensorboard")
def test_tensorboard_drops_the_steps_that_are_repeated(tmp_path: Path):
    logged("tensorboard", tmp_path, 0, 9)  # killed after step 9, its last checkpoint at 4
    logged("tensorboard", tmp_path, 4, 6)
    assert sorted(read_tensorboard(tmp_path)["loss"]) == [1, 2, 3, 4, 5, 6]


@needs("tensorboard")
def test_a_tracker_receives_all_metrics_of_a_training(tmp_path: Path):
    watched = config(trackers=("tensorboard",))
    train(DATASET, tmp_path, TINY, watched)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    points = read_tensorboard(tmp_path)
    read = {(name, step): value for name, of in points.items() for step, value in of.items()}
    for line in lines:
        for name, value in flat_scalars(line):
            if name not in ("step", "steps", "crc32"):
                assert read.pop((name, line["step"])) == pytest.approx(value, rel=1e-6)
    assert read == {}


def test_trackers_do_not_affect_weights_and_may_change_on_resume(tmp_path: Path):
    plain = train(DATASET, tmp_path / "plain", TINY, CONFIG)
    watched = config(trackers=tuple(INSTALLED[:1]), tracker_project="other")
    other = train(DATASET, tmp_path / "watched", TINY, watched)
    weights = [(path / "model.safetensors").read_bytes() for path in (plain, other)]
    assert weights[0] == weights[1]
    assert train(DATASET, tmp_path / "plain", TINY, watched, resume=True) == plain


def test_a_missing_tracker_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"not installed: wandb; pip install '.\[trackers\]'"):
        train(DATASET, tmp_path / "out", TINY, config(trackers=("wandb",)))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"trackers": ("excel",)}, 'no tracker "excel"; expected tensorboard, trackio, wandb'),
     ({"trackers": ("tensorboard",), "tracker_project": " "}, "--train.tracker-project is empty")],
)  # fmt: skip
def test_an_unknown_tracker_or_an_empty_project_is_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
):
    with pytest.raises(BadInput, match=message):
        train(DATASET, tmp_path, TINY, config(**settings))


def test_a_tracker_that_fails_is_dropped_with_a_message_and_the_others_continue():
    class Full:
        def __init__(self, after: int) -> None:
            self.after = after
            self.steps: list[int] = []
            self.closed = False

        def log(self, step: int, numbers: Mapping[str, float]) -> None:
            if step > self.after:
                raise OSError("no room")
            self.steps.append(step)

        def close(self) -> None:
            self.closed = True

    messages: list[str] = []
    bad, good = Full(2), Full(99)
    held = Trackers({"bad": bad, "good": good}, messages.append)
    for step in range(1, 5):
        held.log(step, {"loss": 1.0})
    held.close()
    assert (bad.steps, good.steps, good.closed) == ([1, 2], [1, 2, 3, 4], True)
    assert len(messages) == 1
    assert "bad failed" in messages[0]
    assert "OSError: no room" in messages[0]


def test_lists_are_reduced_to_first_middle_and_last():
    numbers = {"a": 1, "b": {"c": 2.0}, "d": [5.0, 6.0, 7.0, 8.0], "e": [], "f": [3.0], "g": "x"}
    assert dict(flat_scalars(numbers)) == {
        "a": 1.0, "b/c": 2.0, "d/0": 5.0, "d/2": 7.0, "d/3": 8.0, "f/0": 3.0,
    }  # fmt: skip


def test_a_run_keeps_its_name_on_resume_and_a_new_training_gets_another(tmp_path: Path):
    name = "tensorboard"
    if name not in INSTALLED:
        pytest.skip(f"{name} is not installed")

    def run(step: int) -> str:
        start_trackers([name], "p", tmp_path, step, {}, print).close()
        return json.loads((tmp_path / "trackers" / "run.json").read_text())["run"]

    first = run(0)
    assert run(7) == run(9) == first
    assert run(0) != first
    (tmp_path / "trackers" / "run.json").write_text("[]")
    with pytest.raises(DamagedFile, match=r"run\.json"):
        run(3)


def test_training_without_trackers_imports_none():
    code = (
        "import sys, imitact.training.loop\n"
        "print(*{'tensorboard', 'trackio', 'wandb', 'gradio'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
