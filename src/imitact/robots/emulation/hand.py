"""Scripted hand: moves limp leader arms along a trajectory, such as the scripted expert's joints.

A hand grips the arms once they are limp, brings them to where the trajectory begins, leads them
along it, and holds them at its end. Where servos have torque it waits. What it moves are joint
positions in ticks, one value a joint, without shadow servos.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput
from imitact.core.types import FloatArray
from imitact.envs.aloha import AlohaEnv
from imitact.envs.experts.registry import make_expert
from imitact.envs.experts.trajectories import minimum_jerk
from imitact.robots.emulation.servos import TURN

Phase = Literal["waiting", "approaching", "leading", "holding"]

APPROACH_SPEED = TURN / math.tau
"""Mean speed of the fastest joint on the way to the trajectory, ticks/s: 1 rad/s."""

_SHORTEST_APPROACH_S = 0.3
_NEAR = 8.0  # ticks, half a degree: no approach is needed
_SQUEEZE_SPEED = 1000.0  # ticks/s: closes a leader's gripper in 0.7 s


def expert_trajectory(task: str = "cube", seed: int = 0, spread: float = 1.0) -> FloatArray:
    """Return the actions of a task's scripted expert, (T, 14), from its first to its last motion.

    The expert plans from the true state of `AlohaEnv` at that seed, which is also the start of
    `Bench.reset(seed)`; arms that follow these actions at 50 Hz from the start pose do the task.
    """
    env, expert = AlohaEnv(task, ()), make_expert(task, spread)
    observation = env.reset(seed)
    expert.reset(seed)
    actions: list[FloatArray] = []
    for _ in range(env.step_cap):
        actions.append(expert.chunk(observation)[0])
        observation = env.step(actions[-1]).observation
    found = np.array(actions)
    moves = np.flatnonzero((found != found[-1]).any(axis=1))
    return found[: moves[-1] + 2 if len(moves) else 1]


class Hand:
    """The hand that leads one or both leaders.

    Args:
        trajectory: joint positions, (T, A) ticks; one row is a pose to bring the arms to.
        rate_hz: rows per second.
        pause_s: how long it stays at the first row.
        squeezed: closed position in ticks of each gripper by its index in a row. While the arms
            still have torque and a gripper is limp, the hand closes that one: the sign with which
            a person starts ALOHA's teleoperation.

    Attributes:
        phase: what it does.
        row: where it is in the trajectory, in rows; from 0 to T - 1.

    Raises:
        BadInput: the trajectory is not (T, A) finite numbers, or the rate is not positive.
    """

    def __init__(
        self,
        trajectory: FloatArray,
        rate_hz: float,
        *,
        pause_s: float = 0.0,
        squeezed: Mapping[int, float] | None = None,
    ) -> None:
        rows = np.array(trajectory, np.float64)
        if rows.ndim != 2 or not rows.size or not np.isfinite(rows).all():
            raise BadInput(
                f"the trajectory of the hand has shape {rows.shape}; expected finite numbers, one "
                "row for each tick and one column for each joint of the leaders"
            )
        if not (math.isfinite(rate_hz) and rate_hz > 0):
            raise BadInput(f"the rate of the hand is {rate_hz:g} Hz; it must be positive")
        self.phase: Phase = "waiting"
        self.row = 0.0
        self._rows, self._rate_hz, self._pause_s = rows, rate_hz, pause_s
        self._squeezed = dict(squeezed or {})
        self._from: NDArray[np.float64] | None = None
        self._approached_s = 0.0

    def advance(
        self, dt_s: float, positions: FloatArray, is_limp: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Return where the hand wants the joints after some time, (A,) ticks.

        Args:
            positions: where they are, (A,) ticks.
            is_limp: which of them it can move, (A,).
        """
        positions = np.asarray(positions, np.float64)
        if not is_limp.all():
            self.phase, self._from = "waiting", None
            return self._squeeze(dt_s, positions, is_limp)
        if self.phase == "waiting":
            self.phase, self._from, self._approached_s = "approaching", positions.copy(), 0.0
        if self.phase == "approaching":
            return self._approach(dt_s)
        if self._pause_s > 0:
            self._pause_s -= dt_s
        else:
            last = len(self._rows) - 1
            self.row = min(self.row + dt_s * self._rate_hz, float(last))
            self.phase = "holding" if self.row >= last else "leading"
        return self._at(self.row)

    def _squeeze(
        self, dt_s: float, positions: NDArray[np.float64], is_limp: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        wanted = positions.copy()
        arms = [index for index in range(len(positions)) if index not in self._squeezed]
        if self._squeezed and not is_limp[arms].any():
            for index, closed in self._squeezed.items():
                step = _SQUEEZE_SPEED * dt_s
                wanted[index] += np.clip(closed - positions[index], -step, step)
        return wanted

    def _approach(self, dt_s: float) -> NDArray[np.float64]:
        assert self._from is not None
        goal = self._at(self.row)
        distance = float(np.abs(goal - self._from).max())
        whole_s = max(_SHORTEST_APPROACH_S, distance / APPROACH_SPEED)
        self._approached_s += dt_s
        if distance <= _NEAR or self._approached_s >= whole_s:
            self.phase = "leading"
            return goal
        share = float(minimum_jerk(np.array(self._approached_s / whole_s)))
        return self._from + share * (goal - self._from)

    def _at(self, row: float) -> NDArray[np.float64]:
        """Return the trajectory between two rows: a cubic through all rows (Catmull-Rom)."""
        rows, last = self._rows, len(self._rows) - 1
        at = min(int(row), max(last - 1, 0))
        s = row - at
        before, begin = rows[max(at - 1, 0)], rows[at]
        end, after = rows[min(at + 1, last)], rows[min(at + 2, last)]
        return begin + 0.5 * s * (
            end - before
            + s * (2 * before - 5 * begin + 4 * end - after
                   + s * (3 * (begin - end) + after - before))
        )  # fmt: skip
