"""Child processes: started with a deadline, heard, and aware of the end of their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from imitact.core.errors import RobotError
from imitact.parallel.child_process import ChildProcess, ParentPipe, ProcessOwner, ending_words

PATIENCE_S = 60.0


def _echo(pipe: ParentPipe, text: str) -> None:
    pipe.line(f"line of {text}")
    pipe.ready()
    while not pipe.parent_is_gone:
        if (order := pipe.next_order(0.01)) is not None:
            number, name, argument = order
            if name == "end":
                return
            if name == "crash":
                raise ValueError("a surprise")
            if name == "read":
                argument = sys.stdin.read() if argument else os.read(0, 10)
            pipe.answer(number, name != "refuse", argument)


def _never(pipe: ParentPipe) -> None:
    pipe.line("thinking")
    time.sleep(3600)


def _fails(pipe: ParentPipe) -> None:
    raise RobotError("no servo answers")


def started(text: str = "x") -> tuple[ChildProcess, list[str]]:
    lines: list[str] = []
    child = ChildProcess("the echo", _echo, (text,), lines.append)
    child.start(PATIENCE_S)
    return child, lines


def test_orders_are_answered_and_lines_are_passed_on():
    child, lines = started("y")
    assert lines == ["line of y"]
    assert child.ask("say", [1, 2], timeout_s=PATIENCE_S) == [1, 2]
    with pytest.raises(RobotError, match="not today"):
        child.ask("refuse", "not today", timeout_s=PATIENCE_S)
    child.order("end")
    assert child.join(PATIENCE_S)
    assert child.death() == "the echo has ended"
    with pytest.raises(RobotError, match="has ended"):
        child.ask("say", timeout_s=PATIENCE_S)


def test_a_process_that_ends_says_why():
    child, _ = started()
    with pytest.raises(RobotError, match=r"^the echo failed: ValueError: a surprise$"):
        child.ask("crash", timeout_s=PATIENCE_S)
    child, _ = started()
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    assert child.join(PATIENCE_S)
    assert child.death() == "the echo was killed by SIGKILL"  # and not the line that was shown


def test_the_words_of_every_end_name_the_process_and_what_ended_it():
    assert ending_words("the arm", 0) == "the arm has ended"
    assert ending_words("the arm", 7) == "the arm ended with exit code 7"
    assert ending_words("the arm", -9) == "the arm was killed by SIGKILL"
    assert ending_words("the arm", -99) == "the arm was killed by signal 99"


def test_a_process_that_has_not_started_takes_no_order_and_can_be_closed():
    with ProcessOwner(ChildProcess("the echo", _echo, ("z",))) as owner:
        assert (owner.pid, owner.death()) == (None, "")
        with pytest.raises(RobotError, match="the echo has not started"):
            _ = owner.sentinel
        with pytest.raises(RobotError, match="the echo has not started"):
            owner._process.order("say")


def test_a_process_starts_again_with_other_arguments_and_forgets_how_the_last_one_ended():
    child, lines = started("x")
    child.kill()
    child.arguments = ("y",)
    child.start(PATIENCE_S)
    assert (lines, child.death()) == (["line of x", "line of y"], "")
    assert child.end(PATIENCE_S)


def test_a_start_that_fails_or_takes_too_long_is_an_error():
    with pytest.raises(RobotError, match=r"^the arm failed: no servo answers$"):
        ChildProcess("the arm", _fails, ()).start(PATIENCE_S)
    child = ChildProcess("the thinker", _never, ())
    with pytest.raises(RobotError, match="last line was: thinking"):
        child.start(3.0)
    assert not child.is_alive


def test_ctrl_c_is_ignored_and_stdin_is_at_its_end():
    child, _ = started()
    assert child.pid is not None
    os.kill(child.pid, signal.SIGINT)
    os.kill(child.pid, signal.SIGHUP)
    assert child.ask("read", True, timeout_s=PATIENCE_S) == ""
    assert child.ask("read", False, timeout_s=PATIENCE_S) == b""
    child.kill()


def test_a_process_whose_pipe_is_closed_ends():
    child, _ = started()
    child.close()
    assert child.join(PATIENCE_S)


def _parent(report: Path) -> None:
    child, _ = started()
    # A process that was forked keeps the parent's end of the pipe open.
    forked = os.fork()
    if not forked:
        time.sleep(3600)
    report.with_suffix(".new").write_text(f"{child.pid} {forked}")
    report.with_suffix(".new").rename(report)
    time.sleep(3600)


def test_a_process_whose_parent_was_killed_ends_though_the_pipe_stays_open(tmp_path: Path):
    report = tmp_path / "pids"
    parent = multiprocessing.get_context("spawn").Process(target=_parent, args=(report,))
    parent.start()
    deadline_s = time.monotonic() + PATIENCE_S
    while not report.exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    child, forked = map(int, report.read_text().split())
    parent.kill()
    parent.join()
    try:
        while _runs(child):
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
    finally:
        os.kill(forked, signal.SIGKILL)


def _runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
