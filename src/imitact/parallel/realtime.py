"""Real-time scheduling: a thread that runs before all others of the computer, where allowed."""

from __future__ import annotations

import os


def ask_for_real_time() -> bool:
    """Ask to run this thread before all that are not in real time; return whether it is granted.

    Linux allows it to root, and to users with a limit (`ulimit -r`) of 1 or more. Priority 1 is the
    lowest in real time: below threads of the kernel and of drivers. A thread that never sleeps
    would leave the others 5 % of a core (sched_rt_runtime_us), so it is for loops that do little in
    a tick. What it starts is not in real time.
    """
    try:
        policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(1))
    except (AttributeError, OSError):  # another system, or not allowed
        return False
    return True
