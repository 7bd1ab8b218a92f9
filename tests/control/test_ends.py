"""Ends: whatever ends a motion, the safety filter brakes it, within the limits and to rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from imitact.api.robot_session import SessionPlan
from imitact.api.virtual_session import VirtualSession
from imitact.control.conductor import PhasedSource
from imitact.control.contract import Asked, Controls, Hold, Moment
from imitact.control.control_loop import BRAKE_S, ControlLoop
from imitact.control.engagement import Engagement
from imitact.control.motion_limits import MotionLimits
from imitact.control.safety_filter import SafetyFilter, Stage
from imitact.control.sources import Answer, LeaderSource, PolicySource
from imitact.core.clock import VirtualClock
from imitact.core.errors import RobotError
from imitact.core.execution import parse
from imitact.core.joint_limits import JointLimits
from imitact.core.robot import Reading, ServoHealth
from imitact.core.types import Camera, Spec
from imitact.robots.setup import VirtualSetup
from tests.support.control import RATE_HZ, LateClock, ObedientRobot
from tests.support.safety import Shares

ARM = Spec(
    ("waist", "elbow"), ("waist", "elbow"), ("rad", "rad"), ("rad", "rad"),
    (Camera("top", 4, 6),), RATE_HZ,
)  # fmt: skip
LIMITS = JointLimits(
    ARM.action_names, ARM.action_units, *(np.full(2, v) for v in (-2.0, 2.0, 2.0, 15.0, 300.0))
)
END, LAST = 26, 66
ROUNDING = 1 + 1e-7


def swing(tick: float) -> np.ndarray:
    """Return a motion from rest whose velocity is the largest, 1.8 rad/s, at tick END."""
    return np.array([0.6, -0.6]) * (1 - np.cos(3.0 * max(0.0, tick) / RATE_HZ))


class Swinging:
    """A source, a leader and a policy of the same motion; a test breaks it."""

    cameras = ("top",)
    action_names, action_units = ARM.action_names, ARM.action_units

    def __init__(self) -> None:
        self.answer_with: Callable[[int], Asked] = lambda tick: Asked(swing(tick))
        self.clock = VirtualClock()
        self.age_s, self.held, self.lost, self.late = 0.0, True, "", False
        self._asked: Moment | None = None

    def begin(self, moment: Moment | None = None) -> None:
        pass

    def action(self, moment: Moment) -> Asked:
        return self.answer_with(moment.tick)

    def hold(self, moment: Moment, hold: Hold, words: str) -> Asked:
        return Asked(None, hold, words)

    def reading(self) -> Reading:
        now_s = self.clock.now_s()
        taken_s = now_s - self.age_s
        return Reading(swing(now_s * RATE_HZ), taken_s, now_s, round(now_s * 1000) + 1, self.held)

    def fault(self) -> str:
        return self.lost

    def trouble(self) -> str:
        return ""

    def ask(self, moment: Moment) -> None:
        self._asked = moment

    def answer(self, now_s: float) -> Answer | None:
        if self._asked is None or self.late:
            return None
        tick, self._asked = self._asked.tick, None
        return Answer(tick, np.array([swing(tick + row) for row in range(4)]), 0.0)


class Desk:
    """A robot in motion, with everything that may end it."""

    def __init__(self, kind: str = "source") -> None:
        self.clock, self.controls = LateClock({}), Controls()
        self.robot = ObedientRobot(self.clock, ARM)
        self.swinging = source = Swinging()
        source.clock = self.clock
        self.safety = SafetyFilter(LIMITS, RATE_HZ, spec=ARM)
        follow = Engagement(ARM.action_names, ARM.action_units, RATE_HZ, approach="offset")
        phases = {
            "source": source,
            "leader": LeaderSource(source, ARM, follow),
            "policy": PolicySource(source, parse("replay:4"), RATE_HZ, ("top",)),
            "other": Swinging(),
        }
        self.phases = PhasedSource(phases)
        self.phases.select(kind, None)
        self.health: Mapping[str, ServoHealth] = {}
        self.robot.health = lambda: self.health
        self.records = []

    def answers(self, asked: Asked | Exception) -> None:
        """Let the source give this from now on."""

        def answer(tick: int) -> Asked:
            if isinstance(asked, Exception):
                raise asked
            return asked

        self.swinging.answer_with = answer


def ends(desk: Desk, **controls: bool) -> None:
    desk.controls = Controls(**controls)


def sets(thing: object, **values: object) -> None:
    for name, value in values.items():
        setattr(thing, name, value)


ENDS: dict[str, tuple[str, Callable[[Desk], object]]] = {
    "the run is ended": ("source", lambda desk: ends(desk, end=True)),
    "the stop key": ("source", lambda desk: ends(desk, stop=True)),
    "the command is silent": ("source", lambda desk: sets(desk, controls=Controls(given_s=-2.0))),
    "the source ends": ("source", lambda d: d.answers(Asked(None, Hold.WAITING, ended=True))),
    "the source ends in motion": ("source", lambda d: d.answers(Asked(swing(END), ended=True))),
    "the source asks for nothing": ("source", lambda d: d.answers(Asked(None, Hold.WAITING))),
    "the source fails": ("source", lambda desk: desk.answers(ZeroDivisionError("one by zero"))),
    "the source asks for NaN": ("source", lambda d: d.answers(Asked(np.full(2, np.nan)))),
    "the source asks for another arm": ("source", lambda d: d.answers(Asked(np.zeros(7)))),
    "the source asks for degrees": ("source", lambda d: d.answers(Asked(np.full(2, 57.0)))),
    "the phase is finished": ("source", lambda desk: desk.phases.finish()),
    "the phase is over": ("source", lambda desk: sets(desk.phases, _last_tick=END - 1)),
    "another phase begins": ("source", lambda desk: desk.phases.select("other", None)),
    "the state is old": ("source", lambda desk: sets(desk.robot, age_s=0.2)),
    "the state is lost": ("source", lambda desk: sets(desk.robot, age_s=np.inf)),
    "a camera dies": ("source", lambda desk: sets(desk.robot, picture_age_s=0.3)),
    "the robot has a fault": ("source", lambda desk: sets(desk.robot, silent="it is unplugged")),
    "the loop is late": ("source", lambda desk: desk.clock.late_s.update({END + 1: 0.16})),
    "a servo is hot": (
        "source", lambda desk: sets(desk, health={"waist": ServoHealth(0.0, temperature_c=75.0)}),
    ),
    "the filter is told to hold": ("source", lambda desk: desk.safety.hold("told to")),
    "the leader is old": ("leader", lambda desk: sets(desk.swinging, age_s=0.2)),
    "the leader is lost": ("leader", lambda desk: sets(desk.swinging, lost="it is unplugged")),
    "the deadman is let go": ("leader", lambda desk: sets(desk.swinging, held=False)),
    "the policy dies": ("policy", lambda desk: sets(desk.swinging, lost="its process has ended")),
    "the policy is late": ("policy", lambda desk: sets(desk.swinging, late=True)),
}  # fmt: skip


def check_braked(commands: list[np.ndarray], first: int) -> None:
    """Check that a motion was fast at a tick, and came to rest within the limits."""
    before = commands[first] - commands[first - 1]
    assert np.abs(before).max() * RATE_HZ > 1.0
    shares = Shares(MotionLimits(LIMITS, RATE_HZ), commands[0])
    for command in [*commands, *commands[-1:] * 3]:
        shares.add(command)
    assert shares.worst <= ROUNDING


@pytest.mark.parametrize("end", ENDS)
def test_every_end_of_a_motion_brakes_it_within_the_limits(end: str):
    kind, act = ENDS[end]
    desk = Desk(kind)
    desk.clock.call_at((END - 0.5) / RATE_HZ, lambda: act(desk))
    records = []
    loop = ControlLoop(
        desk.robot, desk.phases, desk.safety, desk.clock, RATE_HZ, records.append,
        lambda: desk.controls,
    )  # fmt: skip
    loop.run(np.zeros(2), LAST)
    commands = [action for _, action in desk.robot.commands]
    check_braked(commands, END - 1)
    assert desk.safety.rests
    if end not in ("another phase begins", "the loop is late"):
        assert np.ptp(commands[END + 20 :] or commands[-1:], axis=0).max() == 0
    assert {r.stage for r in records[2:END]} <= {Stage.PASSED, Stage.MOTION}


@pytest.mark.parametrize("ticks", [END, END + 7])
def test_a_run_whose_time_is_over_brakes_and_its_further_ticks_are_no_part_of_a_phase(ticks: int):
    desk, records = Desk(), []
    loop = ControlLoop(desk.robot, desk.phases, desk.safety, desk.clock, RATE_HZ, records.append)
    outcome = loop.run(np.zeros(2), ticks)
    assert outcome.ended == "time"
    assert outcome.ticks == len(records) > ticks
    check_braked([action for _, action in desk.robot.commands], ticks - 1)
    assert [r.phase for r in records] == [1] * ticks + [0] * (len(records) - ticks)
    assert {r.hold for r in records[ticks:]} == {Hold.WAITING}


def test_a_filter_that_never_rests_ends_the_run_all_the_same():
    desk, records = Desk(), []

    class Restless(SafetyFilter):
        @property
        def rests(self) -> bool:
            return False

    desk.safety.__class__ = Restless
    loop = ControlLoop(desk.robot, desk.phases, desk.safety, desk.clock, RATE_HZ, records.append)
    loop.run(np.zeros(2), END)
    assert len(records) == pytest.approx(END + BRAKE_S * RATE_HZ, abs=1)


class DyingRecorder:
    """A recorder whose disk is full at a tick."""

    episodes = 0

    def begin(self) -> None:
        self.rows = 0

    def add(self, record: object, frames: object) -> None:
        self.rows += 1
        if self.rows > END:
            raise RobotError("the recorder has died: the disk is full")

    def close(self) -> None:
        pass


def test_a_session_whose_recorder_dies_or_that_is_finished_brakes_before_it_ends():
    for dies in (True, False):
        desk = Desk()
        setup = VirtualSetup(desk.robot, (), desk.clock)
        plan = SessionPlan({"swing": desk.swinging}, desk.safety, desk.robot)

        def poll(session, dies=dies):
            if not dies and session.statistics.ticks > END:
                session.finish()

        recorder: Any = DyingRecorder() if dies else None
        with VirtualSession(setup, plan, recorder=recorder, on_poll=poll) as session:
            if dies:
                session.begin_episode()
                with pytest.raises(RobotError, match="the disk is full"):
                    session.run_phase("swing")
            else:
                session.run_phase("swing")
        check_braked([action for _, action in desk.robot.commands], END - 1)
