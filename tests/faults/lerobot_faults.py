"""Fault trials of LeRobot's devices: its classes and SDKs, unmodified, behind imitact's host.

    .venv-lerobot/bin/python -m tests.faults.robot_faults --devices so101_follower koch_leader ...

Everything from the bytes of the servos to the control loop takes part, on one virtual clock: the
device, the program that serves it, the host's threads and the conductor's loop, each with the time
that it really takes on the wire and in time-outs. Beside the laws of `robot_faults`: a follower and
a leader that answer are limp at the end, parked where the follower can be.
"""

from __future__ import annotations

import math
import signal
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.control.servo_watch import FollowingBounds, HealthBounds
from imitact.core.errors import RobotError
from imitact.robots.config import LeRobotConfig, RobotConfig
from imitact.robots.emulation.bench_config import robot_config
from imitact.robots.emulation.cameras import CameraPlan
from imitact.robots.emulation.faults import FAULT_KINDS, Fault
from imitact.robots.emulation.lerobot_calibration import REACH, calibrate
from imitact.robots.emulation.servo_bus import ServoBus
from imitact.robots.emulation.world import BenchWorld, BusSetup
from imitact.robots.host_process import Host, HostConfig, HostPlan
from imitact.robots.hosted import HostBoxes, HostedDriver, HostedLeader, HostedRobot, side_by_side
from imitact.robots.lerobot import Kind, LeRobotDevice, LeRobotDriver, device_request
from imitact.robots.lerobot_setup import device_limits
from tests.faults.fault_trial import MIDDLE_TICK, Evidence, FaultTrial, Trial, drawn_fault
from tests.support.lerobot_virtual import ProgramHere, VirtualPorts
from tests.support.turn_clock import TurnClock

RATE_HZ = 30.0
"""Of LeRobot's arms."""

RUN_S, AGAIN_S = 2.6, 0.5
STEP_S = 0.004
READ_TICKS = 1.0
"""Time without a reading, in ticks, after which its lack can be known: a read of two arms takes a
third of one."""

OFF_TICKS = 3.0
"""Resolution of a reading, ticks of a servo: LeRobot's degrees are of 4095 to the turn."""

_TURN = 4096.0


def draw(seed: int, device: str) -> tuple[str, Fault]:
    """Return bus and fault of a trial; 18 seeds in a row have 18 kinds."""
    kind = tuple(FAULT_KINDS)[seed % len(FAULT_KINDS)]
    rng = np.random.default_rng([seed, *device.encode()])
    role = device.rpartition("_")[2]
    sides = ("_left", "_right") if device.startswith("bi_so") else ("",)
    bus = f"{role}{sides[int(rng.integers(len(sides)))]}"
    what = FAULT_KINDS[kind]
    # A shaft that does not turn shows at a joint that moves; wrist_roll (5) has a whole turn.
    servos = (1, 2, 3, 4) if kind in ("stuck", "stall") else (1, 2, 3, 4, 5, 6)
    ids: tuple[int, ...] = ()
    if what.needs_ids or (what.has_ids and rng.random() < 0.5):
        ids = (int(rng.choice(servos)),)
    return bus, drawn_fault(rng, kind, ids, lowest_volts=3.0)


class Orders:
    """The pipe to a host in this process: orders, and its lines."""

    def __init__(self, clock: TurnClock) -> None:
        self._clock = clock
        self._waiting: deque[tuple[int, str, Any]] = deque()
        self._answers: dict[int, tuple[bool, Any]] = {}
        self._number = 0
        self.is_ready = self.parent_is_gone = False
        self.lines: list[str] = []

    # What the host calls.

    def ready(self) -> None:
        self.is_ready = True

    def line(self, text: str) -> None:
        self.lines.append(text)

    def answer(self, number: int, succeeded: bool, value: Any) -> None:
        self._answers[number] = succeeded, value

    def next_order(self, timeout_s: float) -> tuple[int, str, Any] | None:
        end_s = self._clock.now_s() + timeout_s
        while not self._waiting and self._clock.now_s() < end_s:
            self._clock.wait_until(min(end_s, self._clock.now_s() + 0.005))
        return self._waiting.popleft() if self._waiting else None

    # What imitact calls.

    def ask(self, order: str, argument: Any = None) -> Any:
        """Give an order, and wait for its answer."""
        self._number += 1
        number = self._number
        self._waiting.append((number, order, argument))
        while number not in self._answers:
            self._clock.wait_until(self._clock.now_s() + 0.005)
        succeeded, value = self._answers.pop(number)
        if not succeeded:
            raise RobotError(value)
        return value


class LeRobotTrial(FaultTrial):
    """A trial on an emulated arm, or a pair, that LeRobot drives.

    Args:
        device: "so101_follower", "koch_leader", ...: which device has the fault.
        seed: of the fault, and of the motion.
    """

    def __init__(self, device: str, seed: int) -> None:
        bus, fault = draw(seed, device)
        clock = TurnClock(100.0)
        kind, _, self._role = device.rpartition("_")
        world = BenchWorld(kind, seed=seed, make_bus=_wired)
        super().__init__(device, seed, bus, fault, world, clock, RATE_HZ)
        self._seed = seed
        self._ports = VirtualPorts(clock, self._buses)
        self._past: deque[tuple[float, dict[str, NDArray[np.float64]]]] = deque(maxlen=250)
        self._sequences: dict[str, int] = {}
        self._is_watching = self._is_over = False

    def run(self) -> Trial:
        """Run the trial; what raises is a failure of it."""
        before = signal.getsignal(signal.SIGTERM)
        try:
            with tempfile.TemporaryDirectory() as folder, self._ports.installed():
                self._run(Path(folder))
        except Exception as error:
            self.fail_with(error)
        finally:
            signal.signal(signal.SIGTERM, before)
        return self.trial

    def _run(self, folder: Path) -> None:
        clock = self._clock
        self._world.advance(clock.now_s())
        clock.call_at(clock.now_s() + STEP_S, self._step)
        config = self._config(folder)
        drivers = [self._hosted(config, "robot"), self._hosted(config, "leader")]
        robot, leader = drivers
        boxes = HostBoxes.create([robot], [leader])
        self._boxes = {"follower": boxes.drivers[0], "leader": boxes.leaders[0]}
        spec = side_by_side([robot.spec], (), RATE_HZ)
        self._robot = HostedRobot(self._world.kind, spec, boxes, {}, clock)
        self._leader = HostedLeader(self._world.kind, [leader.spec], boxes, clock)
        self._orders = Orders(clock)
        plan = HostPlan((robot,), (leader,), HostConfig(park_speed=3.0, countdown_s=0.1))
        host = Host(self._orders, plan, boxes, clock, clock.thread)  # type: ignore[arg-type]
        session = clock.thread(target=self._session, name="session")
        session.start()
        host.run()
        self._is_over = True

    def _config(self, folder: Path) -> RobotConfig:
        calibration = calibrate(folder, self._buses, self._set_register)
        plan = CameraPlan(self._world.kind, "cube", (), 24, 32, 25.0, False, folder, None)
        return robot_config(plan, self._ports.names, {}, "fingers", None, 0.2, calibration)

    def _set_register(self, bus: str, servo: int, name: str, value: int) -> None:
        self._buses[bus].set_register(servo, name, value)

    def _hosted(self, config: RobotConfig, kind: Kind) -> HostedDriver:
        device = config.lerobot if kind == "robot" else config.lerobot_leader
        assert isinstance(device, LeRobotConfig)
        program = ProgramHere(self._clock)
        program.start()
        answer, _ = program.ask("describe", timeout_s=10.0, **device_request(kind, device))
        found = LeRobotDevice.from_json(answer["device"], RATE_HZ)
        if kind == "robot":
            limits = device_limits(found, {})
            assert limits is not None
            self._limits = limits
        names = found.spec.action_names
        rest = np.array([config.rest[name] for name in names]) if kind == "robot" else None
        return HostedDriver(
            device.type,
            lambda: LeRobotDriver(program, kind, device, RATE_HZ),
            found.driver_spec,
            rest,
            reopens=kind == "leader" or found.keeps_torque,
        )

    # ------------------------------------------------------------------ a person's session

    def _session(self) -> None:
        """Lead, meet the fault, go on, park and release; runs as a thread of the clock."""
        try:
            self._lead()
        except Exception as error:
            self.fail_with(error)
        finally:
            self._orders.parent_is_gone = True

    def _lead(self) -> None:
        clock, trial = self._clock, self.trial
        while not self._orders.is_ready:
            clock.wait_until(clock.now_s() + 0.01)
        self._orders.ask("enable")
        rows = swing(self._seed, len(self._robot.spec.action_names))
        self._world.hand(rows, 50.0)
        clock.wait_until(clock.now_s() + 0.1)
        self._is_watching = True
        clock.call_at(clock.now_s() + self._fault.start_s, self._begin_fault)
        self._control(RUN_S)
        self.judge()
        self._go_on(AGAIN_S)
        self._is_watching = False
        trial.parked = self._parked()
        missing = self._orders.ask("release", True)
        self._check_limp(missing)

    def _enable(self) -> None:
        self._orders.ask("enable")

    def _park(self) -> None:
        self._orders.ask("park")

    # ------------------------------------------------------------------ what is really so

    def _step(self) -> None:
        """Move everything on, and look at it."""
        if self._is_over:
            return
        now_s = self._clock.now_s()
        self._world.advance(now_s)
        self._ports.watch()
        shown = {
            name: np.array([one.position + _TURN * one.extra_turns for one in bus.servos])
            for name, bus in self._buses.items()
        }
        self._past.append((now_s, shown))
        if self._is_watching:
            try:
                self._watch(now_s)
            except Exception as error:
                self.fail_with(error)
                self._is_watching = False
        self._clock.call_at(now_s + STEP_S, self._step)

    def _watch(self, now_s: float) -> None:
        found: set[Evidence] = set()
        for role, boxes in self._boxes.items():
            mail = boxes.state.read()
            assert mail is not None  # the host is ready after the first reading
            if mail.sequence != self._sequences.get(role):
                self._sequences[role] = mail.sequence
                self._check_fresh(role, mail.values, *map(float, mail.times[:2]))
            if now_s - float(mail.times[1]) > READ_TICKS / RATE_HZ:
                found.add(Evidence("read", role))
        for name, bus in self._buses.items():
            if name.startswith("follower"):
                found |= self._servo_evidence(name, bus)
        self.note(found)

    def _check_fresh(
        self, role: str, values: NDArray[np.float64], begin_s: float, end_s: float
    ) -> None:
        """Check that a reading has positions that the servos had during the read."""
        buses = [name for name in self._buses if name.startswith(role)]
        rows = [
            np.concatenate([shown[name] for name in buses])
            for at_s, shown in self._past
            if begin_s - 2 * STEP_S <= at_s <= end_s + 2 * STEP_S
        ]
        if not rows:
            return
        low, high = np.min(rows, axis=0) - OFF_TICKS, np.max(rows, axis=0) + OFF_TICKS
        for joint, value in enumerate(values):
            shown = shown_as(joint, np.array([low[joint], high[joint]]), self._unit(joint))
            a_tick = float(
                np.diff(shown_as(joint, np.array([2048.0, 2049.0]), self._unit(joint)))[0]
            )
            off = max(shown[0] - value, value - shown[1]) / a_tick
            if off > OFF_TICKS:
                self.trial.failures.append(
                    f"joint {joint} of {role} was read {off:.0f} ticks from where it was during "
                    f"the read of {end_s - begin_s:.3f} s"
                )

    def _unit(self, joint: int) -> str:
        return self._robot.spec.state_units[joint]

    def _servo_evidence(self, name: str, bus: ServoBus) -> set[Evidence]:
        found: set[Evidence] = set()
        first = 6 if name.endswith("right") else 0
        for index, servo in enumerate(bus.servos):
            where = f"{name} {servo.model.name}"
            if servo.errors() or servo.forced_error_bits:
                found.add(Evidence("error", where))
            if not servo.has_torque:
                found.add(Evidence("torque", where))
            if servo.temperature_c >= HealthBounds().temperature_c:
                found.add(Evidence("heat", where))
            if index < 5 and self._commands:
                last = [
                    row[first + index]
                    for row in self._commands[-round(FollowingBounds().lag_s * RATE_HZ) :]
                ]
                unit = self._unit(index)
                at = float(shown_as(index, np.array(servo.position), unit))
                bound = FollowingBounds().lags[unit]
                if not min(last) - bound <= at <= max(last) + bound:
                    found.add(Evidence("lag", where))
        return found


def shown_as(joint: int, ticks: NDArray[np.float64], unit: str) -> NDArray[np.float64]:
    """Return what LeRobot shows of positions in ticks: degrees from the middle, or % of the range.

    Args:
        joint: number of the joint; the fifth of an arm has a whole turn, and the last is a gripper.
        ticks: positions.
        unit: of the joint.
    """
    if unit == "deg":
        return (ticks - MIDDLE_TICK) * 360 / (_TURN - 1)
    low, high = (0.0, _TURN - 1) if joint % 6 == 4 else (MIDDLE_TICK - REACH, MIDDLE_TICK + REACH)
    share = np.clip((ticks - low) / (high - low), 0, 1)
    return share * 100 if joint % 6 == 5 else share * 200 - 100


def _wired(setup: BusSetup) -> ServoBus:
    """Return the bus of a setup, whose bytes take their time."""
    return ServoBus(setup.protocol, setup.servos, faults=setup.faults, joints=setup.joints)


def swing(seed: int, joints: int) -> NDArray[np.float64]:
    """Return a motion of the leaders about the middle of their joints, (T, joints) rad."""
    rng = np.random.default_rng([seed, 1])
    time_s = np.arange(0, 2 * RUN_S + 2.0, 1 / 50.0)[:, None]
    size = rng.uniform(0.7, 1.0, joints) * rng.choice([-1.0, 1.0], joints)
    rate_hz = rng.uniform(0.35, 0.55, joints)
    return size * (1 - np.cos(2 * math.pi * rate_hz * time_s)) / 2
