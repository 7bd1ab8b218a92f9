"""Robot session: a robot, its control loop, policy and recorder, started, watched, ended together.

The phases of a session, such as a ramp and a policy, run one after the other. On the wall clock
each part is a process of its own, and the one that dies is named; on a virtual clock everything
runs in this process, as fast as it goes, and twice the same.
"""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any

from imitact.control.ages import AgeBounds
from imitact.control.async_inference import PolicyProcess
from imitact.control.conductor import Conductor, ConductorPlan
from imitact.control.contract import Controls, Safety, Source
from imitact.control.control_loop import CONTROLS_S, ControlLoop
from imitact.control.parking import first_command
from imitact.control.run_log import RunLog
from imitact.control.run_statistics import RunStatistics
from imitact.control.safety_filter import Stage
from imitact.core.errors import RobotError
from imitact.core.hold import Hold
from imitact.core.robot import Robot
from imitact.core.words import counted
from imitact.parallel.signals import ENDING, handled
from imitact.recording.camera_track import FrameAt
from imitact.recording.session import RecordingSession, TooShort
from imitact.recording.session_process import RecorderProcess
from imitact.recording.tick_record import RecordReader, TickRecord
from imitact.robots.emulation.virtual_aloha import VirtualAloha
from imitact.robots.setup import HostSetup, RobotSetup

POLL_S = 0.02
"""Time between two looks at the processes and the records, s."""

_WAITS = (Hold.NOT_ENGAGED, Hold.WAITING)
"""Holds that wait for a person, between episodes, for as long as that takes."""

_ENDED = re.compile(r"phase (\d+) has ended: (.*)")


Recorder = RecordingSession | RecorderProcess
"""Of episodes: in this process on a virtual clock, in its own on the wall clock."""


@dataclass(frozen=True)
class SessionPlan:
    """What runs in a session.

    Attributes:
        phases: sources of actions, by name.
        safety: the filter that every action passes.
        robot: that is commanded, where it is not the setup's own: one that moves nothing.
        age_bounds: how old values may be.
        is_shadow: whether nothing is sent to the robot; its torque stays as it is.
        controls_s: how old what the person wants may be, s.
    """

    phases: Mapping[str, Source]
    safety: Safety
    robot: Robot
    age_bounds: AgeBounds = field(default_factory=AgeBounds)
    is_shadow: bool = False
    controls_s: float = CONTROLS_S


OnPoll = Callable[["RobotSession"], object]
OnLine = Callable[[str], object]


class RobotSession:
    """A session; a context manager that starts it, and at the end parks and releases the robot.

    Attributes:
        setup: the robot, its leaders and its clock.
        statistics: of all ticks so far.
        phase: name of the phase that runs; empty between phases.
        stopped: whether a person stopped the robot; it holds until that is taken back.
        deadman: whether the key or pedal that engages the leader is held; None where there is none.
        recording: whether ticks go to the recorder.
        press: takes a key of the terminal that a leader uses.
        leader_words: returns what these keys do, or what the newest one did.
    """

    def __init__(
        self,
        setup: RobotSetup,
        plan: SessionPlan,
        *,
        recorder: Recorder | None = None,
        log: RunLog | None = None,
        on_poll: OnPoll = lambda session: None,
        on_line: OnLine = lambda line: None,
    ) -> None:
        """Prepare; nothing is started.

        Args:
            setup: made, not started.
            plan: what runs.
            recorder: of episodes.
            log: of all ticks.
            on_poll: called many times a second while a phase runs: it shows the session, and tells
                it what a person wants.
            on_line: receives lines of progress and faults.
        """
        self.setup, self._plan = setup, plan
        self.recorder, self._log = recorder, log
        self._on_poll, self.on_line = on_poll, on_line
        cameras = tuple(camera.name for camera in plan.robot.spec.cameras)
        self.statistics = RunStatistics(cameras)
        self.phase = ""
        self.stopped = self.recording = False
        self.deadman: bool | None = None
        self.press: Callable[[str], object] = lambda key: None
        self.leader_words: Callable[[], str] = lambda: ""
        self._finish_words: str | None = None
        self._phases: list[dict[str, Any]] = []

    def __enter__(self) -> RobotSession:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def rate_hz(self) -> float:
        return self._plan.robot.spec.rate_hz

    @property
    def robot(self) -> Robot:
        return self._plan.robot

    def has_phase(self, name: str) -> bool:
        return name in self._plan.phases

    @property
    def policy_warm_up_s(self) -> Sequence[float]:
        """How long the policy's first queries took, s."""
        return ()

    def start(self) -> None:
        """Start everything; the robot gets torque, and holds where it is."""
        raise NotImplementedError

    def run_phase(self, name: str, seconds: float | None = None) -> str:
        """Run a phase until it ends, `finish` is called, or the time is over; return why it ended.

        Raises:
            RobotError: a process died; the message names it.
        """
        raise NotImplementedError

    def finish(self, words: str = "ended by the person") -> None:
        """End the phase that runs, from `on_poll`."""
        self._finish_words = words

    def place(self, seed: int) -> None:
        """Begin an episode of a simulated world, between phases."""
        place_objects(self.setup, seed)

    def begin_episode(self) -> None:
        """Give the ticks from now on to the recorder, as a new episode."""
        if self.recorder is not None:
            self.recorder.begin()
            self.recording = True

    def keep_episode(self) -> bool:
        """Write the episode; return whether it was long enough to be kept.

        Raises:
            ImitactError: it was not written, with the cause.
        """
        self.recording = False
        try:
            if self.recorder is not None:
                self.recorder.keep()
        except TooShort as error:
            self.on_line(str(error))
            return False
        return True

    def mark_episode(self, text: str) -> None:
        """Note something about the newest tick of the episode, if one is recorded."""
        if self.recorder is not None and self.recording:
            self.recorder.mark(text)

    def drop_episode(self) -> None:
        """Forget the episode."""
        self.recording = False
        if self.recorder is not None:
            self.recorder.drop()

    def close(self) -> None:
        """Park the robot, release it and end everything; nothing happens the second time."""
        raise NotImplementedError

    def _take(self, record: TickRecord, frames: FrameAt) -> None:
        """Pass on a record.

        Raises:
            RobotError: the robot was held for too long.
        """
        self.statistics.add(record)
        if self._log is not None:
            self._log.add(record)
        if self.recording and self.recorder is not None and record.phase:
            self.recorder.add(record, frames)
        if record.should_park and self.phase and record.hold not in _WAITS:
            raise RobotError(f"held for too long ({record.words}); it is parked and released")

    @contextlib.contextmanager
    def _logged(self, number: int, name: str) -> Iterator[list[str]]:
        """Keep for the log why a phase ended: the words that its body appends, or its error."""
        words: list[str] = []
        try:
            yield words
        except BaseException as error:
            words.append(str(error) or type(error).__name__)
            raise
        finally:
            ended = words[-1] if words else ""
            self._phases.append({"number": number, "name": name, "ended": ended})

    def _end_log(self) -> None:
        if self._log is not None:
            self._log.end({**self.statistics.to_json(stage_names()), "phases": self._phases})
            self._log = None


class LiveSession(RobotSession):
    """A session on the wall clock: host, policy, control loop and recorder in their processes."""

    def __init__(
        self,
        setup: RobotSetup,
        plan: SessionPlan,
        *,
        policy: PolicyProcess | None = None,
        recorder: Recorder | None = None,
        log: RunLog | None = None,
        on_poll: OnPoll = lambda session: None,
        on_line: OnLine = lambda line: None,
    ) -> None:
        """Prepare; arguments as for `RobotSession`.

        Args:
            policy: the process of the policy that a phase queries.
        """
        super().__init__(setup, plan, recorder=recorder, log=log, on_poll=on_poll, on_line=on_line)
        self._policy = policy
        conducted = ConductorPlan(
            plan.robot,
            plan.safety,
            plan.phases,
            plan.robot.spec.rate_hz,
            plan.age_bounds,
            plan.controls_s,
        )
        self._conductor = Conductor(conducted, self._hear)
        self._reader: RecordReader | None = None
        self._ended: dict[int, str] = {}
        self._is_started = self._is_closed = self._is_engaged = False
        self._faults: dict[str, str] = {}

    @property
    def policy_warm_up_s(self) -> Sequence[float]:
        return () if self._policy is None else self._policy.warm_up_s

    def reader(self) -> RecordReader:
        """Return a reader of the records from now on, which another process may be given."""
        return self._conductor.reader()

    @property
    def processes(self) -> dict[str, int | None]:
        """The process ids, by what the process is; for tests that kill one."""
        found = {"the control loop": self._conductor.pid}
        if self._policy is not None:
            found["the policy"] = self._policy.pid
        if isinstance(self.recorder, RecorderProcess):
            found["the recorder"] = self.recorder.pid
        if isinstance(self.setup, HostSetup):
            found["the host"] = self.setup.host.pid
        return found

    def start(self) -> None:
        """Start everything; the robot gets torque, and holds where it is.

        Raises:
            RobotError: a part failed; what was started is ended, and an arm with torque parked.
        """
        self._is_started = True
        self.on_line("connecting the robot")
        self.setup.start()
        if self._policy is not None:
            self.on_line("loading the policy")
            self._policy.start()
        self._conductor.start()
        self._reader = self._conductor.reader()
        if isinstance(self.recorder, RecorderProcess):
            self.recorder.on_wait = self._say
            self.recorder.start(self._conductor.records)
        if not self._plan.is_shadow:
            self.on_line("torque on; the robot holds where it is")
            self.setup.enable()
        self._conductor.engage()
        self._is_engaged = True

    def run_phase(self, name: str, seconds: float | None = None) -> str:
        ticks = None if seconds is None else max(1, round(seconds * self.rate_hz))
        self._finish_words, self.phase = None, name
        number = self._conductor.begin(name, ticks)
        try:
            with self._logged(number, name) as words:
                while number not in self._ended:
                    self._poll()
                    if self._finish_words is not None:
                        self._conductor.finish()
                        words.append(self._finish_words)
                        self._poll()
                        return words[-1]
                words.append(self._ended[number])
                return words[-1]
        finally:
            self.phase = ""

    def place(self, seed: int) -> None:
        """Begin an episode of a simulated world, whose arms then are at their start."""
        self._conductor.disengage()
        self.setup.reset(seed)
        self.setup.enable()
        self._conductor.engage()

    def rest(self, seconds: float) -> None:
        """Let time pass between phases, watching; `finish` ends it."""
        self._finish_words = None
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s and self._finish_words is None:
            self._poll()

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        said = "the robot is being parked and released; Ctrl-C has no effect"
        with handled((signal.SIGINT, *ENDING), lambda *_: self.on_line(said)):
            self._end()

    def _end(self) -> None:
        with contextlib.ExitStack() as endings:
            endings.callback(self._end_log)
            if self.recorder is not None:
                endings.callback(self.recorder.close)
            if self._policy is not None:
                endings.callback(self._policy.close)
            endings.callback(self._end_robot)
            endings.callback(self._conductor.close)
            if self._is_engaged and not self._conductor.death():
                # A control loop that does not answer is ended all the same; the host holds then.
                with contextlib.suppress(RobotError):
                    self._conductor.disengage()
                self._read_records()

    def _end_robot(self) -> None:
        """Park and release the robot, by a host that is started again where it died."""
        if not self._is_started:
            return
        if isinstance(self.setup, HostSetup) and self._is_engaged and not self._plan.is_shadow:
            host = self.setup.host
            if host.death():
                self.on_line(f"{host.what} is started again, to park the robot")
                try:
                    host.start()
                except RobotError as error:
                    self.on_line(f"it does not start: {error}. Support the arm, and cut its power")
        missing = self.setup.close()
        if missing:
            self.on_line(f"no answer to the release of {', '.join(missing)}: it may still hold")

    def _poll(self) -> None:
        """Say what the person wants, take the records, and look after the processes.

        Raises:
            RobotError: a process died.
        """
        self._say()
        connection.wait(self._sentinels(), POLL_S)
        self._read_records()
        if died := self._deaths():
            raise RobotError("; ".join(died))
        self._on_poll(self)

    def _say(self) -> None:
        self._conductor.say(stop=self.stopped, deadman=self.deadman)

    def _sentinels(self) -> list[int]:
        found = [self._conductor.sentinel, *self.setup.sentinels.values()]
        if self._policy is not None:
            found.append(self._policy.sentinel)
        if isinstance(self.recorder, RecorderProcess):
            found.append(self.recorder.sentinel)
        return found

    def _deaths(self) -> list[str]:
        """Return how processes ended; pass on what is wrong with cameras."""
        died = [self._conductor.death()]
        if self._policy is not None:
            died.append(self._policy.death())
        if isinstance(self.recorder, RecorderProcess):
            died.append(self.recorder.death())
        found = dict(self.setup.watch())
        if isinstance(self.setup, HostSetup):
            died.append(found.pop(self.setup.host.what, ""))
        for name, words in found.items():
            if self._faults.get(name) != words:
                self.on_line(f"{name}: {words}")
        self._faults = found
        return [death for death in died if death]

    def _read_records(self) -> None:
        for record in self._reader.new() if self._reader else ():
            self._take(record, _no_frame)

    def _hear(self, line: str) -> None:
        if found := _ENDED.fullmatch(line):
            self._ended[int(found[1])] = found[2]
        else:
            self.on_line(line)


class VirtualSession(RobotSession):
    """A session on a virtual clock, in this process."""

    def __init__(
        self,
        setup: RobotSetup,
        plan: SessionPlan,
        *,
        recorder: Recorder | None = None,
        log: RunLog | None = None,
        on_poll: OnPoll = lambda session: None,
        on_line: OnLine = lambda line: None,
    ) -> None:
        super().__init__(setup, plan, recorder=recorder, log=log, on_poll=on_poll, on_line=on_line)
        self._count = 0
        self._is_closed = False
        self._error: Exception | None = None

    def start(self) -> None:
        self.setup.start()
        self.setup.enable()

    def run_phase(self, name: str, seconds: float | None = None) -> str:
        ticks = None if seconds is None else max(1, round(seconds * self.rate_hz))
        self._finish_words, self.phase = None, name
        self._count += 1
        self._loop = loop = ControlLoop(
            self.robot,
            self._plan.phases[name],
            self._plan.safety,
            self.setup.clock,
            self.rate_hz,
            self._on_tick,
            self._controls,
            age_bounds=self._plan.age_bounds,
            controls_s=self._plan.controls_s,
        )
        with self._logged(self._count, name) as words:
            outcome = loop.run(first_command(self.robot), ticks)
            self.phase = ""
            if self._error is not None:
                raise self._error
            for fault, count in outcome.faults.items():
                self.on_line(f"{fault} ({counted(count, 'time')})")
            words.append(self._finish_words or outcome.words or "the time is over")
            return words[-1]

    def _controls(self) -> Controls:
        return Controls(self.stopped, self._finish_words is not None, self.deadman)

    def _on_tick(self, record: TickRecord) -> None:
        record.phase = 0 if self._loop.is_braking else self._count
        try:
            self._take(record, lambda camera, sequence: self.robot.frame(camera))
            self._on_poll(self)
        except Exception as error:  # the loop would go on
            self._error = self._error or error
            self.finish()

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        with contextlib.ExitStack() as endings:
            endings.callback(self._end_log)
            if self.recorder is not None:
                endings.callback(self.recorder.close)
            endings.callback(self.setup.close)


def place_objects(setup: RobotSetup, seed: int) -> None:
    """Begin an episode of a simulated world; arms that went to their start pose stay there."""
    if isinstance(setup, VirtualAloha):
        setup.world.reset(seed, arms=False)
    else:
        setup.reset(seed)


def _no_frame(camera: str, sequence: int) -> None:
    """The process of the recorder reads the frames for itself."""


def stage_names() -> dict[int, str]:
    """Return the stages of the safety filter, in words."""
    named = {int(stage): stage.name.lower().replace("_", " ") for stage in Stage}
    return {-1: "filter failed", **named}
