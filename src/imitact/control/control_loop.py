"""Control loop: one absolute schedule on which a robot is read, asked for, checked and commanded.

Tick k is due at start + k / rate. A loop that is late by a period or more skips the ticks that have
passed; it never runs them one after the other. It calls no driver, network, disk or policy: state,
frames, actions and commands come and go without waiting. Nothing raises: the loop holds the robot
and says why.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from imitact.control.ages import AgeBounds
from imitact.control.contract import (
    Ages,
    Asked,
    Controls,
    Hold,
    Moment,
    Safety,
    Source,
)
from imitact.core.clock import Clock
from imitact.core.errors import library_words
from imitact.core.robot import Reading, Robot, ServoHealth, TimedFrame, watchdog_s
from imitact.core.types import FloatArray
from imitact.core.words import counted
from imitact.recording.tick_record import TickRecord

BRAKE_S = 2.0
"""Longest time in which a robot brakes at the end of a run, s; a stop within usual limits takes
0.3 s."""


CONTROLS_S = 1.0
"""Time since the command posted what the person wants after which the robot is held, s: a stopped
terminal stops the robot."""


@dataclass(frozen=True)
class Outcome:
    """How a run went.

    Attributes:
        ended: "time", "source" or "controls".
        words: of the source at its end, or why it was ended.
        ticks: that were executed, those of the braking at the end included.
        skipped: ticks that were lost.
        holds: executed ticks by the reason of their hold.
        faults: errors of `on_tick` and of other code that the loop survived, with their number.
    """

    ended: str
    words: str
    ticks: int
    skipped: int
    holds: Mapping[Hold, int]
    faults: Mapping[str, int] = field(default_factory=dict)


class ControlLoop:
    """Runs a source on a robot.

    Whatever ends a run, the robot is commanded until the safety filter has braked it.

    Attributes:
        is_braking: whether the run has ended, and the robot brakes.
    """

    def __init__(
        self,
        robot: Robot,
        source: Source,
        safety: Safety,
        clock: Clock,
        rate_hz: float,
        on_tick: Callable[[TickRecord], object] = lambda record: None,
        controls: Callable[[], Controls] = Controls,
        *,
        age_bounds: AgeBounds | None = None,
        controls_s: float = CONTROLS_S,
    ) -> None:
        """Prepare a run; nothing moves before `run`.

        Args:
            robot: what is commanded.
            source: what asks for actions.
            safety: the filter that every asked action passes.
            clock: the wall clock, or a virtual one.
            rate_hz: ticks per second.
            on_tick: receives the record of each tick; it must not wait.
            controls: returns what a person wants; it must not wait.
            age_bounds: how old values may be.
            controls_s: how old the controls may be, s.
        """
        self._robot, self._source, self._safety, self._clock = robot, source, safety, clock
        self._rate_hz = rate_hz
        self._on_tick, self._controls = on_tick, controls
        self._bounds, self._controls_s = age_bounds or AgeBounds(), controls_s
        spec = robot.spec
        self._cameras = tuple(camera.name for camera in spec.cameras)
        self._none = np.full(spec.action_size, np.nan)
        self._no_state = np.full(spec.state_size, np.nan)
        self._faults: Counter[str] = Counter()
        self._should_park = self.is_braking = False

    def run(self, command: FloatArray, ticks: int | None = None) -> Outcome:
        """Run until the source ends, the controls say so, or the time is over.

        Args:
            command: (A,), the pose that the robot is commanded to now, at rest.
            ticks: duration without the braking, skipped ticks included; None has no end of its own.
        """
        self._command = np.array(command, np.float64)
        self._safety.begin(self._command)
        self._held = 0
        self._begun = self._was_stopped = self.is_braking = False
        self._faults.clear()
        holds: Counter[Hold] = Counter()
        start_s, tick, executed, skipped_all = self._clock.now_s(), 0, 0, 0
        ended, words, last = "", "", 0
        while True:
            due_s = start_s + tick / self._rate_hz
            self._clock.wait_until(due_s)
            now_s = self._clock.now_s()
            skipped = int((now_s - due_s) * self._rate_hz)
            if skipped > 0:
                tick += skipped
                due_s = start_s + tick / self._rate_hz
            skipped = max(0, skipped)
            if ticks is not None and tick >= ticks and not ended:
                ended, last = "time", tick - 1
                skipped_all += skipped - (tick - ticks)
                skipped = 0
                if self._rests():
                    break
                self.is_braking = True
            record, asked, controls = self._tick(tick, skipped, due_s, now_s)
            executed, skipped_all = executed + 1, skipped_all + skipped
            if record.hold:
                holds[record.hold] += 1
            try:
                self._on_tick(record)
            except Exception as error:
                self._note("on_tick", error)
            if not ended and controls.end:
                ended, words, last = "controls", "the run was ended", tick
            elif not ended and asked.ended:
                ended, words, last = "source", asked.words, tick
            if ended and (self._rests() or tick - last >= BRAKE_S * self._rate_hz):
                break
            self.is_braking = bool(ended)
            tick += 1
        return Outcome(ended, words, executed, skipped_all, dict(holds), dict(self._faults))

    def _tick(
        self, tick: int, skipped: int, due_s: float, now_s: float
    ) -> tuple[TickRecord, Asked, Controls]:
        """Run one tick: read, ask, check, command."""
        controls, reading, frames, hold, words = self._observe(now_s, skipped)
        if self.is_braking:
            hold, words = Hold.WAITING, "the run has ended; the robot brakes"
        moment = Moment(tick, now_s, reading, frames, self._command, self._held, controls)
        asked = self._ask(moment, hold, words)
        ages = replace(
            self._ages(now_s, reading, frames),
            leader_s=None if asked.leader_s is None else now_s - asked.leader_s,
        )
        if self._was_stopped and not controls.stop:
            self._resume()
        self._was_stopped = controls.stop
        stage, joint, held, said = self._check(asked, reading, ages)
        try:
            self._robot.command(self._command, tick)
        except Exception as error:
            said = self._note("the robot's command", error)
            asked = replace(asked, hold=asked.hold or Hold.FAILURE, words=asked.words or said)
        commanded_s = self._clock.now_s()
        self._held = self._held + 1 if held or asked.hold else 0
        record = self._record(
            tick, skipped, due_s, now_s, commanded_s, reading, frames, asked, (stage, joint, said)
        )
        return record, asked, controls

    def _observe(
        self, now_s: float, skipped: int
    ) -> tuple[Controls, Reading | None, dict[str, TimedFrame], Hold, str]:
        """Return the newest values, and why they do not allow to go on, if so."""
        controls, reading, frames = Controls(), None, {}
        try:
            controls = self._controls()
            reading = self._robot.reading()
            for camera in self._cameras:
                if (frame := self._robot.frame(camera)) is not None:
                    frames[camera] = frame
            hold, words = self._judge(now_s, skipped, controls, reading, frames)
        except Exception as error:
            hold, words = Hold.FAILURE, self._note("reading the robot", error)
        return controls, reading, frames, hold, words

    def _judge(
        self,
        now_s: float,
        skipped: int,
        controls: Controls,
        reading: Reading | None,
        frames: Mapping[str, TimedFrame],
    ) -> tuple[Hold, str]:
        """Return why the robot must be held, and its words."""
        if controls.stop:
            return Hold.STOPPED, "stopped; it goes on when the stop is taken back"
        if controls.given_s is not None:
            age_s = now_s - controls.given_s
            if not age_s <= self._controls_s:
                words = f"the command gives no sign of life since {age_s:.1f} s"
                return Hold.CONTROLS_SILENT, words
        if fault := self._robot.fault():
            return Hold.ROBOT_FAULT, fault
        if skipped > watchdog_s(self._rate_hz) * self._rate_hz:
            return (
                Hold.LOOP_LATE,
                f"{counted(skipped, 'tick')} were skipped; is the computer too busy?",
            )
        return self._bounds.too_old(self._ages(now_s, reading, frames), self._rate_hz)

    def _ages(
        self, now_s: float, reading: Reading | None, frames: Mapping[str, TimedFrame]
    ) -> Ages:
        """Return the ages of what the robot and the cameras of the source gave."""
        taken = {name: frames.get(name) for name in self._source.cameras}
        return Ages(
            None if reading is None else now_s - reading.begin_s,
            {name: now_s - f.captured_s if f else math.inf for name, f in taken.items()},
        )

    def _ask(self, moment: Moment, hold: Hold, words: str) -> Asked:
        """Return what the source asks for, or why nothing is."""
        if self.is_braking:
            return Asked(None, hold, words)
        try:
            if not self._begun:
                self._source.begin(moment)
                self._begun = True
            if hold:
                return replace(self._source.hold(moment, hold, words), action=None, hold=hold)
            asked = self._source.action(moment)
            if asked.action is None:
                return asked
            return replace(asked, action=np.asarray(asked.action, np.float64))
        except Exception as error:
            said = self._note("the source", error)
            return Asked(None, hold, words) if hold else Asked(None, Hold.FAILURE, said)

    def _check(
        self, asked: Asked, reading: Reading | None, ages: Ages
    ) -> tuple[int, str, bool, str]:
        """Set the command of this tick; return the stage, its joint, whether it holds, its words.

        A filter that fails leaves the last command as it is.
        """
        try:
            health: Mapping[str, ServoHealth] = self._robot.health()
            verdict = self._safety.check(asked.action, reading, ages, health, asked.words)
            action = np.array(verdict.action, np.float64)
            if action.shape != self._none.shape or not np.all(np.isfinite(action)):
                raise ValueError(f"it gave {action}, expected {self._none.size} finite values")
            self._command, self._should_park = action, bool(verdict.should_park)
            return int(verdict.stage), verdict.joint, verdict.held, verdict.words
        except Exception as error:
            return -1, "", True, self._note("the safety filter", error)

    def _rests(self) -> bool:
        """Return whether the commanded joints are at rest; one that is not known to move is."""
        try:
            return bool(self._safety.rests)
        except Exception as error:
            self._note("the safety filter", error)
            return True

    def _resume(self) -> None:
        """Let the safety filter go on, which may have stopped by itself."""
        try:
            self._safety.resume()
        except Exception as error:
            self._note("the safety filter", error)

    def _record(
        self,
        tick: int,
        skipped: int,
        due_s: float,
        start_s: float,
        commanded_s: float,
        reading: Reading | None,
        frames: Mapping[str, TimedFrame],
        asked: Asked,
        said: tuple[int, str, str],
    ) -> TickRecord:
        try:
            sent = self._robot.sent()
        except Exception as error:
            sent = None
            self._note("the robot's sent command", error)
        nan = float("nan")
        stage, joint, words = said
        return TickRecord(
            tick=tick,
            phase=asked.phase,
            skipped=skipped,
            due_s=due_s,
            start_s=start_s,
            state=self._no_state if reading is None else reading.values,
            state_s=(nan, nan) if reading is None else (reading.begin_s, reading.end_s),
            state_sequence=0 if reading is None else reading.sequence,
            frames_s=[frames[c].captured_s if c in frames else nan for c in self._cameras],
            frame_sequences=[frames[c].sequence if c in frames else 0 for c in self._cameras],
            asked=self._asked_values(asked),
            action=self._command,
            commanded_s=commanded_s,
            stage=stage,
            joint=joint,
            held=int(self._held > 0),
            hold=asked.hold,
            words=asked.words or words,
            should_park=int(self._should_park),
            engaged=-1 if asked.engaged is None else int(asked.engaged),
            leader_s=nan if asked.leader_s is None else asked.leader_s,
            query=int(asked.query),
            answered_tick=-1 if asked.answered_tick is None else asked.answered_tick,
            answer_s=nan if asked.answer_s is None else asked.answer_s,
            seam=nan if asked.seam is None else asked.seam,
            sent=self._none if sent is None else sent.action,
            sent_tick=-1 if sent is None else sent.tick,
            sent_s=nan if sent is None else sent.sent_s,
        )

    def _asked_values(self, asked: Asked) -> NDArray[np.float64]:
        """Return the asked action as it is recorded; NaN where it is none of A numbers."""
        if asked.action is None or asked.action.shape != self._none.shape:
            return self._none
        return np.asarray(asked.action, np.float64)

    def _note(self, what: str, error: Exception) -> str:
        """Count an error that the loop survives; return its words."""
        said = f"{what} failed: {type(error).__name__}: {library_words(error)}"
        if said in self._faults or len(self._faults) < 20:
            self._faults[said] += 1
        return said
