"""Verbs on a robot: they run on a simulated one, follow keys, and refuse in one line."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from imitact.api.teleoperate import Person
from imitact.cli.keys import Keys
from imitact.cli.robot_console import RobotConsole
from imitact.cli.robot_display import RobotDisplay, state_rows
from imitact.cli.run import statistics_lines
from imitact.control.contract import Hold
from imitact.control.run_statistics import RunStatistics
from tests.support.command_line import answer, is_refused
from tests.support.dot_dataset import record_dots
from tests.support.tick_stream import SPEC, record_of

DOT = "sim:tests.support.dot_env:DotEnv"


class Session:
    """What keys and display use of a session."""

    def __init__(self) -> None:
        self.statistics = RunStatistics(tuple(camera.name for camera in SPEC.cameras))
        self.phase, self.stopped, self.recording = "leader", False, True
        self.deadman: bool | None = None
        self.recorder = None
        self.finished: list[str] = []
        self.marked: list[str] = []
        self.pressed: list[str] = []
        self.words = "elbow to 0.18 rad"

    def leader_words(self) -> str:
        return self.words

    def finish(self, words: str = "") -> None:
        self.finished.append(words)

    def mark_episode(self, text: str) -> None:
        self.marked.append(text)

    def press(self, key: str) -> None:
        self.pressed.append(key)


@pytest.fixture
def console() -> RobotConsole:
    display = RobotDisplay({}, io.StringIO())
    return RobotConsole(Keys(io.StringIO()), display, Person(), True, True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_dots(tmp_path_factory.mktemp("dot") / "data", 1)


@pytest.mark.parametrize(("key", "decision"), [("k", "keep"), ("d", "drop"), ("r", "redo")])
def test_a_key_decides_about_the_episode(console: RobotConsole, key: str, decision: str):
    session: Any = Session()
    console.follow(session, key)
    assert console.person.taken() == decision
    assert session.finished == [decision]
    session.recording = False
    console.follow(session, key)
    assert console.person.taken() == ""


def test_stopping_lets_go_of_the_leader_and_going_on_does_not_take_it(console: RobotConsole):
    session: Any = Session()
    console.follow(session, "space")
    console.poll(session)
    assert session.deadman is True
    console.follow(session, "s")
    console.poll(session)
    assert (session.stopped, session.deadman) == (True, False)
    console.follow(session, "s")
    console.poll(session)
    assert (session.stopped, session.deadman) == (False, False)
    console.follow(session, "escape")
    assert session.stopped


def test_a_deadman_that_must_be_held_opens_by_itself():
    display = RobotDisplay({}, io.StringIO())
    console = RobotConsole(Keys(io.StringIO()), display, Person(), False, True, "hold")
    now_s = 0.0
    console.held._now_s = lambda: now_s
    session: Any = Session()
    console.follow(session, "space")
    console.poll(session)
    assert session.deadman is True
    now_s = 5.0
    console.poll(session)
    assert session.deadman is False


def test_keys_that_are_none_of_ours_are_the_leaders(console: RobotConsole):
    session: Any = Session()
    for key in ("up", "m", "7"):
        console.follow(session, key)
    assert session.pressed == ["up", "7"]
    assert session.marked == ["marked by key"]


def test_the_display_says_what_a_person_needs_beside_an_arm():
    session: Any = Session()
    session.statistics.add(record_of(3))
    session.statistics.add(
        record_of(4, hold=Hold.STATE_OLD, stage=6, words="waist was asked to jump", skipped=2)
    )
    session.stopped = True
    text = "\n".join(f"{name} {value}" for name, value in state_rows(session))
    for words in ("STOPPED", "waist was asked to jump", "camera top", "p99", "skipped 2 of 4",
                  "filter, motion 1 tick", "keys elbow to 0.18 rad"):  # fmt: skip
        assert words in text


def test_the_summary_says_why_the_robot_was_held():
    statistics = RunStatistics(("top", "wrist"))
    assert [line for line in statistics_lines(statistics.to_json()) if "nothing" in line] == [
        "held:    nothing",
        "filter:  nothing",
    ]
    statistics.add(record_of(1, hold=Hold.POLICY_FAILED, stage=11, words="the chunk is not finite"))
    lines = statistics_lines(statistics.to_json({11: "not asked"}))
    assert "  policy failed, 1 tick: the chunk is not finite" in lines
    assert "  not asked, 1 tick: the chunk is not finite" in lines


def test_lines_are_on_the_terminal_while_the_robot_starts_and_is_parked():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Terminal()
    with RobotDisplay({"q": "end"}, shown) as display:
        display.line("connecting the robot")
        assert "connecting the robot" in shown.getvalue()
        display.show(Session())  # type: ignore[arg-type]
        display.line("not released: waist")
        assert "not released: waist" in shown.getvalue()


def test_a_display_without_a_terminal_prints_a_line_now_and_then():
    stream, now_s = io.StringIO(), 0.0
    session: Any = Session()
    with RobotDisplay({}, stream, lambda: now_s) as display:
        for _ in range(100):
            display.show(session)
            now_s += 0.3
        display.line("camera top:\x1b[2J no frame")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4
    assert "\x1b" not in stream.getvalue()


def test_a_replay_says_how_it_went(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code, out, _ = answer(capsys, "replay", data, "--robot", DOT, "--log", tmp_path / "log")
    assert code == 0
    for words in ("the episode has ended", "ticks:", "0 skipped", "filter:", str(tmp_path / "log")):
        assert words in out


def test_record_takes_the_options_of_a_robot_where_one_is_given(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    code, out, _ = answer(
        capsys, "record", "--robot", DOT, "--leader", f"{data}:0", "--task", "follow",
        "--episodes", "1", "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0
    assert "1 kept, 0 dropped" in out


@pytest.mark.parametrize("verb", ["replay", "record"])
def test_every_verb_with_a_session_sends_it_to_rerun(
    verb: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("rerun")
    file = tmp_path / "session.rrd"
    argv = {
        "replay": ("replay", data),
        "record": ("record", "--leader", f"{data}:0", "--task", "follow", "--episodes", "1",
                   "--out", tmp_path / "out"),
    }[verb]  # fmt: skip
    code, _, err = answer(capsys, *argv, "--robot", DOT, "--log", tmp_path / "log", "--rerun", file)
    assert code == 0, err
    assert file.read_bytes().startswith(b"RRF")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("robot", "check", "missing.toml"), "missing.toml"),
        (("robot", "simulate", "alhoa"), "Did you mean aloha?"),
        (("robot", "release", "sim:cube"), "--yes"),
        (("robot", "fly", "robot.toml"), "check"),
        (("teleop", "arm"), "no robot"),
        (("teleop", DOT, "--rerun", "file.txt"), "rrd"),
        (("replay", "missing", "--robot", DOT, "--rerun", "file.txt"), "rrd"),
        (("record", "--robot", DOT, "--out", "x", "--leader", "y:0"), "task"),
        (("run", "missing", "--robot", DOT), "missing"),
        (("replay", "missing", "--robot", DOT), "missing"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    argv: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert says in is_refused(capsys, *argv)
    assert list(tmp_path.iterdir()) == []
