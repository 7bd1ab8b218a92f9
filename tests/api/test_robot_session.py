"""Robot sessions: episodes of a leader are recorded, replayed and run; who dies is named."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imitact
from imitact.api.live_session import LiveSession
from imitact.api.robot_session import RobotSession
from imitact.api.run_robot import replay_robot, run_robot
from imitact.api.session_parts import QUIET_S, open_parts, quiet, start_pose
from imitact.api.teleoperate import Person, record_robot, teleoperate
from imitact.control.ages import AgeBounds
from imitact.control.run_log import TICKS, read_about, read_ticks
from imitact.core.errors import BadInput, RobotError
from imitact.core.feature_statistics import Accumulator
from imitact.models.config import ActConfig
from imitact.models.policy import TorchPolicy
from imitact.recording.session import RecordingSession
from imitact.robots.registry import SimOptions
from tests.support import dot_env
from tests.support.dot_dataset import record_dots

DOT = "sim:tests.support.dot_env:DotEnv"
PATIENT = AgeBounds(state_ticks=1e4, picture_s=1e4, leader_s=1e4)
"""Of a busy computer."""


@pytest.fixture(autouse=True)
def logs_go_to_a_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imitact.api.session_parts.LOGS", tmp_path / "logs")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two demonstrations of the dot."""
    return record_dots(tmp_path_factory.mktemp("dot") / "data", 2)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained policy of the dot."""
    path = tmp_path_factory.mktemp("policy") / "policy"
    rows = Accumulator(2)
    rows.add(np.random.default_rng(0).uniform(size=(10, 2)))
    config = ActConfig(
        chunk_size=8, input_height=24, input_width=32, backbone_width=8, backbone_stages=2,
        backbone_norm="batch", hidden_dim=16, num_heads=2, dim_feedforward=16, encoder_layers=1,
        use_vae=False,
    )  # fmt: skip
    stats = {"state": rows.result(), "action": rows.result()}
    TorchPolicy.create(dot_env.dot_spec(), stats, config, seed=0, fingerprint="none").save(path)
    return path


def actions_of(path: Path, episode: int) -> np.ndarray:
    return np.asarray(imitact.open_dataset(path).episode(episode).action)


# --- on the virtual clock ------------------------------------------------------------------------


def test_what_a_leader_leads_is_recorded(data: Path, tmp_path: Path):
    report = record_robot(
        tmp_path / "out",
        robot=DOT,
        task="follow",
        leader=f"{data}:0",
        approach="offset",
        episodes=1,
    )
    assert (report.kept, report.dropped) == (1, 0)
    led, recorded = actions_of(data, 0), actions_of(tmp_path / "out", 0)
    assert len(recorded) >= len(led) - 1
    # It begins with the tick after the one that engaged the leader.
    steps = np.diff(led, axis=0)[1:]
    assert np.diff(recorded, axis=0)[: len(steps)] == pytest.approx(steps, abs=1e-6)
    assert report.log is not None
    assert (report.log / TICKS).is_file()


def test_a_person_keeps_drops_and_ends(data: Path, tmp_path: Path):
    decisions: list[Any] = ["keep", "drop", "redo", "keep", "end"]
    person = Person()

    def poll(session: RobotSession) -> None:
        assert isinstance(session.recorder, RecordingSession)
        if not person.decision and session.recording and session.recorder.rows > 4:
            person.decide(session, decisions.pop(0))

    report = record_robot(
        tmp_path / "out", robot=DOT, task="follow", leader=f"{data}:0", episodes=9,
        person=person, on_poll=poll,
    )  # fmt: skip
    assert (report.kept, report.dropped) == (2, 3)
    assert report.words == "ended by the person"
    assert len(imitact.open_dataset(tmp_path / "out").lengths) == 2


def test_a_replay_commands_the_episode_to_the_bit_and_twice_the_same(data: Path, tmp_path: Path):
    for name in ("a", "b"):
        report = replay_robot(data, robot=DOT, log=tmp_path / name)
        assert report.words == "the episode has ended"
    rows = list(read_ticks(tmp_path / "a", 1000))
    led = actions_of(data, 0)
    assert np.array([row["action"] for row in rows[: len(led)]]) == pytest.approx(led, abs=6e-6)
    assert all(row["stage"] == 0 for row in rows[: len(led)])
    assert (tmp_path / "a" / TICKS).read_bytes() == (tmp_path / "b" / TICKS).read_bytes()


def test_a_policy_runs_and_its_episodes_are_recorded(policy: Path, tmp_path: Path):
    report = run_robot(
        policy, robot=DOT, episodes=2, seconds=0.5, record=tmp_path / "out", task="go",
    )  # fmt: skip
    assert (report.episodes, report.kept) == (2, 2)
    assert [outcome.seed for outcome in report.outcomes] == [1000, 1001]
    assert imitact.open_dataset(tmp_path / "out").lengths == (10, 10)


def test_a_shadow_run_moves_nothing(policy: Path, tmp_path: Path):
    report = run_robot(policy, robot=DOT, seconds=0.5, shadow=True, log=tmp_path / "log")
    rows = [row for row in read_ticks(tmp_path / "log", 100) if row["phase"]]
    assert len(rows) == 10
    assert all(row["state"] == rows[0]["state"] for row in rows)
    assert any(row["action"] != rows[0]["action"] for row in rows)
    assert report.outcomes[0].ticks == 0


def test_the_log_says_how_each_phase_ended(policy: Path, data: Path, tmp_path: Path):
    def poll(session: RobotSession) -> None:
        if session.statistics.ticks >= 5:
            raise ZeroDivisionError("no reason")

    run_robot(policy, robot=DOT, episodes=2, seconds=0.5, log=tmp_path / "log")
    with pytest.raises(ZeroDivisionError):
        replay_robot(data, robot=DOT, on_poll=poll, log=tmp_path / "failed")
    ended = [
        [(phase["name"], phase["ended"]) for phase in read_about(folder)["summary"]["phases"]]
        for folder in (tmp_path / "log", tmp_path / "failed")
    ]
    assert ended == [[("policy", "the time is over")] * 2, [("episode", "no reason")]]


def test_a_robot_that_is_held_for_too_long_is_parked(policy: Path):
    def stop(session: RobotSession) -> None:
        session.stopped = True

    with pytest.raises(RobotError, match=r"held for too long \(stopped.*the run has ended"):
        run_robot(policy, robot=DOT, seconds=70.0, on_poll=stop)
    assert run_robot(policy, robot=DOT, seconds=50.0, on_poll=stop).words == "the time is over"


def test_an_error_of_the_caller_ends_the_session(data: Path):
    def poll(session: RobotSession) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        replay_robot(data, robot=DOT, on_poll=poll)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda data: replay_robot(data, robot=DOT, episode=7), "episodes 0 to 1"),
        (lambda data: replay_robot(data, robot="sim:cube"), "another robot"),
        (lambda data: replay_robot(data, robot="robot"), "no robot"),
        (lambda data: teleoperate(DOT, sim=SimOptions()), "no leader of its own"),
        (lambda data: teleoperate(DOT, leader="me", sim=SimOptions()), "no leader"),
        (lambda data: teleoperate(DOT, leader="expert", sim=SimOptions()), "sim:cube"),
        (lambda data: teleoperate(DOT, leader="browser", sim=SimOptions()), "real time"),
        (lambda data: record_robot(data / "x", robot=DOT, task=""), "task"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_moves(
    call: Callable[[Path], object], says: str, data: Path
):
    with pytest.raises(BadInput, match=says):
        call(data)


def test_lines_of_a_driver_that_fails_at_each_period_are_shown_once():
    said: list[str] = []
    take = quiet(said.append)
    for count in range(50):
        take(f"left follower: {count} periods failed")
    take("left follower: follows")
    assert said == ["left follower: 0 periods failed", "left follower: follows"]
    assert QUIET_S > 1


def test_a_simulated_aloha_keeps_the_limits_of_a_real_one():
    parts = open_parts("sim:cube", SimOptions(cameras=()))
    with parts.setup:
        assert parts.limits is not None
        assert parts.limits.names == parts.spec.action_names


# --- on the wall clock, in processes -------------------------------------------------------------


@pytest.mark.parametrize("who", ["the host", "the control loop", "the recorder"])
def test_the_process_that_dies_is_named_and_none_is_left(who: str, data: Path, tmp_path: Path):
    pids: dict[str, int | None] = {}

    def poll(session: RobotSession) -> None:
        assert isinstance(session, LiveSession)
        if session.statistics.ticks > 5 and not pids:
            pids.update(session.processes)
            os.kill(pids[who] or 0, signal.SIGKILL)

    with pytest.raises(RobotError, match=f"{who}.* SIGKILL"):
        record_robot(
            tmp_path / "out", robot=DOT, task="follow", leader=f"{data}:0", episodes=1,
            seconds=600, ages=PATIENT, sim=SimOptions(real_time=True), on_poll=poll,
        )  # fmt: skip
    for pid in pids.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid or 0, 0)


def test_limits_are_those_of_the_robot_cut_by_the_demonstrations_and_reach_the_start_pose():
    parts = open_parts("virtual:cube", SimOptions(cameras=()))
    parts.setup.close()
    robot, start = parts.limits, np.array(start_pose(parts.setup))
    assert robot is not None
    narrow = dataclasses.replace(
        robot, lower=start + 0.1, upper=np.minimum(robot.upper, start + 0.3)
    )
    parts = open_parts("virtual:cube", SimOptions(cameras=()), policy_limits=narrow)
    parts.setup.close()
    assert parts.limits is not None
    np.testing.assert_array_equal(parts.limits.lower, start)
    np.testing.assert_array_equal(parts.limits.upper, narrow.upper)
    waist = parts.limit_lines[0]
    assert "lower 0, upper 0.3 (demonstrations)" in waist
    assert "(robot)" in waist
