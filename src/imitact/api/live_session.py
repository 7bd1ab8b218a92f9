"""Live session: a robot session on the wall clock, with a process for each of its parts.

The process that dies is named, and the robot is parked and released.
"""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Sequence
from multiprocessing import connection

from imitact.api.robot_session import (
    OnLine,
    OnPoll,
    Recorder,
    RobotSession,
    SessionPlan,
)
from imitact.control.async_inference import PolicyProcess
from imitact.control.conductor import Conductor, ConductorPlan
from imitact.control.run_log import RunLog
from imitact.core.errors import RobotError
from imitact.parallel.child_process import ProcessOwner
from imitact.parallel.signals import ENDING, handled
from imitact.recording.session_process import RecorderProcess
from imitact.recording.tick_record import RecordReader
from imitact.robots.setup import HostSetup, RobotSetup

POLL_S = 0.02
"""Time between two looks at the processes and the records, s."""

_ENDED = re.compile(r"phase (\d+) has ended: (.*)")


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
            self.on_line(
                f"not released: {', '.join(missing)}. It may still hold; support the arm and cut "
                "its power"
            )
        elif self._is_engaged and not self._plan.is_shadow:
            self.on_line("the robot is released")

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

    def _owners(self) -> list[ProcessOwner]:
        """Return the processes that the command itself owns; the setup has the others."""
        found: list[ProcessOwner] = [self._conductor]
        if self._policy is not None:
            found.append(self._policy)
        if isinstance(self.recorder, RecorderProcess):
            found.append(self.recorder)
        return found

    def _sentinels(self) -> list[int]:
        return [*(one.sentinel for one in self._owners()), *self.setup.sentinels.values()]

    def _deaths(self) -> list[str]:
        """Return how processes ended; pass on what is wrong with cameras."""
        died = [one.death() for one in self._owners()]
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


def _no_frame(camera: str, sequence: int) -> None:
    """The process of the recorder reads the frames for itself."""
