"""Stand-ins for the tests of the control loop: a robot that obeys at once, a filter that passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from imitact.control.contract import Ages, Asked, Controls, Hold, Moment
from imitact.core.aloha_joints import ALOHA_JOINTS, ALOHA_UNITS
from imitact.core.clock import Clock, VirtualClock
from imitact.core.robot import Reading, SentCommand, ServoHealth, TimedFrame
from imitact.core.types import Camera, FloatArray, Observation, Spec

RATE_HZ = 50.0
SPEC = Spec(ALOHA_JOINTS, ALOHA_JOINTS, ALOHA_UNITS, ALOHA_UNITS, (Camera("top", 4, 6),), RATE_HZ)
ARM = Spec(("waist", "elbow"), ("waist", "elbow"), ("rad", "rad"), ("rad", "rad"), (), RATE_HZ)


class ObedientRobot:
    """Its joints are where they are commanded; `age_s`, `silent` and `broken` are set by tests."""

    def __init__(self, clock: Clock, spec: Spec = ARM) -> None:
        self.clock, self.spec = clock, spec
        self.state = np.zeros(spec.state_size)
        self.age_s = self.picture_age_s = 0.0
        self.silent: str | None = None  # a fault
        self.broken: set[str] = set()  # methods that raise
        self.commands: list[tuple[int, NDArray[np.float64]]] = []
        self.pictures = True

    def _check(self, method: str) -> None:
        if method in self.broken:
            raise RuntimeError(f"{method} is broken")

    def reading(self) -> Reading | None:
        self._check("reading")
        if np.isinf(self.age_s):
            return None
        now_s = self.clock.now_s() - self.age_s
        return Reading(self.state.copy(), now_s, now_s, max(1, len(self.commands)))

    def frame(self, camera: str) -> TimedFrame | None:
        self._check("frame")
        if not self.pictures:
            return None
        size = self.spec.camera(camera)
        frame = np.zeros((size.height, size.width, 3), np.uint8)
        return TimedFrame(frame, self.clock.now_s() - self.picture_age_s, 1)

    def health(self) -> Mapping[str, ServoHealth]:
        self._check("health")
        return {}

    def command(self, action: FloatArray, tick: int) -> None:
        self._check("command")
        self.commands.append((tick, np.array(action, np.float64)))
        self.state = np.array(action, np.float64)

    def sent(self) -> SentCommand | None:
        self._check("sent")
        if not self.commands:
            return None
        tick, action = self.commands[-1]
        return SentCommand(tick, action, self.clock.now_s())

    def fault(self) -> str:
        self._check("fault")
        return self.silent or ""


@dataclass(frozen=True)
class Passed:
    """A verdict."""

    action: NDArray[np.float64]
    stage: int = 0
    joint: str = ""
    words: str = ""
    held: bool = False
    should_park: bool = False


class PassThrough:
    """A safety filter that passes everything, and keeps the last command where nothing is asked."""

    def __init__(self) -> None:
        self.holds = False  # holds against what is asked
        self.whys: list[str] = []
        self.ages: list[Ages] = []
        self.resumed = 0

    rests = True

    def begin(self, command: FloatArray) -> None:
        self.command = np.array(command, np.float64)

    def resume(self) -> None:
        self.resumed += 1

    def check(
        self,
        asked: FloatArray | None,
        reading: Reading | None,
        ages: Ages,
        health: Mapping[str, ServoHealth],
        why: str = "",
    ) -> Passed:
        self.whys.append(why)
        self.ages.append(ages)
        if asked is None or self.holds:
            return Passed(self.command, 7 if self.holds else 0, held=True, words="it holds")
        self.command = np.array(asked, np.float64)
        return Passed(self.command)


@dataclass
class Counting:
    """A source that asks for the number of the tick in every joint."""

    size: int = 2
    cameras: tuple[str, ...] = ()
    ends_at: int | None = None
    fails_at: tuple[int, ...] = ()
    seen: list[Moment] = field(default_factory=list)
    held: list[tuple[int, Hold]] = field(default_factory=list)
    begun: int | None = None

    def begin(self, moment: Moment) -> None:
        self.begun = moment.tick

    def action(self, moment: Moment) -> Asked:
        self.seen.append(moment)
        if moment.tick in self.fails_at:
            raise ZeroDivisionError("one by zero")
        if self.ends_at is not None and moment.tick >= self.ends_at:
            return Asked(None, Hold.WAITING, "all is done", ended=True)
        return Asked(np.full(self.size, float(moment.tick)))

    def hold(self, moment: Moment, hold: Hold, words: str) -> Asked:
        self.held.append((moment.tick, hold))
        return Asked(None, hold, words)


class LateClock(VirtualClock):
    """A virtual clock on which waiting for some ticks takes longer: {tick: s}."""

    def __init__(self, late_s: dict[int, float]) -> None:
        super().__init__()
        self.late_s = late_s

    def wait_until(self, due_s: float) -> None:
        super().wait_until(due_s)
        super().wait_until(self.now_s() + self.late_s.pop(round(due_s * RATE_HZ), 0.0))


class LinePolicy:
    """A policy whose chunk goes on from the state by a fixed amount a tick."""

    def __init__(self, spec: Spec = ARM, k: int = 20, step: float = 0.01) -> None:
        self.spec, self.k, self.step = spec, k, step
        self.queries = 0

    def reset(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def chunk(self, observation: Observation) -> NDArray[np.float64]:
        self.queries += 1
        rows = np.arange(1, self.k + 1)[:, None] * self.step
        return np.asarray(observation.state, np.float64) + rows


def moment(tick: int = 0, command: float = 0.0, **changes: object) -> Moment:
    """Return a moment of two joints at a tick."""
    now_s = tick / RATE_HZ
    values = {
        "tick": tick,
        "now_s": now_s,
        "reading": Reading(np.full(2, command), now_s, now_s, tick + 1),
        "frames": {},
        "command": np.full(2, command),
        **changes,
    }
    return Moment(**values)  # type: ignore[arg-type]


ControlsOf = Callable[[], Controls]
