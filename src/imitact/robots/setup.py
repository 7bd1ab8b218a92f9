"""Robot setup: a robot with its leader, clock, cameras and host, which start and end together."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

import numpy as np

from imitact.core.clock import Clock, VirtualClock, WallClock
from imitact.core.errors import BadInput, RobotError
from imitact.core.joint_limits import JointLimits
from imitact.core.robot import Leader, Robot
from imitact.parallel.signals import ENDING, handled
from imitact.robots.cameras import Cameras
from imitact.robots.config import RobotConfig
from imitact.robots.host import START_TIMEOUT_S, RobotHost
from imitact.robots.simulated import Outcome, SimulatedRobot, WorldBoxes

RESET_TIMEOUT_S = 30.0
"""Time for a simulated world to begin anew, s."""


class RobotSetup:
    """A robot, made ready: `start`, `enable`, a control loop, `park`, `release`, `close`.

    A context manager: at its end an arm with torque is parked and released. The methods here do
    nothing, as on a robot without torque; subclasses have what is behind them.

    Attributes:
        robot: what a control loop reads and commands.
        leaders: what leads it; empty where nothing does.
        clock: of all its times.
        limits: what it may do; None where only a policy's limits are known.
        config: its robot.toml; None where it has none.
    """

    def __init__(
        self,
        robot: Robot,
        leaders: Sequence[Leader],
        clock: Clock,
        limits: JointLimits | None = None,
        config: RobotConfig | None = None,
    ) -> None:
        self.robot, self.leaders, self.clock = robot, tuple(leaders), clock
        self.limits, self.config = limits, config

    def __enter__(self) -> RobotSetup:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def sentinels(self) -> Mapping[str, int]:
        """Descriptors that are readable once a process has ended, by the process's name."""
        return {}

    def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start processes, and connect; nothing moves and no torque changes."""

    def enable(self) -> None:
        """Turn the torque on, and follow commands from now on."""

    def hold(self, why: str = "told to hold") -> None:
        """Keep the last command, whatever is commanded, until `enable`."""

    def park(self) -> None:
        """Bring the robot to its rest pose, slowly."""

    def release(self, *, is_supported: bool = False) -> tuple[str, ...]:
        """Turn the torque off; return the joints that did not answer, in words."""
        return ()

    def watch(self) -> Mapping[str, str]:
        """Return what is wrong, in words, by the process or camera; passes their lines on."""
        return {}

    def reset(self, seed: int) -> None:
        """Begin an episode of a simulated world.

        Raises:
            BadInput: the robot is not simulated.
        """
        raise BadInput("only a simulated robot can begin an episode by its seed")

    @property
    def outcome(self) -> Outcome | None:
        """What has become of the episode of a simulated world; None on any other robot."""
        return None

    def close(self) -> tuple[str, ...]:
        """End all; an arm with torque is parked and released after a countdown.

        Returns:
            The joints that did not answer to the release, in words.
        """
        return ()


class VirtualSetup(RobotSetup):
    """A robot on a virtual clock, in this process: a simulated or an emulated one."""


class SimulatedSetup(VirtualSetup):
    """An env as a robot on a virtual clock."""

    def __init__(
        self, robot: SimulatedRobot, clock: VirtualClock, config: RobotConfig | None = None
    ) -> None:
        super().__init__(robot, (), clock, None, config)
        self._world = robot

    def reset(self, seed: int) -> None:
        self._world.reset(seed)

    @property
    def outcome(self) -> Outcome | None:
        return self._world.outcome

    def close(self) -> tuple[str, ...]:
        self._world.close()
        return ()


class HostSetup(RobotSetup):
    """A robot in a host process, in real time."""

    def __init__(
        self,
        host: RobotHost,
        *,
        cameras: Cameras | None = None,
        world: WorldBoxes | None = None,
        limits: JointLimits | None = None,
        config: RobotConfig | None = None,
        also_ends: Callable[[], object] = lambda: None,
    ) -> None:
        """Join what belongs together.

        Args:
            host: of the robot.
            cameras: that are started and ended here; the host has their mailboxes.
            world: of a simulated robot.
            limits: of the robot.
            config: its robot.toml.
            also_ends: called after all else has ended.
        """
        leaders = () if host.leader is None else (host.leader,)
        super().__init__(host.robot, leaders, WallClock(), limits, config)
        self.host, self.cameras = host, cameras
        self._world, self._also_ends = world, also_ends

    @property
    def sentinels(self) -> Mapping[str, int]:
        return {self.host.what: self.host.sentinel}

    def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start cameras and host.

        Raises:
            RobotError: one of them failed; all are ended, and no torque changed.
        """
        try:
            if self.cameras is not None:
                self.cameras.start(timeout_s)
            self.host.start(timeout_s)
        except BaseException:
            with handled((signal.SIGINT, *ENDING), lambda *_: None):  # another Ctrl-C
                self.close()
            raise

    def enable(self) -> None:
        self.host.enable()

    def hold(self, why: str = "told to hold") -> None:
        self.host.hold(why)

    def park(self) -> None:
        self.host.park()

    def release(self, *, is_supported: bool = False) -> tuple[str, ...]:
        return self.host.release(is_supported=is_supported)

    def watch(self) -> Mapping[str, str]:
        found: dict[str, str] = {}
        if death := self.host.death():
            found[self.host.what] = death
        if self.cameras is not None:
            found |= {f"camera {name}": words for name, words in self.cameras.watch().items()}
        return found

    def reset(self, seed: int) -> None:
        """Begin an episode of a simulated world, without torque; `enable` follows.

        Raises:
            BadInput: the robot is not simulated.
            RobotError: the world did not begin anew.
        """
        if self._world is None:
            return super().reset(seed)
        self.host.release(is_supported=True)
        self._world.reset.post(np.array([float(seed)]))
        deadline_s = time.monotonic() + RESET_TIMEOUT_S
        while self._world.read_outcome() != Outcome(seed):
            if death := self.host.death():
                raise RobotError(death)
            if time.monotonic() > deadline_s:
                raise RobotError(f"the simulation did not begin seed {seed}")
            time.sleep(0.005)
        return None

    @property
    def outcome(self) -> Outcome | None:
        return None if self._world is None else self._world.read_outcome()

    def close(self) -> tuple[str, ...]:
        with contextlib.ExitStack() as endings:
            endings.callback(self._also_ends)
            if self.cameras is not None:
                endings.callback(self.cameras.close)
            return self.host.close()
