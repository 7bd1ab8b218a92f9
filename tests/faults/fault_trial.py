"""Fault trial: what is seen while one fault happens on emulated servos, and what must hold of it.

`robot_faults` has the laws; its trials, and those of LeRobot's devices (`lerobot_faults`), share
what is here.
"""

from __future__ import annotations

import math
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.control.contract import Controls
from imitact.control.control_loop import ControlLoop
from imitact.control.engagement import Engagement
from imitact.control.parking import first_command
from imitact.control.safety_filter import SafetyFilter, Stage
from imitact.control.servo_watch import FollowingBounds
from imitact.control.sources import LeaderSource
from imitact.core.clock import Clock
from imitact.core.errors import RobotError
from imitact.core.hold import Hold
from imitact.core.joint_limits import JointLimits
from imitact.core.robot import Leader, Robot
from imitact.recording.tick_record import TickRecord
from imitact.robots.emulation.faults import Fault
from imitact.robots.emulation.world import BenchWorld

MOST_TICKS = 5
"""From the tick at which a fault could be known to the hold."""

MIDDLE_TICK = 2048.0
"""Of a servo's turn."""

STATE_TICKS = 3
"""Age of a state on which an action may pass, ticks."""


@dataclass(frozen=True)
class Evidence:
    """What is wrong and can be known, at one moment.

    Attributes:
        what: "read" where a driver's read failed; "error" where a servo's answers carry an alert or
            its register an error; "torque" where a driven servo has none; "heat"; "lag" where a
            joint is further from all commands of the last 0.3 s than the safety filter allows.
        where: bus, and servo if one.
    """

    what: str
    where: str


@dataclass
class Trial:
    """What became of one trial.

    Attributes:
        device: of `DEVICES`.
        seed: of everything random.
        kind: of the fault.
        fault: in words.
        ended: "held", "ridden out" where nothing was wrong for 5 ticks, or "no effect".
        reasons: of the holds during the run, by name.
        first_words: of the first hold.
        ticks: from the first evidence that lasted to the hold; None where there was none.
        after: "follows", or why it does not.
        parked: whether both arms got to rest.
        not_limp: joints that hear, and kept torque; must be empty.
        failures: laws that did not hold.
    """

    device: str
    seed: int
    kind: str
    fault: str
    ended: str = ""
    reasons: list[str] = field(default_factory=list)
    first_words: str = ""
    evidence: str = ""
    ticks: int | None = None
    after: str = ""
    parked: bool = False
    not_limp: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def drawn_fault(
    rng: np.random.Generator, kind: str, ids: tuple[int, ...], *, lowest_volts: float
) -> Fault:
    """Return a fault of this kind on these servos, its times and its strength drawn.

    Args:
        rng: of the trial; seeds of recorded trials rely on the order of its draws.
        kind: of `FAULT_KINDS`.
        ids: of the servos that have it; none is the whole bus.
        lowest_volts: to which a supply may sag.
    """
    start_s = float(rng.uniform(0.6, 1.2))
    shortest_s = {"stuck": 1.0, "stall": 1.0, "overheat": 0.5}.get(kind, 0.03)
    endless = 0.7 if kind in ("stuck", "stall") else 0.3
    duration_s = math.inf if rng.random() < endless else float(rng.uniform(shortest_s, 1.2))
    parameters: dict[str, float] = {}
    if kind in ("drop", "corrupt", "noise"):
        parameters["chance"] = float(rng.choice([0.2, 0.6, 1.0]))
    elif kind in ("late", "late_once"):
        parameters["late_s"] = float(rng.uniform(0.005, 0.4))
    elif kind == "jitter":
        parameters["jitter_s"] = float(rng.uniform(0.005, 0.06))
    elif kind == "overheat":
        parameters["rise_s"] = float(rng.uniform(0.1, 1.0))
    elif kind == "voltage_sag":
        parameters["volts"] = float(rng.uniform(lowest_volts, 11.0))
    elif kind == "wrap":
        parameters["turns"] = float(rng.choice([-1, 1]))
    elif kind == "stall":
        parameters["side"] = float(rng.choice([-1, 1]))
        parameters["position"] = (
            MIDDLE_TICK  # replaced by where the joint is, when the fault begins
        )
    return Fault(kind, start_s, duration_s, ids, parameters=parameters)


class FaultTrial:
    """What a trial has seen; a subclass runs it.

    The subclass sets `_robot`, `_leader` and `_limits` before `_control`.

    Attributes:
        trial: what became of it.
        rate_hz: ticks per second.
        records: of all ticks.
        fault_s: when the fault began.
    """

    _robot: Robot
    _leader: Leader
    _limits: JointLimits
    _clock: Any  # virtual, of the subclass's kind

    def __init__(
        self,
        device: str,
        seed: int,
        bus: str,
        fault: Fault,
        world: BenchWorld,
        clock: Clock,
        rate_hz: float,
    ) -> None:
        where = f"servos {', '.join(map(str, fault.ids))} of " if fault.ids else ""
        numbers = ", ".join(f"{name} {value:.3g}" for name, value in fault.parameters.items())
        words = f"{fault.kind} on {where}{bus} for {fault.duration_s:.2f} s, {numbers}"
        self.trial = Trial(device, seed, fault.kind, words.rstrip(", "))
        self.rate_hz, self.now_s = rate_hz, clock.now_s
        self._bus, self._fault, self._world, self._clock = bus, fault, world, clock
        self._buses = world.buses
        self._commands: list[NDArray[np.float64]] = []
        self.records: list[TickRecord] = []
        self.fault_s = float("inf")
        self.since: dict[Evidence, float] = {}
        self.lasted: list[tuple[float, float, Evidence]] = []

    def note(self, found: set[Evidence]) -> None:
        """Take what is wrong now."""
        now_s = self.now_s()
        for evidence in found - self.since.keys():
            self.since[evidence] = now_s
        for evidence in self.since.keys() - found:
            self.lasted.append((self.since.pop(evidence), now_s, evidence))

    def fail_with(self, error: BaseException) -> None:
        """Count what raised as a failure."""
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        self.trial.failures.append(f"{where} raised {type(error).__name__}: {error}")

    def _enable(self) -> None:
        """Turn the torque on."""
        raise NotImplementedError

    def _park(self) -> None:
        """Bring the arms to rest."""
        raise NotImplementedError

    def _is_driven(self, bus: str) -> bool:
        """Whether the servos of a bus must be limp at the end."""
        return True

    def _begin_fault(self) -> None:
        fault, settings = self._fault, dict(self._fault.parameters)
        if fault.kind == "stall":
            servo = self._buses[self._bus].truth().servos[fault.ids[0]]
            settings["position"] = servo.position
        self._world.set_fault(
            self._bus, fault.kind, duration_s=fault.duration_s, ids=fault.ids, **settings
        )
        self.fault_s = self.now_s()

    def _control(self, seconds: float) -> list[TickRecord]:
        """Let the robot follow its leader; return the records of these ticks."""
        robot, spec, rate_hz = self._robot, self._robot.spec, self.rate_hz
        engagement = Engagement(spec.action_names, spec.action_units, rate_hz)
        source = LeaderSource(self._leader, spec, engagement)
        safety = SafetyFilter(self._limits, rate_hz, spec=spec)
        records: list[TickRecord] = []
        ticks = round(seconds * rate_hz)

        def take(record: TickRecord) -> None:
            if record.tick < ticks:  # then the robot brakes
                records.append(record)
            self._commands.append(record.action.copy())

        command = first_command(robot)
        self._commands = [command] * round(FollowingBounds().lag_s * rate_hz)
        loop = ControlLoop(
            robot, source, safety, self._clock, rate_hz, take, lambda: Controls(deadman=True)
        )
        outcome = loop.run(command, ticks)
        for words in outcome.faults:
            self.trial.failures.append(f"the loop survived: {words}")
        self.records += records
        return records

    def _go_on(self, seconds: float) -> None:
        """Enable the robot again, and let it follow; or find out why it does not."""
        trial = self.trial
        try:
            if self._robot.fault() or self.records[-1].held:
                self._enable()
            last = self._control(seconds)[-1]
        except RobotError as error:
            trial.after = f"refused: {error}"
            return
        trial.after = "follows" if not last.held else last.words
        if last.held and not last.words:
            trial.failures.append("after the fault it holds without a word")

    def _parked(self) -> bool:
        try:
            self._park()
        except RobotError as error:
            if not str(error).strip():
                self.trial.failures.append("parking failed without a word")
            return False
        return True

    def _check_limp(self, missing: tuple[str, ...]) -> None:
        trial = self.trial
        for name, bus in self._buses.items():
            if not self._is_driven(name) or bus.faults.is_silent:
                continue
            for servo in bus.servos:
                baud = bus.faults.baud_rate(servo)
                hears = servo.is_listening(self.now_s()) and baud == servo.baud_rate
                if hears and servo.has_torque:
                    trial.not_limp.append(f"{name} {servo.model.name}")
        if trial.not_limp:
            said = "; ".join(missing) or "nothing was said"
            trial.failures.append(f"with torque at the end: {', '.join(trial.not_limp)} ({said})")

    def judge(self) -> None:
        """Compare the holds with what could be known."""
        trial, records, end_s = self.trial, self.records, self.now_s()
        self.lasted += [(since, end_s, evidence) for evidence, since in self.since.items()]
        spans = sorted(self.lasted, key=lambda span: span[0])
        lasting = [one for one in spans if one[1] - one[0] > MOST_TICKS / self.rate_hz]
        for begin_s, until_s, evidence in lasting:
            ticks = [r for r in records if r.start_s >= begin_s]
            held = [number for number, r in enumerate(ticks) if r.held]
            if len(ticks) <= MOST_TICKS and not held:
                continue  # the run ended before
            name = f"{evidence.what} of {evidence.where}"
            if not held or held[0] > MOST_TICKS:
                lasted = f"lasted {until_s - begin_s:.2f} s"
                came = "no hold came" if not held else f"the hold came after {held[0]} ticks"
                trial.failures.append(f"{name} {lasted}, and {came}")
            elif trial.ticks is None or held[0] > trial.ticks:
                trial.ticks, trial.evidence = held[0], evidence.what
        self._judge_records()
        holds = [r for r in records if r.held and r.start_s >= self.fault_s]
        trial.reasons = sorted({_reason(r) for r in holds})
        trial.first_words = holds[0].words if holds else ""
        trial.ended = "held" if holds else "ridden out" if spans else "no effect"

    def _judge_records(self) -> None:
        trial = self.trial
        for record in self.records:
            age_s = record.start_s - record.state_s[0]
            if not record.held and not age_s <= STATE_TICKS / self.rate_hz + 1e-9:
                trial.failures.append(f"tick {record.tick} passed on a state {age_s:.3f} s old")
            if record.held and not record.words:
                trial.failures.append(f"tick {record.tick} was held without a word")


def _reason(record: TickRecord) -> str:
    if record.hold:
        return f"hold {Hold(record.hold).name.lower()}"
    return f"stage {Stage(record.stage).name.lower()}"
