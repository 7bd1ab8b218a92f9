"""Conductor: the process of the control loop, which talks to all others through mailboxes.

It owns time. The command that starts it gives orders through a pipe (rare) and controls through a
mailbox (at least once a second); host, policy and recorder have mailboxes of their own. Phases are
run one after the other, such as a ramp, a policy, a ramp; between them the robot is held.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from imitact.control.ages import AgeBounds
from imitact.control.contract import Asked, Controls, Hold, Moment, Safety, Source
from imitact.control.control_loop import CONTROLS_S, ControlLoop, Outcome
from imitact.control.parking import first_command
from imitact.core.clock import WallClock
from imitact.core.errors import ImitactError, RobotError, library_words
from imitact.core.robot import Robot
from imitact.core.words import counted
from imitact.parallel.child_process import ChildProcess, ParentPipe, ProcessOwner
from imitact.parallel.mailbox import Mailbox
from imitact.parallel.realtime import ask_for_real_time
from imitact.recording.tick_record import RecordReader, TickFormat, TickRecord

START_TIMEOUT_S = 60.0
"""Time for Python and the imports on a busy computer, s."""

ORDER_TIMEOUT_S = 10.0

STATE_TIMEOUT_S = 5.0
"""Time within which the robot must give its first state, s."""


class PhasedSource:
    """One source at a time, by name, for a time; between them the robot is held."""

    def __init__(self, phases: Mapping[str, Source]) -> None:
        """Prepare; nothing runs."""
        self._phases = dict(phases)
        self._source: Source | None = None
        self._next: tuple[Source, int | None] | None = None
        self._last_tick: int | None = None
        self.number = self.count = 0
        self.ended = ""

    @property
    def cameras(self) -> tuple[str, ...]:
        source = self._next[0] if self._next else self._source
        return source.cameras if source else ()

    def select(self, name: str, ticks: int | None) -> int:
        """Begin a phase at the next tick, instead of the one that runs; return its number.

        Args:
            name: of the phase.
            ticks: after which it ends; None has no end of its own.

        Raises:
            RobotError: there is no such phase.
        """
        if name not in self._phases:
            raise RobotError(f"there is no phase {name}; there are {', '.join(self._phases)}")
        self._next = self._phases[name], ticks
        self.count += 1
        return self.count

    def finish(self) -> None:
        """End the phase that runs, or is to begin."""
        self._source = self._next = None
        self.number = 0

    def begin(self, moment: Moment) -> None:
        """Nothing: phases begin by `select`."""

    def action(self, moment: Moment) -> Asked:
        source = self._running(moment)
        if source is None:
            return Asked(None, Hold.WAITING, "nothing runs; the robot holds")
        return self._kept(source.action(moment))

    def hold(self, moment: Moment, hold: Hold, words: str) -> Asked:
        source = self._running(moment)
        if source is None:
            return Asked(None, hold, words)
        return self._kept(source.hold(moment, hold, words))

    def _running(self, moment: Moment) -> Source | None:
        if self._next is not None:
            self._source, ticks = self._next
            self._next, self.number = None, self.count
            self._last_tick = None if ticks is None else moment.tick + ticks - 1
            try:
                self._source.begin(moment)
            except Exception as error:
                self._end(f"it did not begin: {type(error).__name__}: {library_words(error)}")
                raise
        elif self._last_tick is not None and moment.tick > self._last_tick:
            self._end("the time is over")
        return self._source

    def _kept(self, asked: Asked) -> Asked:
        """Return what a phase asks for, with its number; the conductor's run goes on at its end."""
        marked = replace(asked, phase=self.number, ended=False)
        if asked.ended:
            self._end(asked.words)
        return marked

    def _end(self, words: str) -> None:
        self.ended = f"phase {self.number} has ended: {words}"
        self._last_tick = None
        self.finish()


@dataclass(frozen=True)
class ConductorPlan:
    """What a conductor conducts; given to its process.

    Attributes:
        robot: read and commanded through mailboxes.
        safety: the filter that every action passes.
        phases: sources by name.
        rate_hz: ticks per second.
        age_bounds: how old values may be.
        controls_s: how old what the person wants may be, s.
    """

    robot: Robot
    safety: Safety
    phases: Mapping[str, Source]
    rate_hz: float
    age_bounds: AgeBounds = field(default_factory=AgeBounds)
    controls_s: float = CONTROLS_S


def _post_controls(box: Mailbox, controls: Controls, now_s: float) -> None:
    deadman = -1 if controls.deadman is None else int(controls.deadman)
    box.post(np.array([controls.stop, controls.end, deadman], np.float64), now_s)


def _read_controls(box: Mailbox) -> Controls:
    mail = box.read()
    if mail is None:
        return Controls(stop=True, given_s=0.0)  # nobody has said anything yet
    stop, end, deadman = mail.values.tolist()
    return Controls(
        bool(stop), bool(end), None if deadman < 0 else bool(deadman), float(mail.times[0])
    )


class Conductor(ProcessOwner):
    """Starts, orders and watches the process of the control loop.

    Ended, it leaves the robot to its host, which holds the last command.

    Attributes:
        records: the mailbox of the packed records of all ticks.
        format: their form.
    """

    def __init__(
        self, plan: ConductorPlan, on_line: Callable[[str], object] = lambda line: None
    ) -> None:
        """Make the mailboxes; `start` starts the process."""
        self.format = TickFormat.of(plan.robot.spec)
        self.records = self.format.mailbox()
        self._controls, self._clock = Mailbox.create((3,)), WallClock()
        arguments = (plan, self._controls, self.records)
        super().__init__(ChildProcess("the control loop", conduct, arguments, on_line))

    def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start the process; nothing is commanded before `engage`.

        Raises:
            RobotError: it failed, or was not ready in time.
        """
        self._process.start(timeout_s)

    def say(self, *, stop: bool = False, end: bool = False, deadman: bool | None = None) -> None:
        """Say what the person wants; to be repeated several times a second, or the robot is held.

        Args:
            stop: hold until it is said again without.
            end: end the control of the robot, as `disengage` does.
            deadman: as in `Controls`.
        """
        _post_controls(self._controls, Controls(stop, end, deadman), self._clock.now_s())

    def engage(self) -> None:
        """Command the robot from now on, first to stay where it is. Enable its host before.

        Raises:
            RobotError: the robot gives no state.
        """
        self.say()
        self._process.ask("engage", timeout_s=STATE_TIMEOUT_S + ORDER_TIMEOUT_S)

    def begin(self, phase: str, ticks: int | None = None) -> int:
        """Begin a phase at the next tick; return its number, which its records have."""
        return self._process.ask("begin", (phase, ticks), timeout_s=ORDER_TIMEOUT_S)

    def finish(self) -> None:
        """End the phase that runs; the robot is held."""
        self._process.ask("finish", timeout_s=ORDER_TIMEOUT_S)

    def disengage(self) -> None:
        """Command nothing any more; the robot's host holds it, and may park it."""
        self._process.ask("disengage", timeout_s=ORDER_TIMEOUT_S)

    def reader(self) -> RecordReader:
        """Return a reader of the records from now on."""
        return RecordReader(self.records, self.format)


def conduct(parent: ParentPipe, plan: ConductorPlan, controls: Mailbox, records: Mailbox) -> None:
    """Run the control loop by the orders of the parent, until it has gone."""
    _Conducting(parent, plan, controls, records).run()


class _Conducting:
    """The process's side."""

    def __init__(
        self, parent: ParentPipe, plan: ConductorPlan, controls: Mailbox, records: Mailbox
    ) -> None:
        self._parent, self._plan = parent, plan
        self._controls, self._records = controls, records
        self._format = TickFormat.of(plan.robot.spec)
        self._source = PhasedSource(plan.phases)
        self._clock = WallClock()
        self._is_over = False
        self._leaving: int | None = None  # the order that ended the loop, to be answered

    def run(self) -> None:
        ask_for_real_time()
        gc.collect()
        gc.freeze()  # collections look at what the ticks allocate only
        self._parent.ready()
        while not self._parent.parent_is_gone:
            order = self._parent.next_order(0.05)
            if order is None:
                continue
            number, name, _ = order
            if name != "engage":
                done = name in ("finish", "disengage")
                why = "the control of the robot has not begun; engage it first"
                self._parent.answer(number, done, None if done else why)
                continue
            try:
                command = self._present_command()
                self._plan.safety.begin(command)  # what it refuses is refused before the loop
            except ImitactError as error:
                self._parent.answer(number, False, library_words(error))
                continue
            self._parent.answer(number, True, None)
            self._control(command)

    def _present_command(self) -> np.ndarray:
        deadline_s = self._clock.now_s() + STATE_TIMEOUT_S
        while self._plan.robot.reading() is None and self._clock.now_s() < deadline_s:
            time.sleep(0.01)
        return first_command(self._plan.robot)

    def _control(self, command: np.ndarray) -> None:
        self._is_over = False
        loop = ControlLoop(
            self._plan.robot,
            self._source,
            self._plan.safety,
            self._clock,
            self._plan.rate_hz,
            self._on_tick,
            self._newest_controls,
            age_bounds=self._plan.age_bounds,
            controls_s=self._plan.controls_s,
        )
        outcome = loop.run(command)
        self._source.finish()
        self._parent.line(_summary(outcome))
        if self._leaving is not None:
            self._parent.answer(self._leaving, True, None)
            self._leaving = None

    def _newest_controls(self) -> Controls:
        controls = _read_controls(self._controls)
        return replace(controls, end=True) if self._is_over else controls

    def _on_tick(self, record: TickRecord) -> None:
        self._records.post(self._format.pack(record), record.due_s)
        if self._source.ended:
            self._parent.line(self._source.ended)
            self._source.ended = ""
        self._take_order()
        if self._parent.parent_is_gone:
            self._is_over = True

    def _take_order(self) -> None:
        order = self._parent.next_order(0.0)
        if order is None:
            return
        number, name, argument = order
        try:
            value = None
            if name == "begin":
                value = self._source.select(*argument)
            elif name == "finish":
                self._source.finish()
            elif name == "disengage":
                self._is_over, self._leaving = True, number
                return
            else:
                raise RobotError(f"the robot is controlled already; {name} has no effect")
            self._parent.answer(number, True, value)
        except ImitactError as error:
            self._parent.answer(number, False, library_words(error))


def _summary(outcome: Outcome) -> str:
    """Return an outcome as a line for people."""
    holds = ", ".join(f"{hold.name.lower()} {n}" for hold, n in outcome.holds.items())
    faults = "; ".join(f"{words} ({counted(n, 'time')})" for words, n in outcome.faults.items())
    return (
        f"{counted(outcome.ticks, 'tick')}, {outcome.skipped} skipped; held at: {holds or 'none'}"
        + (f"; {faults}" if faults else "")
    )
