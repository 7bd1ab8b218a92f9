"""Recovery: the way of one joint back to its goal."""

from __future__ import annotations

import numpy as np
import pytest

from imitact.control.motion_limits import Knots, MotionLimits
from imitact.control.recovery import Recovery
from tests.support.safety import RATE_HZ, pair_limits


def approach(goal_step: float, law: MotionLimits | None = None, ticks: int = 100):
    """Go from rest at 0 to a goal that begins at 0.3 and moves; return the way and the goals."""
    law = law or MotionLimits(pair_limits(lower=-9.0, upper=9.0), RATE_HZ)
    recovery, q, v, a = Recovery(law), 0.0, 0.0, 0.0
    way, goals = [], []
    for tick in range(ticks):
        goals.append(0.3 + goal_step * tick)
        moved = recovery.propose(0, q, v, a, goals[-1], goal_step)
        assert moved is not None
        q, v, a = moved
        way.append(q)
    return np.array(way), np.array(goals)


@pytest.mark.parametrize("goal_step", [0.0, 0.01, -0.01])
def test_a_goal_is_met_on_its_way_without_overshoot_and_kept(goal_step):
    way, goals = approach(goal_step)
    assert np.abs(way - goals)[40:].max() < 1e-9
    assert (way - goals).max() < 1e-9


def test_a_motion_keeps_the_limits_that_the_law_has():
    law = MotionLimits(pair_limits(lower=-9.0, upper=9.0), RATE_HZ)
    motion, recovery = law.begin(np.zeros(2)), Recovery(law)
    for tick in range(60):
        goal = 0.3 + 0.01 * tick
        knots = [
            recovery.propose(
                j, motion.position[j], motion.velocity[j], motion.acceleration[j], goal, 0.01
            )
            for j in (0, 1)
        ]
        after = Knots(*np.array(knots).T)
        assert law.allows(motion, after).all()
        motion = law.joined(motion, motion.position, after, np.ones(2, bool))


def test_a_goal_faster_than_the_joint_is_chased_at_full_speed():
    law = MotionLimits(pair_limits(lower=-9.0, upper=9.0), RATE_HZ)
    way, _ = approach(1.2 * law.velocity[0], law)
    np.testing.assert_allclose(np.diff(way)[30:], law.velocity[0], rtol=0.06)


def test_a_goal_that_is_no_number_has_no_way():
    recovery = Recovery(MotionLimits(pair_limits(), RATE_HZ))
    assert recovery.propose(0, 0.0, 0.0, 0.0, float("nan")) is None
