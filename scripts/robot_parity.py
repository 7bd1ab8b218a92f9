"""Robot parity: LeRobot's own drivers on emulated servos, by themselves and through imitact's host.

    python scripts/robot_parity.py --lerobot-python PATH [--ticks N] [--only KIND] [--write FILE]

Five device classes of LeRobot 0.6.1 (so101_follower, so101_leader, koch_follower, bi_so_follower,
bi_so_leader; koch_leader too) connect, calibrate while a scripted hand moves the limp arm, run
1,000 ticks and disconnect, with no line of theirs changed. Then imitact drives the same devices
through its host for as many ticks, leader to follower, and meets faults: a late reply, a dead
servo, an overload, a second program on the port, no calibration, a killed program.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from imitact.core.errors import RobotError
from imitact.robots.config import LeRobotConfig, RobotConfig, read_config
from imitact.robots.emulation.bench import Bench
from imitact.robots.lerobot import Kind, LeRobotDriver
from imitact.robots.lerobot_process import LeRobotProcess
from imitact.robots.registry import robot_of

DEVICE = Path(__file__).with_name("robot_parity_device.py")
PATIENCE, PATIENCE_ALONE = 20.0, 60.0
"""Factors of time-outs; LeRobot by itself ends at the first lost read of a Koch arm."""
PROMPT_S = 300.0
RATE_HZ = 50.0
KINDS = ("so101", "koch", "bi_so")
BOOT_S = 1.0
MIDDLE, REACH = 2060, 900
"""Where the hand takes each joint for the middle of its range, and how far to both ends, ticks."""


class Report:
    """Lines of what held and what did not."""

    def __init__(self) -> None:
        self.failures = 0
        self.lines: list[str] = []

    def check(self, holds: object, text: str) -> None:
        """Write a line; remember what does not hold."""
        self.failures += not holds
        self.say(f"{'ok  ' if holds else 'FAIL'} {text}")

    def say(self, line: str) -> None:
        """Write a line that is kept."""
        self.lines.append(line)
        print(line, flush=True)


# ---------------------------------------------------------------------- LeRobot by itself


def run_device(python: str, bench: Bench, kind: Kind, config: LeRobotConfig, ticks: int) -> Any:
    """Run one device of LeRobot by itself, as a person would; return its result."""
    role = "follower" if kind == "robot" else "leader"
    buses = [name for name in bench.ports if name.startswith(role)]
    plan = {**dataclasses.asdict(config), "kind": kind, "ticks": ticks, "patience": PATIENCE_ALONE}
    process = subprocess.Popen(
        [python, "-u", str(DEVICE), json.dumps(plan)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    printed = bytearray()
    reader = threading.Thread(target=_gather, args=(process, printed), daemon=True)
    reader.start()
    seen = 0
    try:
        while True:
            found = _wait_for(
                process, printed, seen, b"press ENTER", b"Press ENTER to stop", b"RESULT"
            )
            if found is None:
                reader.join(2.0)
                raise RobotError(f"{config.type} ended: {printed.decode(errors='replace')[-800:]}")
            word, seen = found
            if word == b"RESULT":
                process.wait(PROMPT_S)
                text = printed[seen:].decode().strip().splitlines()[0]
                return json.loads(text)
            if word == b"Press ENTER to stop":
                for offset in (-REACH, REACH, 0):
                    _move(bench, buses, MIDDLE + offset)
                    before = printed.count(b"| ")
                    _until(lambda before=before: printed.count(b"| ") > before + 60, process)
            else:
                _move(bench, buses, MIDDLE)
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _gather(process: subprocess.Popen[bytes], printed: bytearray) -> None:
    assert process.stdout is not None
    while part := process.stdout.read1(4096):  # type: ignore[attr-defined]
        printed += part


def _wait_for(
    process: subprocess.Popen[bytes], printed: bytearray, seen: int, *words: bytes
) -> tuple[bytes, int] | None:
    """Return the first of the words after a place, and where it ends; None if the process ended."""
    deadline_s = time.monotonic() + PROMPT_S
    while time.monotonic() < deadline_s:
        is_over = process.poll() is not None
        places = [(at, word) for word in words if (at := printed.find(word, seen)) >= 0]
        if places:
            at, word = min(places)
            return word, at + len(word)
        if is_over:
            return None
        time.sleep(0.02)
    raise RobotError(f"no prompt within {PROMPT_S:g} s")


def _until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + PROMPT_S
    while not condition() and process.poll() is None and time.monotonic() < deadline_s:
        time.sleep(0.02)


def _move(bench: Bench, buses: list[str], position: float) -> None:
    for bus in buses:
        bench.move(bus, {servo: position + 10 * servo for servo in range(1, 7)})


# ---------------------------------------------------------------------- through the host


def run_hosted(report: Report, bench: Bench, config: RobotConfig, ticks: int) -> None:
    """Let the leader lead the follower through imitact's host."""
    joints = 12 if bench.kind == "bi_so" else 6
    way = 0.3 * np.sin(np.linspace(0, 12, 300))[:, None] * np.ones(joints)
    with robot_of(config, on_line=lambda line: print(f"     {line}"), patience=PATIENCE) as setup:
        setup.start()
        robot, leader = setup.robot, setup.leaders[0]
        setup.enable()
        bench.hand(way, 50.0)
        start = time.monotonic()
        oldest_s, faults = 0.0, set[str]()
        for tick in range(1, ticks + 1):
            reading = leader.reading()
            if reading is not None:
                robot.command(reading.values, tick)
            now = robot.reading()
            if now is not None:
                oldest_s = max(oldest_s, time.monotonic() - now.end_s)
            if fault := robot.fault():
                faults.add(fault)
            time.sleep(max(0.0, start + tick / RATE_HZ - time.monotonic()))
        sent = robot.sent()
        reading = robot.reading()
        assert sent is not None
        assert reading is not None
        off = float(np.abs(sent.action - reading.values).max())
        counts = bench.truth().buses
        report.check(sent.tick > ticks - 10, f"{bench.kind}: {ticks} ticks, leader to follower")
        report.check(off < 5, f"{bench.kind}: follower is {off:.2f} from its last command")
        report.check(
            len(robot.health()) == joints, f"{bench.kind}: health of {len(robot.health())} motors"
        )
        report.say(
            f"     oldest reading {oldest_s * 1000:.0f} ms; {'; '.join(faults) or 'no faults'}"
        )
        missing = setup.release(is_supported=True)
        limp = [bus for bus in counts if bench.truth().buses[bus].is_limp]
        wanted = [bus for bus in counts if bench.kind != "koch" or bus == "follower"]
        report.check(not missing and set(wanted) <= set(limp), f"{bench.kind}: released, {limp}")
    after = [bus for bus, truth in bench.truth().buses.items() if not truth.is_limp]
    report.check(not after, f"{bench.kind}: nothing has torque at the end")


@contextmanager
def driver(
    process: LeRobotProcess, kind: Kind, config: LeRobotConfig, patience: float = PATIENCE
) -> Iterator[LeRobotDriver]:
    """A driver that is open, and closed at the end."""
    one = LeRobotDriver(process, kind, config, RATE_HZ, patience=patience)
    one.connect()
    try:
        yield one
    finally:
        one.close()


def run_faults(report: Report, python: str, bench: Bench, config: RobotConfig) -> None:
    """Meet the faults of robot.md, section 2, on the SO-101."""
    follower, leader = config.lerobot, config.lerobot_leader
    assert follower is not None
    assert leader is not None
    process, second = LeRobotProcess(python), LeRobotProcess(python)
    try:
        _late_reply(report, bench, process, leader)
        _dead_servo(report, bench, process, follower)
        _overload(report, bench, process, follower)
        _nonsense(report, process, follower)
        _second_program(report, process, second, follower)
        _no_calibration(report, process, follower)
        _hang_up(report, bench, process, follower)
        _killed_program(report, bench, process, follower)
    finally:
        process.stop()
        second.stop()


def _late_reply(report: Report, bench: Bench, process: LeRobotProcess, config: Any) -> None:
    bench.let_go()
    with driver(process, "leader", config, 2.0) as one:
        bench.set_fault("leader", "late_once", late_s=1.0)
        worst, failed = 0.0, 0
        for step in range(12):
            bench.move("leader", {1: MIDDLE + 40 * step})
            try:
                values = one.read()
            except RobotError:
                failed += 1
                continue
            truth = bench.get_register("leader", 1, "present_position")
            shown = (truth - _zero_tick(config)) * 360 / 4095
            worst = max(worst, abs(float(values[0]) - shown))
        report.check(
            worst < 0.5, f"late reply: no read is older ({failed} failed, {worst:.2f} deg off)"
        )
    _mend(bench)


def _zero_tick(config: LeRobotConfig) -> float:
    """Return the position that is 0 degrees of the first joint."""
    path = Path(config.calibration) / f"{config.id}.json"
    kept = json.loads(path.read_text())["shoulder_pan"]
    return (kept["range_min"] + kept["range_max"]) / 2


def _dead_servo(report: Report, bench: Bench, process: LeRobotProcess, config: Any) -> None:
    with driver(process, "robot", config, 4.0) as one:
        one.enable()
        bench.set_fault("follower", "dead", ids=(3,))
        report.check(_raises(one.read), f"dead servo: read says: {_raises(one.read)[:90]}")
        missing = one.release()
        torque = [s.has_torque for s in bench.truth().buses["follower"].servos.values()]
        report.check(missing == ("elbow_flex",), f"dead servo: release names {missing}")
        report.check(not any(torque), "dead servo: all others are limp")
    _mend(bench)


def _overload(report: Report, bench: Bench, process: LeRobotProcess, config: Any) -> None:
    with driver(process, "robot", config) as one:
        one.enable()
        bench.set_fault("follower", "overload", ids=(2,))
        found = dict(one.check_next() for _ in range(6))
        named = [joint for joint, health in found.items() if "overload" in health.errors]
        report.check(named == ["shoulder_lift.pos"], f"overload: health names {named}")
        report.check(one.release() == (), "overload: every servo is released")
        report.check(bench.truth().buses["follower"].is_limp, "overload: nothing has torque")
    _mend(bench)


def _mend(bench: Bench) -> None:
    """End all faults; servos that were without power start again."""
    bench.clear_faults()
    time.sleep(BOOT_S)


def _nonsense(report: Report, process: LeRobotProcess, config: Any) -> None:
    with driver(process, "robot", config) as one:
        for value in (np.nan, np.inf):
            said = _raises(lambda value=value: one.write(np.full(6, value)))
            report.check("finite" in said, f"command of {value}: {said}")
        one.enable()
        said = _raises(lambda: one.write(np.array([5000.0, 0, 0, 0, 0, 0])))
        report.check("ValueError" in said, f"command of 5000 deg: {said}")
        sent = one.write(np.array([720.0, 0, 0, 0, 0, 400.0]))
        report.check(
            sent[0] < 181 and sent[5] == 100,
            f"command of 720 deg and 400 %: the servos have {sent[0]:.1f} and {sent[5]:.1f}",
        )
        one.write(np.zeros(6))
        one.release()


def _second_program(report: Report, process: Any, second: Any, config: Any) -> None:
    with driver(process, "robot", config):
        other = LeRobotDriver(second, "robot", config, RATE_HZ, patience=PATIENCE)
        said = _raises(other.connect)
        report.check(
            "another process" in said or "Could not" in said, f"second program: {said[:110]}"
        )


def _no_calibration(report: Report, process: LeRobotProcess, config: Any) -> None:
    folder = tempfile.mkdtemp()
    bare = dataclasses.replace(config, calibration=folder)
    said = _raises(LeRobotDriver(process, "robot", bare, RATE_HZ, patience=PATIENCE).connect)
    shutil.rmtree(folder)
    report.check("lerobot-calibrate" in said, f"no calibration: {said[-120:]}")


def _hang_up(report: Report, bench: Bench, process: LeRobotProcess, config: Any) -> None:
    one = LeRobotDriver(process, "robot", config, RATE_HZ, patience=4.0)
    one.connect()
    bench.set_fault("follower", "hang_up")
    said = _raises(one.read)
    report.check(said, f"adapter gone: {said[:110]}")
    _mend(bench)
    one.close()
    with driver(process, "robot", config) as again:
        report.check(len(again.read()) == 6, "adapter is back: a new driver reads")


def _killed_program(report: Report, bench: Bench, process: LeRobotProcess, config: Any) -> None:
    one = LeRobotDriver(process, "robot", config, RATE_HZ, patience=PATIENCE)
    one.connect()
    one.enable()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    said = _raises(one.read)
    report.check("SIGKILL" in said, f"killed program: {said}")
    torque = [s.has_torque for s in bench.truth().buses["follower"].servos.values()]
    report.check(all(torque), "killed program: the arm holds")
    one.close()
    with driver(process, "robot", config) as again:
        torque = [s.has_torque for s in bench.truth().buses["follower"].servos.values()]
        report.check(all(torque), "killed program: a new one connects, and the arm still holds")
        again.enable()
        report.check(again.release() == (), "killed program: the new one releases the arm")


def _raises(work: Callable[[], object]) -> str:
    """Return what a RobotError says; empty where there was none."""
    try:
        work()
    except RobotError as error:
        return str(error)
    return ""


def main() -> int:
    """Run everything; the exit status says whether all held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lerobot-python", required=True, type=Path)
    parser.add_argument("--ticks", type=int, default=1000)
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--write", type=Path, help="JSON file for the lines of what held")
    options = parser.parse_args()
    python = str(options.lerobot_python.absolute())
    report = Report()
    for kind in (options.only,) if options.only else KINDS:
        with Bench(kind, cameras=()) as bench, tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "robot.toml"
            bench.robot_toml(path)
            config = read_config(path)
            assert config.lerobot is not None
            assert config.lerobot_leader is not None
            robot = dataclasses.replace(
                config.lerobot, python=python, calibration=f"{folder}/follower"
            )
            leader = dataclasses.replace(config.lerobot_leader, calibration=f"{folder}/leader")
            config = dataclasses.replace(
                config, lerobot=robot, lerobot_leader=leader, rate_hz=RATE_HZ
            )
            devices: list[tuple[Kind, LeRobotConfig]] = [("robot", robot), ("leader", leader)]
            for role, device in devices:
                result = run_device(python, bench, role, device, options.ticks)
                limp = all(truth.is_limp for truth in bench.truth().buses.values())
                report.check(
                    limp,
                    f"{device.type} by itself: connected, calibrated, {options.ticks} ticks of "
                    f"{result['tick_ms']:.1f} ms, disconnected",
                )
            run_hosted(report, bench, config, options.ticks)
            if kind == "so101":
                run_faults(report, python, bench, config)
    print(f"{report.failures} failures")
    if options.write:
        kept = {"ticks": options.ticks, "failures": report.failures, "lines": report.lines}
        text = re.sub(r"[\w./-]*imitact-bench-\w+", "BENCH", json.dumps(kept, indent=1))
        options.write.write_text(text + "\n")
    return min(1, report.failures)


if __name__ == "__main__":
    sys.exit(main())
