"""Scripted hand: where it goes, and where it waits."""

from __future__ import annotations

import numpy as np
import pytest

from imitact.core.errors import BadInput
from imitact.envs.aloha import AlohaEnv
from imitact.robots.emulation.hand import Hand, expert_trajectory

LIMP = np.array([True, True])
FIRM = np.array([False, False])
ROWS = np.array([[2000.0, 1000.0], [2010.0, 1030.0], [2030.0, 1070.0], [2030.0, 1080.0]])


def lead(hand: Hand, dt_s: float, limp: np.ndarray, positions: np.ndarray) -> np.ndarray:
    return np.where(limp, hand.advance(dt_s, positions, limp), positions)


def test_a_hand_passes_every_row_and_holds_the_last_one() -> None:
    hand, at = Hand(ROWS, 50.0), ROWS[0]
    at = lead(hand, 0.0, LIMP, at)
    passed = [at]
    for _ in range(4):
        at = lead(hand, 0.02, LIMP, at)
        passed.append(at)
    assert np.allclose(passed[:4], ROWS)
    assert np.array_equal(passed[4], ROWS[-1])
    assert hand.phase == "holding"
    assert hand.row == 3.0


def test_a_hand_is_smooth_between_rows() -> None:
    rows = np.sin(np.linspace(0.0, 3.0, 40))[:, None] * 800
    hand = Hand(rows, 50.0)
    hand.advance(0.0, rows[0], np.array([True]))
    path = np.array([hand.advance(0.002, rows[0], np.array([True]))[0] for _ in range(380)])
    true = np.sin(np.linspace(0.0, 3.0, 391)[1:381]) * 800
    # 800 ticks of a sine of 0.6 Hz in rows of 20 ms; straight lines would be off by 0.6.
    assert np.abs(path - true)[10:-20].max() < 0.1
    assert np.abs(np.diff(path, 2))[10:-20].max() < 0.3


def test_a_hand_brings_the_arms_to_the_first_row_slowly() -> None:
    hand, at = Hand(ROWS, 50.0), np.array([1000.0, 1500.0])
    ways = []
    while hand.phase in ("waiting", "approaching"):
        new = lead(hand, 0.01, LIMP, at)
        ways.append(np.abs(new - at).max())
        at = new
    assert np.allclose(at, ROWS[0])
    assert max(ways) < 2 * 652 * 0.01 + 1  # of minimum jerk, less than twice the mean speed
    assert hand.row == 0.0


def test_a_hand_waits_where_servos_have_torque_and_goes_on_from_where_they_left_it() -> None:
    hand, at = Hand(ROWS, 50.0), ROWS[0]
    at = lead(hand, 0.0, LIMP, at)
    at = lead(hand, 0.02, LIMP, at)
    row = hand.row
    for _ in range(10):
        assert np.array_equal(lead(hand, 0.02, FIRM, at), at)
    assert hand.phase == "waiting"
    assert hand.row == row
    at = at + 300.0  # a servo moved it meanwhile
    first = lead(hand, 0.002, LIMP, at)
    assert hand.phase == "approaching"
    assert np.abs(first - at).max() < 10


def test_a_hand_squeezes_a_limp_gripper_while_the_arm_has_torque() -> None:
    hand, at = Hand(ROWS, 50.0, squeezed={1: 400.0}), np.array([2000.0, 1000.0])
    limp = np.array([False, True])
    for _ in range(200):
        at = lead(hand, 0.01, limp, at)
    assert at.tolist() == [2000.0, 400.0]
    assert hand.phase == "waiting"
    assert hand.row == 0.0


def test_a_hand_pauses_at_the_first_row() -> None:
    hand, at = Hand(ROWS, 50.0, pause_s=0.1), ROWS[0]
    for _ in range(5):
        at = lead(hand, 0.02, LIMP, at)
        assert np.array_equal(at, ROWS[0])
    for _ in range(10):
        at = lead(hand, 0.02, LIMP, at)
    assert np.array_equal(at, ROWS[-1])


@pytest.mark.parametrize(
    ("rows", "rate_hz", "message"),
    [
        (np.zeros(3), 50.0, "expected finite numbers, one row for each tick"),
        (np.full((2, 2), np.nan), 50.0, "expected finite numbers"),
        (np.zeros((0, 2)), 50.0, "shape \\(0, 2\\)"),
        (ROWS, 0.0, "it must be positive"),
        (ROWS, float("nan"), "it must be positive"),
    ],
)
def test_a_trajectory_that_is_none_is_refused(
    rows: np.ndarray, rate_hz: float, message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        Hand(rows, rate_hz)


def test_the_experts_trajectory_does_the_task_in_aloha_env() -> None:
    actions, env = expert_trajectory("cube", 11), AlohaEnv("cube", ())
    env.reset(11)
    assert max(env.step(action).reward for action in [*actions, actions[-1]]) == 4
    assert (actions[-2] != actions[-1]).any()  # nothing but its end is left out
