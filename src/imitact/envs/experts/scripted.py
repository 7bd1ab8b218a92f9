"""Scripted expert: base class of experts that plan a trajectory from the true state.

The expert of a task defines its phases, its variations and its trajectory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from imitact.core import random_streams
from imitact.core.aloha_joints import ALOHA_JOINTS, ALOHA_RATE_HZ, ALOHA_UNITS
from imitact.core.errors import BadInput
from imitact.core.types import FloatArray, Observation, Spec
from imitact.envs.aloha import AlohaTruth
from imitact.envs.experts.kinematics import HandPose, Kinematics, Vector

# Largest relative deviation of the duration of a phase at spread 1.
_DURATION_RATIO = 0.15
# Fraction of the variance of durations that all phases of an episode share: people are fast or slow
# for a whole episode.
_SHARED_VARIANCE = 0.75


@dataclass(frozen=True)
class Phase:
    """Duration of a phase.

    Attributes:
        ticks: mean duration.
        overlap: ticks by which it starts before the end of the previous phase.
    """

    ticks: float
    overlap: float = 0.0


class ScriptedExpert:
    """A Policy that plans from the true state, with chunks of one tick (K = 1).

    `reset(seed)` draws the variation of the episode from the seed alone. At the ticks of
    `planning_ticks` the expert needs `Observation.privileged` of its task and plans the rest of the
    episode; at other ticks it does not use the observation.

    Args:
        spread: 0 is the mean trajectory, 1 varies as people do, 2 twice as much.
        styles: ways of doing the task, of which each episode has one, drawn with equal probability:
            1, or 2, which differ by the side on which the hands meet.

    Attributes:
        variation: deviations of the episode from the mean, by name with the unit; with two styles
            also `style`, 0 or 1.
    """

    TASK: ClassVar[str]
    REVISION: ClassVar[int]
    """To be incremented with every change of the actions at any seed. Datasets store it, so that
    none mixes demonstrations of two revisions."""

    _PHASES: ClassVar[Mapping[str, Phase]]
    _INITIAL_JOINTS: ClassVar[Mapping[str, tuple[float, ...]]]
    """Start of inverse kinematics (`Kinematics`)."""
    _NEEDS: ClassVar[str]
    """Description of the true state that it plans from."""
    _SIDE_M: ClassVar[float]
    """With two styles the hands meet so far to the left (style 0) or to the right (style 1)."""

    def __init__(self, spread: float = 1.0, styles: int = 1) -> None:
        if not (math.isfinite(spread) and 0.0 <= spread <= 2.0):
            raise BadInput(f"spread is {spread}; expected 0 (no variation) to 2 (twice the usual)")
        if styles not in (1, 2):
            raise BadInput(f"styles is {styles}; expected 1 or 2")
        self.spread, self.styles = spread, styles
        self.variation: dict[str, float] = {}
        self.spec = Spec(ALOHA_JOINTS, ALOHA_JOINTS, ALOHA_UNITS, ALOHA_UNITS, (), ALOHA_RATE_HZ)
        self._targets: Vector | None = None  # (T, 14)
        self._tick = 0

    @property
    def planning_ticks(self) -> tuple[int, ...]:
        """Ticks at which it plans from the true state; the first is 0."""
        return (0,)

    def reset(self, seed: int) -> None:
        """Draw the variation of the episode from `seed`."""
        self.variation = self._draw(np.random.default_rng(seed))
        if self.styles > 1:
            # From a stream of its own: the variation is the same for any number of styles.
            style = np.random.default_rng([seed, random_streams.STYLE]).integers(self.styles)
            self.variation["style"] = float(style)
        self._targets = None
        self._tick = 0

    def chunk(self, observation: Observation) -> FloatArray:
        """Return the joint targets of the next tick, (1, 14); after the plan, the last ones."""
        if not self.variation:
            raise BadInput("chunk() before reset(); call reset(seed) first")
        if self._targets is None or self._tick in self.planning_ticks:
            truth = observation.privileged
            is_aloha = isinstance(truth, AlohaTruth)
            if not is_aloha or truth.task != self.TASK:
                came = f"task {truth.task}" if is_aloha else type(truth).__name__
                raise BadInput(
                    f"the {self.TASK} expert plans from {self._NEEDS}, but the observation's "
                    f"privileged is {came}; run it on the environment {self.TASK}"
                )
            self.spec.check_state(observation.state)
            state = np.asarray(observation.state, np.float64)
            trajectory = self._trajectory(self._tick, truth, state)
            self._targets = self._arms.servo_targets(trajectory)
        action = self._targets[min(self._tick, len(self._targets) - 1)]
        self._tick += 1
        return action[None].copy()

    def _draw(self, rng: np.random.Generator) -> dict[str, float]:
        """Draw the variation of an episode."""
        raise NotImplementedError

    def _trajectory(self, tick: int, truth: AlohaTruth, state: Vector) -> Vector:
        """Plan joints and grippers of the whole episode, (T, 14), at one of `planning_ticks`.

        What precedes that tick must not change.
        """
        raise NotImplementedError

    @cached_property
    def _arms(self) -> Kinematics:
        return Kinematics(self._INITIAL_JOINTS)

    def _uniform(self, rng: np.random.Generator, limit: float) -> float:
        return self.spread * float(rng.uniform(-limit, limit))

    def _draw_durations(self, rng: np.random.Generator) -> dict[str, float]:
        """Draw NAME_duration_ratio of every phase."""
        drawn: dict[str, float] = {}
        # A Gaussian copula: durations are uniform and correlated.
        shared = rng.normal()
        for phase in self._PHASES:
            own = math.sqrt(1.0 - _SHARED_VARIANCE) * rng.normal()
            z = math.sqrt(_SHARED_VARIANCE) * shared + own
            rank = math.erf(z / math.sqrt(2.0))  # uniform in -1 to 1
            drawn[f"{phase}_duration_ratio"] = self.spread * _DURATION_RATIO * rank
        return drawn

    def _grasp(
        self, position: Vector, name: str, center: Vector, pitch: float
    ) -> tuple[HandPose, Vector]:
        """Return the pose that grasps an object, and the hand's offset from the held object.

        Closing fingers turn and center the object: of the grasp's offset from its center, only the
        components along the fingers and upward remain in the held pose. `position` is the object's
        center and `center` the grasp's mean offset from it, (3,) in m; `pitch` is in rad.
        """
        offset = center + self._offset(name)
        yaw = self.variation[f"{name}_yaw_rad"]
        along = offset[0] * math.cos(yaw) + offset[1] * math.sin(yaw)
        return HandPose(position + offset, yaw, pitch), np.array([along, 0.0, offset[2]])

    @property
    def _side(self) -> Vector:
        """Displacement of the meeting point by the style, (3,), m."""
        if self.styles == 1:
            return np.zeros(3)
        return np.array([(2.0 * self.variation["style"] - 1.0) * self._SIDE_M, 0.0, 0.0])

    def _offset(self, name: str) -> Vector:
        return np.array([self.variation[f"{name}_d{axis}_m"] for axis in "xyz"])

    def _schedule(self) -> tuple[dict[str, float], dict[str, float], float]:
        """Return start and duration of every phase, and the end of the last, in ticks."""
        starts, durations, end = {}, {}, 0.0
        for name, phase in self._PHASES.items():
            durations[name] = phase.ticks * (1.0 + self.variation[f"{name}_duration_ratio"])
            starts[name] = end - phase.overlap
            end = starts[name] + durations[name]
        return starts, durations, end
