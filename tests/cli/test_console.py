"""Progress is honest: the time left follows this run's pace, and a log is not flooded."""

from __future__ import annotations

import io

import pytest

from imitact.cli.console import EVERY_S, ProgressDisplay
from imitact.core.errors import BadInput


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_time_left_is_that_of_the_pace_so_far():
    clock, stream = Clock(), io.StringIO()
    waiting = ProgressDisplay("recording", 50, "episodes", stream=stream, clock=clock)
    assert waiting.left_s() is None
    waiting.to(0)
    clock.now = 60.0
    waiting.to(10, "1 failed")
    assert waiting.left_s() == 240.0
    assert waiting.text() == "10/50 episodes, 1 failed, left 4 min"


def test_what_was_done_before_tells_nothing_of_the_pace():
    clock = Clock()
    waiting = ProgressDisplay("x", 50, "episodes", stream=io.StringIO(), clock=clock)
    waiting.to(30)
    assert waiting.text() == "30/50 episodes, left ?"
    clock.now = 60.0
    waiting.to(40)
    assert waiting.left_s() == 60.0


def test_a_job_that_knows_its_time_left_is_believed():
    waiting = ProgressDisplay("x", 50, "episodes", stream=io.StringIO(), clock=Clock())
    waiting.to(0, left_s=12.0)
    assert waiting.text() == "0/50 episodes, left 12 s"


def test_a_log_gets_a_line_every_ten_seconds_and_the_last_one():
    clock, stream = Clock(), io.StringIO()
    with ProgressDisplay("recording", 100, "episodes", stream=stream, clock=clock) as waiting:
        for second in range(1, 101):
            clock.now = float(second)
            waiting.to(second)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1 + 100 // EVERY_S + 1
    assert lines[0] == "recording: 0/100 episodes, left ?"
    assert lines[-1] == "recording: 100/100 episodes, took 2 min"
    assert "\r" not in stream.getvalue()


def test_a_job_that_is_refused_at_once_leaves_no_second_line():
    stream = io.StringIO()

    def refused() -> None:
        with ProgressDisplay("recording", 3, "episodes", stream=stream, clock=Clock()):
            raise BadInput("no")

    with pytest.raises(BadInput, match="no"):
        refused()
    assert stream.getvalue() == "recording: 0/3 episodes, left ?\n"


def test_a_terminal_gets_a_line_that_moves():
    clock, stream = Clock(), Terminal()
    with ProgressDisplay("recording", 3, "episodes", stream=stream, clock=clock) as waiting:
        clock.now = 20.0
        waiting.to(1)
        clock.now = 40.0
        waiting.to(3)
    shown = stream.getvalue()
    assert "recording" in shown
    assert "3/3 episodes, took 40 s" in shown
    assert shown.count("\n") <= 2
