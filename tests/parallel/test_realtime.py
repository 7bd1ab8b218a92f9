"""Real-time scheduling: asked for where it is allowed, and nothing that is started inherits it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from imitact.parallel.realtime import ask_for_real_time

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setscheduler"), reason="the system has no such scheduling"
)


def in_a_thread(work):
    """Return what `work` returns in a thread of its own, which it may change."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def test_it_is_said_whether_the_thread_is_in_real_time_and_what_it_starts_is_not():
    def work():
        allowed = ask_for_real_time()
        code = "import os; print(os.sched_getscheduler(0))"
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        own = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
        return allowed, own, int(child.stdout)

    allowed, own, child = in_a_thread(work)
    assert own == (os.SCHED_RR if allowed else os.SCHED_OTHER)
    assert child == os.SCHED_OTHER


@pytest.mark.parametrize("error", [PermissionError, OSError])
def test_where_it_is_not_allowed_the_loop_runs_all_the_same(monkeypatch, error):
    def refuse(*_):
        raise error

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    assert ask_for_real_time() is False


def test_another_system_has_no_such_scheduling(monkeypatch):
    monkeypatch.delattr(os, "SCHED_RR")
    assert ask_for_real_time() is False
