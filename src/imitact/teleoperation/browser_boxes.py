"""Browser boxes: what the server of the page of virtual leaders shares with other processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from imitact.core.clock import Clock, WallClock
from imitact.core.joint_limits import JointLimits
from imitact.core.robot import Robot
from imitact.parallel.mailbox import Mailbox

ADDRESS = "127.0.0.1"
"""The page is for a browser on this computer, and for tunnels to it."""

_WORDS_BYTES = 400


@dataclass(frozen=True)
class LeaderBoxes:
    """The mailboxes between the page's server and the other processes.

    Attributes:
        goal: (A + 1,), the leader's pose and whether it is engaged; times are when the page sent it
            and when it was posted.
        life: (4,), whether a page is connected, messages that were accepted and that were ignored,
            and how often "Stop" was pressed; the time is that of the newest sign of life.
        words: UTF-8 that the page shows.
    """

    goal: Mailbox
    life: Mailbox
    words: Mailbox

    @classmethod
    def create(cls, size: int) -> LeaderBoxes:
        return cls(
            Mailbox.create((size + 1,)),
            Mailbox.create((4,)),
            Mailbox.create((_WORDS_BYTES,), "|u1"),
        )

    def post_words(self, words: str) -> None:
        """Show words on the page, cut to the size of the mailbox."""
        data = words.encode()[:_WORDS_BYTES]
        padded = np.zeros(_WORDS_BYTES, np.uint8)
        padded[: len(data)] = np.frombuffer(data, np.uint8)
        self.words.post(padded)

    def read_words(self) -> str:
        mail = self.words.read()
        return "" if mail is None else mail.values.tobytes().rstrip(b"\0").decode(errors="replace")


@dataclass(frozen=True, eq=False)
class ServerConfig:
    """What the page's server needs.

    Attributes:
        robot: is read; never commanded here. It is given to another process.
        limits: of its joints; None takes a range by unit.
        frames: (H, W, 3) mailboxes of the cameras to show, by name.
        boxes: between server and leader.
        token: that the page's address carries.
        title: of the page.
        picture_rate_hz: most pictures of each camera, 1/s.
    """

    robot: Robot
    limits: JointLimits | None
    frames: Mapping[str, Mailbox]
    boxes: LeaderBoxes
    token: str
    title: str = "imitact"
    picture_rate_hz: float = 15.0
    clock: Clock = field(default_factory=WallClock)
