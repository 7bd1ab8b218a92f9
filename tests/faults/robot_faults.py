"""Fault trials of robots: seeded faults on emulated servos, with the real driver and control loop.

    python -m tests.faults.robot_faults [--seeds 200] [--first 0] [--jobs 2] [--limit-s S]
                                        [--devices NAME ...] [--out FILE.json]

`--devices` names the emulated ALOHA's follower and leader, as by default, or devices of LeRobot;
those run with a Python of LeRobot's environment, LeRobot's classes as they are (`lerobot_faults`).

Each seed of each device is a trial on the virtual clock: a leader is moved, the follower follows it
through the control loop and the safety filter, and one fault comes at a random moment, with a
random duration, on a random servo. What must hold is judged by what the emulated servos really do:

1. Where something is wrong that the software can know, for 5 ticks or longer, the robot is held,
   with a reason in words, at the latest 5 ticks after it can first be known (`Evidence`).
2. No reading is ever older than its read: its values are those of the servos at that time.
3. No action passes on a state older than 3 ticks.
4. After the fault the robot is enabled and follows again, or a reason in words says why not.
5. At the end the arms are parked, where they can be, and every servo that hears is limp.

Exit code 0 if all of that holds in every trial.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import sys
import time
from collections import Counter, defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.control.servo_watch import FollowingBounds, HealthBounds
from imitact.core.clock import VirtualClock
from imitact.robots.aloha_hardware import JOINT_SERVOS, SERVO_NAMES
from imitact.robots.driver_loop import LoopConfig
from imitact.robots.emulation.faults import FAULT_KINDS, Fault
from imitact.robots.emulation.physics import ticks_of
from imitact.robots.emulation.servo_bus import ServoBus
from imitact.robots.emulation.virtual_aloha import VirtualAloha
from tests.faults.fault_trial import Evidence, FaultTrial, Trial, drawn_fault

RATE_HZ = 50.0
RUN_S = 2.6
"""Duration of the run in which the fault comes, s."""

AGAIN_S = 0.5
"""Duration of the run after it, s."""

_PERIOD_S = 0.01


def draw(seed: int, device: str) -> tuple[str, Fault]:
    """Return bus and fault of a trial; 18 seeds in a row have 18 kinds."""
    kind = tuple(FAULT_KINDS)[seed % len(FAULT_KINDS)]
    rng = np.random.default_rng([seed, len(device)])
    bus = f"{device}_{('left', 'right')[int(rng.integers(2))]}"
    what = FAULT_KINDS[kind]
    # A shaft that does not turn shows at a joint that moves: no shadow, no gripper.
    servos = JOINT_SERVOS[:-1] if kind in ("stuck", "stall") else tuple(SERVO_NAMES)
    servo = int(rng.choice(servos))
    ids: tuple[int, ...] = ()
    if what.needs_ids or (what.has_ids and rng.random() < 0.5):
        ids = (servo,)
    return bus, drawn_fault(rng, kind, ids, lowest_volts=6.0)


class AlohaTrial(FaultTrial):
    """A trial on the emulated ALOHA: its followers or its leaders have the fault.

    Args:
        device: "follower" or "leader".
        seed: of the fault, and of the motion.
    """

    def __init__(self, device: str, seed: int) -> None:
        bus, fault = draw(seed, device)
        self._seed = seed
        config = LoopConfig(park_speed=3.0)
        self._aloha = VirtualAloha("cube", cameras=(), height=24, width=32, loop=config)
        clock = self._aloha.clock
        assert isinstance(clock, VirtualClock)
        super().__init__(device, seed, bus, fault, self._aloha.world, clock, RATE_HZ)
        boxes = self._aloha._boxes  # pyright: ignore[reportPrivateUsage]
        self._boxes = dict(zip(self._buses, (*boxes.drivers, *boxes.leaders), strict=True))
        self._sequences = dict.fromkeys(self._buses, 0)
        self._is_watching = False

    def run(self) -> Trial:
        """Run the trial; what raises is a failure of it."""
        try:
            self._run()
        except Exception as error:
            self.fail_with(error)
        finally:
            self._is_watching = False
            self._aloha.close()
        return self.trial

    def _run(self) -> None:
        aloha, trial = self._aloha, self.trial
        aloha.start()
        aloha.enable()
        self._robot, self._leader = aloha.robot, aloha.leaders[0]
        assert aloha.limits is not None
        self._limits = aloha.limits
        reading = aloha.leaders[0].reading()
        assert reading is not None
        aloha.lead(swing(reading.values, self._seed))
        self._is_watching = True
        self._clock.call_at(self._clock.now_s() + _PERIOD_S / 2, self._watch)
        self._clock.call_at(self._clock.now_s() + self._fault.start_s, self._begin_fault)
        self._control(RUN_S)
        self.judge()
        self._go_on(AGAIN_S)
        self._is_watching = False
        trial.parked = self._parked()
        missing = aloha.close()
        self._check_limp(missing)

    # ------------------------------------------------------------------ what is really so

    def _watch(self) -> None:
        """Look at every bus in the middle of each period of the drivers."""
        if not self._is_watching:
            return
        now_s = self._clock.now_s()
        found: set[Evidence] = set()
        for name, bus in self._buses.items():
            mail = self._boxes[name].state.read()
            is_new = mail is not None and mail.sequence != self._sequences[name]
            if mail is not None and is_new:
                self._sequences[name] = mail.sequence
                self._check_fresh(name, mail.values, float(mail.times[0]), now_s)
            else:
                found.add(Evidence("read", name))
            if name.startswith("follower"):
                found |= self._servo_evidence(name, bus)
        self.note(found)
        self._clock.call_at(now_s + _PERIOD_S, self._watch)

    def _check_fresh(
        self, name: str, values: NDArray[np.float64], begin_s: float, now_s: float
    ) -> None:
        """Check that a reading has the values of the servos at its time.

        Joints do not move between the read and now: servos move on with the next period.
        """
        if now_s - begin_s > _PERIOD_S:
            self.trial.failures.append(f"a reading of {name} is {now_s - begin_s:.3f} s old")
        bus = self._buses[name]
        at = {servo.model.id: servo for servo in bus.servos}
        truth = np.array([at[servo].position for servo in JOINT_SERVOS[:-1]])
        apart = np.abs(ticks_of(values[:6]) - truth)
        apart = np.minimum(apart, np.abs(apart - 4096))  # a wrapped position is one that is read
        moved = np.array([abs(at[servo].velocity) for servo in JOINT_SERVOS[:-1]]) * _PERIOD_S
        if (apart > 3 + moved).any():
            worst = int(np.argmax(apart))
            self.trial.failures.append(
                f"joint {worst} of {name} was read {apart[worst]:.0f} ticks from where it was"
            )

    def _servo_evidence(self, name: str, bus: ServoBus) -> set[Evidence]:
        found: set[Evidence] = set()
        for servo in bus.servos:
            where = f"{name} {servo.model.name}"
            number = servo.model.id
            if servo.errors() or servo.forced_error_bits:
                found.add(Evidence("error", where))
            if not servo.has_torque:
                found.add(Evidence("torque", where))
            if servo.temperature_c >= HealthBounds().temperature_c:
                found.add(Evidence("heat", where))
            if number in JOINT_SERVOS[:-1] and self._commands:
                joint = JOINT_SERVOS.index(number) + (7 if name.endswith("right") else 0)
                last = [row[joint] for row in self._commands[-round(0.3 * RATE_HZ) :]]
                at = (servo.position - 2048) * 2 * math.pi / 4096
                bound = FollowingBounds().lags["rad"]
                if not min(last) - bound <= at <= max(last) + bound:
                    found.add(Evidence("lag", where))
        return found

    def _enable(self) -> None:
        self._aloha.enable()

    def _park(self) -> None:
        self._aloha.park()

    def _is_driven(self, bus: str) -> bool:
        return bus.startswith("follower")


def swing(pose: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Return a motion of the leaders that begins at rest and lifts the arms, (T, 14)."""
    rng = np.random.default_rng([seed, 1])
    time_s = np.arange(0, 2 * RUN_S, 1 / RATE_HZ)[:, None]
    size = np.array([0.9, 0.9, -0.8, 0.3, 0.9, 0.9, 0.4] * 2) * rng.uniform(0.7, 1.0, 14)
    rate_hz = rng.uniform(0.35, 0.55, 14)
    rows = pose + size * (1 - np.cos(2 * math.pi * rate_hz * time_s)) / 2
    rows[:, [6, 13]] = np.clip(rows[:, [6, 13]], 0.0, 1.0)
    return rows


ALOHA_DEVICES = ("follower", "leader")
LEROBOT_DEVICES = (
    "so101_follower", "so101_leader", "koch_follower", "koch_leader",
    "bi_so_follower", "bi_so_leader",
)  # fmt: skip
"""Of LeRobot, which need its environment: `lerobot_faults`."""

DEVICES = (*ALOHA_DEVICES, *LEROBOT_DEVICES)


def run_trial(task: tuple[str, int]) -> Trial:
    """Run the trial of a device and a seed."""
    device, seed = task
    if device in ALOHA_DEVICES:
        return AlohaTrial(device, seed).run()
    from tests.faults.lerobot_faults import LeRobotTrial

    return LeRobotTrial(device, seed).run()


def report(trials: list[Trial], seconds: float) -> dict[str, Any]:
    """Return what is worth keeping of many trials."""
    table: dict[str, Any] = {}
    for device in DEVICES:
        kinds: dict[str, Any] = {}
        for kind in FAULT_KINDS:
            mine = [t for t in trials if t.device == device and t.kind == kind]
            if not mine:
                continue
            reasons: Counter[str] = Counter(reason for t in mine for reason in t.reasons)
            ticks = [t.ticks for t in mine if t.ticks is not None]
            kinds[kind] = {
                "trials": len(mine),
                **Counter(t.ended for t in mine),
                "follows again": sum(t.after == "follows" for t in mine),
                "parked": sum(t.parked for t in mine),
                "most ticks to the hold": max(ticks) if ticks else None,
                "reasons": dict(reasons),
            }
        if kinds:
            table[device] = kinds
    most: dict[str, int] = defaultdict(int)
    for trial in trials:
        if trial.ticks is not None:
            most[trial.evidence] = max(most[trial.evidence], trial.ticks)
    failed = [asdict(trial) for trial in trials if trial.failures]
    return {
        "trials": len(trials),
        "failed": len(failed),
        "seconds": round(seconds, 1),
        "most ticks from what could be known to the hold": dict(most),
        "devices": table,
        "failures": failed[:20],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--limit-s", type=float, default=math.inf)
    parser.add_argument("--devices", nargs="+", choices=DEVICES, default=ALOHA_DEVICES)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    tasks = [(d, s) for s in range(args.first, args.first + args.seeds) for d in args.devices]
    begin_s = time.monotonic()
    trials: list[Trial] = []
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        for trial in pool.imap_unordered(run_trial, tasks):
            trials.append(trial)
            for failure in trial.failures:
                print(f"{trial.device} {trial.seed} ({trial.fault}): {failure}", file=sys.stderr)
            if time.monotonic() - begin_s > args.limit_s:
                break  # the trials so far are reported, with their number
    trials.sort(key=lambda trial: (trial.seed, trial.device))
    found = report(trials, time.monotonic() - begin_s)
    text = json.dumps(found, indent=2)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n")
    print(text)
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
