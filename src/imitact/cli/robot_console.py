"""Robot console: keys, display and Rerun of a session, for the verbs that command a robot."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from imitact.api.robot_session import RobotSession
from imitact.api.teleoperate import Person
from imitact.cli.keys import HeldKey, Keys
from imitact.cli.rerun_session import RerunSession
from imitact.cli.robot_display import RobotDisplay

STOP_KEYS = {"s": "stop or go on", "q": "park and end"}
ENGAGE_KEYS = {"space": "engage or let go of the leader"}
EPISODE_KEYS = {"k": "keep", "d": "drop", "r": "redo", "m": "mark"}

Deadman = Literal["toggle", "hold"]


@dataclass
class RobotConsole:
    """Reads keys, shows a session and sends it to Rerun at each poll.

    Attributes:
        keys: of the terminal.
        display: of the session.
        person: takes the decisions.
        with_episodes: whether episodes are kept and dropped by key.
        with_leader: whether a key engages the leader.
        deadman: "toggle" engages with one press until the next; "hold" only while the key repeats.
        rerun: sends the session; None sends nothing.
    """

    keys: Keys
    display: RobotDisplay
    person: Person
    with_episodes: bool = False
    with_leader: bool = False
    deadman: Deadman = "toggle"
    rerun: RerunSession | None = None
    held: HeldKey = field(default_factory=HeldKey)
    is_engaged: bool = False

    def poll(self, session: RobotSession) -> None:
        """Follow the keys, then show and send the session."""
        if self.rerun is not None:
            self.rerun.poll(session)
        for key in self.keys.read():
            self.follow(session, key)
        if self.with_leader:
            session.deadman = self.held.is_held if self.deadman == "hold" else self.is_engaged
        self.display.show(session)

    def line(self, text: str) -> None:
        """Show a line of progress or of a fault."""
        self.display.line(text)

    def send_log(self, log: Path | None) -> None:
        """Send the log to Rerun, where the session was on a virtual clock, once it has ended."""
        if self.rerun is not None:
            self.rerun.send_log(log)

    def follow(self, session: RobotSession, key: str) -> None:
        """Do what a key stands for; the others are the leader's."""
        if key in ("s", "escape"):
            session.stopped = not session.stopped if key == "s" else True
            if session.stopped:
                self.let_go()
        elif key == "q":
            self.let_go()
            self.person.decide(session, "end")
        elif key == "space" and self.with_leader:
            self.held.press()
            self.is_engaged = not self.is_engaged
        elif self.with_episodes and key == "k":
            self._decide(session, "keep")
        elif self.with_episodes and key == "d":
            self._decide(session, "drop")
        elif self.with_episodes and key == "r":
            self._decide(session, "redo")
        elif self.with_episodes and key == "m":
            session.mark_episode("marked by key")
            self.display.line("marked")
        else:
            session.press(key)

    def _decide(self, session: RobotSession, decision: Literal["keep", "drop", "redo"]) -> None:
        if session.recording:
            self.let_go()
            self.person.decide(session, decision)

    def let_go(self) -> None:
        """Let go of the leader."""
        self.held.release()
        self.is_engaged = False


@contextlib.contextmanager
def robot_console(
    *,
    with_episodes: bool = False,
    with_leader: bool = False,
    deadman: Deadman = "toggle",
    rerun: str = "",
) -> Iterator[RobotConsole]:
    """Take the terminal for a session; it is restored at the end.

    Args:
        with_episodes: whether episodes are kept and dropped by key.
        with_leader: whether a key engages the leader.
        deadman: as in `RobotConsole`.
        rerun: as in `RerunSession`: where the session is sent; empty sends nothing.

    Raises:
        BadInput: `rerun` is none of these, or Rerun is not installed.
    """
    named = {
        **STOP_KEYS,
        **(ENGAGE_KEYS if with_leader else {}),
        **(EPISODE_KEYS if with_episodes else {}),
    }
    with (
        Keys() as keys,
        RobotDisplay(named if keys.is_terminal else {}) as display,
        RerunSession(rerun, display.line) as sender,
    ):
        yield RobotConsole(
            keys,
            display,
            Person(),
            with_episodes,
            with_leader and keys.is_terminal,
            deadman,
            sender if rerun else None,
        )
