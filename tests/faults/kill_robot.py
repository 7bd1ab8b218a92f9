"""Kill test of a robot session: kill -9 of its processes at random moments of a run.

    python -m tests.faults.kill_robot [--kills 50] [--only policy host conductor recorder]
                                      [--seed 0] [--patient] [--out FILE.json] [--settle]

An emulated ALOHA in its own process is driven by a session as `imitact run --record` makes it: a
host, a policy, a control loop and a recorder. One of the four is killed while the arms move. Then

1. within 200 ms nothing moves the goals of the servos any more, and the arms are at rest as soon
   after it as their own dynamics let them (`OWN_S`), by what the emulated servos really do;
2. the session ends with a message that names who died;
3. the episode that was finished before is whole, and no other is there;
4. the arms are parked and limp, and no process of the session is left.

The arms are watched until 0.5 s after the session has ended its control loop; it parks them only
then, which is a motion again. Times are those of the computer: run it alone. With --patient, for a
busy computer, ages and watchdogs are longer and the 200 ms are measured, not demanded. Exit code 0
if all holds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.api.live_session import LiveSession
from imitact.api.robot_session import SessionPlan
from imitact.control.ages import AgeBounds
from imitact.control.async_inference import PolicyProcess
from imitact.control.safety_filter import SafetyBounds, SafetyFilter
from imitact.control.servo_watch import FollowingBounds
from imitact.control.sources import PolicySource
from imitact.core.errors import RobotError
from imitact.core.execution import parse
from imitact.core.types import Observation, Spec
from imitact.core.validate import check_dataset
from imitact.deploy.load_policy import StoredPolicy
from imitact.quality.dataset_check import open_damaged
from imitact.recording.session_process import RecorderPlan, RecorderProcess
from imitact.robots.aloha_hardware import REST_POSES, arm_rest
from imitact.robots.config import RobotConfig, read_config
from imitact.robots.emulation.bench import Bench
from imitact.robots.emulation.physics import SERVO_JOINT, AlohaPhysics, radians_of, ticks_of
from imitact.robots.registry import BENCH_PATIENCE, robot_of
from imitact.robots.setup import HostSetup

TARGETS = {
    "policy": "the policy",
    "host": "the host",
    "conductor": "the control loop",
    "recorder": "the recorder",
}
"""What is killed, by the beginning of its name in the session's message."""

REST_S = 0.2
"""Longest time from the kill until the servos' goals stay where they are, s."""

OWN_S = 0.3
"""Longest time for which an arm whose goals stay goes on, s: the waist of gym-aloha's arms needs
0.20 to 0.26 s at 0.3 to 0.8 rad/s (`python -m tests.faults.kill_robot --settle`), and a servo whose
watchdog stops it 0.2 s after the last request takes where it is for its goal."""

GOAL_RAD = 0.002
"""How far a goal may be from where it stays: a tick of a servo is 0.0015 rad."""

REST_RAD = 0.01
"""How far a joint may be from where it stays, to be at rest, rad."""

WATCHED_S = 0.5
"""How long the arms are watched after the control loop has ended, s."""

CHUNK, RATE_HZ = 50, 50.0

_LOOK_S = 0.005


@dataclass
class Kill:
    """What became of one kill.

    Attributes:
        target: of `TARGETS`.
        after_s: moment of the kill in its episode, s.
        speed: of the fastest joint at the kill, rad/s.
        goal_ms: from the kill until all goals of the servos stay where they are, ms.
        rest_ms: from the kill until all joints stay where they are, ms.
        travel_rad: farthest way of a joint from the kill to its rest, rad.
        sample_ms: longest time between two looks at the arms, ms.
        words: the message.
        failures: what did not hold.
    """

    target: str
    after_s: float
    speed: float = 0.0
    goal_ms: float = 0.0
    rest_ms: float = 0.0
    travel_rad: float = 0.0
    sample_ms: float = 0.0
    words: str = ""
    failures: list[str] = field(default_factory=list)


class Waving:
    """A policy that lifts the arms from their rest pose and lowers them again, by its own clock."""

    def __init__(self, spec: Spec, rest: NDArray[np.float64]) -> None:
        self._spec, self._rest = spec, rest
        self._begin_s: float | None = None

    @property
    def spec(self) -> Spec:
        return self._spec

    def reset(self, seed: int) -> None:
        self._begin_s = None

    def chunk(self, observation: Observation) -> NDArray[np.float64]:
        now_s = time.monotonic()
        self._begin_s = now_s if self._begin_s is None else self._begin_s
        time_s = now_s - self._begin_s + np.arange(CHUNK)[:, None] / RATE_HZ
        return self._rest + np.hstack([wave(time_s)] * 2)


def wave(time_s: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return by how much the joints of an arm are lifted at a time, (..., 7) rad."""
    size = np.array([0.4, 0.5, -0.4, 0.4, 0.4, 0.4, 0.3])
    return size * (1 - np.cos(2 * np.pi * 0.5 * time_s)) / 2


class ArmWatch:
    """Looks at the arms of a bench all the time, in a thread; kills a process at its moment."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._stop = threading.Event()
        self._due: tuple[float, int] | None = None
        self.killed_s = 0.0
        # time, joints, goals of the servos; both in rad
        self.looks: list[tuple[float, NDArray[np.float64], NDArray[np.float64]]] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def kill_at(self, due_s: float, pid: int) -> None:
        """Kill a process at a time, and look from shortly before on: each look costs the bench."""
        self._due = due_s, pid

    def __enter__(self) -> ArmWatch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_S):
            if not self.killed_s and (self._due is None or time.monotonic() < self._due[0] - 0.2):
                continue
            truth = self._bench.truth()
            names = [name for name in truth.buses if name.startswith("follower")]
            rows = [truth.joints_rad(name) for name in names]
            goals = [servo.goal for name in names for servo in truth.buses[name].servos.values()]
            self.looks.append((truth.now_s, np.concatenate(rows), radians_of(goals)))
            if self._due is not None and time.monotonic() >= self._due[0]:
                os.kill(self._due[1], signal.SIGKILL)
                self.killed_s, self._due = time.monotonic(), None

    def judge(self, kill: Kill, end_s: float, *, is_patient: bool) -> None:
        """Measure how the arms came to rest, from the kill until `end_s`."""
        looks = [look for look in self.looks if self.killed_s - 0.2 <= look[0] <= end_s]
        before = [look for look in looks if look[0] <= self.killed_s]
        if len(before) > 1:
            past_s = before[-1][0] - before[0][0]
            kill.speed = float(np.abs(before[-1][1] - before[0][1]).max() / past_s)
        after = [look for look in looks if look[0] > self.killed_s]
        _, last, last_goals = after[-1]
        moving = [look[0] for look in after if np.abs(look[1] - last).max() > REST_RAD]
        led = [look[0] for look in after if np.abs(look[2] - last_goals).max() > GOAL_RAD]
        times = [self.killed_s, *(look[0] for look in after)]
        kill.sample_ms = round(1000 * float(np.diff(times).max()), 1)
        kill.travel_rad = round(float(np.abs(after[0][1] - last).max()), 4)
        kill.rest_ms = round(1000 * (moving[-1] - self.killed_s), 1) if moving else 0.0
        kill.goal_ms = round(1000 * (led[-1] - self.killed_s), 1) if led else 0.0
        kill.speed = round(kill.speed, 3)
        if is_patient:
            return
        if kill.goal_ms > 1000 * REST_S:
            kill.failures.append(f"goals changed until {kill.goal_ms:.0f} ms after the kill")
        if kill.rest_ms > 1000 * (REST_S + OWN_S):
            kill.failures.append(f"the arms moved until {kill.rest_ms:.0f} ms after the kill")


def run_kill(
    bench: Bench,
    config: RobotConfig,
    target: str,
    rng: np.random.Generator,
    folder: Path,
    *,
    is_patient: bool = False,
) -> Kill:
    """Run a session, kill one of its processes, and check what must hold."""
    kill = Kill(target, round(float(rng.uniform(0.3, 2.0)), 3))
    before = children()
    ended_s = 0.0
    with ArmWatch(bench) as watch:
        patience = 10 * BENCH_PATIENCE if is_patient else BENCH_PATIENCE
        setup = robot_of(config, with_leaders=False, patience=patience)
        assert isinstance(setup, HostSetup)
        close = setup.close

        def close_later() -> tuple[str, ...]:
            nonlocal ended_s
            time.sleep(WATCHED_S)
            ended_s = ended_s or time.monotonic()
            return close()

        setup.close = close_later  # the session parks the arms after the watch has seen their rest
        session = session_of(setup, config, folder, is_patient=is_patient)
        processes: dict[str, int | None] = {}
        try:
            with session:
                session.begin_episode()
                session.run_phase("policy", 0.8)
                session.keep_episode()
                session.begin_episode()
                processes = session.processes
                pid = processes[TARGETS[target]]
                assert pid is not None
                watch.kill_at(time.monotonic() + kill.after_s, pid)
                words = session.run_phase("policy", 20.0)
                kill.failures.append(f"nobody died; the run ended: {words}")
        except RobotError as error:
            kill.words = str(error)
        if watch.killed_s:
            watch.judge(kill, ended_s, is_patient=is_patient)
    if not kill.words.startswith(TARGETS[target]) or "SIGKILL" not in kill.words:
        kill.failures.append(f"the message does not name {TARGETS[target]}: {kill.words}")
    check_episode(folder, kill)
    truth = bench.truth()
    for name in truth.buses:
        if name.startswith("follower") and not truth.buses[name].is_limp:
            kill.failures.append(f"{name} has torque at the end")
    if left := children() - before:
        kill.failures.append(f"processes are left: {sorted(left)}")
    return kill


def session_of(
    setup: HostSetup, config: RobotConfig, folder: Path, *, is_patient: bool
) -> LiveSession:
    """Return a session as `imitact run --record` makes it, with a policy that needs no file."""
    spec, limits = setup.robot.spec, setup.limits
    assert limits is not None
    cameras = setup.host.robot.frame_boxes
    rest = np.concatenate([arm_rest(config, side) for side in config.arms])
    stored = StoredPolicy(Path("waving"), spec, "", CHUNK)
    policy = PolicyProcess(stored, cameras, load=partial(Waving, spec, rest))
    chunking = parse("replay:25", 5)
    names = tuple(camera.name for camera in spec.cameras)
    source = PolicySource(policy.inference, chunking, RATE_HZ, names)
    ages = AgeBounds(50.0, 5.0, 5.0) if is_patient else AgeBounds()
    following = FollowingBounds(lag_s=5.0) if is_patient else FollowingBounds()
    bounds = SafetyBounds(ages, following)
    safety = SafetyFilter(limits, RATE_HZ, spec=spec, bounds=bounds)
    controls_s = 30.0 if is_patient else 1.0
    plan = SessionPlan({"policy": source}, safety, setup.robot, ages, controls_s=controls_s)
    recorder = RecorderProcess(RecorderPlan(folder, spec, "wave", cameras))
    return LiveSession(setup, plan, policy=policy, recorder=recorder)


def check_episode(folder: Path, kill: Kill) -> None:
    """Check that the one finished episode is whole, and that there is no other."""
    try:
        dataset, findings = open_damaged(folder)
        if findings or dataset is None:
            kill.failures.append(f"the dataset is damaged: {findings}")
            return
        check_dataset(dataset)
        if (count := len(dataset.facts["episodes"])) != 1:
            kill.failures.append(f"{count} episodes are there, expected 1")
    except Exception as error:
        kill.failures.append(f"the dataset cannot be read: {type(error).__name__}: {error}")


def children() -> set[int]:
    """Return the processes that this one started and that still run (Linux)."""
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == os.getpid() and fields[0] not in "ZX":
                found.add(int(entry.name))
    return found


@contextlib.contextmanager
def emulated(*, is_patient: bool = False) -> Iterator[tuple[Bench, RobotConfig]]:
    """Yield a bench that runs, and its robot.toml, parking fast."""
    with Bench("aloha", cameras=("top",), height=24, width=32) as bench:
        path = Path(bench.folder) / "robot.toml"
        bench.robot_toml(path, watchdog_s=2.0 if is_patient else 0.2)
        config = read_config(path)
        yield bench, replace(config, parking=replace(config.parking, speed=1.0))


def run(kills: int, seed: int, targets: tuple[str, ...], *, is_patient: bool = False) -> list[Kill]:
    """Kill each target so many times, in turns."""
    rng = np.random.default_rng(seed)
    found: list[Kill] = []
    with (
        emulated(is_patient=is_patient) as (bench, config),
        tempfile.TemporaryDirectory() as folder,
    ):
        for number in range(kills):
            for target in targets:
                out = Path(folder) / f"{target}-{number}"
                kill = run_kill(bench, config, target, rng, out, is_patient=is_patient)
                found.append(kill)
                print(json.dumps(asdict(kill)), file=sys.stderr, flush=True)
    return found


def settle() -> list[tuple[float, float]]:
    """Return how long arms move after their goals froze: speed in rad/s, time in s."""
    found = []
    for stop_s in np.linspace(0.3, 2.0, 18):
        physics, now_s = AlohaPhysics(), 0.0
        rest = np.array([*REST_POSES["vx300s"], 1.2])
        for side in range(2):
            physics.place_arm(side, rest)
        physics.advance(now_s)
        looks: list[tuple[float, NDArray[np.float64]]] = []
        while now_s < stop_s + 1.0:
            goal = ticks_of(rest + wave(min(now_s, stop_s)))[SERVO_JOINT]
            for side in range(2):
                physics.drive(side, goal, np.ones(len(SERVO_JOINT)))
            for _ in range(10):
                now_s += 0.1 / RATE_HZ
                physics.advance(now_s)
                rows = [radians_of(np.array(arm.positions)) for arm in physics.arms]
                looks.append((now_s, np.concatenate(rows)))
        at_stop = next(row for at_s, row in looks if at_s >= stop_s)
        earlier = next(row for at_s, row in looks if at_s >= stop_s - 0.2)
        last = looks[-1][1]
        moving = [at_s for at_s, row in looks if np.abs(row - last).max() > REST_RAD]
        speed = float(np.abs(at_stop - earlier).max() / 0.2)
        found.append((round(speed, 2), round(moving[-1] - stop_s, 3)))
    return found


def report(kills: list[Kill]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for target in TARGETS:
        mine = [kill for kill in kills if kill.target == target]
        if mine:
            rest = np.array([kill.rest_ms for kill in mine])
            table[target] = {
                "kills": len(mine),
                "failed": sum(bool(kill.failures) for kill in mine),
                "while moving": sum(kill.speed > 0.05 for kill in mine),
                "goal_ms max": max(kill.goal_ms for kill in mine),
                "rest_ms p50": float(np.median(rest)),
                "rest_ms max": float(rest.max()),
                "travel_rad max": max(kill.travel_rad for kill in mine),
                "sample_ms max": max(kill.sample_ms for kill in mine),
            }
    load = os.getloadavg()[0]
    return {
        "load": round(load, 1),
        "cpus": os.cpu_count(),
        "targets": table,
        "failures": [asdict(kill) for kill in kills if kill.failures][:20],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--patient", action="store_true")
    parser.add_argument("--settle", action="store_true")
    args = parser.parse_args()
    if args.settle:
        for speed, time_s in settle():
            print(f"goals freeze at {speed:.2f} rad/s: at rest after {1000 * time_s:.0f} ms")
        return 0
    kills = run(args.kills, args.seed, tuple(args.only), is_patient=args.patient)
    found = {"patient": args.patient, **report(kills)}
    text = json.dumps(found, indent=2)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n")
    print(text)
    return 1 if found["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
