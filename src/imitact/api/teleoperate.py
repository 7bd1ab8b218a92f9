"""Teleoperation by robot name: a person leads, the robot follows, and episodes are recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from imitact.api.leaders import Approach, ChosenLeader, choose_leader
from imitact.api.robot_session import OnLine, OnPoll, Recorder, RobotSession, stage_names
from imitact.api.session_parts import (
    MakeSetup,
    Parts,
    check_log,
    leader_lag_s,
    log_of,
    make_recorder,
    open_parts,
    ramp_to,
    robot_name,
    start_pose,
)
from imitact.control.ages import AgeBounds
from imitact.control.contract import Source
from imitact.control.engagement import Engagement
from imitact.control.sources import LeaderSource
from imitact.core.errors import BadInput
from imitact.core.words import counted
from imitact.datasets.video_config import VideoConfig
from imitact.robots.registry import SIM_PREFIX, SimOptions

Decision = Literal["", "keep", "drop", "redo", "end"]
"""What a person wants of an episode: keep it, forget it, record it again; "end" ends the session,
and forgets an episode of which nothing else was said before.
"""

MOST_FAILURES = 20
"""Episodes in a row that a scripted leader may fail at before a recording is given up."""


@dataclass
class TeleoperationReport:
    """How a session went.

    Attributes:
        kept: episodes that were written in this session.
        dropped: episodes that were not.
        words: why it ended.
        statistics: of all ticks, as `RunStatistics.to_json`.
        log: folder of its log.
    """

    kept: int = 0
    dropped: int = 0
    words: str = ""
    statistics: dict[str, Any] = field(default_factory=dict)
    log: Path | None = None


@dataclass
class Person:
    """What a person wants, given from `on_poll`; the session reads it.

    Attributes:
        decision: about the episode that runs; taken back once it was followed. The first one
            counts, since it ended the episode: what is pressed a moment later changes nothing.
        has_ended: whether the session is to end, once the decision was followed.
    """

    decision: Decision = ""
    has_ended: bool = False

    def decide(self, session: RobotSession, decision: Decision) -> None:
        """Decide about the episode, or end the session; either ends the phase that runs."""
        self.has_ended = self.has_ended or decision == "end"
        self.decision = self.decision or decision
        session.finish({"end": "ended by the person"}.get(decision, decision))

    def taken(self) -> Decision:
        """Return the decision, and forget it."""
        decision, self.decision = self.decision, ""
        return decision


def teleoperate(
    robot: str | MakeSetup,
    *,
    leader: str = "",
    approach: Approach | None = None,
    seconds: float = 0.0,
    ages: AgeBounds | None = None,
    self_collision: bool = True,
    sim: SimOptions | None = None,
    log: Path | str | None = None,
    on_poll: OnPoll = lambda session: None,
    on_line: OnLine = lambda line: None,
) -> TeleoperationReport:
    """Let a robot follow a leader until it is ended; nothing is recorded.

    The arguments are the options of `imitact teleop` (docs/settings.md).

    Args:
        robot: name of a robot, as for `make_robot`, or a function that makes its setup.
        on_poll: called many times a second with the session: it shows it, and sets what the person
            wants (`deadman`, `stopped`, `finish`).
        on_line: receives lines of progress and faults.

    Raises:
        BadInput: there is no such robot or leader.
        RobotError: a process of the session died; the robot was parked and released.
    """
    check_log(log)
    sim = sim or SimOptions(real_time=True)
    parts, chosen = _open(robot, leader, sim, ages, self_collision, on_line)
    report = TeleoperationReport()
    with ExitStack() as endings:  # of what no session has yet
        endings.callback(parts.setup.close)
        endings.callback(chosen.close)
        phases = _phases(parts, chosen, approach)
        settings = {"robot": robot_name(robot), "leader": leader}
        with_log = log_of(parts, log, "teleop", settings)
        endings.pop_all()
    report.log = with_log.folder

    def poll(session: RobotSession) -> None:
        chosen.poll(session)
        on_poll(session)

    session = parts.session(phases, log=with_log, on_poll=poll, on_line=on_line)
    chosen.attach(session)
    try:
        with session:
            chosen.begin(0)
            report.words = session.run_phase("leader", seconds or None)
    finally:
        chosen.close()
        report.statistics = session.statistics.to_json(stage_names())
    return report


def record_robot(
    out: Path | str,
    *,
    robot: str | MakeSetup,
    task: str,
    leader: str = "",
    approach: Approach | None = None,
    episodes: int = 50,
    seconds: float = 60.0,
    video: VideoConfig | None = None,
    ages: AgeBounds | None = None,
    self_collision: bool = True,
    sim: SimOptions | None = None,
    log: Path | str | None = None,
    person: Person | None = None,
    on_episode: Callable[[RobotSession, int], object] = lambda session, number: None,
    on_poll: OnPoll = lambda session: None,
    on_line: OnLine = lambda line: None,
) -> TeleoperationReport:
    """Record episodes that a person leads until the dataset in `out` holds `episodes` of them.

    Each begins at the robot's start pose, where it has one, with the first tick at which the person
    is engaged, and ends with the person's decision: `person.decide(session, "keep")`. A scripted
    leader's episode ends by itself; an expert's is kept where the simulation counts a success.

    Args:
        out: folder of the dataset; the same command continues.
        robot: name of a robot, as for `make_robot`, or a function that makes its setup.
        task: instruction stored with the episodes.
        seconds: longest episode, from the tick at which the person is engaged; one that was not
            kept by then is dropped.
        person: what the person wants; set from `on_poll`.
        on_episode: called with the number of the episode, from 0, before it begins; the robot is at
            its start pose.

    Raises:
        BadInput: there is no such robot or leader, or `out` cannot be continued.
        RobotError: a process of the session died; finished episodes are kept.
    """
    if not task:
        raise BadInput("task is empty; say what the episodes show")
    check_log(log)
    sim = sim or SimOptions()
    person = person or Person()
    parts, chosen = _open(robot, leader, sim, ages, self_collision, on_line)
    report = TeleoperationReport()
    with ExitStack() as endings:  # of what no session has yet
        endings.callback(parts.setup.close)
        endings.callback(chosen.close)
        recorder = make_recorder(Path(out), parts, task, video)
        endings.callback(recorder.close)
        phases = _phases(parts, chosen, approach)
        settings = {"robot": robot_name(robot), "task": task}
        with_log = log_of(parts, log, "record", settings, beside=out)
        endings.pop_all()
    report.log = with_log.folder
    last_tick = 0  # of the episode that is recorded

    def poll(session: RobotSession) -> None:
        nonlocal last_tick
        newest = session.statistics.newest
        waits = session.phase == "leader" and not session.recording
        if waits and newest is not None and newest.engaged == 1 and newest.phase:
            session.begin_episode()
            last_tick = newest.tick + max(1, round(seconds * parts.spec.rate_hz))
        elif session.recording and newest is not None and newest.tick >= last_tick:
            session.finish("the time is over")
        elif chosen.is_scripted and session.recording and newest and newest.engaged == 0:
            session.finish("the leader has ended")
        chosen.poll(session)
        on_poll(session)

    session = parts.session(phases, recorder=recorder, log=with_log, on_poll=poll, on_line=on_line)
    chosen.attach(session)
    try:
        with session:
            _record_all(
                session, chosen, person, report, episodes, seconds, recorder, sim.seed, on_episode
            )
    finally:
        chosen.close()
        report.statistics = session.statistics.to_json(stage_names())
    return report


def _record_all(
    session: RobotSession,
    chosen: ChosenLeader,
    person: Person,
    report: TeleoperationReport,
    wanted: int,
    seconds: float,
    recorder: Recorder,
    first_seed: int,
    on_episode: Callable[[RobotSession, int], object],
) -> None:
    number = failures = 0
    while recorder.episodes < wanted:
        is_simulated = session.setup.outcome is not None
        session.go_to_start(first_seed + number if is_simulated else None)
        if person.has_ended:
            report.words = "ended by the person"
            return
        if is_simulated and not chosen.places_objects:
            session.place(first_seed + number)
        chosen.begin(number)
        on_episode(session, number)
        words = session.run_phase("leader", seconds if chosen.is_scripted else None)
        decision = person.taken()
        if not decision and chosen.is_scripted:
            outcome = session.setup.outcome if chosen.places_objects else None
            decision = "keep" if outcome is None or outcome.success else "drop"
        if decision == "keep" and session.recording and session.keep_episode():
            report.kept, failures = report.kept + 1, 0
            session.on_line(f"episode {recorder.episodes - 1} is kept")
            if person.has_ended:
                report.words = "ended by the person"
                return
        else:
            was_recording = session.recording
            session.drop_episode()
            report.dropped += was_recording
            failures += 1
            if person.has_ended:
                report.words = "ended by the person"
                return
            session.on_line(f"episode dropped ({words})")
            if chosen.is_scripted and failures >= MOST_FAILURES:
                report.words = f"{counted(failures, 'episode')} in a row failed"
                return
        number += 1
    report.words = f"the dataset has {counted(recorder.episodes, 'episode')}"


def _open(
    robot: str | MakeSetup,
    leader: str,
    sim: SimOptions,
    ages: AgeBounds | None,
    self_collision: bool,
    on_line: OnLine,
) -> tuple[Parts, ChosenLeader]:
    parts = open_parts(
        robot,
        sim,
        with_leaders=not leader,
        ages=ages,
        self_collision=self_collision,
        on_line=on_line,
    )
    env = robot.removeprefix(SIM_PREFIX) if isinstance(robot, str) else ""
    try:
        return parts, choose_leader(leader, parts.setup, env, sim.seed, on_line)
    except BaseException:
        parts.setup.close()
        raise


def _phases(parts: Parts, chosen: ChosenLeader, approach: Approach | None) -> Mapping[str, Source]:
    spec = parts.spec
    engagement = Engagement(
        spec.action_names,
        spec.action_units,
        spec.rate_hz,
        approach=approach or chosen.approach,
    )
    phases: dict[str, Source] = {
        "leader": LeaderSource(
            chosen.leader, spec, engagement, parts.ages.leader_s, lag_s=leader_lag_s(parts)
        )
    }
    if (pose := start_pose(parts.setup)) is not None:
        phases["start"] = ramp_to(pose, spec)
    return phases
