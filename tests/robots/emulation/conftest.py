"""Fixtures of the emulated buses."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest


@pytest.fixture
def patiently() -> Callable[[Callable[[], bool]], None]:
    """Wait until something holds, for up to a minute: tests pass on a busy machine."""

    def wait(holds: Callable[[], bool]) -> None:
        end_s = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < end_s
            time.sleep(0.01)

    return wait
