"""Rest ramp: slow, at rest at both ends, and never a jump."""

from __future__ import annotations

import numpy as np
import pytest

from imitact.core.errors import RobotError
from imitact.core.types import Spec
from imitact.robots.rest_ramp import RestRamp, park_speeds, parking_start

PERIOD_S = 0.01
NAMES, UNITS = ("a", "b", "c", "jaw"), ("rad", "rad", "rad", "1")
SPEC = Spec(NAMES, NAMES, UNITS, UNITS, (), 50.0)


def ramp(start: np.ndarray, rest: np.ndarray, speeds: np.ndarray) -> RestRamp:
    return RestRamp(SPEC, start, rest, speeds, 0.0, lag_s=0.5, blocked_s=0.3)


def test_it_never_exceeds_its_speeds_and_ends_at_rest_in_the_rest_pose():
    rng = np.random.default_rng(0)
    for _ in range(20):
        start, rest = rng.uniform(-3, 3, (2, 4))
        speeds = rng.uniform(0.1, 2, 4)
        way = ramp(start, rest, speeds)
        poses = [start]
        while not way.is_done:
            poses.append(way.next(len(poses) * PERIOD_S, 1.0))
        assert poses[-1].tolist() == pytest.approx(rest.tolist())
        steps = np.abs(np.diff(poses, axis=0))
        assert np.all(steps <= speeds * PERIOD_S * 1.0001)
        assert np.all(steps[[0, -1]] <= speeds * PERIOD_S * 0.02)


def test_a_joint_is_blocked_after_a_while_and_a_jaw_that_holds_something_never():
    way = ramp(np.zeros(4), np.ones(4), park_speeds(UNITS, 1.0))
    asked = np.ones(4)
    for measured, words in (([1, 1, 1, 0], ""), ([1, 0.8, 1, 1], "b is 0.20 rad behind")):
        assert way.blocked(asked, np.array(measured, float), 1.0) == ""
        assert way.blocked(asked, np.array(measured, float), 1.5) == words
    assert way.blocked(asked, asked, 1.6) == ""
    assert way.blocked(asked, np.array([1, 0.8, 1, 1]), 1.7) == ""


def test_it_begins_at_the_last_command_where_the_joint_is_there():
    last, measured = np.array([0.1, 0.2, 0.3, 0.0]), np.array([0.11, 0.9, 0.3, 0.6])
    lag = np.full(4, 0.05)
    start = parking_start(SPEC, last, measured, lag, may_have_fallen=False)
    assert start.tolist() == [0.1, 0.9, 0.3, 0.0]
    assert parking_start(SPEC, None, measured, lag, may_have_fallen=True) is measured
    assert parking_start(SPEC, last, None, lag, may_have_fallen=True) is last
    with pytest.raises(RobotError, match="b is not where it was held"):
        parking_start(SPEC, last, measured, lag, may_have_fallen=True)
    with pytest.raises(RobotError, match="not measured"):
        parking_start(SPEC, None, None, lag, may_have_fallen=False)


def test_a_unit_without_a_speed_is_refused():
    with pytest.raises(RobotError, match="no speed is known for volt"):
        park_speeds(("rad", "volt"), 1.0)
