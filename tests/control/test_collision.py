"""Collision check: ALOHA's arms stop before themselves and each other, and closed fingers pass."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from imitact.control.collision import CollisionCheck
from imitact.control.safety_filter import ALL_STAGES, SafetyFilter, Stage
from imitact.core.errors import BadInput
from imitact.envs.aloha import AlohaEnv
from imitact.envs.experts.registry import make_expert
from imitact.robots.aloha_hardware import BASES, REST_POSES, START_POSE
from tests.support.safety import FRESH, RATE_HZ, aloha_limits

START = np.array([*START_POSE, 0.1] * 2)
REACHING = np.array([0.0, 0.7, -0.3, 0.0, -0.4, 0.0, 0.1] * 2)
FOLDED = np.array([0.0, -1.2, 1.55, 0.0, 1.5, 0.0, 0.1] * 2)
OBSTACLES = {
    "the other arm": (REACHING, ("left", "right")),
    "its own base": (FOLDED, ("left base", "left")),
}


@pytest.fixture(scope="module")
def check() -> CollisionCheck:
    return CollisionCheck(BASES)


def way(goal, ticks=200):
    """Return poses on a smooth way from the start to a goal, (T, 14)."""
    share = 0.5 * (1 - np.cos(np.linspace(0, np.pi, ticks)))
    return START + share[:, None] * (goal - START)


def filtered(check, poses, stages=ALL_STAGES):
    safety = SafetyFilter(aloha_limits(), RATE_HZ, collisions=check, stages=stages)
    safety.begin(poses[0])
    return [safety.check(pose, None, FRESH, {}) for pose in poses]


@pytest.mark.parametrize("what", OBSTACLES)
def test_an_arm_stops_before_what_it_would_touch_and_comes_back(check, what):
    goal, names = OBSTACLES[what]
    poses = way(goal)
    assert any(check.contacts(pose) for pose in poses)
    verdicts = filtered(check, [*poses, *poses[::-1]])
    assert all(check.contacts(verdict.action) == {} for verdict in verdicts)
    refused = [verdict for verdict in verdicts if verdict.stage is Stage.COLLISION]
    assert refused
    assert all(verdict.held for verdict in refused)
    assert all(name in refused[0].words for name in names)
    assert "would touch" in refused[0].words
    np.testing.assert_allclose(verdicts[-1].action, START, atol=1e-6)


@pytest.mark.parametrize("what", OBSTACLES)
def test_without_its_stage_the_arm_goes_on(check, what):
    verdicts = filtered(check, way(OBSTACLES[what][0]), ALL_STAGES - {Stage.COLLISION})
    assert any(check.contacts(verdict.action) for verdict in verdicts)


def test_a_hand_over_passes_to_the_bit(check):
    env, expert = AlohaEnv("cube"), make_expert("cube", 1.0)
    expert.reset(0)
    observation, poses = env.reset(0), []
    for _ in range(300):
        poses.append(expert.chunk(observation)[0].astype(np.float64))
        observation = env.step(poses[-1]).observation
    fingers = CollisionCheck(BASES)
    fingers._model.exclude_signature[:] = 0  # no pair is left out
    assert any("finger" in fingers.words(pair) for pose in poses for pair in fingers.contacts(pose))
    verdicts = filtered(check, poses)
    assert {verdict.stage for verdict in verdicts} == {Stage.PASSED}
    assert np.array_equal([verdict.action for verdict in verdicts], poses)


@pytest.mark.parametrize("grip", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("pose", [START_POSE, *REST_POSES.values()], ids=str)
def test_nothing_touches_at_the_start_and_at_rest(check, pose, grip):
    assert check.contacts(np.array([*pose, grip] * 2)) == {}


def test_a_step_out_of_a_contact_is_allowed_and_one_deeper_into_it_is_not(check):
    poses = way(FOLDED)
    first = next(tick for tick, pose in enumerate(poses) if check.contacts(pose))
    assert "would touch" in check.refusal(poses[first - 1], poses[first])
    assert "press on" in check.refusal(poses[first], poses[first] + 0.02 * (FOLDED - START))
    assert check.refusal(poses[first + 1], poses[first]) == ""
    assert check.refusal(poses[first], poses[first]) == ""


def test_the_pose_after_the_stop_counts_as_well_as_the_step(check):
    poses = way(FOLDED)
    assert check.refusal(poses[0], poses[1]) == ""
    assert "would touch" in check.refusal(poses[0], poses[1], poses[-1])


def test_another_process_gets_the_same_check(check):
    again = pickle.loads(pickle.dumps(check))  # noqa: S301
    assert again.contacts(FOLDED) == check.contacts(FOLDED) != {}


def test_where_the_arms_stand_decides_whether_they_meet(check):
    assert any("left" in check.words(p) and "right" in check.words(p)
               for p in check.contacts(REACHING))  # fmt: skip
    beside = CollisionCheck({"left": (0.0, 0.3, 0.0), "right": (0.0, -0.3, 0.0)})
    assert beside.contacts(REACHING) == {}
    alone = CollisionCheck({"arm": (0.0, 0.0, 0.0)})
    assert alone.contacts(REACHING[:7]) == {}
    assert any("arm base" in alone.words(pair) for pair in alone.contacts(FOLDED[:7]))


def test_poses_and_robots_of_another_size_are_refused(check):
    with pytest.raises(BadInput, match=r"pose of 2 arms has not the shape \(7,\)"):
        check.contacts(START[:7])
    with pytest.raises(BadInput, match="collisions of 3 arms cannot be checked"):
        CollisionCheck(dict.fromkeys("abc", (0.0, 0.0, 0.0)))
