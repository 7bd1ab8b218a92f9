"""Signals: Ctrl-C and SIGTERM take effect where the work asks, and handlers are put back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from imitact.parallel.signals import ENDING, StopFlag, end_signals_as_interrupts, interrupts_blocked


@pytest.fixture(autouse=True)
def _handlers_are_put_back() -> object:
    before = [signal.getsignal(number) for number in (signal.SIGINT, *ENDING)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGINT, *ENDING)] == before


def test_ctrl_c_waits_until_the_work_asks_for_it() -> None:
    with StopFlag() as stop:
        stop.check()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            stop.check()


def test_a_second_ctrl_c_takes_effect_at_once() -> None:
    with StopFlag(signal.SIGINT, signal.SIGTERM) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("number", ENDING)
def test_sigterm_and_a_closed_terminal_end_the_work_as_ctrl_c_does(number) -> None:
    with pytest.raises(KeyboardInterrupt, match=ENDING[number]), end_signals_as_interrupts():
        os.kill(os.getpid(), number)


def test_nohup_keeps_the_work_from_ending_with_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with end_signals_as_interrupts(), StopFlag(*ENDING) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.received
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_no_handler_is_changed() -> None:
    seen = []

    def work() -> None:
        before = signal.getsignal(signal.SIGINT)
        with StopFlag() as stop, end_signals_as_interrupts():
            stop.check()
            seen.append(signal.getsignal(signal.SIGINT) == before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]


def test_ctrl_c_while_processes_start_comes_to_this_process_afterwards() -> None:
    code = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
    with StopFlag() as stop:
        with interrupts_blocked():
            # To this thread: other threads of a test run do not block it.
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            assert not stop.received
        assert stop.received == "SIGINT"
    assert done.stdout == "True\n"
