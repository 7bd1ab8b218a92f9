"""Statistics: blocks of any size give the statistics of all rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imitact.core.errors import BadInput, DamagedFile, NotFinite
from imitact.core.feature_statistics import Accumulator, Stats


def rows(n=50, d=3, seed=0):
    return np.random.default_rng(seed).normal(3.0, 2.0, (n, d))


def of(*blocks):
    gathered = Accumulator(blocks[0].shape[1])
    for block in blocks:
        gathered.add(block)
    return gathered.result()


@given(st.lists(st.integers(0, 50), max_size=6), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_blocks_of_any_size_give_the_statistics_of_all_rows(cuts, seed):
    data = rows(seed=seed)
    stats = of(*np.split(data, sorted(cuts)))
    np.testing.assert_allclose(stats.mean, data.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(stats.std, data.std(axis=0), rtol=1e-12)
    assert np.array_equal(stats.min, data.min(axis=0))
    assert np.array_equal(stats.max, data.max(axis=0))
    assert stats.count == 50


def test_a_tiny_motion_far_from_zero_keeps_its_standard_deviation():
    data = 1e4 + np.array([[0.0], [1e-6], [2e-6]])
    assert of(data).std[0] == pytest.approx(np.std([0, 1e-6, 2e-6]), rel=1e-3)


def test_statistics_are_restored_bit_for_bit():
    stats = of(rows())
    back = Stats.from_dict(stats.to_dict())
    for name in ("mean", "std", "min", "max"):
        assert np.array_equal(getattr(back, name), getattr(stats, name))
    assert back.count == stats.count


def test_damaged_statistics_are_refused_by_name():
    data = of(rows()).to_dict()
    with pytest.raises(DamagedFile, match=r"policy\.json.*expected"):
        Stats.from_dict({k: v for k, v in data.items() if k != "std"}, "policy.json")
    with pytest.raises(DamagedFile, match="not a number"):
        Stats.from_dict({**data, "mean": ["x", 1, 2]})
    with pytest.raises(NotFinite):
        Stats.from_dict({**data, "mean": [float("nan"), 1, 2]})
    with pytest.raises(BadInput, match="negative"):
        Stats.from_dict({**data, "std": [-1.0, 1, 2]})


def test_no_rows_have_no_statistics():
    with pytest.raises(BadInput, match="no rows"):
        Accumulator(2).result()


def test_a_value_that_is_not_finite_is_named_by_row_and_dimension():
    data = rows()
    data[7, 2] = np.inf
    with pytest.raises(NotFinite, match="row 7, dimension 2"):
        Accumulator(3).add(data)


def test_rows_of_another_width_are_refused():
    with pytest.raises(BadInput, match=r"expected \(N, 3\)"):
        Accumulator(3).add(rows(d=4))
