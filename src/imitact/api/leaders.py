"""Leaders by name: the robot's own, an expert, a recorded episode, a browser page, a keyboard."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Literal

from imitact.api.robot_session import OnLine, OnPoll, RobotSession, place_objects
from imitact.core.errors import BadInput
from imitact.core.robot import Leader, Reading, SpecLeader
from imitact.envs.aloha import TASKS
from imitact.robots.emulation.hand import expert_trajectory
from imitact.robots.emulation.virtual_aloha import VirtualAloha
from imitact.robots.recorded import RecordedLeader
from imitact.robots.setup import HostSetup, RobotSetup, VirtualSetup

Approach = Literal["ramp", "wait", "offset"]

FORMS = ("the robot's own", "expert", "browser", "keyboard", "DATA:EPISODE")


@dataclass
class ChosenLeader:
    """A leader, and how it is used.

    Attributes:
        leader: what the person moves.
        approach: how the follower gets to it, as in `Engagement`.
        begin: called with the number of the episode, from 0, before each.
        close: ends it.
        press: takes a key of the terminal.
        words: returns what the keys do, or what the newest one did; empty for a leader without.
        poll: called many times a second with the session.
        is_scripted: whether nobody has to engage it, and it ends by itself.
        places_objects: whether `begin` begins the episode of a simulated world.
        needs_deadman: whether a key or pedal is its only deadman.
    """

    leader: Leader
    approach: Approach = "ramp"
    begin: Callable[[int], object] = lambda number: None
    close: Callable[[], object] = lambda: None
    press: Callable[[str], object] = lambda key: None
    words: Callable[[], str] = lambda: ""
    poll: OnPoll = lambda session: None
    is_scripted: bool = False
    places_objects: bool = False
    needs_deadman: bool = False

    def attach(self, session: RobotSession) -> None:
        """Let a session pass keys on to this leader, and show its words."""
        session.press, session.leader_words = self.press, self.words


def choose_leader(
    name: str, setup: RobotSetup, env: str, first_seed: int, on_line: OnLine = lambda line: None
) -> ChosenLeader:
    """Return the leader of that name for a robot.

    Args:
        name: empty for the robot's own; "expert" for the scripted expert of a simulated cube or
            insertion; DATA:3 for the actions of a recorded episode; "browser"; "keyboard".
        setup: the robot.
        env: the simulated environment; empty for any other robot.
        first_seed: of the expert's first episode.
        on_line: receives the address of the browser's page.

    Raises:
        BadInput: there is no such leader, or the robot cannot have it.
    """
    spec = setup.robot.spec
    if not name:
        if not setup.leaders:
            raise BadInput(
                "the robot has no leader of its own; describe one in robot.toml, or give --leader: "
                "browser, keyboard, or DATA:3 for a recorded episode"
            )
        return ChosenLeader(setup.leaders[0], needs_deadman=True)
    if name == "expert":
        return _expert(setup, env, first_seed)
    if name == "browser":
        return _browser(setup, on_line)
    if name == "keyboard":
        from imitact.teleoperation.keyboard import Keyboard

        keyboard = Keyboard(setup.robot, setup.limits, setup.clock)
        # Not "offset", which would keep the first step of a key as a difference.
        return ChosenLeader(
            keyboard.leader, "ramp", press=keyboard.press, words=lambda: keyboard.words
        )
    if found := re.fullmatch(r"(.+):(\d+)", name):
        from imitact.datasets.open import open_dataset

        dataset = open_dataset(found[1])
        episode = dataset.episode(int(found[2]))
        dataset.spec.check_same(
            spec, "the robot", found[1], parts=("action names", "action units", "rate")
        )
        leader = RecordedLeader(episode, dataset.spec, setup.clock)
        return ChosenLeader(
            leader,
            begin=lambda number: leader.begin(setup.clock.now_s()),
            is_scripted=True,
        )
    raise BadInput(f'there is no leader "{name}"; expected {", ".join(FORMS)}')


def _browser(setup: RobotSetup, on_line: OnLine) -> ChosenLeader:
    from imitact.teleoperation.browser import browser_leader

    if not isinstance(setup, HostSetup):
        raise BadInput(
            "the browser leads robots in real time; give robot.toml, bench:aloha, or sim:cube "
            "with --real-time"
        )
    page = browser_leader(
        setup.robot,
        limits=setup.limits,
        frames=setup.host.robot.frame_boxes,
        on_url=lambda url: on_line(f"open {url}"),
        on_line=on_line,
    )
    stops = 0

    def poll(session: RobotSession) -> None:
        """Show the robot's state on the page, and stop the robot where "Stop" was pressed."""
        nonlocal stops
        newest = session.statistics.newest
        page.leader.show("" if newest is None else newest.words)
        if page.leader.stops > stops:
            stops, session.stopped = page.leader.stops, True

    return ChosenLeader(page.leader, "offset", close=page.close, poll=poll)


def _expert(setup: RobotSetup, env: str, first_seed: int) -> ChosenLeader:
    if isinstance(setup, VirtualAloha):
        return _hand(setup, first_seed)
    if not isinstance(setup, VirtualSetup) or env not in TASKS:
        raise BadInput(
            "the leader expert is the scripted expert of cube and insertion in simulation; give "
            "--robot sim:cube or --robot virtual:cube"
        )
    leader = ExpertLeader(setup, env, first_seed)
    return ChosenLeader(leader, begin=leader.begin, is_scripted=True, places_objects=True)


class ExpertLeader(SpecLeader):
    """The scripted expert's actions as a leader, from a new start in each episode."""

    def __init__(self, setup: RobotSetup, env: str, first_seed: int) -> None:
        """Prepare; `begin` begins an episode."""
        super().__init__(setup.robot.spec)
        self._setup, self._env, self._first_seed = setup, env, first_seed
        self._leader: RecordedLeader | None = None

    def begin(self, number: int) -> None:
        """Begin an episode by its number, from 0."""
        seed = self._first_seed + number
        self._setup.reset(seed)
        episode: Any = SimpleNamespace(action=expert_trajectory(self._env, seed))
        self._leader = RecordedLeader(episode, self._setup.robot.spec, self._setup.clock)

    def reading(self) -> Reading | None:
        return None if self._leader is None else self._leader.reading()

    def fault(self) -> str:
        """Nothing at the end: the expert has let go, as a person does, and is no fault."""
        return "the expert has not begun" if self._leader is None else ""


HAND_PAUSE_S = 1.0
"""Time that the hand stays at the start once it has brought the leaders there, s."""

HAND_SETTLES_S = 0.5
"""Time that the hand holds the leaders at the end before it lets go of the deadman, s."""


class HandLeader(SpecLeader):
    """The limp leaders of an emulated ALOHA, led by a scripted hand that has a deadman."""

    def __init__(self, setup: VirtualAloha, first_seed: int) -> None:
        """Prepare; `begin` begins an episode."""
        super().__init__(setup.robot.spec)
        self._setup, self._first_seed = setup, first_seed
        self._leader = setup.leaders[0]
        self._held_s: float | None = None

    def begin(self, number: int) -> None:
        """Place the objects of an episode, and let the hand begin."""
        seed = self._first_seed + number
        place_objects(self._setup, seed)
        self._setup.lead(expert_trajectory(self._setup.task, seed), HAND_PAUSE_S)
        self._held_s = None

    def reading(self) -> Reading | None:
        reading = self._leader.reading()
        return None if reading is None else replace(reading, engaged=self._is_engaged())

    def fault(self) -> str:
        return self._leader.fault()

    def _is_engaged(self) -> bool:
        phase, now_s = self._setup.world.truth().hand, self._setup.clock.now_s()
        if phase == "leading":
            self._held_s = None
            return True
        if phase != "holding":
            return False
        self._held_s = now_s if self._held_s is None else self._held_s
        return now_s - self._held_s < HAND_SETTLES_S


def _hand(setup: VirtualAloha, first_seed: int) -> ChosenLeader:
    leader = HandLeader(setup, first_seed)
    return ChosenLeader(leader, begin=leader.begin, is_scripted=True, places_objects=True)
