"""Collision check: no step makes a new contact in ALOHA's scene, and one out of it is allowed."""

from __future__ import annotations

import numpy as np
import pytest

from imitact.control.collision import CollisionCheck, aloha_collisions
from imitact.control.safety_filter import ALL_STAGES, SafetyFilter, Stage
from tests.support.safety import FRESH, RATE_HZ, aloha_limits

START = np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.1] * 2)


@pytest.fixture(scope="module")
def check() -> CollisionCheck:
    return aloha_collisions()


def down(ticks=200, by=1.2):
    """Return poses in which the left arm goes down to the table and through it, (T, 14)."""
    poses = np.tile(START, (ticks, 1))
    poses[:, 1] += by * 0.5 * (1 - np.cos(np.linspace(0, np.pi, ticks)))
    return poses


def filtered(check, poses, stages=ALL_STAGES):
    safety = SafetyFilter(aloha_limits(), RATE_HZ, collisions=check, stages=stages)
    safety.begin(poses[0])
    return [safety.check(pose, None, FRESH, {}) for pose in poses]


def test_nothing_touches_at_the_start(check):
    assert check.contacts(START) == {}


def test_an_arm_stops_before_the_table_and_goes_up_again(check):
    poses = down()
    assert any(check.contacts(pose) for pose in poses)
    verdicts = filtered(check, [*poses, *poses[::-1]])
    assert all(check.contacts(verdict.action) == {} for verdict in verdicts)
    stopped = verdicts[199]
    assert stopped.stage is Stage.COLLISION
    assert stopped.held
    assert "table and vx300s_left" in stopped.words
    assert np.array_equal(verdicts[-1].action, poses[0])


def test_without_its_stage_the_arm_goes_through_the_table(check):
    verdicts = filtered(check, down(), ALL_STAGES - {Stage.COLLISION})
    assert any(check.contacts(verdict.action) for verdict in verdicts)


def test_a_step_out_of_a_contact_is_allowed_and_one_deeper_into_it_is_not(check):
    poses = down()
    first = next(tick for tick, pose in enumerate(poses) if check.contacts(pose))
    assert "would touch" in check.refusal(poses[first - 1], poses[first])
    assert "press on" in check.refusal(poses[first], poses[first + 3])
    assert check.refusal(poses[first + 3], poses[first]) == ""
    assert check.refusal(poses[first], poses[first]) == ""


def test_the_pose_after_the_stop_counts_as_well_as_the_step(check):
    poses = down()
    assert check.refusal(poses[0], poses[1]) == ""
    assert "would touch" in check.refusal(poses[0], poses[1], poses[-1])


def test_what_touches_in_demonstrations_is_allowed_afterwards():
    check, poses = aloha_collisions(), down()
    added = check.allow(poses[::5])
    assert any("table" in words for words in added)
    assert all(check.contacts(pose) == {} for pose in poses[::5])
    assert filtered(check, poses)[-1].stage is not Stage.COLLISION


def test_objects_on_the_table_touch_nothing(check):
    pose = START.copy()
    model = check._model
    assert model.geom("red_box").contype == 0
    assert check.contacts(pose) == {}
