"""Joint limits: what demonstrations did, cut by calibration and by a person, and by whom."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from imitact.core.errors import BadInput, NotFinite, SpecMismatch
from imitact.core.joint_limits import (
    CALIBRATION_MARGINS,
    NO_LIMIT,
    DemonstratedLimits,
    JointLimits,
    combined_limits,
    demonstrated_limits,
)

NAMES, UNITS = ("waist", "gripper"), ("rad", "1")


def limits(low=-1.0, high=1.0, velocity=2.0, acceleration=20.0, jerk=200.0, gap=None):
    rows = [np.full(2, value) for value in (low, high, velocity, acceleration, jerk)]
    return JointLimits(NAMES, UNITS, *rows, gap=None if gap is None else np.full(2, gap))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"low": -np.inf}, "lower of waist is -inf; it must be finite"),
        ({"high": np.nan}, "upper of waist is nan"),
        ({"low": 1.0}, "waist has the range 1 to 1, which is empty"),
        ({"velocity": 0.0}, "velocity of waist is 0.0; it must be finite and positive"),
        ({"jerk": np.inf}, "jerk of waist is inf"),
        ({"gap": -1.0}, "gap of waist is -1.0"),
    ],
)
def test_limits_that_are_none_are_refused(change, says):
    with pytest.raises(BadInput, match=says):
        limits(**change)


def test_limits_of_another_size_are_refused():
    with pytest.raises(BadInput, match=r"shape \(2,\), expected \(3,\)"):
        replace(limits(), names=("a", "b", "c"))
    with pytest.raises(BadInput, match="2 joints but 1 units"):
        replace(limits(), units=("rad",))


@pytest.mark.parametrize("gap", [None, 0.4])
def test_limits_come_back_from_json_as_they_were(gap):
    one = limits(gap=gap)
    again = JointLimits.from_json(json.loads(json.dumps(one.to_json())))
    assert (again.names, again.units) == (NAMES, UNITS)
    for bound in ("lower", "upper", "velocity", "acceleration", "jerk", "gap"):
        np.testing.assert_array_equal(getattr(again, bound), getattr(one, bound))


@pytest.mark.parametrize(
    "change",
    [
        {"lower": None},
        {"lower": ["a", "b"]},
        {"lower": [[1], 2]},
        {"lower": [10**400, 2]},
        {"names": "ab"},
        {"units": [1, 2]},
        {"extra": 1},
    ],
)
def test_limits_of_another_form_are_refused(change):
    with pytest.raises(BadInput):
        JointLimits.from_json({**limits().to_json(), **change})
    with pytest.raises(BadInput, match="no table"):
        JointLimits.from_json([1])  # type: ignore[arg-type]
    incomplete = limits().to_json()
    del incomplete["jerk"]
    with pytest.raises(BadInput, match="lack jerk"):
        JointLimits.from_json(incomplete)


def test_limits_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        limits().upper[0] = 100.0


# -- demonstrations --------------------------------------------------------------------------------


def wave(ticks=200, amplitude=0.5):
    t = np.arange(ticks) / 50
    return np.stack([amplitude * (1 - np.cos(6 * t)), 0.5 + 0 * t], axis=1)


def test_demonstrated_limits_are_the_peaks_of_the_episodes_times_the_factor():
    found = demonstrated_limits([wave(), wave(amplitude=0.2)], NAMES, UNITS, 50.0)
    assert found.velocity[0] == pytest.approx(1.5 * 3.0, rel=0.02)
    assert found.acceleration[0] == pytest.approx(1.5 * 18.0, rel=0.02)
    assert found.lower[0] == pytest.approx(-0.25, abs=0.01)
    assert found.upper[0] == pytest.approx(1.25, abs=0.01)
    assert found.gap is None


def test_a_joint_that_never_moved_gets_a_range_and_a_speed():
    found = demonstrated_limits([wave()], NAMES, UNITS, 50.0)
    assert found.lower[1] < 0.5 < found.upper[1]
    assert found.velocity[1] > 0


def test_an_episode_that_begins_in_motion_needs_the_jerk_of_starting_it():
    moving = np.arange(50.0)[:, None] * np.array([[0.01, 0.0]])
    found = demonstrated_limits([moving], NAMES, UNITS, 50.0)
    assert found.jerk[0] >= 1.5 * 0.01 * 50**3 * 0.999


@pytest.mark.parametrize("ticks", [1, 2, 3])
def test_short_episodes_are_taken(ticks):
    demonstrated_limits([wave(ticks)], NAMES, UNITS, 50.0)


def test_the_gap_is_the_largest_distance_from_the_measured_joint():
    learned = DemonstratedLimits(NAMES, UNITS, 50.0)
    measured = wave() + np.array([0.1, np.nan])
    learned.add(wave(), measured)
    found = learned.limits()
    assert found.gap is not None
    assert found.gap[0] == pytest.approx(0.15)
    assert found.gap[1] > 0


def test_episodes_that_cannot_be_used_are_refused():
    with pytest.raises(BadInput, match="no episode"):
        demonstrated_limits([], NAMES, UNITS, 50.0)
    with pytest.raises(BadInput, match="no episode"):
        demonstrated_limits([np.zeros((0, 2))], NAMES, UNITS, 50.0)
    with pytest.raises(BadInput, match=r"shape \(5, 3\) were given, expected \(T, 2\)"):
        demonstrated_limits([np.zeros((5, 3))], NAMES, UNITS, 50.0)
    bad = wave()
    bad[7, 1] = np.nan
    with pytest.raises(NotFinite, match="gripper is nan at tick 7"):
        demonstrated_limits([bad], NAMES, UNITS, 50.0)


# -- several sources -------------------------------------------------------------------------------


def test_the_tightest_bound_wins_and_its_source_is_named():
    found = combined_limits(
        {
            "demonstrations": limits(-0.8, 2.0, velocity=1.0, gap=0.3),
            "calibration": limits(-1.0, 0.9, gap=0.5),
            "robot.toml": {"gripper": {"upper": 0.5, "velocity": None, "jerk": 300.0}},
        }
    )
    np.testing.assert_array_equal(found.limits.lower, [-0.8, -0.8])
    np.testing.assert_array_equal(found.limits.upper, [0.9, 0.5])
    np.testing.assert_array_equal(found.limits.velocity, [1.0, 1.0])
    np.testing.assert_array_equal(found.limits.gap, [0.3, 0.3])
    assert found.sources["lower"] == ("demonstrations", "demonstrations")
    assert found.sources["upper"] == ("calibration", "robot.toml")
    assert found.sources["jerk"] == ("demonstrations", "demonstrations")
    assert "upper 0.5 (robot.toml)" in found.lines()[1]


def test_the_combination_is_what_cutting_gives():
    one, other = limits(-0.8, 2.0, velocity=1.0), limits(-1.0, 0.9)
    cut, found = one.cut(other), combined_limits({"a": one, "b": other}).limits
    for bound in ("lower", "upper", "velocity", "acceleration", "jerk"):
        np.testing.assert_array_equal(getattr(cut, bound), getattr(found, bound))


def test_sources_that_leave_no_range_are_refused_by_name():
    with pytest.raises(BadInput, match=r"waist has no range: at least 2 \(demonstrations\), at "):
        combined_limits({"demonstrations": limits(2.0, 3.0), "calibration": limits()})


def test_what_one_source_leaves_free_no_demonstration_limits_and_people_do():
    free = replace(limits(), **{b: np.array([2.0, NO_LIMIT]) for b in ("velocity", "jerk")})
    slow = limits(velocity=0.5, acceleration=5.0, jerk=50.0)
    found = slow.freed(free)
    np.testing.assert_array_equal(found.velocity, [0.5, NO_LIMIT])
    np.testing.assert_array_equal(found.acceleration, [5.0, 5.0])
    np.testing.assert_array_equal(found.jerk, [50.0, NO_LIMIT])
    joined = combined_limits({"robot": free, "robot.toml": {"gripper": {"velocity": 3.0}}})
    assert joined.limits.velocity[1] == 3.0
    assert "velocity 3 (robot.toml)" in joined.lines()[1]
    assert "any jerk (robot)" in joined.lines()[1]
    with pytest.raises(SpecMismatch, match="deg"):
        slow.freed(replace(limits(), units=("deg", "1")))


def test_unknown_names_and_joints_of_another_robot_are_refused():
    with pytest.raises(BadInput, match="wasit"):
        combined_limits({"demonstrations": limits(), "robot.toml": {"wasit": {"upper": 1.0}}})
    with pytest.raises(BadInput, match="speed"):
        combined_limits({"demonstrations": limits(), "robot.toml": {"waist": {"speed": 1.0}}})
    with pytest.raises(BadInput, match="no limits"):
        combined_limits({})
    other = replace(limits(), units=("deg", "1"))
    for join in (limits().cut, lambda o: combined_limits({"a": limits(), "b": o})):
        with pytest.raises(SpecMismatch, match="deg"):
            join(other)


def test_a_calibrated_range_is_left_three_degrees_before_its_ends_and_a_gripper_whole():
    found = limits().narrowed(CALIBRATION_MARGINS)
    assert found.upper[0] == pytest.approx(1.0 - math.radians(3.0))
    assert found.lower[0] == pytest.approx(-1.0 + math.radians(3.0))
    assert (found.lower[1], found.upper[1]) == (-1.0, 1.0)


def test_limits_that_reach_a_pose_include_it_and_stay_elsewhere():
    found = limits().reaching(np.array([1.5, 0.0]), np.array([0.0, -1.2]))
    np.testing.assert_array_equal(found.upper, [1.5, 1.0])
    np.testing.assert_array_equal(found.lower, [-1.0, -1.2])
    np.testing.assert_array_equal(found.velocity, limits().velocity)
