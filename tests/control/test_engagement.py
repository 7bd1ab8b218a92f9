"""Engagement: a follower never jumps to its leader."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imitact.control.engagement import SLOW_RATES, Clutch, Engagement
from imitact.core.errors import BadInput

RATE_HZ = 50.0
NAMES, UNITS = ("waist", "gripper"), ("rad", "1")
SLOW = np.array([SLOW_RATES[unit] for unit in UNITS]) / RATE_HZ


def engaged(approach, leader_of, ticks, start=(0.0, 0.0), deadman=lambda tick: True):
    """Return the command and the clutch of each tick of a follower that obeys at once."""
    engagement = Engagement(NAMES, UNITS, RATE_HZ, approach=approach)
    command, commands, clutches = np.array(start), [], []
    for tick in range(ticks):
        found = engagement.update(np.asarray(leader_of(tick), float), command, deadman(tick))
        command = command if found.action is None else found.action
        commands.append(command)
        clutches.append(found.clutch)
    return np.stack(commands), clutches, found


def test_a_follower_goes_slowly_to_a_leader_that_is_far_and_then_follows_it_to_the_bit():
    commands, clutches, _ = engaged("ramp", lambda t: (1.0, 0.5 + 0.001 * t), 400)
    steps = np.abs(np.diff(commands, axis=0))
    assert np.all(steps <= SLOW + 0.001 + 1e-12)
    assert clutches[0] is Clutch.APPROACHING
    assert clutches.index(Clutch.CLOSED) == pytest.approx((1 - np.radians(5)) / 0.3 * 50, abs=2)
    np.testing.assert_array_equal(commands[-1], (1.0, 0.5 + 0.001 * 399))


def test_a_follower_that_waits_moves_only_once_every_joint_is_near_and_says_which_are_not():
    commands, clutches, _ = engaged("wait", lambda t: (1.0 - 0.01 * t, 0.05), 150)
    first = clutches.index(Clutch.CLOSED)
    assert first == int(np.ceil((1 - np.radians(5)) / 0.01))
    assert np.all(commands[:first] == 0)
    _, _, found = engaged("wait", lambda t: (1.0, 0.5), 1)
    assert found.action is None
    assert found.words.endswith("waist +57 degrees, gripper +0.50")
    np.testing.assert_array_equal(found.difference, (1.0, 0.5))


def test_a_pointer_keeps_its_offset_and_takes_it_anew_at_each_clutch():
    commands, _, _ = engaged(
        "offset", lambda t: (3.0 + 0.01 * t, 0.0), 60, deadman=lambda t: not 20 <= t < 40
    )
    np.testing.assert_allclose(commands[:20, 0], 0.01 * np.arange(20), atol=1e-12)
    assert np.all(commands[20:41] == commands[19])
    np.testing.assert_allclose(commands[40:, 0], commands[19, 0] + 0.01 * np.arange(20), atol=1e-12)


@given(
    st.sampled_from(["ramp", "wait", "offset"]),
    st.lists(st.tuples(st.floats(-3, 3), st.floats(0, 1), st.booleans()), min_size=2, max_size=60),
)
@settings(max_examples=200, deadline=None)
def test_however_the_clutch_is_used_the_follower_moves_no_more_than_its_leader_and_a_slow_step(
    approach, script
):
    engagement = Engagement(NAMES, UNITS, RATE_HZ, approach=approach)
    command, before = np.zeros(2), None
    for waist, gripper, deadman in script:
        leader = np.array([waist, gripper])
        found = engagement.update(leader, command, deadman)
        if found.action is None:
            before = leader
            continue
        led = np.zeros(2) if before is None else np.abs(leader - before)
        assert np.all(np.abs(found.action - command) <= led + SLOW + 1e-9)
        command, before = found.action, leader


def test_without_the_deadman_nothing_is_followed():
    commands, clutches, found = engaged("ramp", lambda t: (1.0, 1.0), 5, deadman=lambda t: False)
    assert np.all(commands == 0)
    assert set(clutches) == {Clutch.OPEN}
    assert found.words == "the deadman is not held"


def test_a_unit_without_a_slow_speed_is_refused():
    with pytest.raises(BadInput, match='flow is in "l/s"'):
        Engagement(("flow",), ("l/s",), RATE_HZ)
