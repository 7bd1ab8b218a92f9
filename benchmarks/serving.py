"""Serving: round trips, an evaluation by address, two clients, damaged messages, kills.

    python benchmarks/serving.py [--only CASE ...] [--minutes 10] [--kill-minutes 5]
        [--fuzz-minutes 60] [--episodes 20] [--write benchmarks/results/serving.json]

Cases:

- round-trip: 1,000 questions to a policy that computes nothing, over loopback: joints alone, four
  views of `quick` (120x160) and four raw frames (480x640);
- evaluate: `imitact evaluate` of one policy (preset `quick`, drawn weights) from its folder and by
  address, on the same seeds: equal rows, and the ratio of the times;
- clients: two clients that ask 10 times a second each; late, mixed up and memory;
- fuzz: damaged questions of imitact's and openpi's clients for an hour; the server answers at the
  end;
- kills: `kill -9` of the server every 5 s while `imitact run` moves an emulated ALOHA in real time;
  a command is what a chunk asked for, or a hold.

The server is a process of its own. Run it alone on the machine; the load is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from imitact.api.session_parts import START_GRIPPER  # noqa: E402
from imitact.core.aloha_joints import ALOHA_JOINTS, ALOHA_RATE_HZ, ALOHA_UNITS  # noqa: E402
from imitact.core.cpu import processor_name  # noqa: E402
from imitact.core.errors import ConnectionLost, ImitactError  # noqa: E402
from imitact.core.types import Camera, Observation, Spec  # noqa: E402
from imitact.deploy.load_policy import read_stored  # noqa: E402
from imitact.robots.aloha_hardware import START_POSE  # noqa: E402
from imitact.serving import codec  # noqa: E402
from imitact.serving.access import client_token  # noqa: E402
from imitact.serving.client import OpenpiPolicy, RemotePolicy  # noqa: E402
from imitact.serving.messages import Question  # noqa: E402

CASES = ("round-trip", "evaluate", "clients", "fuzz", "kills")
PORT = 8765
RATE_HZ = 10.0
WARM_UP = 50
NICE = ("nice", "-n", "19")
"""A server that starts would take the cores of the emulation; elsewhere it has a computer."""


class NoPolicy:
    """Answers with zeros at once."""

    def __init__(self, cameras: int, height: int, width: int) -> None:
        joints = tuple(f"joint {number}" for number in range(14))
        names = tuple(Camera(f"camera {n}", height, width) for n in range(cameras))
        self.spec = Spec(joints, joints, ("rad",) * 14, ("rad",) * 14, names, 50.0)
        self._chunk = np.zeros((100, 14), np.float32)

    def reset(self, seed: int) -> None:
        pass

    def chunk(self, observation: Observation) -> Any:
        self.spec.checked(observation)
        return self._chunk


def serve_nothing(cameras: int, height: int, width: int) -> None:
    """Serve `NoPolicy` until this process is killed; print its port."""
    from tests.support.served import served

    with served(NoPolicy(cameras, height, width)) as one:
        print(one.port, flush=True)
        threading.Event().wait()


def quick_policy(folder: Path, height: int = 480, width: int = 640) -> Path:
    """Write a policy of the preset `quick` for the cube, with drawn weights, that hardly moves."""
    from tests.support.drawn_policy import save_drawn_policy

    camera = (Camera("top", height, width),)
    spec = Spec(ALOHA_JOINTS, ALOHA_JOINTS, ALOHA_UNITS, ALOHA_UNITS, camera, ALOHA_RATE_HZ)
    save_drawn_policy(spec, np.array([*START_POSE, START_GRIPPER] * 2), folder)
    return folder / "policy"


@contextlib.contextmanager
def nothing(*shape: int) -> Iterator[str]:
    """Serve nothing in a process, and yield the address."""
    code = f"import serving; serving.serve_nothing{shape}"
    command = [sys.executable, "-c", code]
    folder = Path(__file__).parent
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        assert process.stdout is not None
        try:
            yield f"ws://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def start(
    policy: Path, port: int = 0, extra: tuple[str, ...] = (), before: tuple[str, ...] = ()
) -> tuple[subprocess.Popen[str], str]:
    """Start `imitact serve`; return the process and its address."""
    argv = ["serve", str(policy), "--port", str(port), *extra]
    command = [*before, sys.executable, "-m", "imitact", *argv]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().split()[-1]


@contextlib.contextmanager
def serving(policy: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process, address = start(policy)
    try:
        yield process, address
    finally:
        process.terminate()  # SIGINT is ignored where this runs in the background of a shell
        process.wait(30)


def percentiles(values_s: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(values_s, (50, 99)) * 1e3
    return {"p50_ms": round(p50, 3), "p99_ms": round(p99, 3), "count": len(values_s)}


def memory_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s*(\d+)", status)[1]) / 1024  # type: ignore[index]


def observation(spec: Spec, rng: np.random.Generator) -> Observation:
    frames = {
        camera.name: rng.integers(0, 256, (camera.height, camera.width, 3), np.uint8)
        for camera in spec.cameras
    }
    return Observation(rng.normal(size=spec.state_size), frames)


def round_trip(_: argparse.Namespace) -> dict[str, Any]:
    """Time questions and answers without inference."""
    from tests.support.served import TOKEN

    found = {}
    shapes = {"joints": (0, 1, 1), "4 views": (4, 120, 160), "4 raw frames": (4, 480, 640)}
    for name, shape in shapes.items():
        with nothing(*shape) as address:
            begun_s = time.monotonic()
            policy = RemotePolicy(address, token=TOKEN)
            connect_s = time.monotonic() - begun_s
            seen = observation(policy.spec, np.random.default_rng(0))
            times_s = []
            for _ in range(1000 + WARM_UP):
                begun_s = time.monotonic()
                policy.chunk(seen)
                times_s.append(time.monotonic() - begun_s)
            size = len(Question(seen, False, 1).to_bytes())
            policy.close()
        found[name] = {
            **percentiles(times_s[WARM_UP:]), "bytes": size, "connect_ms": round(connect_s * 1e3, 2)
        }  # fmt: skip
    return found


def evaluate(settings: argparse.Namespace) -> dict[str, Any]:
    """Evaluate one policy from its folder and by address."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        policy = quick_policy(root)

        def run(given: str, out: Path) -> float:
            argv = ["evaluate", given, "--out", str(out), "--episodes", str(settings.episodes)]
            begun_s = time.monotonic()
            subprocess.run(
                [sys.executable, "-m", "imitact", *argv, "--step-cap", "200"],
                check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            return time.monotonic() - begun_s

        times_s: dict[str, list[float]] = {"folder": [], "address": []}
        with serving(policy) as (_, address):
            for round_ in range(3):
                times_s["folder"].append(run(str(policy), root / f"folder-{round_}"))
                times_s["address"].append(run(address, root / f"wire-{round_}"))
        same = [rows(root / f"folder-{n}") == rows(root / f"wire-{n}") for n in range(3)]
        first_s, second_s = (float(np.median(times_s[name])) for name in times_s)
    return {
        "equal rows": all(same), "folder_s": round(first_s, 2), "address_s": round(second_s, 2),
        "ratio": round(second_s / first_s, 3), "episodes": settings.episodes,
    }  # fmt: skip


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the episodes of an evaluation without their times."""
    found = json.loads((folder / "evaluation.json").read_text())["rows"]
    return [{k: v for k, v in row.items() if not k.endswith("_s")} for row in found]


def clients(settings: argparse.Namespace) -> dict[str, Any]:
    """Ask 10 times a second from two clients."""
    with tempfile.TemporaryDirectory() as folder:
        policy = quick_policy(Path(folder))
        with serving(policy) as (process, address):
            until_s = time.monotonic() + 60 * settings.minutes
            times_s: list[float] = []
            mixed = [0]
            memory: list[float] = []

            def ask(seed: int) -> None:
                # An own image for each client: the answer tells whose question it is.
                remote = RemotePolicy(address)
                seen = observation(remote.spec, np.random.default_rng(seed))
                first = remote.chunk(seen)
                due_s = time.monotonic()
                while due_s < until_s:
                    time.sleep(max(0.0, due_s - time.monotonic()))
                    begun_s = time.monotonic()
                    mixed[0] += not np.array_equal(remote.chunk(seen), first)
                    times_s.append(time.monotonic() - begun_s)
                    due_s += 1 / RATE_HZ
                remote.close()

            threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(2)]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                time.sleep(5)
                memory.append(memory_mib(process.pid))
    return {
        **percentiles(times_s), "mixed up": mixed[0], "minutes": settings.minutes,
        "memory_mib": [round(memory[len(memory) // 10], 1), round(memory[-1], 1)],
    }  # fmt: skip


def fuzz(settings: argparse.Namespace) -> dict[str, Any]:
    """Send damaged questions in both dialects, at a steady rate, and ask a whole one at the end."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        policy = quick_policy(Path(folder), 48, 64)
        with serving(policy) as (process, address):
            ours, openpis = RemotePolicy(address), openpi_client(address, policy)
            frames = {"top": rng.integers(0, 256, (*ours.greeting.views["top"].size, 3), np.uint8)}
            seen = Observation(np.zeros(14), frames)
            raw = {"state": np.zeros(14), "images": {"top": np.zeros((48, 64, 3), np.uint8)}}
            whole = (
                (ours._line, Question(seen, True, 1).to_bytes()),
                (openpis._line, codec.pack(raw)),
            )
            before, kinds = memory_mib(process.pid), {"answered": 0, "told": 0, "closed": 0}
            most = before
            begun_s = time.monotonic()
            due_s, end_s = begun_s, begun_s + 60 * settings.fuzz_minutes
            while due_s < end_s:
                time.sleep(max(0.0, due_s - time.monotonic()))
                due_s += 1 / settings.fuzz_rate
                line, message = whole[int(rng.integers(2))]
                try:
                    line.exchange(damaged(message, rng))
                    kinds["answered"] += 1
                except ConnectionLost:
                    kinds["closed"] += 1
                except ImitactError:
                    kinds["told"] += 1
                if sum(kinds.values()) % 1000 == 0:
                    most = max(most, memory_mib(process.pid))
            took_s = time.monotonic() - begun_s
            ours.close()
            openpis.close()
            after = memory_mib(process.pid)
            last = RemotePolicy(address)
            chunk = last.chunk(observation(last.spec, rng))
            last.close()
    return {
        **kinds, "messages": sum(kinds.values()), "seconds": round(took_s, 1),
        "memory_mib": [round(before, 1), round(most, 1), round(after, 1)],
        "answers at the end": chunk.ndim == 2,
    }  # fmt: skip


def openpi_client(address: str, policy: Path) -> OpenpiPolicy:
    return OpenpiPolicy(address, read_stored(policy).spec, token=client_token())


def damaged(message: bytes, rng: np.random.Generator) -> bytes:
    """Change some bytes, of the head, the end or anywhere; cut, repeat or enlarge a part."""
    data = bytearray(message)
    where = (
        range(min(200, len(data))),
        range(max(0, len(data) - 200), len(data)),
        range(len(data)),
    )
    span = where[int(rng.integers(3))]
    for _ in range(int(rng.integers(1, 8))):
        data[span[int(rng.integers(len(span)))]] = int(rng.integers(256))
    kind, at = int(rng.integers(8)), int(rng.integers(len(data)))
    if kind == 0:
        del data[at:]
    elif kind == 1:
        data[at:at] = data[:at]
    elif kind == 2:
        data[at:at] = rng.bytes(int(rng.integers(1, 300)))
    return bytes(data)


def kills(settings: argparse.Namespace) -> dict[str, Any]:
    """Kill the server every 5 s while arms move."""
    seconds = 60 * settings.kill_minutes
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        policy = quick_policy(root, 120, 160)  # frames that the emulation draws in time
        process, address = start(policy, PORT, before=NICE)
        argv = [
            *("run", address, "--robot", "bench:aloha", "--seconds", str(seconds)),
            *("--chunking", "replay:50", "--log", str(root / "log")),
        ]
        run = subprocess.Popen(
            [sys.executable, "-m", "imitact", *argv], stdout=subprocess.PIPE, text=True
        )
        killed = 0
        try:
            while not (root / "log" / "ticks.jsonl").exists() and run.poll() is None:
                time.sleep(0.1)
            while run.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    run.wait(5)
                    break
                process.kill()
                process.wait()
                killed += 1
                process, _ = start(policy, PORT, before=NICE)
        finally:
            process.kill()
            process.wait()
        out = run.communicate()[0]
        ticks = [json.loads(line) for line in (root / "log" / "ticks.jsonl").open()]
    last = max(row["phase"] for row in ticks)
    ticks = [row for row in ticks if row["phase"] == last]
    asked = [row for row in ticks if not row["hold"]]
    other = [row for row in asked if "asked" in row and not row["stage"]]
    actions = np.array([row["action"] for row in ticks], np.float64)
    return {
        "kills": killed, "minutes": settings.kill_minutes, "exit code": run.returncode,
        "ticks": len(ticks), "of a chunk": len(asked), "held": len(ticks) - len(asked),
        "of neither": len(other),
        "largest step_rad": round(float(np.abs(np.diff(actions, axis=0)).max()), 5),
        "skipped": int(sum(row["skipped"] for row in ticks)),
        "why": sorted({row["words"].split("ms")[-1][:60] for row in ticks if row["hold"]})[:12],
        "queries": int(sum(row.get("query", 0) for row in ticks)),
        "answers": len([row for row in ticks if "answered_tick" in row]),
        "ended": out.strip().splitlines()[:1],
    }  # fmt: skip


def main() -> int:
    """Run the cases, print and write what they found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--kill-minutes", type=float, default=5)
    parser.add_argument("--fuzz-minutes", type=float, default=60)
    parser.add_argument("--fuzz-rate", type=float, default=50, help="damaged questions a second")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--write", type=Path)
    settings = parser.parse_args()
    cases = {
        "round-trip": round_trip, "evaluate": evaluate, "clients": clients, "fuzz": fuzz,
        "kills": kills,
    }  # fmt: skip
    found: dict[str, Any] = {}
    if settings.write and settings.write.is_file():
        found = json.loads(settings.write.read_text())["cases"]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CONFIG_HOME"] = folder  # where the token is
        for name in settings.only:
            load = os.getloadavg()[0]
            found[name] = cases[name](settings) | {"load before": round(load, 1)}
            print(name, json.dumps(found[name]), flush=True)
            if settings.write:
                about = {"cpu": processor_name(), "cores": os.cpu_count(), "cases": found}
                settings.write.write_text(json.dumps(about, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
