"""Success statistics: intervals and tests for one policy, and for two on the same seeds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from imitact.core.errors import BadInput
from imitact.core.words import counted


def clopper_pearson(successes: int, episodes: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a success rate, as (low, high) between 0 and 1.

    It contains all rates of which neither so few nor so many successes would be rejected by an
    exact test at (1 - confidence) / 2. So it covers the true rate at least as often as it says,
    whatever that rate is: of 100 episodes at a rate of 99 %, 98.2 times of 100, where Wilson's
    interval covers it 92.1 times (`tests/evaluation/test_confidence_intervals.py`). Source: Clopper
    and Pearson 1934, Biometrika 26:404.

    Refuses no episodes at all, more successes than episodes, and a confidence outside (0, 1).
    """
    from scipy.special import betaincinv  # here, because it takes 0.2 s to import

    if episodes < 1:
        raise BadInput(f"{counted(episodes, 'episode')} give no rate; run at least 1")
    if not 0 <= successes <= episodes:
        raise BadInput(f"{successes} successes of {counted(episodes, 'episode')} are not possible")
    _check_confidence(confidence)
    failures, tail = episodes - successes, (1 - confidence) / 2
    low = betaincinv(successes, failures + 1, tail) if successes else 0.0
    # The upper end of the successes is the lower end of the failures, mirrored, to the last bit.
    high = 1.0 - betaincinv(failures, successes + 1, tail) if failures else 1.0
    return float(low), float(high)


@dataclass(frozen=True)
class Paired:
    """Comparison of two policies, A and B, on the same seeds.

    Attributes:
        both, only_a, only_b, neither: number of seeds on which these succeeded.
        difference: success rate of A minus that of B, between -1 and 1.
        interval: interval of the difference at `confidence`.
        p_value: p-value of the exact McNemar test: how often chance alone would split the seeds on
            which A and B differ at least this unevenly, if both were equally good.
    """

    both: int
    only_a: int
    only_b: int
    neither: int
    difference: float
    interval: tuple[float, float]
    confidence: float
    p_value: float

    @property
    def episodes(self) -> int:
        return self.both + self.only_a + self.only_b + self.neither


def paired(a: Sequence[bool], b: Sequence[bool], confidence: float = 0.95) -> Paired:
    """Compare the successes of two policies, where a[i] and b[i] are of the same seed.

    The interval of the difference is Tango's score interval (Tango 1998, Statistics in Medicine
    17:891), one of those that Fagerland, Lydersen and Laake 2014 (Statistics in Medicine
    33:2850) recommend; the test is the exact conditional one (McNemar 1947, with binomial tails).
    The two answer slightly different questions: the exact test is the more cautious one.

    Refuses sequences of different lengths, and empty ones.
    """
    if len(a) != len(b):
        raise BadInput(
            f"{counted(len(a), 'episode')} of A against {len(b)} of B; give one of each per seed"
        )
    if not a:
        raise BadInput("no episodes to compare; run at least 1 seed with both policies")
    counts = Counter(zip(a, b, strict=True))
    only_a, only_b = counts[True, False], counts[False, True]
    return Paired(
        both=counts[True, True],
        only_a=only_a,
        only_b=only_b,
        neither=counts[False, False],
        difference=(only_a - only_b) / len(a),
        interval=tango(only_a, only_b, len(a), confidence),
        confidence=confidence,
        p_value=mcnemar(only_a, only_b),
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the two-sided exact McNemar p-value.

    It is twice the smaller binomial tail at 1/2, at most 1, and 1 with no seed on which the two
    differ. Refuses negative counts.
    """
    if only_a < 0 or only_b < 0:
        raise BadInput(f"counts cannot be negative; got {only_a} and {only_b}")
    differ = only_a + only_b
    tail = sum(math.comb(differ, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**differ)  # whole numbers until the last division: exact


def tango(only_a: int, only_b: int, episodes: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the score interval of a paired difference of rates, (only_a - only_b) / episodes.

    It contains all differences d with `|(only_a - only_b - n·d) / sqrt(n(2q + d(1 - d)))| <= z`,
    where q is the most likely rate of `only_b` given d (Tango 1998). It has a width even where A
    and B never differ. Refuses counts that do not fit into the episodes, and no episodes.
    """
    if episodes < 1:
        raise BadInput(f"{counted(episodes, 'episode')} give no difference; run at least 1")
    if only_a < 0 or only_b < 0 or only_a + only_b > episodes:
        raise BadInput(f"{only_a} and {only_b} differing seeds of {episodes} are not possible")
    z = _z(confidence)
    # Both ends come from one function, so swapping A and B mirrors the interval exactly.
    return -_upper(only_b, only_a, episodes, z), _upper(only_a, only_b, episodes, z)


def _upper(more: int, less: int, n: int, z: float) -> float:
    """Return the largest difference that the score test at z does not reject."""
    low, high = (more - less) / n, 1.0
    for _ in range(60):  # halves to below the spacing of float64
        middle = (low + high) / 2
        b = (2 * n - more + less) * middle - more - less
        c = -less * middle * (1 - middle)
        q = (math.sqrt(b * b - 8 * n * c) - b) / (4 * n)
        spread = math.sqrt(max(0.0, n * (2 * q + middle * (1 - middle))))
        if n * middle - (more - less) <= z * spread:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _z(confidence: float) -> float:
    _check_confidence(confidence)
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise BadInput(f"confidence is {confidence}; it must be between 0 and 1 (95 % is 0.95)")
