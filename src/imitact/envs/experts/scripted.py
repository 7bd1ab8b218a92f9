"""A scripted demonstrator as a Policy: deviations from a seed, looks at the true state, a plan.

What a task's demonstrator adds is which phases there are, what deviates, and the path.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from imitact.core.aloha_joints import ALOHA_JOINTS, ALOHA_RATE_HZ, ALOHA_UNITS
from imitact.core.errors import BadInput
from imitact.core.types import FloatArray, Observation, Spec
from imitact.envs.aloha import Truth
from imitact.envs.experts.kinematics import Kinematics, Vector

# How far the duration of a phase deviates at spread 1, either way.
_DURATION_RATIO = 0.15
# Haste is a person's: this share of a duration's variance is common to all phases of an episode.
_HASTE = 0.75


@dataclass(frozen=True)
class Phase:
    """ticks: its mean duration. overlap: how many ticks it begins before the last one ends."""

    ticks: float
    overlap: float = 0.0


class Script:
    """What demonstrators of all tasks share; K = 1: each chunk() is the next tick.

    spread: 0 is the mean trajectory, 1 how much people's differ, 2 twice that.

    reset(seed) begins an episode and draws its deviations from the seed alone; `variation` holds
    them by name, with the unit in the name. At the ticks of `looks` it needs
    Observation.privileged of its task, and plans the rest of the episode from it; at the others it
    reads nothing at all.
    """

    TASK: ClassVar[str]
    REVISION: ClassVar[int]
    """Raise it with every change after which this demonstrator acts differently at some seed: a
    dataset stores it, so that none mixes the demonstrations of two."""

    _PHASES: ClassVar[Mapping[str, Phase]]
    _NEAR: ClassVar[Mapping[str, tuple[float, ...]]]
    """Where inverse kinematics starts, see Kinematics."""
    _TRUTH: ClassVar[str]
    """What it looks at, in words."""

    def __init__(self, spread: float = 1.0) -> None:
        if not (math.isfinite(spread) and 0.0 <= spread <= 2.0):
            raise BadInput(f"spread is {spread}; expected 0 (no variation) to 2 (twice the usual)")
        self.spread = spread
        self.variation: dict[str, float] = {}
        self._spec = Spec(ALOHA_JOINTS, ALOHA_JOINTS, ALOHA_UNITS, ALOHA_UNITS, (), ALOHA_RATE_HZ)
        self._kinematics: Kinematics | None = None
        self._plan: Vector | None = None  # of targets, (T, 14)
        self._tick = 0

    @property
    def spec(self) -> Spec:
        """14 joints in, 14 joint targets out, no camera."""
        return self._spec

    @property
    def looks(self) -> tuple[int, ...]:
        """Ticks at which the true state is looked at, the first of them 0."""
        return (0,)

    def reset(self, seed: int) -> None:
        """Draw the episode's deviations from `seed`."""
        self.variation = self._draw(np.random.default_rng(seed))
        self._plan = None
        self._tick = 0

    def chunk(self, observation: Observation) -> FloatArray:
        """(1, 14) joint targets of the next tick; after the plan's end, its last ones."""
        if not self.variation:
            raise BadInput("chunk() before reset(); call reset(seed) first")
        if self._plan is None or self._tick in self.looks:
            truth = observation.privileged
            if not isinstance(truth, Truth) or truth.task != self.TASK:
                raise BadInput(
                    f"the {self.TASK} expert plans from {self._TRUTH}, but the observation's "
                    f"privileged is {truth!r}; run it on AlohaEnv({self.TASK!r})"
                )
            self._spec.check_state(observation.state)
            path = self._path(self._tick, truth, np.asarray(observation.state, np.float64))
            self._plan = self._arms().commands(path)
        action = self._plan[min(self._tick, len(self._plan) - 1)]
        self._tick += 1
        return action[None].copy()

    def _draw(self, rng: np.random.Generator) -> dict[str, float]:
        """The episode's deviations by name."""
        raise NotImplementedError

    def _path(self, tick: int, truth: Truth, state: Vector) -> Vector:
        """(T, 14) joints and grippers of the whole episode, as it looks at a tick of `looks`.

        What lies before that tick is as it was.
        """
        raise NotImplementedError

    def _arms(self) -> Kinematics:
        if self._kinematics is None:
            self._kinematics = Kinematics(self._NEAR)
        return self._kinematics

    def _uniform(self, rng: np.random.Generator, limit: float) -> float:
        return self.spread * float(rng.uniform(-limit, limit))

    def _draw_durations(self, rng: np.random.Generator) -> dict[str, float]:
        """NAME_duration_ratio of every phase."""
        drawn: dict[str, float] = {}
        # A Gaussian copula: each duration is uniform, and all lean the same way.
        haste = rng.normal()
        for phase in self._PHASES:
            z = math.sqrt(_HASTE) * haste + math.sqrt(1.0 - _HASTE) * rng.normal()
            rank = math.erf(z / math.sqrt(2.0))  # uniform in -1 to 1
            drawn[f"{phase}_duration_ratio"] = self.spread * _DURATION_RATIO * rank
        return drawn

    def _offset(self, name: str) -> Vector:
        return np.array([self.variation[f"{name}_d{axis}_m"] for axis in "xyz"])

    def _schedule(self) -> tuple[dict[str, float], dict[str, float], float]:
        """Begin and duration of every phase, and the end of the last, in ticks."""
        begins, durations, end = {}, {}, 0.0
        for name, phase in self._PHASES.items():
            durations[name] = phase.ticks * (1.0 + self.variation[f"{name}_duration_ratio"])
            begins[name] = end - phase.overlap
            end = begins[name] + durations[name]
        return begins, durations, end
