"""Virtual ALOHA: the emulated ALOHA and its real driver on a virtual clock, in one process.

Drivers, driver loops and mailboxes are those of a host process; bytes pass between driver and
servos without a port. A run is a function of its seeds alone, however busy the computer is, and
faster than real time. What takes no time here: bytes on the wire, a time-out, drawing a frame.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imitact.core.clock import Clock, VirtualClock
from imitact.core.errors import RobotError
from imitact.core.robot import TimedFrame
from imitact.core.types import Camera, FloatArray, Frame, Spec
from imitact.robots.aloha import AlohaArm
from imitact.robots.aloha_gripper import Command
from imitact.robots.aloha_hardware import arm_rest, robot_limits
from imitact.robots.config import RobotConfig
from imitact.robots.driver_loop import DriverLoop, LoopConfig, Mode
from imitact.robots.dynamixel_line import DynamixelLine
from imitact.robots.emulation.bench_config import robot_config
from imitact.robots.emulation.cameras import CameraPlan
from imitact.robots.emulation.faults import FaultPlan
from imitact.robots.emulation.pictures import Pictures, check_cameras, make_pictures
from imitact.robots.emulation.servo_bus import ServoBus
from imitact.robots.emulation.world import BenchWorld
from imitact.robots.hosted import (
    HostBoxes,
    HostedDriver,
    HostedLeader,
    HostedRobot,
    side_by_side,
)
from imitact.robots.setup import VirtualSetup
from imitact.robots.simulated import EARLY_S, Outcome
from imitact.robots.timed_frames import FRAME_SLOTS, LazyTimedFrame

SIDES = ("left", "right")
_PARK_S = 120.0  # of virtual time; any way to the rest pose is done by then


class VirtualLine(DynamixelLine):
    """The line between the driver and an emulated bus, without a port.

    What arrives before a time-out arrives at once, and a time-out takes no time. A reply that is
    later than its time-out is there once its time has come, as on a wire.
    """

    def __init__(self, bus: ServoBus, clock: VirtualClock, port: str, baud: int) -> None:
        self.port_name, self.baudrate, self.tx_time_per_byte = port, baud, 1e4 / baud
        self.is_open, self.is_using = True, False
        self.allowance_s = 0.0
        self._bus, self._clock = bus, clock
        self._queue: deque[tuple[float, bytes]] = deque()
        self._due_s = 0.0
        self._fail_where_gone()

    def _fail_where_gone(self) -> None:
        if self._bus.is_hung_up:
            raise OSError("the adapter is gone")

    def set_speed(self, baud: int) -> None:
        self.baudrate, self.tx_time_per_byte = baud, 1e4 / baud

    def set_latency(self) -> float:
        return 0.0

    def close(self) -> None:
        self.is_open = False

    def clearPort(self) -> None:  # noqa: N802
        while self._queue and self._queue[0][0] <= self._clock.now_s():
            self._queue.popleft()

    def writePort(self, packet: Sequence[int]) -> int:  # noqa: N802
        self._fail_where_gone()
        self.clearPort()
        now_s, data = self._clock.now_s(), bytes(packet)
        written = sum(servo.goal_writes for servo in self._bus.servos)
        for due_s, reply in self._bus.exchange(data, now_s, self.baudrate):
            last_s = self._queue[-1][0] if self._queue else due_s
            self._queue.append((max(due_s, last_s), reply))
        if written != sum(servo.goal_writes for servo in self._bus.servos):
            self._bus.advance(now_s)  # goals act from now on
        return len(data)

    def readPort(self, length: int) -> bytes:  # noqa: N802
        self._fail_where_gone()
        if self.is_over():
            return b""
        due_s, data = self._queue.popleft()
        if len(data) > length:
            self._queue.appendleft((due_s, data[length:]))
        return data[:length]

    def start_wait(self, size: int) -> None:
        wire_s = size * 10 / self.baudrate
        self._due_s = self._clock.now_s() + wire_s + self.allowance_s

    def is_over(self) -> bool:
        return not self._queue or self._queue[0][0] > self._due_s


class VirtualAloha(VirtualSetup):
    """An emulated ALOHA with its driver and its leaders, on a virtual clock.

    Args:
        task: "cube" or "insertion".
        seed: of the objects' start.
        cameras: of the scene.
        height: rows of a frame, pixels.
        width: columns of a frame, pixels.
        camera_hz: frames per second. They are drawn where they are looked at.
        faults: what goes wrong, by the name of the bus.
        exact_pictures: whether frames have the pixels of `AlohaEnv`.
        gripper: what gripper values are linear in; "fingers" is gym-aloha's.
        loop: settings of the drivers' loops.

    Attributes:
        task: "cube" or "insertion".
        world: servos, scene and hand; its `truth`, its faults, its registers.
    """

    def __init__(
        self,
        task: str = "cube",
        *,
        seed: int = 0,
        cameras: Sequence[str] = ("top",),
        height: int = 120,
        width: int = 160,
        camera_hz: float = 25.0,
        faults: FaultPlan | None = None,
        exact_pictures: bool = True,
        gripper: Command = "fingers",
        loop: LoopConfig | None = None,
    ) -> None:
        check_cameras("aloha", cameras, height, width)
        self.task = task
        clock, self._loop_config = VirtualClock(), loop or LoopConfig()
        self.world = BenchWorld("aloha", task=task, seed=seed, faults=faults, gripper=gripper)
        self._plan = CameraPlan(
            "aloha", task, tuple(cameras), height, width, camera_hz, exact_pictures, Path(), None
        )
        config = _config(self.world, self._plan, gripper)
        drivers = [self._hosted(config, side, clock, is_leader=False) for side in SIDES]
        leaders = [self._hosted(config, side, clock, is_leader=True) for side in SIDES]
        boxes = HostBoxes.create(drivers, leaders)
        shapes = tuple(Camera(name, height, width) for name in cameras)
        spec = side_by_side([one.spec for one in drivers], shapes, config.rate_hz)
        self._watched = _WatchedRobot(spec, boxes, clock, self._plan)
        leader = HostedLeader("emulated aloha", [one.spec for one in leaders], boxes, clock)
        super().__init__(self._watched, (leader,), clock, robot_limits(config), config)
        self._virtual, self._boxes = clock, boxes
        self._loops: list[DriverLoop] = []
        for number, (hosted, own) in enumerate(zip(drivers, boxes.drivers, strict=True)):
            columns = slice(7 * number, 7 * number + 7)
            settings = (hosted, own, clock, self._loop_config, boxes.command, columns)
            self._loops.append(DriverLoop(*settings))
        self._leader_loops = [
            DriverLoop(hosted, own, clock, self._loop_config)
            for hosted, own in zip(leaders, boxes.leaders, strict=True)
        ]
        self._seed, self._reset_s, self._is_running = seed, clock.now_s(), False

    def _hosted(
        self, config: RobotConfig, side: str, clock: VirtualClock, *, is_leader: bool
    ) -> HostedDriver:
        role = "leader" if is_leader else "follower"
        arm = (config.leaders if is_leader else config.arms)[side]
        line = partial(VirtualLine, self.world.bus(f"{role}_{side}"), clock)
        make = partial(AlohaArm, arm, side, clock=clock, open_line=line)
        spec = replace(make().spec, rate_hz=config.rate_hz)
        rest = None if is_leader else arm_rest(config, side)
        return HostedDriver(f"{side} {role}", make, spec, rest)

    # ------------------------------------------------------------------ a robot's life

    def start(self, timeout_s: float = math.inf) -> None:
        """Connect all drivers; nothing moves and no torque changes. Time begins to pass."""
        if self._is_running:
            return
        self.world.advance(self._virtual.now_s())
        for loop in (*self._loops, *self._leader_loops):
            loop.open()
        self._is_running = True
        self._beat()
        self._capture()
        self._every(1 / self._loop_config.rate_hz, self._period)
        self._every(1 / self._plan.rate_hz, self._capture)

    def enable(self) -> None:
        done: list[DriverLoop] = []
        try:
            for loop in self._loops:
                loop.enable()
                done.append(loop)
        except RobotError:
            for loop in done:
                loop.release()
            raise

    def hold(self, why: str = "told to hold") -> None:
        for loop in self._loops:
            loop.hold(why)

    def park(self) -> None:
        """Bring each arm that can be parked to rest, as a host does.

        Raises:
            RobotError: some did not get there; all are named.
        """
        failed: list[str] = []
        standing = [loop for loop in self._loops if loop.mode is not Mode.LIMP]
        if not standing:
            raise RobotError("the robot has no torque, so it cannot be parked; enable it first")
        for loop in standing:
            try:
                loop.start_parking()
            except RobotError as error:
                failed.append(str(error))
        end_s = self._virtual.now_s() + _PARK_S
        while parking := [loop for loop in standing if loop.mode is Mode.PARKING]:
            if self._virtual.now_s() > end_s:
                for loop in parking:
                    loop.hold(f"it was not parked within {_PARK_S:g} s")
                break
            self._virtual.wait_until(self._virtual.now_s() + 0.1)
        failed += [loop.parking_failure or "" for loop in standing]
        if words := "; ".join(dict.fromkeys(text for text in failed if text)):
            raise RobotError(words)

    def release(self, *, is_supported: bool = False) -> tuple[str, ...]:
        for loop in self._loops:
            if not is_supported and loop.mode is not Mode.LIMP and not loop.parked:
                raise RobotError(f"{loop.name}: it is neither parked nor supported")
        return tuple(name for loop in self._loops for name in loop.release())

    def reset(self, seed: int) -> None:
        """Put objects and followers to gym-aloha's start of a seed, at once.

        Arms with torque get it anew there, with goal = present, and follow the next commands.
        """
        had_torque = [loop for loop in self._loops if loop.mode is not Mode.LIMP]
        for loop in had_torque:
            loop.release()
        self.world.reset(seed, goals=True)
        for loop in had_torque:
            loop.enable()
        for loop in self._loops:
            if self._is_running:
                loop.step()  # its reading is of the new pose
        self._seed, self._reset_s = seed, self._virtual.now_s()
        self._capture()

    def lead(self, trajectory: FloatArray, pause_s: float = 0.0) -> None:
        """Let a hand lead the limp leaders along actions (T, 14); see `BenchWorld.hand`."""
        assert self.config is not None
        self.world.hand(trajectory, self.config.rate_hz, pause_s)

    @property
    def outcome(self) -> Outcome:
        truth = self.world.truth()
        rate_hz = self._watched.spec.rate_hz
        ticks = round((self._virtual.now_s() - self._reset_s) * rate_hz)
        best = truth.best_reward
        return Outcome(self._seed, ticks, float(truth.reward), float(best), best == 4)

    def close(self) -> tuple[str, ...]:
        """Park and release arms with torque; return the joints that did not answer."""
        missing: tuple[str, ...] = ()
        if self._is_running:
            if any(loop.mode is not Mode.LIMP for loop in self._loops):
                with contextlib.suppress(RobotError):  # an arm that cannot is released as it is
                    self.park()
                missing = self.release(is_supported=True)
            self._is_running = False
            for loop in (*self._loops, *self._leader_loops):
                loop.close()
            self._watched.close()
        return missing

    # ------------------------------------------------------------------ time

    def _every(self, period_s: float, event: Callable[[], None]) -> None:
        """Call an event once a period, shortly before the ticks of a loop that begins now."""
        begin_s = self._virtual.now_s() - EARLY_S

        def again(count: int) -> None:
            if self._is_running:
                event()
                self._virtual.call_at(begin_s + (count + 1) * period_s, lambda: again(count + 1))

        self._virtual.call_at(begin_s + period_s, lambda: again(1))

    def _period(self) -> None:
        self.world.advance(self._virtual.now_s())
        for loop in (*self._leader_loops, *self._loops):
            try:
                loop.step()
            except Exception as error:  # as in the host process
                loop.report(error)
        self._beat()

    def _beat(self) -> None:
        self._boxes.heartbeat.post(np.zeros(1), self._virtual.now_s())

    def _capture(self) -> None:
        self._watched.capture(self.world.pose, self._virtual.now_s())


class _WatchedRobot(HostedRobot):
    """A hosted robot whose cameras keep the scene's coordinates, and draw what is looked at."""

    def __init__(self, spec: Spec, boxes: HostBoxes, clock: Clock, plan: CameraPlan) -> None:
        super().__init__("emulated aloha", spec, boxes, {}, clock)
        self._plan = plan
        self._captured: deque[tuple[int, float, NDArray[np.float64]]] = deque(maxlen=FRAME_SLOTS)
        self._pictures: Pictures | None = None

    def capture(self, pose: NDArray[np.float64], now_s: float) -> None:
        """Take a frame with every camera."""
        number = self._captured[-1][0] + 1 if self._captured else 1
        self._captured.append((number, now_s, pose.copy()))

    def frame(self, camera: str) -> TimedFrame | None:
        self.spec.camera(camera)
        return self._drawn_later(camera, *self._captured[-1]) if self._captured else None

    def frame_at(self, camera: str, sequence: int) -> TimedFrame | None:
        self.spec.camera(camera)
        for number, now_s, pose in self._captured:
            if number == sequence:
                return self._drawn_later(camera, number, now_s, pose)
        return None

    def _drawn_later(
        self, camera: str, number: int, now_s: float, pose: NDArray[np.float64]
    ) -> TimedFrame:
        return LazyTimedFrame(lambda: self._draw(camera, pose), now_s, number)

    def _draw(self, camera: str, pose: NDArray[np.float64]) -> Frame:
        if self._pictures is None:
            plan, cameras = self._plan, self._plan.cameras
            size = plan.height, plan.width
            self._pictures = make_pictures(plan.kind, plan.task, cameras, *size, exact=plan.exact)
        return self._pictures.draw(pose, camera)

    def close(self) -> None:
        """Free the OpenGL context."""
        if self._pictures is not None:
            self._pictures.close()
            self._pictures = None


def _config(world: BenchWorld, plan: CameraPlan, gripper: Command) -> RobotConfig:
    ports = {name: f"virtual:{name}" for name in world.buses}
    paths = {name: f"virtual:{name}" for name in plan.cameras}
    return robot_config(plan, ports, paths, gripper, None)
