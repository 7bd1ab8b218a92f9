"""Runs by robot name: a policy, or a recorded episode, on a robot."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imitact.api.leaders import ChosenLeader, choose_leader
from imitact.api.robot_session import OnLine, OnPoll, RobotSession, stage_names
from imitact.api.session_parts import (
    MakeSetup,
    Parts,
    check_log,
    frame_boxes,
    leader_lag_s,
    log_of,
    make_recorder,
    open_parts,
    ramp_to,
    robot_name,
    start_pose,
)
from imitact.api.teleoperate import Person
from imitact.control.ages import AgeBounds
from imitact.control.async_inference import DelayedInference, PolicyProcess
from imitact.control.contract import Source
from imitact.control.engagement import Engagement
from imitact.control.sources import (
    EpisodeSource,
    Inference,
    InterventionSource,
    LeaderSource,
    PolicySource,
)
from imitact.core.answer_delay import episode_delays
from imitact.core.errors import BadInput
from imitact.core.execution import Execution
from imitact.core.types import Spec
from imitact.datasets.open import open_dataset
from imitact.datasets.video_config import VideoConfig
from imitact.deploy.load_policy import StoredPolicy, read_stored
from imitact.recording.replay import episode_actions
from imitact.robots.registry import SIM_PREFIX, SimOptions
from imitact.robots.simulated import Outcome


@dataclass
class RunReport:
    """How a run went.

    Attributes:
        words: why its last episode ended.
        episodes: number of episodes that were run.
        kept: episodes that were recorded.
        outcomes: of the episodes of a simulated world.
        statistics: of all ticks, as `RunStatistics.to_json`.
        log: folder of its log.
    """

    words: str = ""
    episodes: int = 0
    kept: int = 0
    outcomes: list[Outcome] = field(default_factory=list)
    statistics: dict[str, Any] = field(default_factory=dict)
    log: Path | None = None


def run_robot(
    policy: Path | str,
    *,
    robot: str | MakeSetup,
    record: Path | str | None = None,
    task: str = "",
    shadow: bool = False,
    episodes: int = 1,
    seconds: float = 0.0,
    chunking: str | None = None,
    delay_ticks: int | str | None = None,
    leader: str | None = None,
    first_seed: int = 1000,
    video: VideoConfig | None = None,
    ages: AgeBounds | None = None,
    self_collision: bool = True,
    sim: SimOptions | None = None,
    log: Path | str | None = None,
    person: Person | None = None,
    on_episode: Callable[[RobotSession, int], object] = lambda session, number: None,
    on_end: Callable[[RobotSession, int], object] = lambda session, number: None,
    on_poll: OnPoll = lambda session: None,
    on_line: OnLine = lambda line: None,
) -> RunReport:
    """Run a policy on a robot; before each episode the robot goes slowly to its start pose.

    The arguments are the options of `imitact run` (docs/settings.md).

    Args:
        policy: path of a policy, as for `load_policy`.
        robot: name of a robot, as for `make_robot`, or a function that makes its setup.
        on_episode: called with the number of the episode, from 0, before it begins; the robot is at
            its start pose.
        on_end: called with the number of the episode after it has ended.
        person: what the person decides; set from `on_poll`.
        on_poll: called many times a second with the session.
        on_line: receives lines of progress and faults.

    Raises:
        BadInput: there is no such policy or robot, or they do not fit.
        RobotError: a process of the session died; the robot was parked and released.
    """
    check_log(log)
    stored = read_stored(policy)
    execution = _execution(stored, chunking, delay_ticks)
    sim = sim or _sim_options(stored.spec, first_seed)
    person = person or Person()
    if record is not None and not task:
        raise BadInput("task is empty; say what the recorded episodes show")
    parts = open_parts(
        robot,
        sim,
        policy_limits=stored.limits,
        with_leaders=leader is not None,
        shadow=shadow,
        ages=ages,
        self_collision=self_collision,
        on_line=on_line,
    )
    report = RunReport()
    chosen: ChosenLeader | None = None
    with ExitStack() as endings:  # of what no session has yet
        endings.callback(parts.setup.close)
        _check_fit(stored, parts)
        process, inference = _inference(stored, parts, execution, sim.seed, on_line)
        source: Source = _policy_source(inference, stored, parts, execution)
        if leader is not None:
            env = robot.removeprefix(SIM_PREFIX) if isinstance(robot, str) else ""
            chosen = choose_leader(leader, parts.setup, env, sim.seed, on_line)
            endings.callback(chosen.close)
            source = _with_leader(source, chosen.leader, parts)
        recorder = None
        if record is not None:
            recorder = make_recorder(Path(record), parts, task, video)
            endings.callback(recorder.close)
        phases: dict[str, Source] = {"policy": source}
        pose = start_pose(parts.setup)
        if pose is not None and not shadow:
            phases["start"] = ramp_to(pose, parts.spec)
        settings = {"policy": stored.where, "robot": robot_name(robot), "shadow": shadow}
        settings |= {"execution": str(execution)}
        with_log = log_of(parts, log, "run", settings, beside=record)
        endings.pop_all()
    report.log = with_log.folder

    def poll(session: RobotSession) -> None:
        outcome = session.setup.outcome if session.phase == "policy" else None
        if outcome is not None and outcome.success:
            session.finish("success")
        if chosen is not None:
            chosen.poll(session)
        on_poll(session)

    session = parts.session(
        phases,
        policy=process,
        recorder=recorder,
        log=with_log,
        on_poll=poll,
        on_line=on_line,
    )
    if chosen is not None:
        chosen.attach(session)
    try:
        with session:
            _run_all(session, person, report, episodes, seconds, sim, on_episode, on_end)
    finally:
        if chosen is not None:
            chosen.close()
        report.statistics = session.statistics.to_json(stage_names())
    return report


def _run_all(
    session: RobotSession,
    person: Person,
    report: RunReport,
    episodes: int,
    seconds: float,
    sim: SimOptions,
    on_episode: Callable[[RobotSession, int], object],
    on_end: Callable[[RobotSession, int], object],
) -> None:
    is_simulated = session.setup.outcome is not None
    for number in range(episodes):
        session.go_to_start(sim.seed + number if is_simulated else None)
        if person.has_ended:
            report.words = "ended by the person"
            return
        if is_simulated:
            session.place(sim.seed + number)
        on_episode(session, number)
        session.begin_episode()
        cap_s = seconds or (STEP_CAP_S if is_simulated else None)
        report.words = session.run_phase("policy", cap_s)
        report.episodes += 1
        if (outcome := session.setup.outcome) is not None:
            report.outcomes.append(outcome)
        on_end(session, number)
        decision = person.taken()
        if session.recording and decision in ("", "keep"):
            report.kept += session.keep_episode()
        else:
            session.drop_episode()
        if person.has_ended:
            report.words = "ended by the person"
            return


STEP_CAP_S = 8.0
"""Longest episode of a simulated robot where no time is given, s: 400 ticks of 20 ms."""


def replay_robot(
    data: Path | str,
    *,
    robot: str | MakeSetup,
    episode: int = 0,
    first_seed: int = 0,
    ages: AgeBounds | None = None,
    self_collision: bool = True,
    sim: SimOptions | None = None,
    log: Path | str | None = None,
    on_episode: Callable[[RobotSession, int], object] = lambda session, number: None,
    on_poll: OnPoll = lambda session: None,
    on_line: OnLine = lambda line: None,
) -> RunReport:
    """Command a robot the actions of a recorded episode, after a slow way to the first of them.

    The arguments are the options of `imitact replay` (docs/settings.md); callbacks are those of
    `run_robot`.

    Raises:
        BadInput: there is no such episode, or it is of another robot.
        RobotError: a process of the session died; the robot was parked and released.
    """
    check_log(log)
    dataset = open_dataset(data)
    sim = sim or _sim_options(dataset.spec, first_seed)
    parts = open_parts(
        robot,
        sim,
        with_leaders=False,
        ages=ages,
        self_collision=self_collision,
        on_line=on_line,
    )
    report = RunReport()
    with ExitStack() as endings:  # of what no session has yet
        endings.callback(parts.setup.close)
        actions = episode_actions(dataset, episode, parts.spec, str(data))
        phases: dict[str, Source] = {"episode": EpisodeSource(actions)}
        if start_pose(parts.setup) is not None or parts.setup.outcome is None:
            phases["start"] = ramp_to(actions[0].tolist(), parts.spec)
        settings = {"data": str(data), "episode": episode, "robot": robot_name(robot)}
        with_log = log_of(parts, log, "replay", settings)
        endings.pop_all()
    report.log = with_log.folder
    session = parts.session(phases, log=with_log, on_poll=on_poll, on_line=on_line)
    try:
        with session:
            session.go_to_start()
            if session.setup.outcome is not None:
                session.place(sim.seed)
            on_episode(session, 0)
            report.words = session.run_phase("episode")
            report.episodes = 1
            if (outcome := session.setup.outcome) is not None:
                report.outcomes.append(outcome)
    finally:
        report.statistics = session.statistics.to_json(stage_names())
    return report


def _sim_options(spec: Spec, seed: int) -> SimOptions:
    """Return the options of a simulated robot that has the cameras of a Spec."""
    if not spec.cameras:
        return SimOptions(cameras=(), seed=seed)
    first = spec.cameras[0]
    names = tuple(camera.name for camera in spec.cameras)
    return SimOptions(cameras=names, height=first.height, width=first.width, seed=seed)


def _check_fit(stored: StoredPolicy, parts: Parts) -> None:
    stored.spec.check_same(
        parts.spec,
        "the robot",
        f"the policy {stored.where}",
        advice="Give the robot whose demonstrations the policy was trained on",
    )


def _execution(
    stored: StoredPolicy, chunking: str | None, delay_ticks: int | str | None
) -> Execution:
    tuned = stored.execution or Execution()
    if chunking is not None:
        tuned = Execution(chunking, 0)
    if delay_ticks is not None:
        tuned = Execution(tuned.chunking, delay_ticks)
    return tuned.within(stored.chunk_size)


def _inference(
    stored: StoredPolicy, parts: Parts, execution: Execution, seed: int, on_line: OnLine
) -> tuple[PolicyProcess | None, Inference]:
    from imitact.robots.setup import VirtualSetup

    if isinstance(parts.setup, VirtualSetup):
        on_line("loading the policy")
        delays = episode_delays(execution.delay_ticks, seed)
        return None, DelayedInference(stored.loader(), delays, parts.spec.rate_hz)
    process = PolicyProcess(stored, frame_boxes(parts.setup), on_line=on_line)
    return process, process.inference


def _policy_source(
    inference: Inference, stored: StoredPolicy, parts: Parts, execution: Execution
) -> PolicySource:
    rate_hz = parts.spec.rate_hz
    cameras = tuple(camera.name for camera in stored.spec.cameras)
    step = None if parts.limits is None else parts.limits.velocity / rate_hz
    return PolicySource(inference, execution.new(stored.spec), rate_hz, cameras, step)


def _with_leader(policy: Any, leader: Any, parts: Parts) -> InterventionSource:
    """Return a policy that a person may take over from; the leader waits for the person."""
    spec = parts.spec
    engagement = Engagement(spec.action_names, spec.action_units, spec.rate_hz, approach="wait")
    lag_s = leader_lag_s(parts)
    led = LeaderSource(leader, spec, engagement, parts.ages.leader_s, lag_s=lag_s)
    return InterventionSource(policy, led, spec.rate_hz)
