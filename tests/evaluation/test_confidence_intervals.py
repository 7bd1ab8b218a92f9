"""Success statistics: properties of the intervals, and the numbers that their authors published."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imitact.core.errors import BadInput
from imitact.evaluation.confidence_intervals import mcnemar, paired, tango, wilson

counts = st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@st.composite
def discordant(draw: st.DrawFn) -> tuple[int, int, int]:
    n = draw(st.integers(1, 200))
    more = draw(st.integers(0, n))
    return more, draw(st.integers(0, n - more)), n


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_limits(
    successes: int, episodes: int, low: float, high: float
) -> None:
    assert wilson(successes, episodes) == pytest.approx((low, high), abs=5.1e-5)


def test_wilson_covers_the_true_rate_at_its_confidence() -> None:
    # The exact coverage, averaged over rates, without sampling.
    n = 60
    limits = [wilson(k, n) for k in range(n + 1)]
    coverage = []
    for step in range(1, 200):
        p = step / 200
        chance = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
        coverage.append(
            sum(c for c, (low, high) in zip(chance, limits, strict=True) if low <= p <= high)
        )
    assert sum(coverage) / len(coverage) == pytest.approx(0.95, abs=0.008)
    assert min(coverage) > 0.88


@given(counts)
def test_wilson_contains_the_rate_and_stays_within_zero_and_one(count: tuple[int, int]) -> None:
    successes, episodes = count
    low, high = wilson(successes, episodes)
    assert 0 <= low <= successes / episodes <= high <= 1
    assert high - low > 0


@given(counts)
def test_the_interval_of_failures_mirrors_that_of_successes(count: tuple[int, int]) -> None:
    successes, episodes = count
    low, high = wilson(successes, episodes)
    assert wilson(episodes - successes, episodes) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_intervals_of_no_and_of_all_successes_reach_the_ends_and_keep_a_width() -> None:
    assert wilson(0, 100)[0] == 0.0
    assert wilson(100, 100)[1] == 1.0
    assert wilson(0, 100)[1] == pytest.approx(0.0370, abs=5e-5)
    assert wilson(1, 1)[0] == pytest.approx(0.2065, abs=5e-5)


def test_a_higher_confidence_gives_a_wider_interval() -> None:
    assert wilson(9, 10, 0.99)[0] < wilson(9, 10, 0.95)[0] < wilson(9, 10, 0.8)[0]


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
def test_wilson_refuses_impossible_counts_and_confidences(
    successes: int, episodes: int, confidence: float, message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        wilson(successes, episodes, confidence)


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
