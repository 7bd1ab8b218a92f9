"""Robot registry: robots by the names the command line gives them.

FILE.toml describes a robot of hardware or a simulated one, sim:ENV is an environment, bench:KIND is
an emulated robot, which starts and ends with it, and virtual:TASK is the emulated ALOHA with its
driver on a virtual clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from imitact.core.clock import VirtualClock
from imitact.core.errors import BadInput
from imitact.core.types import Camera, Spec
from imitact.envs import registry as envs
from imitact.envs.gym import GYM_PREFIX
from imitact.parallel.mailbox import Mailbox
from imitact.robots.cameras import CameraPlan, Cameras
from imitact.robots.config import CameraConfig, RobotConfig, read_config
from imitact.robots.host import RobotHost
from imitact.robots.host_process import HostConfig
from imitact.robots.hosted import HostedDriver
from imitact.robots.setup import HostSetup, RobotSetup, SimulatedSetup
from imitact.robots.simulated import SimulatedDriver, SimulatedRobot, WorldBoxes
from imitact.robots.timed_frames import frame_mailbox

SIM_PREFIX = "sim:"
BENCH_PREFIX = "bench:"
BENCH_PATIENCE = 20.0
"""Factor of time-outs on a bench: emulated servos wait for a core of this computer."""

VIRTUAL_PREFIX = "virtual:"
FORMS = ("FILE.toml", f"{SIM_PREFIX}ENV", f"{BENCH_PREFIX}aloha", f"{VIRTUAL_PREFIX}TASK")
"""The forms that the name of a robot takes."""


@dataclass(frozen=True)
class SimOptions:
    """How a simulated robot runs."""

    real_time: bool = False
    """Run with the wall clock, in a host process; otherwise on a virtual clock, as fast as it
    goes, and twice the same."""

    seed: int = 0
    """Seed of the first episode."""

    cameras: Sequence[str] = ("top",)
    """Cameras of the ALOHA scene."""

    height: int = 480
    """Rows of a frame of the ALOHA scene, pixels."""

    width: int = 640
    """Columns of a frame of the ALOHA scene, pixels."""

    gym: Mapping[str, Any] = field(default_factory=dict)
    """Settings of a gym:NAME, as `GymConfig` has them."""

    state_latency_s: float = 0.0
    """Time from a measurement to its reading, s; on the virtual clock only."""

    frame_latency_s: float = 0.0
    """Time from the capture of a frame to its reading, s; on the virtual clock only."""


def make_robot(
    name: str,
    options: SimOptions | None = None,
    *,
    with_leaders: bool = True,
    on_line: Callable[[str], object] = lambda line: None,
) -> RobotSetup:
    """Make a robot by its name on the command line; `start` of the setup connects it.

    Args:
        name: FILE.toml, sim:ENV (cube, insertion, gym:NAME, FILE.py:NAME), bench:KIND (aloha,
            so101, koch, bi_so), or virtual:TASK (cube, insertion).
        options: of a simulated robot; None takes the defaults.
        with_leaders: whether leaders are connected, where there are some.
        on_line: receives lines of progress and faults.

    Raises:
        BadInput: there is no such robot, or its description cannot be used.
    """
    if name.startswith(SIM_PREFIX):
        return _simulated(name.removeprefix(SIM_PREFIX), options or SimOptions(), None, on_line)
    if name.startswith(BENCH_PREFIX):
        return _emulated(name.removeprefix(BENCH_PREFIX), options, with_leaders, on_line)
    if name.startswith(VIRTUAL_PREFIX):
        return _virtual(name.removeprefix(VIRTUAL_PREFIX), options or SimOptions())
    if not name.endswith(".toml"):
        raise BadInput(
            f'there is no robot "{name}"; expected {", ".join(FORMS)}, where {BENCH_PREFIX}aloha '
            f"is an emulated ALOHA and {VIRTUAL_PREFIX}cube the same on a virtual clock"
        )
    config = read_config(name)
    return robot_of(config, options, with_leaders=with_leaders, on_line=on_line)


def robot_of(
    config: RobotConfig,
    options: SimOptions | None = None,
    *,
    with_leaders: bool = True,
    on_line: Callable[[str], object] = lambda line: None,
    patience: float = 1.0,
    also_ends: Callable[[], object] = lambda: None,
) -> RobotSetup:
    """Make the robot of a robot.toml; arguments as for `make_robot`.

    Args:
        patience: factor of the drivers' time-outs.
        also_ends: called after the setup was closed.
    """
    if config.kind == "sim":
        assert config.sim is not None
        sim = config.sim
        if sim.settings and not sim.env.startswith(GYM_PREFIX):
            raise BadInput(f"[sim.settings] are those of a {GYM_PREFIX}NAME; {sim.env} has none")
        given = options or SimOptions()
        chosen = replace(given, gym={**sim.settings, **given.gym})
        setup = _simulated(sim.env, chosen, config, on_line)
        rate_hz = setup.robot.spec.rate_hz
        if config.rate_hz not in (RobotConfig.rate_hz, rate_hz):
            setup.close()
            raise BadInput(
                f"rate_hz is {config.rate_hz:g}, but {sim.env} has {rate_hz:g} ticks per second; "
                "take rate_hz out of robot.toml"
            )
        return setup
    if config.kind == "aloha":
        return _aloha(config, with_leaders, on_line, patience, also_ends)
    from imitact.robots.lerobot_setup import lerobot_setup

    cameras, frames = _cameras(config.cameras, on_line)
    return lerobot_setup(
        config,
        cameras,
        frames,
        with_leaders=with_leaders,
        on_line=on_line,
        patience=patience,
        also_ends=also_ends,
    )


def _simulated(
    env: str,
    options: SimOptions,
    config: RobotConfig | None,
    on_line: Callable[[str], object],
) -> RobotSetup:
    make = envs.env_factory(
        env, options.cameras, options.height, options.width, options.gym or None
    )
    if not options.real_time:
        clock = VirtualClock()
        robot = SimulatedRobot(
            make(),
            clock,
            seed=options.seed,
            state_latency_s=options.state_latency_s,
            frame_latency_s=options.frame_latency_s,
        )
        return SimulatedSetup(robot, clock, config)
    if options.state_latency_s or options.frame_latency_s:
        raise BadInput("a simulated robot has a latency on the virtual clock only")
    with closing(make()) as made:
        spec = made.spec
    world = WorldBoxes(
        {camera.name: frame_mailbox(camera.height, camera.width) for camera in spec.cameras},
        Mailbox.create((6,)),
        Mailbox.create((1,)),
    )
    host = RobotHost(
        f"{SIM_PREFIX}{env}",
        [HostedDriver(env, partial(SimulatedDriver, make, world, options.seed), spec)],
        rate_hz=spec.rate_hz,
        cameras=[(camera, world.frames[camera.name]) for camera in spec.cameras],
        config=HostConfig(rate_hz=spec.rate_hz, falls=False),
        on_line=on_line,
    )
    return HostSetup(host, world=world, config=config)


def _aloha(
    config: RobotConfig,
    with_leaders: bool,
    on_line: Callable[[str], object],
    patience: float,
    also_ends: Callable[[], object],
) -> RobotSetup:
    from imitact.robots.aloha import AlohaArm
    from imitact.robots.aloha_hardware import arm_rest, joint_names, robot_limits

    def hosted(side: str, *, is_leader: bool) -> HostedDriver:
        arm = (config.leaders if is_leader else config.arms)[side]
        names, units = joint_names(side), ("rad",) * 6 + ("1",)
        return HostedDriver(
            f"{side} {'leader' if is_leader else 'follower'}",
            partial(AlohaArm, arm, side, patience=patience),
            Spec(names, names, units, units, (), config.rate_hz),
            None if is_leader else arm_rest(config, side),
        )

    cameras, frames = _cameras(config.cameras, on_line)
    limit_s = config.parking.hold_limit_s
    host = RobotHost(
        config.name or "aloha",
        [hosted(side, is_leader=False) for side in config.arms],
        [hosted(side, is_leader=True) for side in config.leaders if with_leaders],
        rate_hz=config.rate_hz,
        cameras=frames,
        config=HostConfig(
            park_speed=config.parking.speed / 0.3, hold_limit_s=limit_s if limit_s else math.inf
        ),
        on_line=on_line,
    )
    return HostSetup(
        host, cameras=cameras, limits=robot_limits(config), config=config, also_ends=also_ends
    )


def _cameras(
    configs: Mapping[str, CameraConfig], on_line: Callable[[str], object]
) -> tuple[Cameras | None, list[tuple[Camera, Mailbox]]]:
    """Return the cameras to start, and the mailbox of every camera, in order."""
    from imitact.robots.emulation.cameras import PATH_PREFIX, open_frames
    from imitact.robots.v4l2 import V4l2Camera

    plans: dict[str, CameraPlan] = {}
    boxes: dict[str, Mailbox] = {}
    shapes = {name: Camera(name, c.height, c.width) for name, c in configs.items()}
    for name, config in configs.items():
        if config.path.startswith(PATH_PREFIX):
            boxes[name] = open_frames(config.path)
            wanted = (config.height, config.width, 3)
            if boxes[name].shape != wanted:
                raise BadInput(
                    f"camera {name} ({config.path}) gives frames of {boxes[name].shape}, expected "
                    f"{wanted}"
                )
        else:
            plans[name] = CameraPlan(
                shapes[name], config.rate_hz, partial(V4l2Camera, name, config)
            )
    cameras = Cameras(plans, on_line) if plans else None
    if cameras is not None:
        boxes |= cameras.boxes
    return cameras, [(shapes[name], boxes[name]) for name in configs]


def _emulated(
    kind: str,
    options: SimOptions | None,
    with_leaders: bool,
    on_line: Callable[[str], object],
) -> RobotSetup:
    from imitact.robots.emulation.bench import Bench

    bench = Bench(kind, seed=0 if options is None else options.seed)
    on_line(f"starting the emulated {kind}")
    bench.start()
    try:
        path = Path(bench.folder) / "robot.toml"
        bench.robot_toml(path)
        return robot_of(
            read_config(path),
            with_leaders=with_leaders,
            on_line=on_line,
            patience=BENCH_PATIENCE,
            also_ends=bench.stop,
        )
    except BaseException:
        bench.stop()
        raise


def _virtual(task: str, options: SimOptions) -> RobotSetup:
    from imitact.robots.emulation.virtual_aloha import VirtualAloha

    if options.real_time:
        raise BadInput(f"{VIRTUAL_PREFIX}{task} has no real time; take {BENCH_PREFIX}aloha")
    return VirtualAloha(
        task,
        seed=options.seed,
        cameras=options.cameras,
        height=options.height,
        width=options.width,
    )
