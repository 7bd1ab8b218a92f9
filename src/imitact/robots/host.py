"""Robot host: the process of a robot's drivers, seen from the process that starts it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from imitact.core.errors import RobotError
from imitact.core.robot import watchdog_s
from imitact.core.types import Camera
from imitact.parallel.child_process import ChildProcess, ProcessOwner
from imitact.parallel.mailbox import Mailbox
from imitact.robots.host_process import HostConfig, HostPlan, run_host
from imitact.robots.hosted import HostBoxes, HostedDriver, HostedLeader, HostedRobot, side_by_side

START_TIMEOUT_S = 60.0
"""Time for a host to start: Python, the imports of the drivers, and a check of every servo, s."""

PARK_TIMEOUT_S = 120.0
"""Time within which any way to the rest pose is done, s: half a turn takes 20 s."""


class RobotHost(ProcessOwner):
    """Starts, commands and watches a host process; a context manager that parks and releases.

    `robot` and `leader` may be given to other processes as arguments, when these are spawned.

    Attributes:
        robot: the robot, read and commanded through mailboxes.
        leader: its leader; None where it has none.
    """

    def __init__(
        self,
        name: str,
        drivers: Sequence[HostedDriver],
        leaders: Sequence[HostedDriver] = (),
        *,
        rate_hz: float,
        cameras: Sequence[tuple[Camera, Mailbox]] = (),
        config: HostConfig | None = None,
        on_line: Callable[[str], object] = lambda line: None,
    ) -> None:
        """Make the mailboxes; `start` starts the process.

        Args:
            name: of the robot, for messages.
            drivers: of the robot, in the order of its values.
            leaders: of its leader, in order.
            rate_hz: of the control loop, for the Spec.
            cameras: of the Spec, in order, with the mailboxes of their frames.
            config: settings of the host.
            on_line: receives lines of progress and faults.
        """
        config = config or HostConfig()
        config = replace(config, watchdog_s=max(config.watchdog_s, watchdog_s(rate_hz)))
        self._plan = HostPlan(tuple(drivers), tuple(leaders), config)
        self._boxes = HostBoxes.create(drivers, leaders)
        spec = side_by_side(
            [driver.spec for driver in drivers], tuple(camera for camera, _ in cameras), rate_hz
        )
        frames: Mapping[str, Mailbox] = {camera.name: box for camera, box in cameras}
        self.robot = HostedRobot(name, spec, self._boxes, frames)
        self.leader: HostedLeader | None = None
        if leaders:
            specs = [leader.spec for leader in leaders]
            self.leader = HostedLeader(name, specs, self._boxes)
        super().__init__(ChildProcess(f"the host of {name}", run_host, on_line=on_line))
        self._was_enabled = self._is_energised = False

    def start(self, timeout_s: float = START_TIMEOUT_S, *, energised: bool = False) -> None:
        """Start the process, and wait until every driver has read once.

        Args:
            timeout_s: deadline, s.
            energised: whether the torque may be on already, so that the robot can be parked
                without being enabled. A host that is started again after it was enabled knows that.

        Raises:
            RobotError: a driver could not be opened, or the deadline has passed. No torque changed.
        """
        self._is_energised = energised or self._was_enabled
        plan = replace(self._plan, energised=self._is_energised)
        self._process.arguments = (plan, self._boxes)
        self._process.start(timeout_s)

    def enable(self) -> None:
        """Turn the torque on, where it is off, with goal = present; follow commands from now on.

        Raises:
            RobotError: a driver refuses; what was limp before is released again.
        """
        self._was_enabled = True
        self._process.ask("enable", timeout_s=3 * self._order_timeout_s)

    def hold(self, why: str = "told to hold") -> None:
        """Keep the last command that was sent, until `enable`."""
        self._process.ask("hold", why, timeout_s=2 * self._order_timeout_s)

    def park(self) -> None:
        """Bring the robot to its rest pose, slowly, and hold it there.

        Raises:
            RobotError: it did not get there; it holds where it is.
        """
        self._process.ask("park", timeout_s=PARK_TIMEOUT_S + 2 * self._order_timeout_s)

    def release(self, *, is_supported: bool = False) -> tuple[str, ...]:
        """Turn the torque off, servo by servo.

        Args:
            is_supported: whether a person says that the arm is supported; it need not be parked.

        Returns:
            The joints that did not answer, in words.

        Raises:
            RobotError: an arm is neither parked nor supported.
        """
        missing = self._process.ask("release", is_supported, timeout_s=3 * self._order_timeout_s)
        self._was_enabled = bool(missing)
        return missing

    def close(self) -> tuple[str, ...]:
        """End the process; an arm with torque is parked, and released after a countdown.

        Ctrl-C leaves the host to do so by itself.

        Returns:
            The joints that did not answer to the release, in words, or why there was none: a host
            that died left the arms as they were.
        """
        if not self._process.is_alive:
            return (self.death(),) if self._was_enabled else ()
        config, most_s = self._plan.config, self._order_timeout_s
        may_hold = self._was_enabled or self._is_energised
        if may_hold:
            most_s = PARK_TIMEOUT_S + config.countdown_s + config.hold_limit_s + 4 * most_s
        try:
            missing = self._process.ask("close", timeout_s=most_s)
        except RobotError as error:
            missing = (str(error),) if may_hold else ()  # of a driver that hangs as it connects
        except BaseException:
            self._process.close()  # the host goes on by itself: it parks and releases
            raise
        self._was_enabled = bool(missing)
        self._process.join(2 * self._order_timeout_s)
        super().close()
        return missing

    @property
    def _order_timeout_s(self) -> float:
        return self._plan.config.order_timeout_s
