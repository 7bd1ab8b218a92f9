"""Robot session: a robot, its control loop, policy and recorder, started, watched, ended together.

The phases of a session, such as a ramp and a policy, run one after the other. On the wall clock
each part is a process of its own, and the one that dies is named; on a virtual clock everything
runs in this process, as fast as it goes, and twice the same.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from imitact.control.ages import AgeBounds
from imitact.control.contract import Safety, Source
from imitact.control.control_loop import CONTROLS_S
from imitact.control.run_log import RunLog
from imitact.control.run_statistics import RunStatistics
from imitact.control.safety_filter import Stage
from imitact.core.errors import RobotError
from imitact.core.hold import Hold
from imitact.core.robot import Robot
from imitact.parallel.signals import ENDING, StopFlag
from imitact.recording.camera_track import FrameAt
from imitact.recording.session import RecordingSession, TooShort
from imitact.recording.session_process import RecorderProcess
from imitact.recording.tick_record import TickRecord
from imitact.robots.emulation.virtual_aloha import VirtualAloha
from imitact.robots.setup import RobotSetup

_WAITS = (Hold.NOT_ENGAGED, Hold.WAITING)
"""Holds that wait for a person, between episodes, for as long as that takes."""


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

    def go_to_start(self, seed: int | None = None) -> None:
        """Move the arms to their start pose, if the plan has a phase for it.

        Args:
            seed: of a simulated world, whose objects are placed first: a gripper that still holds
                the object of the episode before would not close. None leaves that to a person.
        """
        if self.has_phase("start"):
            if seed is not None:
                self.place(seed)
            else:
                self.on_line("the arms go to their start: take out what a gripper holds")
            self.run_phase("start")

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

        In this process Ctrl-C waits until it is written, as it does with a recorder in its own; a
        second one does not.

        Raises:
            ImitactError: it was not written, with the cause.
        """
        self.recording = False
        here = isinstance(self.recorder, RecordingSession)
        try:
            with StopFlag(signal.SIGINT, *ENDING) if here else contextlib.nullcontext() as stop:
                if self.recorder is not None:
                    self.recorder.keep()
        except TooShort as error:
            self.on_line(str(error))
            return False
        if stop is not None:
            stop.check()
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
            raise RobotError(f"the robot was held for too long ({record.words}); the run has ended")

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


def place_objects(setup: RobotSetup, seed: int) -> None:
    """Begin an episode of a simulated world; arms that went to their start pose stay there."""
    if isinstance(setup, VirtualAloha):
        setup.world.reset(seed, arms=False)
    else:
        setup.reset(seed)


def stage_names() -> dict[int, str]:
    """Return the stages of the safety filter, in words."""
    named = {int(stage): stage.name.lower().replace("_", " ") for stage in Stage}
    return {-1: "filter failed", **named}
