"""Sessions under odd orders and failures: nothing that is finished or was begun before is lost."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imitact
from imitact.api.leaders import ChosenLeader
from imitact.api.robot_session import RobotSession
from imitact.api.run_robot import replay_robot
from imitact.api.teleoperate import Decision, Person, record_robot, teleoperate
from imitact.core.errors import BadInput
from imitact.core.robot import Reading
from imitact.recording.session import RecordingSession
from imitact.robots.registry import SimOptions
from tests.support import dot_env
from tests.support.dot_dataset import record_dots

DOT = "sim:tests.support.dot_env:DotEnv"


@pytest.fixture(autouse=True)
def logs_go_to_a_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imitact.api.session_parts.LOGS", tmp_path / "logs")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_dots(tmp_path_factory.mktemp("dot") / "data", 1)


class PatientPerson:
    """A leader that rests at the middle, and is engaged from a time on."""

    action_names, action_units = dot_env.dot_spec().action_names, dot_env.dot_spec().action_units

    def __init__(self, clock: Any, engaged_from_s: float) -> None:
        self._clock, self._from_s, self.is_closed = clock, engaged_from_s, False

    def reading(self) -> Reading:
        now_s = self._clock.now_s()
        rest = np.array([0.5, 0.5])
        return Reading(rest, now_s, now_s, max(1, int(now_s * 20)), now_s >= self._from_s)

    def fault(self) -> str:
        return ""


@pytest.fixture
def led(monkeypatch: pytest.MonkeyPatch) -> list[PatientPerson]:
    """Leaders that were chosen; each is engaged after 3 s."""
    chosen: list[PatientPerson] = []

    def choose(name: str, setup: Any, *_: object) -> ChosenLeader:
        chosen.append(PatientPerson(setup.clock, 3.0))
        leader = chosen[-1]
        return ChosenLeader(leader, close=lambda: setattr(leader, "is_closed", True))

    monkeypatch.setattr("imitact.api.teleoperate.choose_leader", choose)
    return chosen


@pytest.mark.parametrize(
    ("pressed", "kept", "dropped"),
    [
        (["keep", "end"], 1, 0),
        (["keep", "drop", "end"], 1, 0),
        (["drop", "keep", "end"], 0, 1),
        (["redo", "redo", "redo", "keep", "end"], 0, 1),
        (["end", "keep"], 0, 1),
        (["keep"] * 100 + ["end"] * 100, 1, 0),
    ],
)
def test_of_keys_within_a_moment_the_first_decides_and_an_end_ends(
    pressed: list[Decision], kept: int, dropped: int, data: Path, tmp_path: Path
):
    person = Person()

    def poll(session: RobotSession) -> None:
        assert isinstance(session.recorder, RecordingSession)
        if session.recorder.rows == 5:
            for decision in pressed:
                person.decide(session, decision)

    report = record_robot(
        tmp_path / "out", robot=DOT, task="t", leader=f"{data}:0", episodes=9, person=person,
        on_poll=poll,
    )  # fmt: skip
    assert (report.kept, report.dropped) == (kept, dropped)
    assert report.words == "ended by the person"
    if kept:
        assert len(imitact.open_dataset(tmp_path / "out").lengths) == kept


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_episode_that_is_kept_is_written_although_a_signal_comes(
    number: signal.Signals, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    keep = RecordingSession.keep

    def interrupted(session: RecordingSession) -> object:
        signal.raise_signal(number)
        return keep(session)

    monkeypatch.setattr(RecordingSession, "keep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        record_robot(
            tmp_path / "out", robot=DOT, task="t", leader=f"{data}:0", approach="offset", episodes=2
        )
    assert len(imitact.open_dataset(tmp_path / "out").lengths) == 1


def test_waiting_for_the_person_costs_no_time_of_the_episode(led: object, tmp_path: Path):
    person, longest = Person(), 0

    def poll(session: RobotSession) -> None:
        nonlocal longest
        assert isinstance(session.recorder, RecordingSession)
        longest = max(longest, session.recorder.rows)
        if session.recorder.rows == 19:
            person.decide(session, "keep")

    report = record_robot(
        tmp_path / "out", robot=DOT, task="t", episodes=1, seconds=1.0, person=person, on_poll=poll,
    )  # fmt: skip
    assert (report.kept, report.dropped) == (1, 0)

    def only_watch(session: RobotSession) -> None:
        nonlocal longest
        assert isinstance(session.recorder, RecordingSession)
        longest = max(longest, session.recorder.rows)
        if session.statistics.ticks > 150:
            person.decide(session, "end")

    longest = 0
    record_robot(
        tmp_path / "out", robot=DOT, task="t", episodes=2, seconds=1.0, person=person,
        on_poll=only_watch,
    )  # fmt: skip
    assert 19 <= longest <= 22


def test_no_run_writes_over_the_log_of_another(data: Path, tmp_path: Path):
    logs = [
        record_robot(
            tmp_path / "out", robot=DOT, task="t", leader=f"{data}:0", approach="offset", episodes=n
        ).log
        for n in (1, 1, 2)
    ]
    logs += [replay_robot(data, robot=DOT).log for _ in range(2)]
    assert len(set(logs)) == 5
    assert all(log is not None and (log / "run.json").is_file() for log in logs)


def test_a_log_is_never_written_into_something_else(data: Path, tmp_path: Path):
    first = replay_robot(data, robot=DOT, log=tmp_path / "log").log
    before = sorted(data.rglob("*"))
    for place in (data, data / "meta" / "log", first):
        for call in (
            lambda: replay_robot(data, robot=DOT, log=place),  # noqa: B023
            lambda: record_robot(tmp_path / "x", robot=DOT, task="t", log=place),  # noqa: B023
            lambda: teleoperate(DOT, log=place),  # noqa: B023
        ):
            with pytest.raises(BadInput, match="--log a new folder"):
                call()
    assert sorted(data.rglob("*")) == before
    assert not (tmp_path / "x").exists()


def test_a_start_that_fails_leaves_no_leader_and_no_lock(
    led: list[PatientPerson], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("imitact.api.session_parts.RunLog", full)
        with pytest.raises(OSError, match="space"):
            record_robot(tmp_path / "out", robot=DOT, task="t")
        with pytest.raises(OSError, match="space"):
            teleoperate(DOT, sim=SimOptions())
    assert [leader.is_closed for leader in led] == [True, True]
    RecordingSession(tmp_path / "out", dot_env.dot_spec(), "t").close()  # is not locked
