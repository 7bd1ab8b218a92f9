"""Success over several trainings: how often the intervals contain the truth, and what they need."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imitact.core.errors import BadInput
from imitact.evaluation.confidence_intervals import clopper_pearson
from imitact.evaluation.trainings import Trainings, difference_of, over_trainings

three = st.lists(st.integers(0, 100), min_size=2, max_size=8)


def drawn(rng: np.random.Generator, rate: float, spread: float, count: int) -> Trainings:
    """Trainings whose own rates vary by `spread` about `rate`, with 100 episodes each."""
    scale = rate * (1 - rate) / spread**2 - 1
    rates = rng.beta(rate * scale, (1 - rate) * scale, count)
    return over_trainings([int(k) for k in rng.binomial(100, rates)], [100] * count)


def test_the_interval_is_students_over_the_rates_of_the_trainings():
    # By hand: rates 0.72, 0.84, 0.91; mean 0.82333, deviation 0.09609, t(2) = 4.30265.
    found = over_trainings([72, 84, 91], [100, 100, 100])
    assert found.rate == pytest.approx(0.82333, abs=1e-5)
    reach = 4.30265 * 0.0960902 / math.sqrt(3)
    assert found.interval[0] == pytest.approx(0.82333 - reach, abs=1e-4)
    assert found.interval[1] == 1.0
    assert found.within == pytest.approx(math.sqrt(0.82333 * 0.17667 / 100), abs=1e-4)
    assert found.between == pytest.approx(math.sqrt(0.0960902**2 - found.within**2), abs=1e-4)


@given(three)
@settings(deadline=None, max_examples=60)
def test_the_interval_is_never_narrower_than_that_of_all_episodes(successes: list[int]):
    episodes = [100] * len(successes)
    found = over_trainings(successes, episodes)
    low, high = clopper_pearson(sum(successes), sum(episodes))
    assert 0 <= found.interval[0] <= low <= found.rate <= high <= found.interval[1] <= 1


@pytest.mark.parametrize(("rate", "spread"), [(0.85, 0.08), (0.93, 0.04), (0.97, 0.02)])
def test_the_interval_contains_the_rate_of_the_setting_as_often_as_it_says(
    rate: float, spread: float
):
    rng = np.random.default_rng(0)
    for count in (3, 5, 8):
        runs = [drawn(rng, rate, spread, count).interval for _ in range(1000)]
        # Below 95 of 100 because the rates are skewed; the docstring says so.
        assert np.mean([low <= rate <= high for low, high in runs]) > 0.92


def test_all_episodes_together_would_contain_it_far_less_often():
    rng = np.random.default_rng(0)
    runs = [drawn(rng, 0.85, 0.08, 5) for _ in range(1000)]
    pooled = [clopper_pearson(sum(run.successes), sum(run.episodes)) for run in runs]
    assert np.mean([low <= 0.85 <= high for low, high in pooled]) < 0.75


def test_two_settings_of_one_rate_rarely_differ():
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(1000):
        found = difference_of(drawn(rng, 0.9, 0.05, 4), drawn(rng, 0.9, 0.05, 4))
        low, high = found.interval
        wrong += not low <= 0 <= high
    assert wrong < 60


def test_a_difference_is_mirrored_by_exchanging_the_sides():
    a, b = over_trainings([90, 95, 91], [100] * 3), over_trainings([80, 88, 79, 85], [100] * 4)
    one, other = difference_of(a, b), difference_of(b, a)
    assert one.difference == -other.difference > 0
    assert one.interval == pytest.approx((-other.interval[1], -other.interval[0]))
    assert one.interval[0] > 0


def test_as_many_trainings_as_are_needed_give_an_interval_of_that_reach():
    found = over_trainings([72, 84, 91], [100] * 3)
    count = found.needed(0.05)
    assert count is not None
    assert count > 20
    assert found.needed(0.2) < count  # type: ignore[operator]
    assert found.needed(1e-4) is None
    same = over_trainings([100, 100, 100], [100] * 3)
    assert same.needed(0.01) == 2


def test_one_training_tells_nothing_of_the_noise_between_trainings():
    with pytest.raises(BadInput, match=r"1 training and 1 numbers .* at least two trainings"):
        over_trainings([90], [100])
    with pytest.raises(BadInput, match="5 successes of 4 episodes"):
        over_trainings([5, 1], [4, 4])
    for bad in (0.0, 1.0, math.nan):
        with pytest.raises(BadInput, match="between 0 and 1"):
            over_trainings([9, 8], [10, 10]).needed(bad)
