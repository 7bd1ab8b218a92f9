"""The order of starts: every beginning of it covers them all."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from imitact.envs import aloha
from imitact.recording.start_selection import evenly


def uncovered(starts: NDArray[np.float64], chosen: list[int]) -> NDArray[np.float64]:
    """(N,) distance of each start to the nearest chosen one."""
    return np.linalg.norm(starts[:, None] - starts[chosen][None], axis=2).min(axis=1)


@pytest.mark.parametrize("size", [2, 4])
def test_each_next_row_is_the_one_that_lowers_the_squared_distances_most(size: int) -> None:
    starts = np.random.default_rng(size).uniform(size=(40, size))
    chosen: list[int] = []
    for row in evenly(starts):
        left = [r for r in range(40) if r not in chosen]
        costs = [(uncovered(starts, [*chosen, r]) ** 2).sum() for r in left]
        assert costs[left.index(row)] == pytest.approx(min(costs), rel=1e-12)
        chosen.append(row)
    assert sorted(chosen) == [*range(40)]


def test_rows_that_are_all_the_same_stay_in_their_order() -> None:
    assert evenly(np.ones((5, 2))) == [0, 1, 2, 3, 4]
    assert evenly(np.zeros((3, 0))) == [0, 1, 2]


def test_fifty_even_starts_of_the_cube_leave_no_gap_that_the_first_fifty_leave() -> None:
    starts = aloha.starts("cube", range(1000))
    even, first = uncovered(starts, evenly(starts)[:50]), uncovered(starts, [*range(50)])
    assert first.max() > 0.035  # of 20 cm
    assert even.max() < 0.028
    assert even.mean() < 0.8 * first.mean()


def test_starts_are_where_the_scene_puts_its_objects() -> None:
    with_cube = aloha.AlohaEnv("cube", ())
    truth = with_cube.reset(7).privileged
    with_cube.close()
    assert isinstance(truth, aloha.Truth)
    np.testing.assert_array_equal(aloha.starts("cube", [7])[0], truth.pose()[:2])
    with_pegs = aloha.AlohaEnv("insertion", ())
    truth = with_pegs.reset(7).privileged
    with_pegs.close()
    assert isinstance(truth, aloha.Truth)
    found = np.concatenate([truth.pose(0)[:2], truth.pose(1)[:2]])
    np.testing.assert_array_equal(aloha.starts("insertion", [7])[0], found)
