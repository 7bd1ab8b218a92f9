"""Bench: an emulated robot with leaders, scene and cameras, behind ports that real drivers open.

    with Bench("aloha", cameras=("top",)) as bench:
        bench.robot_toml("robot.toml")      # for every verb that takes --robot
        bench.reset(seed=3)
        bench.hand(expert_trajectory("cube", 3), 50.0)

One process serves all ports, moves the physics in real time, whether or not anybody talks to it,
and the hand; another draws the cameras. Both end when their parent does.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.clock import WallClock
from imitact.core.errors import BadInput, ImitactError, RobotError, unknown_name
from imitact.core.robot import TimedFrame
from imitact.core.types import FloatArray
from imitact.envs.aloha import TASKS
from imitact.parallel.child_process import ChildProcess, ParentPipe
from imitact.parallel.mailbox import Mailbox
from imitact.robots.aloha_gripper import Command
from imitact.robots.emulation.bus import BusServer
from imitact.robots.emulation.cameras import (
    CAMERA_FAULTS,
    PATH_PREFIX,
    CameraPlan,
    check_folder,
    frame_mailboxes,
    run_cameras,
)
from imitact.robots.emulation.faults import FaultPlan
from imitact.robots.emulation.pictures import check_cameras
from imitact.robots.emulation.servo_bus import LATENCY_S, ServoBus
from imitact.robots.emulation.world import BenchTruth, BenchWorld, BusSetup, check_faults
from imitact.robots.timed_frames import newest_frame
from imitact.storage.lock import exclusive_writer

PERIOD_S = 0.004
"""Time between two steps of physics and hand while nobody talks to the servos, s."""

START_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 60.0
_STOP_S = 5.0
_NICENESS = -10

HEIGHT, WIDTH, CAMERA_HZ = 120, 160, 25.0
"""Frames whose drawing in software one core keeps up with (`ScenePictures`)."""


@dataclass(frozen=True)
class _Plan:
    kind: str
    task: str
    seed: int
    faults: FaultPlan | None
    gripper: Command
    folder: Path
    owns_folder: bool
    latency_s: float


class Bench:
    """An emulated robot. A context manager: it starts at the beginning, or by `start`.

    Its methods may be called from any thread of the process that made it.

    Args:
        kind: "aloha" (two ViperX followers in gym-aloha's scene, two WidowX leaders), "so101" or
            "koch" (a follower and a leader), or "bi_so" (two SO-101 of each).
        task: "cube" or "insertion": what lies on ALOHA's table.
        seed: of the objects' start.
        cameras: names; of the scene's, or any for other kinds. None at all is possible.
        height: rows of a frame, pixels.
        width: columns of a frame, pixels.
        camera_hz: frames per second of each camera.
        faults: what goes wrong, by the name of the bus: "follower_left", "leader_right", ...
        folder: for the links to the ports, like /dev/serial/by-id, and the cameras; None makes a
            temporary one.
        exact_pictures: whether frames have the pixels of `AlohaEnv`; they take twice as long.
        gripper: what the values of the hand and of `robot_toml` are linear in: the "fingers", as
            in gym-aloha, or the "angle" of the servos, as in datasets of the real ALOHA.
        zmq_port: of the cameras for LeRobot, on 127.0.0.1; 0 takes a free one; None has none, or a
            free one where LeRobot is to drive the arms.
        latency_s: that an adapter adds to each request.

    Attributes:
        ports: path of each bus, by name.
        frames: mailbox of each camera, by name; its first time is that of the capture.

    Raises:
        BadInput: a name, a size or a rate cannot be.
    """

    def __init__(
        self,
        kind: str = "aloha",
        *,
        task: str = "cube",
        seed: int = 0,
        cameras: Sequence[str] = ("top",),
        height: int = HEIGHT,
        width: int = WIDTH,
        camera_hz: float = CAMERA_HZ,
        faults: FaultPlan | None = None,
        folder: Path | str | None = None,
        exact_pictures: bool = False,
        gripper: Command = "fingers",
        zmq_port: int | None = None,
        latency_s: float = LATENCY_S,
    ) -> None:
        check_faults(kind, faults)
        if task not in TASKS:
            raise unknown_name("task of the ALOHA scene", task, TASKS)
        cameras = (cameras,) if isinstance(cameras, str) else tuple(cameras)
        check_cameras(kind, cameras, height, width)
        if not 0.1 <= camera_hz <= 240:
            raise BadInput(f"camera_hz is {camera_hz:g}; expected 0.1 to 240")
        self.kind, self.task = kind, task
        if folder is None:
            self.folder = Path(tempfile.mkdtemp(prefix="imitact-bench-"))
            # Also of a bench that was never started.
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        else:
            self.folder = Path(folder).absolute()
            check_folder(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
        self._plan = _Plan(kind, task, seed, faults, gripper, self.folder, not folder, latency_s)
        if zmq_port is None and kind != "aloha":
            zmq_port = 0
        self.camera_plan = CameraPlan(
            kind, task, cameras, height, width, camera_hz, exact_pictures, self.folder, zmq_port
        )
        poses = {"aloha": 23 if task == "cube" else 30, "bi_so": 12}
        self._pose = Mailbox.create((poses.get(kind, 6),))
        self.frames: Mapping[str, Mailbox] = frame_mailboxes(self.camera_plan)
        self._lock = threading.Lock()
        self._folder_lock = contextlib.ExitStack()
        self._world = ChildProcess("the bench", _run_bench, (self._plan, self._pose))
        self._cameras = ChildProcess(
            "the cameras of the bench", run_cameras, (self.camera_plan, self._pose, self.frames)
        )
        self.ports: Mapping[str, str] = {}

    # ------------------------------------------------------------------ life

    def start(self, timeout_s: float = START_TIMEOUT_S) -> Bench:
        """Start the processes, and wait until ports and cameras are there.

        Raises:
            BadInput: another bench uses the folder.
            RobotError: one of them failed, or was not ready in time.
        """
        if self._world.is_alive:
            raise RobotError("the bench runs already")
        self._folder_lock.enter_context(exclusive_writer(self.folder, "emulated robot"))
        try:
            self._world.start(timeout_s)
            self.ports = self._ask(self._world, "ports")
            if self.camera_plan.cameras:
                self._cameras.start(timeout_s)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the processes; ports, links and cameras go away."""
        with self._lock:
            for process in (self._cameras, self._world):
                process.close()
            for process in (self._cameras, self._world):
                process.end(_STOP_S)
        self._folder_lock.close()
        if self._plan.owns_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Bench:
        return self if self._world.is_alive else self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The process that serves ports and physics; None where none runs."""
        return self._world.pid

    def death(self) -> str:
        """Return which process of the bench ended and how, in words; empty while all run."""
        with self._lock:
            ended = self._world.death()
            if not ended and self.camera_plan.cameras:
                ended = self._cameras.death()
            return ended

    # ------------------------------------------------------------------ what happens

    def truth(self) -> BenchTruth:
        """Return what servos, scene and hand really do now."""
        return self._order("truth")

    def reset(self, seed: int, *, arms: bool = True, goals: bool = False) -> None:
        """Put objects and followers to gym-aloha's start; see `BenchWorld.reset`."""
        self._order("reset", seed, arms=arms, goals=goals)

    def hand(self, trajectory: FloatArray, rate_hz: float = 50.0, *, pause_s: float = 0.0) -> None:
        """Let a hand lead the limp leaders along actions; see `BenchWorld.hand`."""
        rows: NDArray[np.float64] = np.array(trajectory, np.float64)
        self._order("hand", rows, rate_hz, pause_s)

    def let_go(self) -> None:
        """Take the hand away; ALOHA's limp leaders sink."""
        self._order("let_go")

    def set_fault(self, bus: str, kind: str, **settings: Any) -> None:
        """Let a fault begin now, on one bus or on every one: bus "".

        `bench.set_fault("follower_left", "late", duration_s=0.5, ids=(2,), late_s=0.3)`
        """
        self._order("set_fault", bus, kind, **settings)

    def clear_faults(self) -> None:
        """End all faults, those of the plan included."""
        self._order("clear_faults")

    def set_camera_fault(self, camera: str, fault: str) -> None:
        """Let a camera be "frozen" or "black" from now on; "" ends that."""
        if camera not in self.frames:
            raise unknown_name("camera of the bench", camera, tuple(self.frames))
        if fault not in CAMERA_FAULTS:
            raise unknown_name("fault of a camera", fault, CAMERA_FAULTS[1:])
        self._ask(self._cameras, "fault", {camera: fault})

    def move(self, bus: str, positions: Mapping[int, float]) -> tuple[int, ...]:
        """Move limp joints of a bus by hand to positions, ticks; return those that are not limp."""
        return self._order("move", bus, dict(positions))

    def users(self, bus: str) -> tuple[int, ...]:
        """Return the processes that have a bus's port open, the bench left out (Linux)."""
        return self._order("users", bus)

    def commands(self, bus: str) -> list[tuple[float, dict[int, int]]]:
        """Return the goals written since the last call: (time in s, goal registers by id)."""
        return self._order("commands", bus)

    def get_register(self, bus: str, servo: int, name: str) -> int:
        """Return a register without the bus."""
        return self._order("get_register", bus, servo, name)

    def set_register(self, bus: str, servo: int, name: str, value: int) -> None:
        """Set a register without the bus and without the rules of access."""
        self._order("set_register", bus, servo, name, value)

    # ------------------------------------------------------------------ cameras

    def frame(self, camera: str) -> TimedFrame | None:
        """Return the newest frame of a camera; None before the first."""
        if camera not in self.frames:
            raise unknown_name("camera of the bench", camera, tuple(self.frames))
        return newest_frame(camera, self.frames[camera])

    def camera_path(self, camera: str) -> str:
        """Return the path of a camera for robot.toml, which `open_frames` takes."""
        return f"{PATH_PREFIX}{self.folder}/{camera}"

    def camera_statistics(self) -> Mapping[str, Any]:
        """Return how many frames were drawn and left out, in which time, and the ZMQ port."""
        return self._ask(self._cameras, "statistics")

    # ------------------------------------------------------------------ robot.toml

    def robot_toml(self, path: Path | str, *, watchdog_s: float = 0.2) -> None:
        """Write the robot.toml with which imitact drives this bench.

        Arms that LeRobot drives get a calibration: its files and the registers of the servos.

        Args:
            path: of the file.
            watchdog_s: of ALOHA's servos, time without any request after which they stop; on a
                busy computer the process of the drivers may not run for 0.2 s.
        """
        from imitact.robots.config import write_config
        from imitact.robots.emulation.bench_config import robot_config
        from imitact.robots.emulation.lerobot_calibration import calibrate

        zmq_port, calibration = None, None
        if self.kind != "aloha":
            calibration = calibrate(self.folder / "calibration", self.ports, self.set_register)
            for one in self._plan.faults.registers if self._plan.faults else ():
                self.set_register(one.bus, one.id, one.name, one.value)
            if self.camera_plan.cameras:
                zmq_port = self.camera_statistics()["zmq_port"]
        paths = {name: self.camera_path(name) for name in self.frames}
        gripper = self._plan.gripper
        config = robot_config(
            self.camera_plan, self.ports, paths, gripper, zmq_port, watchdog_s, calibration
        )
        write_config(path, config)

    # ------------------------------------------------------------------ asking

    def _order(self, name: str, *arguments: Any, **settings: Any) -> Any:
        return self._ask(self._world, name, (arguments, settings))

    def _ask(self, process: ChildProcess, name: str, argument: Any = None) -> Any:
        with self._lock:
            if not process.is_alive:
                raise RobotError(process.death() or f"{process.what} is not running; start it")
            answer = process.ask(name, argument, timeout_s=ANSWER_TIMEOUT_S)
        if isinstance(answer, ImitactError):
            raise answer
        return answer


def simulate(
    kind: str = "aloha",
    faults: FaultPlan | Path | None = None,
    *,
    on_ready: Callable[[Bench], object],
    is_over: Callable[[], bool] = lambda: False,
    **settings: Any,
) -> None:
    """Run a bench until it is interrupted: the command behind `imitact robot simulate`.

    Args:
        kind: of `Bench`.
        faults: a plan, or its TOML file.
        on_ready: receives the bench once its ports are there.
        is_over: asked several times a second; True ends the bench.
        settings: of `Bench`.

    Raises:
        RobotError: a process of the bench ended.
        KeyboardInterrupt: Ctrl-C; the bench has ended then.
    """
    plan = FaultPlan.load(faults) if isinstance(faults, Path) else faults
    with Bench(kind, faults=plan, **settings) as bench:
        on_ready(bench)
        while not is_over():
            if death := bench.death():
                raise RobotError(death)
            time.sleep(0.2)


# ---------------------------------------------------------------------- the process


def _run_bench(pipe: ParentPipe, plan: _Plan, pose: Mailbox) -> None:
    """Serve the ports and move the world until the parent has gone."""
    with contextlib.suppress(OSError):  # only for root; servos do not wait for a core
        os.nice(_NICENESS)
    process = _BenchProcess(plan, pose)
    try:
        pipe.ready()
        process.serve(pipe)
    finally:
        process.close()


class _BenchProcess:
    def __init__(self, plan: _Plan, pose: Mailbox) -> None:
        self._plan, self._pose = plan, pose
        self._clock = WallClock()
        self._servers: dict[str, BusServer] = {}
        self._world = BenchWorld(
            plan.kind,
            task=plan.task,
            seed=plan.seed,
            faults=plan.faults,
            gripper=plan.gripper,
            make_bus=self._make_bus,
        )

    def _make_bus(self, setup: BusSetup) -> ServoBus:
        server = BusServer(
            setup.protocol,
            setup.servos,
            faults=setup.faults,
            joints=setup.joints,
            clock=self._clock,
            latency_s=self._plan.latency_s,
            link=self._plan.folder / setup.name,
        )
        self._servers[setup.name] = server
        return server.bus

    def serve(self, pipe: ParentPipe) -> None:
        """Serve the ports until the parent has gone."""
        step_s = self._clock.now_s()
        while not pipe.parent_is_gone:
            while (order := pipe.next_order(0.0)) is not None:
                number, name, argument = order
                pipe.answer(number, True, self._answer(name, argument))
            servers = [server for server in self._servers.values() if server.is_open]
            dues = [at for server in servers if (at := server.next_due_s()) is not None]
            wait_s = min([step_s, *dues]) - self._clock.now_s()
            ready, _, _ = select.select(servers, [], [], max(0.0, wait_s))
            now_s = self._clock.now_s()
            if now_s >= step_s:
                self._step()
                step_s = max(step_s + PERIOD_S, self._clock.now_s())
                continue
            for server in servers:
                at = server.next_due_s()
                if server in ready or (at is not None and at <= now_s):
                    self._serve_bus(server)

    def _step(self) -> None:
        """Move everything on, and give the cameras what they draw."""
        now_s = self._clock.now_s()
        self._world.move_hand(now_s)
        for server in self._servers.values():
            self._serve_bus(server)
        self._pose.post(self._world.pose, self._clock.now_s())

    def _serve_bus(self, server: BusServer) -> None:
        bus = server.bus
        written = sum(servo.goal_writes for servo in bus.servos)
        self._world.advance_bus(server.serve_ready)
        if written != sum(servo.goal_writes for servo in bus.servos):
            # The goals reach the physics at once, before it moves on for another bus.
            self._world.advance_bus(self._advance(bus))

    def _advance(self, bus: ServoBus) -> Callable[[], None]:
        return lambda: bus.advance(self._clock.now_s())

    def _answer(self, name: str, argument: Any) -> Any:
        arguments, settings = argument or ((), {})
        try:
            return self._act(name, *arguments, **settings)
        except ImitactError as error:
            return error
        except (TypeError, ValueError) as error:
            return BadInput(f"{name} of the bench: {error}")

    def _act(self, name: str, *arguments: Any, **settings: Any) -> Any:
        world = self._world
        if name == "ports":
            return {bus: server.path for bus, server in self._servers.items()}
        self._step()
        if name == "truth":
            buses = {bus: server.truth() for bus, server in self._servers.items()}
            return replace(world.truth(), buses=buses)
        if name in ("reset", "hand", "let_go", "set_fault", "clear_faults"):
            return getattr(world, name)(*arguments, **settings)
        bus, *others = arguments
        world.bus(bus)  # refuses an unknown one
        server = self._servers[bus]
        acts: dict[str, Callable[..., Any]] = {
            "users": server.users,
            "move": server.move,
            "commands": server.commands,
            "get_register": server.get_register,
            "set_register": server.set_register,
        }
        return acts[name](*others)

    def close(self) -> None:
        for server in self._servers.values():
            server.close()
        if self._plan.owns_folder:
            with contextlib.suppress(OSError):
                shutil.rmtree(self._plan.folder)
