"""Session parts: what the verbs on a robot make a session of, by the names that they are given."""

from __future__ import annotations

import datetime
import itertools
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imitact.api.live_session import LiveSession
from imitact.api.robot_session import (
    OnLine,
    OnPoll,
    Recorder,
    RobotSession,
    SessionPlan,
    stage_names,
)
from imitact.api.virtual_session import VirtualSession
from imitact.control.ages import AgeBounds
from imitact.control.async_inference import PolicyProcess
from imitact.control.collision import CollisionCheck
from imitact.control.contract import Safety, Source
from imitact.control.parking import RampSource
from imitact.control.run_log import RunLog
from imitact.control.safety_filter import (
    ALL_STAGES,
    SafetyBounds,
    SafetyFilter,
    Stage,
)
from imitact.control.shadow import ShadowRobot
from imitact.core.aloha_joints import ALOHA_JOINTS
from imitact.core.errors import BadInput
from imitact.core.joint_limits import CombinedLimits, JointLimits, combined_limits
from imitact.core.robot import Robot
from imitact.core.types import Spec
from imitact.datasets.video_config import VideoConfig
from imitact.parallel.mailbox import Mailbox
from imitact.recording.session import RecordingSession
from imitact.recording.session_process import RecorderPlan, RecorderProcess
from imitact.robots.config import ArmConfig, RobotConfig, read_config
from imitact.robots.registry import (
    BENCH_PATIENCE,
    SIM_PREFIX,
    SimOptions,
    make_robot,
    robot_of,
)
from imitact.robots.setup import HostSetup, RobotSetup, VirtualSetup
from imitact.storage.output_guard import check_output

LOGS = Path("runs/robot")
"""Folder of the logs of runs that have none given."""

START_GRIPPER = 0.1
"""Gripper at the start of an episode of gym-aloha, 0 to 1."""

QUIET_S = 5.0
"""Time in which a line of the same words is shown once, s."""

_FAR = 1e9
"""Beyond any value of a simulated robot, in any unit."""

MakeSetup = Callable[[], RobotSetup]


@dataclass(frozen=True)
class Parts:
    """A robot that is made and not started, and what its session needs beside the sources.

    Attributes:
        setup: the robot, its leaders and its clock.
        robot: what is commanded: the setup's, or one that moves nothing.
        limits: what commands must keep; None where nothing is known but the robot's size.
        safety: the filter with these limits.
        ages: how old values may be.
        is_shadow: whether nothing is sent.
        limit_lines: the limits of each joint with the source of each bound, for the log.
    """

    setup: RobotSetup
    robot: Robot
    limits: JointLimits | None
    safety: Safety
    ages: AgeBounds
    is_shadow: bool = False
    limit_lines: tuple[str, ...] = ()

    @property
    def spec(self) -> Spec:
        return self.robot.spec

    def session(
        self,
        phases: Mapping[str, Source],
        *,
        policy: PolicyProcess | None = None,
        recorder: Recorder | None = None,
        log: RunLog | None = None,
        on_poll: OnPoll = lambda session: None,
        on_line: OnLine = lambda line: None,
    ) -> RobotSession:
        """Return the session, on the clock of the setup."""
        plan = SessionPlan(phases, self.safety, self.robot, self.ages, self.is_shadow)
        if isinstance(self.setup, VirtualSetup):
            return VirtualSession(
                self.setup, plan, recorder=recorder, log=log, on_poll=on_poll, on_line=on_line
            )
        return LiveSession(
            self.setup,
            plan,
            policy=policy,
            recorder=recorder,
            log=log,
            on_poll=on_poll,
            on_line=on_line,
        )


def open_parts(
    robot: str | MakeSetup,
    sim: SimOptions | None = None,
    *,
    policy_limits: JointLimits | None = None,
    with_leaders: bool = True,
    shadow: bool = False,
    ages: AgeBounds | None = None,
    self_collision: bool = True,
    on_line: OnLine = lambda line: None,
) -> Parts:
    """Make a robot by its name on the command line, with its safety filter; nothing is started.

    Args:
        robot: as for `make_robot`, or a function that makes the setup.
        sim: options of a simulated robot.
        policy_limits: that come with a policy.
        with_leaders: whether its own leaders are connected.
        shadow: whether nothing is sent to it.
        ages: how old values may be.
        self_collision: whether collisions of an ALOHA's arms are checked, if its robot.toml does
            not say no.
        on_line: receives lines of progress.

    Raises:
        BadInput: no limits are known for a robot of hardware, or collisions cannot be checked.
    """
    ages = ages or AgeBounds()
    if isinstance(robot, str):
        setup = made(robot, sim, with_leaders=with_leaders, on_line=on_line)
    else:
        setup = robot()
    try:
        joined = _joined_limits(setup, policy_limits)
        limits = None if joined is None else joined.limits
        commanded: Robot = ShadowRobot(setup.robot) if shadow else setup.robot
        if limits is None and not _is_simulated(robot, setup):
            raise BadInput(
                "no limits are known for this robot: give them for every joint in robot.toml "
                "([limits.JOINT] with lower, upper, velocity, acceleration and jerk), or run a "
                "policy that has its own"
            )
        collisions = _collisions(setup) if self_collision else None
        safety = _safety(commanded.spec, limits, ages, collisions, shadow=shadow)
        lines = () if joined is None else tuple(joined.lines())
        return Parts(setup, commanded, limits, safety, ages, shadow, lines)
    except BaseException:
        setup.close()
        raise


def robot_name(robot: str | MakeSetup) -> str:
    """Return the name of a robot for the log."""
    return robot if isinstance(robot, str) else "made by the caller"


def patience_of(config: RobotConfig) -> float:
    """Return the factor of the time-outs: emulated servos wait for a core of this computer."""
    return BENCH_PATIENCE if config.name.startswith("emulated ") else 1.0


def made(robot: str, sim: SimOptions | None, *, with_leaders: bool, on_line: OnLine) -> RobotSetup:
    """Make a robot by its name; nothing is started."""
    said = quiet(on_line)
    if not robot.endswith(".toml"):
        return make_robot(robot, sim, with_leaders=with_leaders, on_line=said)
    config = read_config(robot)
    return robot_of(
        config, sim, with_leaders=with_leaders, on_line=said, patience=patience_of(config)
    )


def quiet(on_line: OnLine) -> OnLine:
    """Return a receiver of lines that leaves out those that came a moment ago, but for numbers:
    a driver that fails says so at each of its periods."""
    said: dict[str, float] = {}

    def take(line: str) -> None:
        kind, now_s = re.sub(r"[0-9.]+", "0", line), time.monotonic()
        if now_s - said.get(kind, -QUIET_S) >= QUIET_S:
            said[kind] = now_s
            on_line(line)

    return take


def park_robot(robot: str, *, on_line: OnLine = lambda line: None) -> tuple[str, ...]:
    """Bring a robot to its rest pose, slowly, and release it; return the joints that did not
    answer to the release, in words."""
    setup = made(robot, None, with_leaders=False, on_line=on_line)
    with setup:
        setup.start()
        setup.enable()
        return setup.close()


def release_robot(robot: str, *, on_line: OnLine = lambda line: None) -> tuple[str, ...]:
    """Turn a robot's torque off where it is, so that it falls; return the joints that did not
    answer, in words."""
    setup = made(robot, None, with_leaders=False, on_line=on_line)
    with setup:
        setup.start()
        return setup.release(is_supported=True)


def _is_simulated(robot: str | MakeSetup, setup: RobotSetup) -> bool:
    if isinstance(setup, VirtualSetup) or (setup.config and setup.config.kind == "sim"):
        return True
    return isinstance(robot, str) and robot.startswith(SIM_PREFIX)


def _joined_limits(setup: RobotSetup, policy: JointLimits | None) -> CombinedLimits | None:
    """Return what the robot and the demonstrations of the policy allow; None where neither is
    known. The way to the start pose is allowed, although no demonstration was in it."""
    own = setup.limits
    if own is None and setup.robot.spec.action_names == ALOHA_JOINTS:
        from imitact.robots.aloha_hardware import robot_limits  # a simulated ALOHA

        arms = {side: ArmConfig(f"sim:{side}", "vx300s") for side in ("left", "right")}
        own = robot_limits(RobotConfig(kind="aloha", arms=arms))
    if policy is not None and own is not None:
        policy = policy.freed(own)
    if policy is not None and (pose := start_pose(setup)) is not None:
        policy = policy.reaching(np.asarray(pose, np.float64))
    sources = {"robot": own, "demonstrations": policy}
    given = {name: limits for name, limits in sources.items() if limits is not None}
    return combined_limits(given) if given else None


def _collisions(setup: RobotSetup) -> CollisionCheck | None:
    """Return the check of collisions between the arms of an ALOHA; None on any other robot, and
    where its robot.toml says no."""
    from imitact.robots.aloha_hardware import BASES, arm_bases

    config = setup.config
    if config is not None and config.kind == "aloha":
        bases = arm_bases(config) if config.self_collision else None
    else:
        bases = BASES if setup.robot.spec.action_names == ALOHA_JOINTS else None
    if bases is None:
        return None
    try:
        return CollisionCheck(bases)
    except BadInput as error:
        raise BadInput(
            f"{error}. It is needed to keep the arms from each other; --no-self-collision runs "
            "without that, as does self_collision = false in robot.toml"
        ) from None


def _safety(
    spec: Spec,
    limits: JointLimits | None,
    ages: AgeBounds,
    collisions: CollisionCheck | None,
    *,
    shadow: bool,
) -> Safety:
    """Return the filter; in a shadow run nothing follows, so that lag and stall say nothing."""
    stages = ALL_STAGES - {Stage.LAG, Stage.STALL} if shadow else ALL_STAGES
    return SafetyFilter(
        limits or _no_limits(spec),
        spec.rate_hz,
        spec=spec,
        bounds=SafetyBounds(ages=ages),
        collisions=collisions,
        stages=stages,
    )


def _no_limits(spec: Spec) -> JointLimits:
    """Return limits that a simulated robot of unknown kind keeps whatever it does."""
    size = spec.action_size
    far: Any = [_FAR] * size
    low: Any = [-_FAR] * size
    fast: Any = [_FAR * spec.rate_hz**3] * size
    return JointLimits(spec.action_names, spec.action_units, low, far, fast, fast, fast)


def leader_lag_s(parts: Parts) -> float:
    """Return the lag of a leader behind the ticks, s: one tick where buses are read at their own
    times, 0 on a virtual clock, which reads them at the ticks."""
    return 0.0 if isinstance(parts.setup, VirtualSetup) else 1 / parts.spec.rate_hz


def start_pose(setup: RobotSetup) -> Sequence[float] | None:
    """Return the pose from which episodes of a robot begin; None where there is none."""
    config = setup.config
    if config is None or config.kind != "aloha":
        return None
    from imitact.robots.aloha_hardware import START_POSE

    return [value for _ in config.arms for value in (*START_POSE, START_GRIPPER)]


def make_recorder(out: Path, parts: Parts, task: str, video: VideoConfig | None) -> Recorder:
    """Return the recorder of a session, which begins or continues the dataset in `out`.

    Raises:
        BadInput: the folder holds something else, or a recording with other settings.
    """
    video = video or VideoConfig()
    names = stage_names()
    if isinstance(parts.setup, VirtualSetup):
        return RecordingSession(out, parts.spec, task, video=video, stages=names)
    boxes = frame_boxes(parts.setup)
    return RecorderProcess(RecorderPlan(out, parts.spec, task, boxes, video, names))


def frame_boxes(setup: RobotSetup) -> Mapping[str, Mailbox]:
    """Return the mailboxes of the cameras of a robot in a host process."""
    assert isinstance(setup, HostSetup)
    return setup.host.robot.frame_boxes


def ramp_to(pose: Sequence[float], spec: Spec) -> RampSource:
    """Return the slow way to a pose."""
    return RampSource(pose, spec.action_names, spec.action_units, spec.rate_hz)  # type: ignore[arg-type]


def check_log(log: Path | str | None) -> None:
    """Refuse a folder for the log that is, or lies in, something else.

    Raises:
        BadInput: it is a dataset, a policy or the log of another run, or lies in one.
    """
    if log is not None:
        check_output(log, "log", option="--log")


def log_of(
    parts: Parts,
    log: Path | str | None,
    verb: str,
    settings: Mapping[str, Any],
    *,
    beside: Path | str | None = None,
) -> RunLog:
    """Return the log of a run.

    Args:
        parts: of the run.
        log: its folder; None takes a new one.
        verb: what is done.
        settings: of the run.
        beside: the dataset OUT that is recorded: the new folder is in OUT.runs then, else in
            `LOGS`.
    """
    now = datetime.datetime.now()
    known = {name: value for name, value in settings.items() if value is not None}
    known |= {"at": now.isoformat(timespec="seconds"), "limits": list(parts.limit_lines)}
    folder = Path(log) if log else _new_log(beside, f"{now:%Y-%m-%dT%H-%M-%S}-{verb}")
    return RunLog(folder, parts.spec, {"verb": verb, **known})


def _new_log(beside: Path | str | None, name: str) -> Path:
    """Return a folder that is not there yet: two runs may begin within a second."""
    runs = LOGS if beside is None else Path(f"{beside}.runs")
    names = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
    return next(runs / free for free in names if not (runs / free).exists())
