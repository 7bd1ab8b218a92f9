"""Simulated robot: an env as a robot, on a virtual clock or in real time in a host process.

The world begins with the first command and then takes one step a period with the newest one, as an
evaluation does: the state that a tick sees is the result of the commands of all ticks before.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imitact.core.clock import Clock, VirtualClock, WallClock
from imitact.core.errors import ImitactError, library_words
from imitact.core.robot import Reading, SentCommand, ServoHealth, TimedFrame, watchdog_s
from imitact.core.types import Env, FloatArray, Frame, Observation, Spec, StepResult
from imitact.parallel.mailbox import Mailbox
from imitact.robots.timed_frames import LazyTimedFrame

EARLY_S = 1e-6
"""How much before a tick the world takes its step, s, so that rounding never makes it too late."""

CAMERA_RATE_HZ = 30.0
"""Frames per second of a simulated camera in real time; rendering takes time from the physics."""


MOST_STEPS = 10
"""Steps that a world in real time makes up for at once; a longer delay lets it stand still."""


@dataclass(frozen=True)
class Outcome:
    """What has become of an episode so far.

    Attributes:
        seed: of the episode.
        ticks: steps that the world has taken.
        reward: of the newest step.
        highest_reward: of any step.
        success: whether the task's own criterion has held at a step.
        ended: whether the env has ended the episode; the world stands still from then on.
    """

    seed: int
    ticks: int = 0
    reward: float = 0.0
    highest_reward: float = 0.0
    success: bool = False
    ended: bool = False

    def after(self, result: StepResult) -> Outcome:
        """Return the outcome after one more step."""
        return Outcome(
            self.seed,
            self.ticks + 1,
            result.reward,
            max(self.highest_reward, result.reward),
            self.success or result.success,
            result.terminated or result.truncated,
        )


@dataclass(frozen=True)
class _Moment:
    """What the robot measured at one time."""

    time_s: float
    sequence: int
    observation: Observation


class SimulatedRobot:
    """An env as a robot on a virtual clock: a run is a function of its seeds alone.

    Before the first command the world stands still, and its readings stay new. Frames are rendered
    where they are looked at; with a frame latency every one is.
    """

    def __init__(
        self,
        env: Env,
        clock: VirtualClock,
        *,
        seed: int = 0,
        state_latency_s: float = 0.0,
        frame_latency_s: float = 0.0,
    ) -> None:
        """Begin an episode.

        Args:
            env: the world; `close` closes it.
            clock: runs the world's steps.
            seed: of the episode.
            state_latency_s: time from a measurement to its reading, s.
            frame_latency_s: time from the capture of a frame to its reading, s.
        """
        self._env, self._clock = env, clock
        self._state_latency_s, self._frame_latency_s = state_latency_s, frame_latency_s
        self._watchdog_s = watchdog_s(env.spec.rate_hz)
        self._schedule = 0  # number of the schedule whose events count
        self._sequence = 0
        self.error: Exception | None = None
        self.reset(seed)

    @property
    def spec(self) -> Spec:
        return self._env.spec

    @property
    def outcome(self) -> Outcome:
        """What has become of the episode so far."""
        return self._outcome

    def reset(self, seed: int) -> None:
        """Begin another episode; its world waits for its first command."""
        self._action: NDArray[np.float64] | None = None
        self._command_s = self._clock.now_s()
        self._sent: SentCommand | None = None
        self._refused = ""
        self.error = None
        self._outcome = Outcome(seed)
        self._observation = self._env.reset(seed)
        self._moments: deque[_Moment] = deque()
        self._measure()
        self._begin_schedule()

    def reading(self) -> Reading | None:
        moment = self._seen(self._state_latency_s)
        if moment is None:
            return None
        state = np.asarray(moment.observation.state, np.float64)
        return Reading(state.copy(), moment.time_s, moment.time_s, moment.sequence)

    def frame(self, camera: str) -> TimedFrame | None:
        self.spec.camera(camera)
        moment = self._seen(self._frame_latency_s)
        if moment is None:
            return None
        frames = moment.observation.frames

        def read() -> Frame:
            return np.asarray(frames[camera])

        return LazyTimedFrame(read, moment.time_s, moment.sequence)

    def health(self) -> Mapping[str, ServoHealth]:
        return {}

    def command(self, action: FloatArray, tick: int) -> None:
        values = np.array(action, np.float64)
        self._refused = ""
        if values.shape != (self.spec.action_size,) or not np.all(np.isfinite(values)):
            self._refused = "the newest command is not finite or of another size; it holds"
            return
        is_first = self._action is None
        self._action, self._command_s = values, self._clock.now_s()
        self._sent = SentCommand(tick, values.copy(), self._command_s)
        if is_first:
            self._begin_schedule()

    def sent(self) -> SentCommand | None:
        return self._sent

    def fault(self) -> str:
        if self.error is not None:
            return f"the environment failed: {_words(self.error)}"
        if self._outcome.ended:
            return "the environment has ended the episode"
        if self._refused:
            return self._refused
        if self._action is not None and self._clock.now_s() - self._command_s > self._watchdog_s:
            return f"no new command since {self._watchdog_s:g} s; it holds"
        return ""

    def close(self) -> None:
        """End the world."""
        self._schedule += 1
        self._env.close()

    def _begin_schedule(self) -> None:
        self._schedule += 1
        self._start_s, self._count = self._clock.now_s(), 0
        self._await_next(self._schedule)

    def _await_next(self, schedule: int) -> None:
        self._count += 1
        due_s = self._start_s + self._count / self.spec.rate_hz - EARLY_S
        self._clock.call_at(due_s, lambda: self._step(schedule))

    def _step(self, schedule: int) -> None:
        if schedule != self._schedule:
            return
        if self._action is not None and not self._outcome.ended and self.error is None:
            try:
                result = self._env.step(self._action)
            except Exception as error:  # an env of the user's own raises anything
                self.error = error
            else:
                self._observation, self._outcome = result.observation, self._outcome.after(result)
        self._measure()
        self._await_next(schedule)

    def _measure(self) -> None:
        """Keep what is measured now, and forget what nobody can see any more."""
        now_s = self._clock.now_s()
        self._sequence += 1
        if self._frame_latency_s > 0:  # a frame can only be rendered before the next step
            for camera in self.spec.cameras:
                self._observation.frames[camera.name]
        self._moments.append(_Moment(now_s, self._sequence, self._observation))
        latency_s = max(self._state_latency_s, self._frame_latency_s)
        while len(self._moments) > 1 and self._moments[1].time_s <= now_s - latency_s:
            self._moments.popleft()

    def _seen(self, latency_s: float) -> _Moment | None:
        newest_s = self._clock.now_s() - latency_s + EARLY_S / 2
        return next((m for m in reversed(self._moments) if m.time_s <= newest_s), None)


@dataclass(frozen=True)
class WorldBoxes:
    """Mailboxes between a simulated world in a host process and the process that started it.

    Attributes:
        frames: by camera, (H, W, 3); the time is that of the capture.
        outcome: (6,), the fields of `Outcome`.
        reset: (1,), the seed of the episode to begin.
    """

    frames: Mapping[str, Mailbox]
    outcome: Mailbox
    reset: Mailbox

    def read_outcome(self) -> Outcome | None:
        """Return the newest outcome; None before the first."""
        mail = self.outcome.read()
        if mail is None:
            return None
        seed, ticks, reward, highest, success, ended = mail.values.tolist()
        return Outcome(int(seed), int(ticks), reward, highest, bool(success), bool(ended))

    def post_outcome(self, outcome: Outcome) -> None:
        self.outcome.post(np.array([float(value) for value in vars(outcome).values()]))


class SimulatedDriver:
    """An env as the driver of a host process; a write lets the world go on to the present.

    The host writes once a period: the newest command, or the last one again. Where it is late,
    because frames take long to render, the world takes the steps that are due with that command, so
    that it goes with the wall clock.
    """

    def __init__(
        self,
        make: Callable[[], Env],
        boxes: WorldBoxes,
        seed: int = 0,
        camera_rate_hz: float = CAMERA_RATE_HZ,
        clock: Clock | None = None,
    ) -> None:
        """Make the env.

        Args:
            make: makes it.
            boxes: for frames, outcome and resets.
            seed: of the first episode.
            camera_rate_hz: most frames per second of each camera.
            clock: that the world goes with.
        """
        self._env, self._boxes, self._seed = make(), boxes, seed
        self._clock, self._frame_period_s = clock or WallClock(), 1 / camera_rate_hz
        self._frame_s = -math.inf
        self._begin_s: float | None = None  # when the world began to go, as if it never stood still
        self._resets = 0

    @property
    def spec(self) -> Spec:
        return self._env.spec

    @property
    def outcome(self) -> Outcome:
        """What has become of the episode so far."""
        return self._outcome

    def connect(self) -> None:
        self._reset(self._seed)

    def enable(self) -> None:
        """Nothing: a simulated arm has no torque to turn on."""

    def read(self) -> FloatArray:
        request = self._boxes.reset.read()
        if request is not None and request.sequence != self._resets:
            self._resets = request.sequence
            self._reset(int(request.values[0]))
        return np.asarray(self._observation.state, np.float64)

    def write(self, action: FloatArray) -> FloatArray:
        for _ in range(self._due_steps()):
            if self._outcome.ended:
                break
            result = self._env.step(action)
            self._observation, self._outcome = result.observation, self._outcome.after(result)
        self._boxes.post_outcome(self._outcome)
        return action

    def _due_steps(self) -> int:
        """Return how many steps are due; one where the world begins, stood still, or lags far."""
        rate_hz, now_s, ticks = self.spec.rate_hz, self._clock.now_s(), self._outcome.ticks
        if self._begin_s is not None:
            due = round((now_s - self._begin_s) * rate_hz) - ticks
            if 0 <= due <= MOST_STEPS:
                return due
        self._begin_s = now_s - (ticks + 1) / rate_hz
        return 1

    def check_next(self) -> tuple[str, ServoHealth]:
        """Render the cameras where their time has come, after the period's read and write."""
        now_s = self._clock.now_s()
        if now_s - self._frame_s >= self._frame_period_s:
            self._frame_s = now_s
            for camera, box in self._boxes.frames.items():
                box.post(self._observation.frames[camera], now_s)
        return self.spec.state_names[0], ServoHealth(now_s)

    def release(self) -> tuple[str, ...]:
        return ()

    def close(self) -> None:
        self._env.close()

    def _reset(self, seed: int) -> None:
        self._observation, self._outcome = self._env.reset(seed), Outcome(seed)
        self._frame_s, self._begin_s = -math.inf, None
        self._boxes.post_outcome(self._outcome)


def _words(error: Exception) -> str:
    text = library_words(error)
    return text if isinstance(error, ImitactError) else f"{type(error).__name__}: {text}"
