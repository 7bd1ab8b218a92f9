"""Start selection: every prefix of the order covers all initial states."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from imitact.envs import aloha
from imitact.recording.start_selection import coverage_order


def uncovered(starts: NDArray[np.float64], chosen: list[int]) -> NDArray[np.float64]:
    """Distance of each start to the nearest selected one, (N,)."""
    return np.linalg.norm(starts[:, None] - starts[chosen][None], axis=2).min(axis=1)


@pytest.mark.parametrize("size", [2, 4])
def test_each_next_start_reduces_the_squared_distances_most(size: int) -> None:
    starts = np.random.default_rng(size).uniform(size=(40, size))
    chosen: list[int] = []
    for row in coverage_order(starts):
        left = [r for r in range(40) if r not in chosen]
        costs = [(uncovered(starts, [*chosen, r]) ** 2).sum() for r in left]
        assert costs[left.index(row)] == pytest.approx(min(costs), rel=1e-12)
        chosen.append(row)
    assert sorted(chosen) == [*range(40)]


def test_equal_starts_keep_their_order() -> None:
    assert coverage_order(np.ones((5, 2))) == [0, 1, 2, 3, 4]
    assert coverage_order(np.zeros((3, 0))) == [0, 1, 2]


def test_fifty_selected_starts_of_the_cube_leave_smaller_gaps_than_the_first_fifty() -> None:
    starts = aloha.start_positions("cube", range(1000))
    even, first = uncovered(starts, coverage_order(starts)[:50]), uncovered(starts, [*range(50)])
    assert first.max() > 0.035  # of 20 cm
    assert even.max() < 0.028
    assert even.mean() < 0.8 * first.mean()


def test_starts_are_the_initial_poses_of_the_scene() -> None:
    with_cube = aloha.AlohaEnv("cube", ())
    truth = with_cube.reset(7).privileged
    with_cube.close()
    assert isinstance(truth, aloha.AlohaTruth)
    np.testing.assert_array_equal(aloha.start_positions("cube", [7])[0], truth.pose()[:2])
    with_pegs = aloha.AlohaEnv("insertion", ())
    truth = with_pegs.reset(7).privileged
    with_pegs.close()
    assert isinstance(truth, aloha.AlohaTruth)
    found = np.concatenate([truth.pose(0)[:2], truth.pose(1)[:2]])
    np.testing.assert_array_equal(aloha.start_positions("insertion", [7])[0], found)
