"""Browser leader: virtual leaders in a page, served by a process of its own at 127.0.0.1.

The browser sets goals and is never the clock: the newest message is the goal, and a robot whose
newest message is older than 100 ms is held by `LeaderSource`. The page is opened by an address with
a token; nothing else may connect.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Mapping
from typing import Self

from imitact.core.clock import Clock, WallClock
from imitact.core.errors import BadInput, missing_package
from imitact.core.joint_limits import JointLimits
from imitact.core.robot import Reading, Robot, SpecLeader
from imitact.core.types import Spec
from imitact.parallel.child_process import ChildProcess, ProcessOwner
from imitact.parallel.mailbox import Mailbox
from imitact.teleoperation.browser_boxes import ADDRESS, LeaderBoxes, ServerConfig
from imitact.teleoperation.goals import joint_ranges, known_hands

HEARTBEAT_STALE_S = 1.0
"""Time without a sign of life from the page's server after which it counts as lost, s. It posts one
every 50 ms, between two computations of inverse kinematics."""

START_TIMEOUT_S = 120.0
"""Time for Python, MuJoCo and the scene of the arms on a busy computer, s."""


class BrowserLeader(SpecLeader):
    """The virtual leaders of a page, as a `Leader`; it may be given to another process."""

    def __init__(
        self,
        spec: Spec,
        boxes: LeaderBoxes,
        where: str,
        clock: Clock | None = None,
        heartbeat_stale_s: float = HEARTBEAT_STALE_S,
    ) -> None:
        """Read these mailboxes.

        Args:
            spec: of the robot.
            boxes: of the page's server.
            where: address of the page without its token, for messages.
            clock: of the server.
            heartbeat_stale_s: time without a sign of life after which the server is lost, s.
        """
        super().__init__(spec)
        self._boxes, self._where = boxes, where
        self._clock = clock or WallClock()
        self._stale_s = heartbeat_stale_s

    def reading(self) -> Reading | None:
        mail = self._boxes.goal.read()
        if mail is None:
            return None
        sent_s, posted_s = float(mail.times[0]), float(mail.times[1])
        return Reading(mail.values[:-1], sent_s, posted_s, mail.sequence, bool(mail.values[-1]))

    def fault(self) -> str:
        mail = self._boxes.life.read()
        if mail is None:
            return f"the page of {self._where} is not served yet"
        age_s = self._clock.now_s() - float(mail.times[0])
        if age_s > self._stale_s:
            return f"the server of {self._where} gives no sign of life since {age_s:.1f} s"
        if not mail.values[0]:
            return f"no page of {self._where} is open in a browser"
        return ""

    @property
    def accepted(self) -> int:
        """Messages of the page that were accepted."""
        return self._count(1)

    @property
    def ignored(self) -> int:
        """Messages of the page that were ignored: too large, garbage, out of range, replayed."""
        return self._count(2)

    @property
    def stops(self) -> int:
        """How often "Stop" was pressed; who runs the robot watches this number rise."""
        return self._count(3)

    def show(self, words: str) -> None:
        """Show words on the page: what the robot does, and why it is held."""
        self._boxes.post_words(words)

    def _count(self, place: int) -> int:
        mail = self._boxes.life.read()
        return 0 if mail is None else int(mail.values[place])


class BrowserPage(ProcessOwner):
    """The page's server in a process of its own; as a context manager it is started too."""

    def __init__(
        self,
        config: ServerConfig,
        port: int = 0,
        on_line: Callable[[str], object] = lambda line: None,
    ) -> None:
        """Take the port; `start` serves the page.

        Args:
            config: of the server.
            port: 0 takes a free one.
            on_line: receives lines of progress.

        Raises:
            BadInput: the port is taken, the range of a joint is not known, or the extra "robot" is
                not installed.
        """
        try:
            from imitact.teleoperation.browser_server import serve_page
        except ModuleNotFoundError as error:
            raise missing_package(error.name or "websockets", "robot") from error

        spec = config.robot.spec
        joint_ranges(spec.action_names, spec.action_units, config.limits)
        try:
            self._socket = socket.create_server((ADDRESS, port))
        except (OSError, OverflowError) as error:
            raise BadInput(f"the page cannot be served at {ADDRESS}:{port}: {error}") from None
        where = f"{ADDRESS}:{self._socket.getsockname()[1]}"
        self.url = f"http://{where}/?token={config.token}"
        self.leader = BrowserLeader(spec, config.boxes, where, config.clock)
        what = "the server of the browser leader"
        super().__init__(ChildProcess(what, serve_page, (config, self._socket), on_line))

    def __enter__(self) -> Self:
        if self.pid is None:
            self.start()
        return self

    def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Serve the page.

        Raises:
            RobotError: the server did not start.
        """
        try:
            self._process.start(timeout_s)
        except BaseException:
            self.close()
            raise
        finally:
            self._socket.close()  # the server has its own copy

    def close(self) -> None:
        """End the server."""
        self._socket.close()
        self._process.end(2.0)


def browser_leader(
    robot: Robot,
    *,
    limits: JointLimits | None = None,
    frames: Mapping[str, Mailbox] | None = None,
    title: str = "imitact",
    port: int = 0,
    on_url: Callable[[str], object] = lambda url: None,
    on_line: Callable[[str], object] = lambda line: None,
) -> BrowserPage:
    """Serve a page of virtual leaders for a robot; `leader` of the result leads it.

    Args:
        robot: in a host process (`HostedRobot`), since the server reads it from its own process.
        limits: of its joints, for the ranges of the sliders; None takes them by unit.
        frames: mailboxes of the cameras to show, by name.
        title: of the page: the robot's name.
        port: of 127.0.0.1; 0 takes a free one.
        on_url: receives the page's address with its token, once it is served.
        on_line: receives lines of progress.

    Raises:
        BadInput: the port is taken, or the range of a joint is not known.
        RobotError: the server did not start.
    """
    boxes = LeaderBoxes.create(robot.spec.action_size)
    token = secrets.token_urlsafe(24)
    config = ServerConfig(robot, limits, dict(frames or {}), boxes, token, title)
    page = BrowserPage(config, port, on_line)
    hands = known_hands(robot.spec.action_names, robot.spec.action_units)
    on_line("starting the page of the leaders" + (" and its inverse kinematics" if hands else ""))
    page.start()
    on_url(page.url)
    return page
