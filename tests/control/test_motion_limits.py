"""Motion limits: legal steps pass to the bit, others brake, and a stop always exists."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from imitact.control.motion_limits import MotionLimits
from imitact.core.errors import BadInput
from imitact.core.joint_limits import NO_LIMIT
from tests.support.safety import (
    RATE_HZ,
    HostileStream,
    Shares,
    aloha_limits,
    pair_limits,
)

ROUNDING = 1 + 1e-8


def limits_of_many_kinds():
    """Return limits whose velocity, acceleration or jerk is each the one that binds."""
    limits = aloha_limits()
    velocity, acceleration, jerk = (
        bound.copy() for bound in (limits.velocity, limits.acceleration, limits.jerk)
    )
    lower, upper = limits.lower.copy(), limits.upper.copy()
    velocity[0], acceleration[0], jerk[0] = 1.0, 3.0, 20.0
    velocity[1], acceleration[1], jerk[1] = 5.0, 300.0, 2000.0
    velocity[2], acceleration[2], jerk[2] = 0.05, 40.0, 50_000.0
    lower[3], upper[3] = -0.05, 0.05
    lower[4], upper[4] = -1000.0, 1000.0
    return replace(
        limits, lower=lower, upper=upper, velocity=velocity, acceleration=acceleration, jerk=jerk
    )


def middle(law, robots=1):
    return np.tile((law.lower + law.upper) / 2, (robots, 1))


@pytest.mark.parametrize("seed", range(2))
def test_no_stream_gets_beyond_range_velocity_acceleration_or_jerk(seed):
    law = MotionLimits(limits_of_many_kinds(), RATE_HZ)
    rng = np.random.default_rng(seed)
    motion = law.begin(middle(law, 50))
    stream, shares = HostileStream(law, rng, motion.position.shape), Shares(law, motion.position)
    passed = 0.0
    for tick in range(1200):
        motion, through, _ = law.follow(motion, stream.asked(tick, motion))
        shares.add(motion.position)
        passed += through.mean()
    assert shares.worst <= ROUNDING
    assert shares.worst > 0.999  # and nothing is held back that the limits allow
    assert shares.beyond <= 0.0
    assert 0.2 < passed / 1200 < 0.9


def test_what_passes_within_the_range_is_what_was_asked_to_the_bit():
    law = MotionLimits(aloha_limits(), RATE_HZ)
    rng = np.random.default_rng(0)
    motion = law.begin(middle(law, 20))
    stream = HostileStream(law, rng, motion.position.shape)
    for tick in range(600):
        asked = stream.asked(tick, motion)
        motion, through, _ = law.follow(motion, asked)
        through &= (asked >= law.lower) & (asked <= law.upper)
        assert np.array_equal(motion.position[through], asked[through])


def test_negative_zero_stays_negative():
    law = MotionLimits(aloha_limits(), RATE_HZ)
    motion, passed, _ = law.follow(law.begin(np.zeros(14)), np.full(14, -0.0))
    assert passed.all()
    assert np.signbit(motion.position).all()


def test_one_number_that_is_not_finite_stops_its_robot_and_no_other():
    law = MotionLimits(aloha_limits(), RATE_HZ)
    motion = law.begin(middle(law, 3))
    for tick in range(10):
        motion, _, _ = law.follow(motion, middle(law, 3) + 0.0005 * tick)
    asked = motion.position + 0.0005
    asked[1, 4] = np.nan
    _, passed, finite = law.follow(motion, asked)
    assert finite.tolist() == [True, False, True]
    assert passed.all(1).tolist() == [True, False, True]


@pytest.mark.parametrize("direction", [-1.0, 1.0])
def test_a_joint_at_full_speed_stops_at_the_end_of_its_range_and_not_before(direction):
    limits = pair_limits()
    law = MotionLimits(limits, RATE_HZ)
    motion = law.begin(np.zeros(2))
    for _ in range(200):  # always as fast as a legal step can be
        shares = np.linspace(1.0, -1.0, 401)
        for share in shares:
            bend = np.clip(
                motion.bend + direction * share * law.jerk, -law.acceleration, law.acceleration
            )
            goal = law.cut(motion, motion.position + motion.step + bend)
            if law.legal(motion, goal).all():
                motion = law.direct(motion, goal)
                break
        else:
            motion, _, _ = law.follow(motion, np.full(2, np.nan))
    assert np.all(np.abs(motion.position) <= 1.0)
    np.testing.assert_allclose(motion.position, direction, atol=2e-3)


def test_the_pose_of_a_stop_is_where_braking_ends():
    law = MotionLimits(limits_of_many_kinds(), RATE_HZ)
    rng = np.random.default_rng(3)
    motion = law.begin(middle(law, 30))
    stream = HostileStream(law, rng, motion.position.shape)
    for tick in range(300):
        motion, _, _ = law.follow(motion, stream.asked(tick, motion))
        if tick % 37:
            continue
        end, braking = law.stop_pose(motion), motion
        for _ in range(400):
            braking, _, _ = law.follow(braking, np.full(braking.position.shape, np.nan))
        np.testing.assert_allclose(braking.position, end, atol=1e-9)
        assert not braking.step.any()  # at rest, to the bit


def test_a_stop_takes_no_longer_than_the_limits_demand():
    limits = pair_limits()
    law = MotionLimits(limits, RATE_HZ)
    motion = law.begin(np.zeros(2))
    motion.velocity[:] = motion.step[:] = law.velocity
    # v / a + a / j, from full speed, where the acceleration reaches its limit.
    seconds = 2.0 / 30.0 + 30.0 / 1000.0
    for _ in range(int(np.ceil(seconds * RATE_HZ))):
        motion, _, _ = law.follow(motion, np.full(2, np.nan))
    assert not motion.velocity.any()


def test_a_robot_outside_of_its_range_moves_back_and_never_further_out():
    law = MotionLimits(pair_limits(), RATE_HZ)
    motion = law.begin(np.array([1.5, -1.2]))
    out, _, _ = law.follow(motion, np.array([1.6, -1.3]))
    np.testing.assert_array_equal(out.position, motion.position)
    rng = np.random.default_rng(0)
    for _ in range(500):
        before = motion.position
        inwards = before - 0.002 * np.sign(before)
        motion, _, _ = law.follow(motion, inwards + rng.normal(0, 0.001, 2))
        assert np.all(motion.position <= np.maximum(before, 1.0))
        assert np.all(motion.position >= np.minimum(before, -1.0))
    assert np.all(np.abs(motion.position) <= 1.0)


def test_many_robots_at_once_move_as_each_alone():
    law = MotionLimits(limits_of_many_kinds(), RATE_HZ)
    rng = np.random.default_rng(5)
    together = law.begin(middle(law, 4))
    alone = [law.begin(middle(law)[0]) for _ in range(4)]
    stream = HostileStream(law, rng, together.position.shape)
    for tick in range(600):
        asked = stream.asked(tick, together)
        together, _, _ = law.follow(together, asked)
        for robot in range(4):
            alone[robot], _, _ = law.follow(alone[robot], asked[robot])
    np.testing.assert_array_equal(together.position, [motion.position for motion in alone])


def test_a_joint_without_limits_goes_anywhere_in_its_range_and_brakes_at_once():
    limits = pair_limits()
    free = {b: np.array([getattr(limits, b)[0], NO_LIMIT])
            for b in ("velocity", "acceleration", "jerk")}  # fmt: skip
    law = MotionLimits(replace(limits, **free), RATE_HZ)
    motion, rng = law.begin(np.zeros(2)), np.random.default_rng(0)
    for tick in range(1000):
        ends = (-1.0, 1.0, rng.uniform(-1.0, 1.0))
        goal = np.array([0.0, ends[rng.integers(3)]])
        if tick % 3 == 2:
            knots = law.brake(motion)
            assert abs(knots.position[1] - motion.position[1]) < 0.1
            assert abs(knots.position[1]) <= 1.0
            assert law.allows(motion, knots).all()
        assert law.legal(motion, goal).all()
        motion = law.direct(motion, goal)


def test_a_pose_that_is_none_and_a_rate_that_is_none_are_refused():
    with pytest.raises(BadInput, match="rate is 0"):
        MotionLimits(pair_limits(), 0.0)
    law = MotionLimits(pair_limits(), RATE_HZ)
    for pose in (np.zeros(3), np.array([0.0, np.nan]), np.zeros(0)):
        with pytest.raises(BadInput, match="2 finite positions"):
            law.begin(pose)
