"""Success statistics: properties of the intervals, and the numbers that their authors published."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import robostats
from hypothesis import given, settings
from hypothesis import strategies as st

from imitact.core.errors import BadInput
from imitact.evaluation.confidence_intervals import (
    clopper_pearson,
    mcnemar,
    paired,
    tango,
)

counts = st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@st.composite
def discordant(draw: st.DrawFn) -> tuple[int, int, int]:
    n = draw(st.integers(1, 200))
    more = draw(st.integers(0, n))
    return more, draw(st.integers(0, n - more)), n


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 5.
    [
        (81, 263, 0.2527, 0.3676),
        (15, 148, 0.0578, 0.1617),
        (0, 20, 0.0000, 0.1684),
        (1, 29, 0.0009, 0.1776),
    ],
)
def test_the_interval_of_a_rate_has_the_published_limits(
    successes: int, episodes: int, low: float, high: float
) -> None:
    assert clopper_pearson(successes, episodes) == pytest.approx((low, high), abs=5.1e-5)


def coverage(limits: Sequence[tuple[float, float]], p: float) -> float:
    """How often the interval of a binomial count contains its rate: all counts are enumerated."""
    n = len(limits) - 1
    chances = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    return sum(c for c, (low, high) in zip(chances, limits, strict=True) if low <= p <= high)


def wilson(successes: int, episodes: int) -> tuple[float, float]:
    """Wilson's score interval at 95 %, for comparison (Wilson 1927, JASA 22:209)."""
    z2 = 1.959964**2
    middle = (successes + z2 / 2) / (episodes + z2)
    share = successes * (episodes - successes) / episodes
    reach = math.sqrt(z2 * (share + z2 / 4)) / (episodes + z2)
    return middle - reach, middle + reach


@pytest.mark.parametrize("episodes", [20, 100, 300])
def test_the_interval_covers_every_rate_at_least_as_often_as_it_says(episodes: int) -> None:
    limits = [clopper_pearson(k, episodes) for k in range(episodes + 1)]
    rates = [step / 1000 for step in range(1, 1000)]
    assert min(coverage(limits, p) for p in rates) >= 0.95


def test_near_all_successes_wilsons_interval_covers_less_than_it_says() -> None:
    exact = [clopper_pearson(k, 100) for k in range(101)]
    score = [wilson(k, 100) for k in range(101)]
    assert coverage(score, 0.99) == pytest.approx(0.921, abs=5e-4)
    assert coverage(exact, 0.99) == pytest.approx(0.982, abs=5e-4)


@given(counts)
def test_the_interval_contains_the_rate_and_stays_within_zero_and_one(
    count: tuple[int, int],
) -> None:
    successes, episodes = count
    low, high = clopper_pearson(successes, episodes)
    assert 0 <= low <= successes / episodes <= high <= 1
    assert high - low > 0


@given(counts)
def test_the_interval_of_failures_mirrors_that_of_successes(count: tuple[int, int]) -> None:
    successes, episodes = count
    low, high = clopper_pearson(successes, episodes)
    assert clopper_pearson(episodes - successes, episodes) == pytest.approx(
        (1 - high, 1 - low), abs=1e-12
    )


def test_intervals_of_no_and_of_all_successes_reach_the_ends_and_keep_a_width() -> None:
    assert clopper_pearson(0, 100)[0] == 0.0
    assert clopper_pearson(100, 100)[1] == 1.0
    assert clopper_pearson(0, 100)[1] == pytest.approx(0.0362, abs=5e-5)
    assert clopper_pearson(1, 1)[0] == pytest.approx(0.025)


def test_a_higher_confidence_gives_a_wider_interval() -> None:
    assert (
        clopper_pearson(9, 10, 0.99)[0]
        < clopper_pearson(9, 10, 0.95)[0]
        < clopper_pearson(9, 10, 0.8)[0]
    )


@pytest.mark.parametrize(
    ("successes", "episodes", "confidence", "message"),
    [
        (0, 0, 0.95, "0 episodes"),
        (5, 4, 0.95, "5 successes of 4"),
        (-1, 4, 0.95, "-1 successes"),
        (1, 4, 95.0, "95 % is 0.95"),
        (1, 4, 0.0, "95 % is 0.95"),
    ],
)
def test_impossible_counts_and_confidences_are_refused(
    successes: int, episodes: int, confidence: float, message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        clopper_pearson(successes, episodes, confidence)


@pytest.mark.parametrize(
    ("table", "difference", "low", "high"),
    # The worked examples of Fagerland, Lydersen and Laake, Statistical Analysis of Contingency
    # Tables (2017), chapter 8: airway hyper-responsiveness (Bentur et al. 2009) and complete
    # response (Cavo et al. 2012).
    [((1, 1, 7, 12), -0.286, -0.517, -0.026), ((59, 6, 16, 80), -0.0621, -0.1240, -0.0054)],
)
def test_the_paired_difference_has_the_published_interval(
    table: tuple[int, int, int, int], difference: float, low: float, high: float
) -> None:
    both, only_a, only_b, neither = table
    a = [True] * both + [True] * only_a + [False] * only_b + [False] * neither
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    found = paired(a, b)
    assert (found.both, found.only_a, found.only_b, found.neither) == table
    assert found.episodes == sum(table)
    digits = 5e-4 if both == 1 else 5e-5
    assert found.difference == pytest.approx(difference, abs=digits)
    assert found.interval == pytest.approx((low, high), abs=digits)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p_value"),
    # Cavo et al. 2012 and Bentur et al. 2009 as above; Armitage and Berry 1994, p. 127.
    [(6, 16, 0.052479), (1, 7, 0.0703125), (12, 2, 0.01293945)],
)
def test_the_exact_test_gives_the_published_p_values(
    only_a: int, only_b: int, p_value: float
) -> None:
    assert mcnemar(only_a, only_b) == pytest.approx(p_value, abs=5e-7)


@given(discordant())
def test_swapping_the_policies_mirrors_the_comparison(case: tuple[int, int, int]) -> None:
    only_a, only_b, n = case
    low, high = tango(only_a, only_b, n)
    assert tango(only_b, only_a, n) == (-high, -low)
    assert mcnemar(only_a, only_b) == mcnemar(only_b, only_a)


@given(discordant())
def test_the_interval_contains_the_difference_and_is_within_one(
    case: tuple[int, int, int],
) -> None:
    only_a, only_b, n = case
    low, high = tango(only_a, only_b, n)
    assert -1 <= low <= (only_a - only_b) / n <= high <= 1
    assert high - low > 0


@given(discordant())
def test_the_score_test_changes_its_decision_at_the_limits(
    case: tuple[int, int, int],
) -> None:
    # Independent of the root search: z squared at the limit, by a likelihood found on a grid.
    only_a, only_b, n = case
    _, high = tango(only_a, only_b, n)
    if high >= 1 - 1e-9:
        return

    def log_likelihood(q: float) -> float:
        terms = ((only_a, q + high), (only_b, q), (n - only_a - only_b, 1 - 2 * q - high))
        return sum(k * math.log(max(p, 1e-300)) for k, p in terms if k)

    # golden section: the log-likelihood is concave in q
    left, right = max(0.0, -high), (1 - high) / 2
    for _ in range(80):
        third = (right - left) / 3
        if log_likelihood(left + third) < log_likelihood(right - third):
            left += third
        else:
            right -= third
    q = (left + right) / 2
    score = (only_a - only_b - n * high) / math.sqrt(n * (2 * q + high * (1 - high)))
    assert score == pytest.approx(-1.959964, abs=1e-3)


def test_two_policies_that_never_differ_have_an_interval_around_zero() -> None:
    same = paired([True, False] * 10, [True, False] * 10)
    assert same.difference == 0.0
    assert same.p_value == 1.0
    assert same.interval[0] == -same.interval[1]
    assert 0.1 < same.interval[1] < 0.2


def test_the_difference_of_a_policy_that_always_wins_is_at_most_one() -> None:
    won = paired([True] * 8, [False] * 8)
    assert won.difference == 1.0
    assert won.interval[1] == 1.0
    assert won.p_value == pytest.approx(2 / 2**8)


def test_a_comparison_needs_both_policies_on_every_seed() -> None:
    with pytest.raises(BadInput, match="3 episodes of A against 2 of B"):
        paired([True] * 3, [True] * 2)
    with pytest.raises(BadInput, match="at least 1 seed"):
        paired([], [])
    with pytest.raises(BadInput, match="not possible"):
        tango(3, 3, 5)
    with pytest.raises(BadInput, match="0 episodes"):
        tango(0, 0, 0)
    with pytest.raises(BadInput, match="negative"):
        mcnemar(-1, 0)


# Another implementation


@given(counts, st.sampled_from([0.8, 0.95, 0.99]))
@settings(deadline=None)
def test_the_interval_of_a_rate_is_that_of_robostats(
    count: tuple[int, int], confidence: float
) -> None:
    theirs = robostats.clopper_pearson(*count, confidence)
    assert clopper_pearson(*count, confidence) == pytest.approx(
        (theirs.lower, theirs.upper), abs=1e-9
    )


@given(discordant())
@settings(deadline=None)
def test_the_comparison_of_pairs_is_that_of_robostats(counted: tuple[int, int, int]) -> None:
    only_a, only_b, n = counted
    ids = tuple(f"{i:03}" for i in range(n))
    table = robostats.PairedResult(
        "a", "b", n - only_a - only_b, only_a, only_b, 0, ids, 0, 0, (), (), None
    )
    theirs = robostats.paired_difference(table)
    assert tango(only_a, only_b, n) == pytest.approx((theirs.lower, theirs.upper), abs=1e-6)
    assert mcnemar(only_a, only_b) == pytest.approx(robostats.mcnemar(table).p_value, abs=1e-12)
