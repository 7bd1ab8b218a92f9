"""Safety filter: an asked action becomes a legal one, or a hold with its reason.

It is the one place that changes what a robot is told. Its stages act in the order of `Stage`, and
each verdict names the first that acted. Legal steps pass to the bit.

A hold brakes within the limits, then keeps the last command; never the measured joints, whose sag
would add up and drop the torque that carries the arm (huggingface/lerobot#4610). The filter is
software: only cutting the power stops a robot whatever happens, and that drops its arms.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from imitact.control.ages import AgeBounds
from imitact.control.contract import Ages
from imitact.control.motion_limits import Knots, Motion, MotionLimits
from imitact.control.recovery import Recovery
from imitact.control.servo_watch import FollowingBounds, FollowingWatch, HealthBounds, HealthWatch
from imitact.core.errors import BadInput, SpecMismatch, library_words
from imitact.core.joint_limits import JointLimits
from imitact.core.robot import Reading, ServoHealth
from imitact.core.types import FloatArray, Spec, same_unit
from imitact.core.words import counted


class Stage(IntEnum):
    """What acted on an asked action; the numbers are those of the column safety.stage."""

    PASSED = 0
    SHAPE = 1
    """It is not A numbers: held."""
    FINITE = 2
    """A number is NaN or infinite: held."""
    PLAUSIBLE = 3
    """Far out of range: a wrong unit or arm. Stopped until `resume`."""
    RANGE = 4
    """Out of range: cut to it."""
    COLLISION = 5
    """It, or the stop after it, would make a new contact: held."""
    MOTION = 6
    """Too fast, or without a stop within the range: the joint catches up within its limits."""
    STALL = 7
    """A gripper does not follow: its goal stays near to where it is."""
    LAG = 8
    """A joint is far from its commands: held."""
    HEALTH = 9
    """A servo is hot, overloaded, without voltage or in error: held."""
    AGE = 10
    """State, picture or leader is too old: held."""
    NOT_ASKED = 11
    """The source asked for nothing: held."""
    HELD = 12
    """Held by `hold` until `resume`."""
    FAILED = 13
    """The filter itself failed: held."""


ALL_STAGES = frozenset(Stage)

PLAUSIBLE = 1.2
"""Multiple of the range, about its middle, beyond which at least half of the joints make an action
implausible. The range reaches to the last command, so that a robot that was placed outside is not
stopped on its way back."""

FAR = 3.0
"""The same multiple at which one joint is enough: degrees given as rad, ticks as degrees."""

_GOALS = 6
"""Goals whose steps give the velocity of a goal."""

LEAST_HALVES = {"rad": 0.5, "deg": 30.0, "%": 50.0, "1": 0.5, "m": 0.1}
"""Half of the range that is taken for a joint with a shorter one, by unit: a joint that hardly
moved in the demonstrations is not in a wrong unit where it moves a little more."""


@dataclass(frozen=True)
class SafetyBounds:
    """What the filter tolerates, besides the limits of the motion."""

    ages: AgeBounds = field(default_factory=AgeBounds)
    """Of state, pictures and leader."""

    following: FollowingBounds = field(default_factory=FollowingBounds)
    """How far joints and grippers may be from their commands."""

    health: HealthBounds = field(default_factory=HealthBounds)
    """Of the servos."""

    hold_s: float = 60.0
    """A hold that lasts longer should end in parking, s: a motor that holds an arm gets hot, and
    one that was forgotten burned (huggingface/lerobot#2621)."""

    strained_hold_s: float = 10.0
    """The same for a hold by a servo's health, or by a joint that presses on something, s."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is commanded at a tick, and why it is not what was asked.

    Attributes:
        action: (A,) to command.
        stage: the first stage that acted; PASSED where `action` is what was asked, to the bit.
        joint: the joint at which it acted, or the worst; empty where it is no single one.
        words: what it did and why; empty where the asked action passed.
        held: whether the robot brakes or holds instead of following.
        stopped: whether it holds until `resume`.
        should_park: whether it is held for so long that it should be parked.
    """

    action: NDArray[np.float64]
    stage: Stage = Stage.PASSED
    joint: str = ""
    words: str = ""
    held: bool = False
    stopped: bool = False
    should_park: bool = False


class Collisions(Protocol):
    """Says whether a step makes a new contact; `collision.CollisionCheck` is one."""

    def refusal(self, now: FloatArray, *later: FloatArray) -> str:
        """Return what touches in one of the later poses and not now; empty where nothing does."""
        ...


@dataclass(frozen=True, slots=True)
class _Finding:
    """Which stage acts, where and why."""

    stage: Stage
    joint: str = ""
    words: str = ""


class SafetyFilter:
    """Checks one asked action a tick."""

    def __init__(
        self,
        limits: JointLimits,
        rate_hz: float,
        *,
        spec: Spec | None = None,
        bounds: SafetyBounds | None = None,
        collisions: Collisions | None = None,
        stages: frozenset[Stage] = ALL_STAGES,
    ) -> None:
        """Prepare; `begin` comes before the first check.

        Args:
            limits: of the commanded joints.
            rate_hz: ticks per second.
            spec: of the robot; its action names and units must be those of the limits. Without
                one, the states are taken to be the joints of the limits.
            bounds: what is tolerated besides.
            collisions: says what a pose touches; None checks no contact.
            stages: those that act, for tests.

        Raises:
            SpecMismatch: the limits are not those of the robot's joints, in their units.
            BadInput: ruckig is not installed, or a joint is commanded by its velocity, which a hold
                would keep.
        """
        if spec is not None:
            _check_joints(limits, spec)
        for name, unit in zip(limits.names, limits.units, strict=True):
            if unit.endswith("/s"):
                raise BadInput(
                    f"{name} is commanded in {unit}; a hold keeps the last command and would let "
                    "it run on. Only joints that are commanded by position can be filtered"
                )
        self.limits, self.rate_hz, self._stages = limits, rate_hz, stages
        self._names = limits.names
        self.bounds = bounds or SafetyBounds()
        self._collisions = collisions
        self._law = MotionLimits(limits, rate_hz)
        self._recovery = Recovery(self._law)
        self._following = FollowingWatch(limits, rate_hz, self.bounds.following, spec)
        self._health = HealthWatch(rate_hz, self.bounds.health)
        self._half = np.maximum(
            (limits.upper - limits.lower) / 2,
            [LEAST_HALVES.get(unit, 0.0) for unit in limits.units],
        )
        self.begin((limits.lower + limits.upper) / 2)

    @property
    def command(self) -> NDArray[np.float64]:
        """The last command, (A,)."""
        return self._motion.position.copy()

    @property
    def motion(self) -> Motion:
        """Where the commanded joints are and how they move; not to be changed."""
        return self._motion

    @property
    def rests(self) -> bool:
        """Whether the commanded joints are at rest."""
        return not (self._motion.velocity.any() or self._motion.acceleration.any())

    def begin(self, command: FloatArray) -> None:
        """Begin at rest, with the robot commanded to this pose, (A,).

        Raises:
            BadInput: it is not A finite numbers.
        """
        self._motion = self._law.begin(command)
        self._following.begin(self._motion.position)
        self._health.begin()
        self._forget_goal()
        # Once in vain: the first time that a joint catches up took up to 48 ms, which no tick has.
        self._moved(self._motion.position + 2 * self._half)
        self._forget_goal()
        self._stop: _Finding | None = None
        self._held_ticks = 0

    def hold(self, reason: str) -> None:
        """Hold from the next check on, until `resume`."""
        self._stop = _Finding(Stage.HELD, "", reason)

    def resume(self) -> None:
        """Go on after a stop; the next asked action is followed, within the limits."""
        self._stop = None

    def check(
        self,
        asked: FloatArray | None,
        reading: Reading | None,
        ages: Ages,
        health: Mapping[str, ServoHealth],
        why: str = "",
    ) -> Verdict:
        """Return what is commanded at this tick.

        Args:
            asked: (A,) in the units of the limits; None brakes and holds.
            reading: the newest state; None where there is none.
            ages: of the newest values.
            health: of every servo that said something, by joint.
            why: why nothing is asked, in words.
        """
        try:
            measured = self._following.measured(reading)
            condition = self._condition(measured, ages, health)
            finding, goal = self._asked(asked)
            if self._stop is not None:
                finding = self._stop
            elif finding is None:
                finding = condition
            if finding is not None or goal is None:
                return self._hold(finding or _Finding(Stage.NOT_ASKED, "", why))
            return self._follow(goal, measured)
        except Exception as error:  # a fault of imitact, or of code that it was given
            words = f"the safety filter failed: {type(error).__name__}: {library_words(error)}"
            return self._hold(_Finding(Stage.FAILED, "", words))

    # -- what is asked -------------------------------------------------------------------------

    def _asked(
        self, asked: FloatArray | None
    ) -> tuple[_Finding | None, NDArray[np.float64] | None]:
        """Return why an asked action cannot be followed, or the action; stages 1 to 3."""
        if asked is None:
            return None, None
        size = len(self._names)
        try:
            values = np.array(asked, np.float64)
        except (TypeError, ValueError) as error:
            words = f"what was asked is no list of numbers: {library_words(error)}"
            return _Finding(Stage.SHAPE, "", words), None
        if values.shape != (size,) and Stage.SHAPE in self._stages:
            words = f"an action of shape {np.shape(asked)} was asked, expected ({size},)"
            return _Finding(Stage.SHAPE, "", words), None
        finite = np.isfinite(values)
        if not finite.all():
            if Stage.FINITE in self._stages:
                joint = int(np.argmin(finite))
                words = f"{self._names[joint]} was asked to be {values[joint]}"
                return _Finding(Stage.FINITE, self._names[joint], words), None
            values = np.where(finite, values, self._motion.position)
        limits = self.limits
        outside = (values < limits.lower) | (values > limits.upper)
        finding = None
        if Stage.PLAUSIBLE in self._stages and outside.any():
            finding = self._implausible(values)
        self._stop = self._stop or finding
        return finding, None if finding else values

    def _implausible(self, values: NDArray[np.float64]) -> _Finding | None:
        limits, position = self.limits, self._motion.position
        beyond = np.maximum(
            np.minimum(limits.lower, position) - values, values - np.maximum(limits.upper, position)
        )
        share = 1 + np.maximum(beyond, 0.0) / self._half
        worst = int(np.argmax(share))
        outside = int((share > PLAUSIBLE).sum())
        if share[worst] <= FAR and 2 * outside < len(share):
            return None
        words = (
            f"{outside} of {counted(len(share), 'joint')} were asked to be far out of range "
            f"({self._words(worst, values[worst])}): is this the right unit, and the right arm? "
            "Stopped until it is resumed"
        )
        return _Finding(Stage.PLAUSIBLE, self._names[worst], words)

    # -- what the robot says -------------------------------------------------------------------

    def _condition(
        self,
        measured: NDArray[np.float64] | None,
        ages: Ages,
        health: Mapping[str, ServoHealth],
    ) -> _Finding | None:
        """Return why the robot must be held; stages 8 to 10."""
        found = None
        if (said := self._following.lag(measured)) and Stage.LAG in self._stages:
            found = _Finding(Stage.LAG, *said)
        if (said := self._health.update(health)) and Stage.HEALTH in self._stages:
            found = found or _Finding(Stage.HEALTH, *said)
        _, words = self.bounds.ages.too_old(ages, self.rate_hz)
        if found is None and words and Stage.AGE in self._stages:
            found = _Finding(Stage.AGE, "", words)
        return found

    # -- what is commanded ---------------------------------------------------------------------

    def _hold(self, finding: _Finding) -> Verdict:
        """Brake, then keep the last command."""
        if Stage.MOTION in self._stages:
            law, where = self._law, np.ones(len(self._names), bool)
            self._go(
                law.joined(self._motion, self._motion.position, law.brake(self._motion), where)
            )
        else:
            self._go(self._law.begin(self._motion.position))
        self._forget_goal()
        self._held_ticks += 1
        bounds = self.bounds
        strained = finding.stage in (Stage.LAG, Stage.HEALTH)
        limit_s = bounds.strained_hold_s if strained else bounds.hold_s
        held_s = self._held_ticks / self.rate_hz
        words = finding.words
        if held_s > limit_s:
            words = f"{words}; held since {held_s:.0f} s, the robot should be parked"
        return Verdict(
            self._motion.position.copy(),
            finding.stage,
            finding.joint,
            words,
            held=True,
            stopped=self._stop is not None,
            should_park=held_s > limit_s,
        )

    def _follow(self, asked: NDArray[np.float64], measured: NDArray[np.float64] | None) -> Verdict:
        """Command what is asked, or what the stages 4 to 7 make of it."""
        motion, goal, finding = self._motion, asked, None
        if Stage.RANGE in self._stages:
            goal = self._law.cut(motion, asked)
            if goal is not asked:
                finding = self._cut_words(asked, goal)
        stall = None
        if Stage.STALL in self._stages and measured is not None:
            goal, stall = self._following.unstalled(goal, motion.position)
        after, late = self._moved(goal)
        if self._collisions is not None and Stage.COLLISION in self._stages:
            touch = self._collisions.refusal(
                motion.position, after.position, self._law.stop_pose(after)
            )
            if touch:
                return self._hold(_Finding(Stage.COLLISION, "", touch))
        self._go(after)
        self._held_ticks = 0
        finding = finding or late
        if finding is None and stall is not None:
            finding = _Finding(Stage.STALL, *stall)
        action = after.position.copy()
        if finding is None:
            return Verdict(action)
        return Verdict(action, finding.stage, finding.joint, finding.words)

    def _moved(self, goal: NDArray[np.float64]) -> tuple[Motion, _Finding | None]:
        """Return the motion after this tick towards a goal, and which joint could not step to
        it."""
        law, motion = self._law, self._motion
        self._goals.append(goal)
        if Stage.MOTION not in self._stages:
            return law.direct(motion, goal), None
        direct = law.legal(motion, goal)
        if not self._is_catching and direct.all():
            return law.direct(motion, goal), None
        # How the goal moves: the median leaves out a jump, and most of the noise.
        goal_step = np.median(np.diff(np.array(self._goals), axis=0), axis=0)
        direct &= ~self._catching | law.goes_on(motion, goal, goal_step)
        self._catching = ~direct
        self._is_catching = bool(self._catching.any())
        if not self._is_catching:
            return law.direct(motion, goal), None
        knots = law.brake(motion, self._catching)
        self._catch_up(goal, goal_step, knots)
        after = law.joined(motion, goal, knots, self._catching)
        return after, self._late_words(goal)

    def _catch_up(
        self, goal: NDArray[np.float64], goal_step: NDArray[np.float64], knots: Knots
    ) -> None:
        """Replace the braking of joints that catch up by ruckig's way to the goal, where the law
        allows it."""
        law, motion = self._law, self._motion
        catching = np.flatnonzero(self._catching)
        after = Knots(motion.position.copy(), np.zeros(len(goal)), np.zeros(len(goal)))
        found = np.zeros(len(goal), bool)
        # A goal that moves on is met on its way, if a stop remains there.
        met = law.can_stop(Knots(goal, goal_step, np.zeros_like(goal)), goal, self._catching)
        goal_step = np.where(met, goal_step, 0.0)
        for joint in catching.tolist():
            way = self._recovery.propose(
                joint,
                motion.position[joint],
                motion.velocity[joint],
                motion.acceleration[joint],
                goal[joint],
                goal_step[joint],
            )
            if way is not None:
                after.position[joint], after.velocity[joint], after.acceleration[joint] = way
                found[joint] = True
        after.position = law.cut(motion, after.position)
        use = (found & law.allows(motion, after))[catching]
        chosen = catching[use]
        knots.position[use] = after.position[chosen]
        knots.velocity[use] = after.velocity[chosen]
        knots.acceleration[use] = after.acceleration[chosen]

    def _go(self, motion: Motion) -> None:
        self._motion = motion
        self._following.commanded(motion.position)

    def _forget_goal(self) -> None:
        self._goals = deque([self._motion.position] * _GOALS, _GOALS)
        self._catching, self._is_catching = np.zeros(len(self._names), bool), False

    # -- words ---------------------------------------------------------------------------------

    def _cut_words(self, asked: NDArray[np.float64], goal: NDArray[np.float64]) -> _Finding:
        worst = int(np.argmax(np.abs(asked - goal) / self._half))
        words = f"{self._words(worst, asked[worst])}; it was cut to that"
        return _Finding(Stage.RANGE, self._names[worst], words)

    def _late_words(self, goal: NDArray[np.float64]) -> _Finding:
        gap = np.abs(goal - self._motion.position)
        worst = int(np.argmax(np.where(self._catching, gap / self._law.velocity, -1.0)))
        count = int(self._catching.sum())
        more = f", and {count - 1} more" if count > 1 else ""
        unit = _after_number(self.limits.units[worst])
        words = (
            f"{self._names[worst]} was asked to step by {gap[worst]:.3g}{unit}{more}; "
            "catching up within the limits"
        )
        return _Finding(Stage.MOTION, self._names[worst], words)

    def _words(self, joint: int, value: float) -> str:
        limits = self.limits
        return (
            f"{self._names[joint]} {value:.4g}{_after_number(limits.units[joint])}, allowed "
            f"{limits.lower[joint]:.3g} to {limits.upper[joint]:.3g}"
        )


def _check_joints(limits: JointLimits, spec: Spec) -> None:
    """Refuse limits of other joints than the robot's, or in other units."""
    pairs: list[tuple[Any, Any]] = list(zip(limits.units, spec.action_units, strict=False))
    if limits.names != spec.action_names or not all(same_unit(*pair) for pair in pairs):
        raise SpecMismatch(
            f"the limits are of {_listed(limits.names, limits.units)}; the robot is commanded "
            f"{_listed(spec.action_names, spec.action_units)}. Take the limits of a policy or a "
            "robot.toml of this robot"
        )


def _after_number(unit: str) -> str:
    """Return a unit as it stands behind a number; a share, such as a gripper's, has none."""
    return "" if unit == "1" else f" {unit}"


def _listed(names: Sequence[str], units: Sequence[str]) -> str:
    return ", ".join(f"{name} ({unit})" for name, unit in zip(names, units, strict=False)) or "none"
