"""Hosts for tests: patient deadlines, which end as soon as what they wait for is there."""

from __future__ import annotations

import time
from collections.abc import Callable

from imitact.robots.host import RobotHost
from imitact.robots.host_process import HostConfig

PATIENCE_S = 60.0

QUICK = HostConfig(watchdog_s=2.0, countdown_s=0.05, park_speed=20.0, park_lag_s=0.05)
"""A patient watchdog, for busy computers, and quick parking."""


def wait_for(condition: Callable[[], object], host: RobotHost | None = None) -> None:
    """Wait until a condition holds; a host's lines are passed on meanwhile."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "did not happen"
        if host is not None:
            host.death()
        time.sleep(0.01)
