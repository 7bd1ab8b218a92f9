"""Recorded robot and leader: an episode of a dataset in the place of hardware.

The robot measures what was recorded and follows no command; the leader gives the recorded actions.
Both go by the clock, wall or virtual, from the moment `begin` names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from imitact.core.clock import Clock
from imitact.core.errors import RobotError
from imitact.core.robot import Reading, SentCommand, ServoHealth, SpecLeader, TimedFrame
from imitact.core.types import Episode, FloatArray, Frame, Spec
from imitact.parallel.mailbox import Mailbox
from imitact.robots.timed_frames import LazyTimedFrame

ROUNDING_S = 1e-6
"""How much before its time a row counts, s, so that rounding never makes it a tick late."""


class RecordedRobot:
    """An episode as a robot: it measures its rows and ignores commands.

    The first row stands before `begin`, and the last one after the end.
    """

    def __init__(
        self,
        episode: Episode,
        spec: Spec,
        clock: Clock,
        *,
        state_latency_s: float = 0.0,
        frame_latency_s: float = 0.0,
    ) -> None:
        """Begin now.

        Args:
            episode: what was recorded; its frames are decoded where they are looked at.
            spec: of the dataset.
            clock: the time of the robot.
            state_latency_s: time from a measurement to its reading, s.
            frame_latency_s: time from the capture of a frame to its reading, s.
        """
        self._episode, self._spec, self._clock = episode, spec, clock
        self._state = np.asarray(episode.state, np.float64)
        self._latency_s = (state_latency_s, frame_latency_s)
        self._frames: dict[str, tuple[int, Iterator[Frame]]] = {}  # next row to decode
        self._sent: SentCommand | None = None
        self.begin(clock.now_s())

    @property
    def spec(self) -> Spec:
        return self._spec

    @property
    def has_ended(self) -> bool:
        """Whether the last row has been measured."""
        return self._row(0.0)[0] >= len(self._state)

    def begin(self, at_s: float) -> None:
        """Measure the first row at `at_s`."""
        self._begin_s = at_s
        self._first_row = self._row(max(self._latency_s))[0]

    def reading(self) -> Reading | None:
        count, time_s = self._row(self._latency_s[0])
        row = min(max(count, 0), len(self._state) - 1)
        return Reading(self._state[row].copy(), time_s, time_s, self._sequence(count))

    def frame(self, camera: str) -> TimedFrame | None:
        self._spec.camera(camera)
        count, time_s = self._row(self._latency_s[1])
        row = min(max(count, 0), len(self._state) - 1)
        return LazyTimedFrame(lambda: self._decoded(camera, row), time_s, self._sequence(count))

    def health(self) -> Mapping[str, ServoHealth]:
        return {}

    def command(self, action: FloatArray, tick: int) -> None:
        """Take note of a command, which moves nothing."""
        self._spec.check_action(np.asarray(action), "command")
        self._sent = SentCommand(tick, np.array(action, np.float64), self._clock.now_s())

    def sent(self) -> SentCommand | None:
        return self._sent

    def fault(self) -> str:
        return "the recorded episode has ended" if self.has_ended else ""

    def _row(self, latency_s: float) -> tuple[int, float]:
        """Return the number of the newest row that can be seen, and when it was measured.

        The number goes on below 0 and beyond the end, as the robot stands still there.
        """
        elapsed_s = self._clock.now_s() - latency_s + ROUNDING_S - self._begin_s
        row = math.floor(elapsed_s * self._spec.rate_hz)
        return row, self._begin_s + row / self._spec.rate_hz

    def _sequence(self, row: int) -> int:
        return row - self._first_row + 1

    def _decoded(self, camera: str, row: int) -> Frame:
        at, frames = self._frames.get(camera, (-1, iter(())))
        if not 0 <= at <= row < at + self._spec.rate_hz:  # from there on decoding is no faster
            at, frames = row, self._episode.frames(camera, row)
        for frame in frames:
            at += 1
            if at > row:
                self._frames[camera] = (at, frames)
                return frame
        raise RobotError(f"the recorded episode has no frame {row} of camera {camera}")


class RecordedLeader(SpecLeader):
    """The actions of an episode as a leader, which is engaged from its first row to its last.

    The process that begins it may be another than the one that reads it: on the wall clock the
    control loop reads, and the command begins each episode.
    """

    def __init__(self, episode: Episode, spec: Spec, clock: Clock) -> None:
        """Begin now."""
        super().__init__(spec)
        self._clock = clock
        self._action = np.asarray(episode.action, np.float64)
        self._begins = Mailbox.create((1,))
        self._newest_s = 0.0
        self.begin(clock.now_s())

    def begin(self, at_s: float) -> None:
        """Give the first row at `at_s`."""
        self._begins.post(np.array([at_s]))

    @property
    def _begin_s(self) -> float:
        if (mail := self._begins.read()) is not None:
            self._newest_s = float(mail.values[0])
        return self._newest_s

    def reading(self) -> Reading | None:
        begin_s = self._begin_s
        row = math.floor((self._clock.now_s() + ROUNDING_S - begin_s) * self._spec.rate_hz)
        kept = min(max(row, 0), len(self._action) - 1)
        time_s = begin_s + row / self._spec.rate_hz
        return Reading(self._action[kept].copy(), time_s, time_s, max(1, row + 1), row == kept)

    def fault(self) -> str:
        ended_s = self._begin_s + len(self._action) / self._spec.rate_hz
        return "the recorded episode has ended" if self._clock.now_s() >= ended_s else ""
