"""Scripted hand of a bench: does a task on the leaders again and again, each time from a new start.

It waits until the followers have come to where the leaders are, so that a person at the keyboard
may engage and keep or drop each episode in their own time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from imitact.robots.aloha_hardware import JOINT_SERVOS, START_POSE
from imitact.robots.emulation.bench import Bench
from imitact.robots.emulation.hand import expert_trajectory

NEAR_RAD = 0.1
"""How near to the start pose the followers must be before the hand begins, rad."""

PAUSE_S = 1.5
"""Time at the start before the hand begins, and at the end before it goes back, s."""


class ScriptedHand:
    """Leads a bench's leaders; `step` is called several times a second."""

    def __init__(
        self, bench: Bench, task: str, first_seed: int, on_line: Callable[[str], object]
    ) -> None:
        """Begin at a seed; `on_line` receives what the hand does."""
        self._bench, self._task, self._seed, self._on_line = bench, task, first_seed, on_line
        self._since_s: float | None = None
        self._begin()

    def step(self) -> bool:
        """Go on; return False, as the hand never ends."""
        truth = self._bench.truth()
        now_s = time.monotonic()
        if not self._leads:
            arms = [truth.joints_rad(f"follower_{side}") for side in ("left", "right")]
            rows = [servo - 1 for servo in JOINT_SERVOS[:-1]]
            apart = max(float(np.abs(arm[rows] - START_POSE).max()) for arm in arms)
            if apart > NEAR_RAD or truth.hand != "holding":
                self._since_s = None
            elif self._since_s is None:
                self._since_s = now_s
            elif now_s - self._since_s > PAUSE_S:
                self._bench.hand(self._path, 50.0)
                self._leads, self._since_s = True, None
                self._on_line(f"the hand leads, seed {self._seed}")
        elif truth.hand == "holding":
            if self._since_s is None:
                self._since_s = now_s
                self._on_line(f"the hand has ended: {truth.stage}")
            elif now_s - self._since_s > PAUSE_S:
                self._seed += 1
                self._begin()
        return False

    def _begin(self) -> None:
        self._path = expert_trajectory(self._task, self._seed)
        self._bench.reset(self._seed, arms=False)
        self._bench.hand(self._path[:1])
        self._leads, self._since_s = False, None
