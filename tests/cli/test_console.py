"""Console: time left from the speed of this run, short logs, and a stderr that may be lost."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest

from imitact.cli.console import EVERY_S, ProgressDisplay, escaped, print_progress, print_result
from imitact.core.errors import BadInput


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_time_left_follows_the_speed_so_far():
    clock, stream = Clock(), io.StringIO()
    display = ProgressDisplay("recording", 50, "episodes", stream=stream, clock=clock)
    assert display.left_s() is None
    display.to(0)
    clock.now = 60.0
    display.to(10, "1 failed")
    assert display.left_s() == 240.0
    assert display.text() == "10/50 episodes, 1 failed, left 4 min"


def test_what_an_earlier_run_did_does_not_count_as_speed():
    clock = Clock()
    display = ProgressDisplay("x", 50, "episodes", stream=io.StringIO(), clock=clock)
    display.to(30)
    assert display.text() == "30/50 episodes, left ?"
    clock.now = 60.0
    display.to(40)
    assert display.left_s() == 60.0


def test_the_time_left_that_a_job_gives_is_shown():
    display = ProgressDisplay("x", 50, "episodes", stream=io.StringIO(), clock=Clock())
    display.to(0, left_s=12.0)
    assert display.text() == "0/50 episodes, left 12 s"


def test_a_log_gets_a_line_every_ten_seconds_and_the_last_one():
    clock, stream = Clock(), io.StringIO()
    with ProgressDisplay("recording", 100, "episodes", stream=stream, clock=clock) as display:
        for second in range(1, 101):
            clock.now = float(second)
            display.to(second)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1 + 100 // EVERY_S
    assert lines[0] == "recording: 0/100 episodes, left ?"
    assert lines[-1] == "recording: 100/100 episodes, took 2 min"
    assert "\r" not in stream.getvalue()


def test_a_log_has_no_runs_of_equal_lines():
    clock, stream = Clock(), io.StringIO()
    with ProgressDisplay("recording", 3, "episodes", stream=stream, clock=clock) as display:
        for second in range(200):  # nothing is known yet
            clock.now = float(second)
            display.to(0)
        display.to(3)
    assert stream.getvalue().splitlines() == [
        "recording: 0/3 episodes, left ?",
        "recording: 3/3 episodes, took 3 min",
    ]


def test_a_job_that_is_refused_at_once_leaves_no_second_line():
    stream = io.StringIO()

    def refused() -> None:
        with ProgressDisplay("recording", 3, "episodes", stream=stream, clock=Clock()):
            raise BadInput("no")

    with pytest.raises(BadInput, match="no"):
        refused()
    assert stream.getvalue() == "recording: 0/3 episodes, left ?\n"


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_a_job_with_nothing_to_do_shows_no_progress(kind: type[io.StringIO]):
    stream = kind()
    with ProgressDisplay("copying", 0, "episodes", stream=stream, clock=Clock()) as display:
        display.to(0)
    assert stream.getvalue() == ""


def test_a_terminal_shows_one_moving_line():
    clock, stream = Clock(), Terminal()
    with ProgressDisplay("recording", 3, "episodes", stream=stream, clock=clock) as display:
        clock.now = 20.0
        display.to(1)
        clock.now = 40.0
        display.to(3)
    shown = stream.getvalue()
    assert "recording" in shown
    assert "3/3 episodes, took 40 s" in shown
    assert shown.count("\n") <= 2


class Lost(io.StringIO):
    """A stream whose reader has ended."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


class LostTerminal(Lost):
    def isatty(self) -> bool:
        return True


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("make", [Lost, LostTerminal, closed])
def test_a_lost_stderr_never_ends_the_work(make: Callable[[], io.StringIO]):
    stream, done = make(), 0
    print_progress("a line", stream)
    with ProgressDisplay("recording", 3, "episodes", stream=stream) as display:
        for done in (1, 2, 3):
            display.to(done)
    assert done == 3


def test_control_characters_are_written_out(capsys: pytest.CaptureFixture[str]):
    name = "a\x1b[31mb\rc\x07\u202ed"
    assert escaped(name) == "a\\x1b[31mb\\rc\\x07\\u202ed"
    assert escaped("é 3 × 10⁻³ \tok") == "é 3 × 10⁻³ \tok"
    assert escaped("a\nimitact: done") == "a\\nimitact: done"  # a name cannot forge a line
    print_progress(name)
    print_result(name)
    out, err = capsys.readouterr()
    assert out == err == escaped(name) + "\n"
