"""Trainings: the success rate of a setting over several trainings, and how sure it is.

Two trainings that differ in their seed alone differ in success, often by more than their episodes
explain. A rate pooled over all episodes takes them for independent and is too sure of itself; here
the trainings are the sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from imitact.core.errors import BadInput
from imitact.core.words import counted
from imitact.evaluation.confidence_intervals import clopper_pearson

MOST_TRAININGS = 1000
"""More are not proposed: the difference is then too small to be settled."""


@dataclass(frozen=True)
class Trainings:
    """Several trainings of one setting, each evaluated by itself.

    Attributes:
        successes: of each training.
        episodes: of each training.
        rate: mean of the trainings' success rates.
        interval: of the rate that trainings of this setting have on average, at `confidence`.
        between: standard deviation of the trainings' own rates, without what their episodes add;
            0 where their episodes explain all of it.
        within: standard deviation that the episodes add to the rate of a training.
    """

    successes: tuple[int, ...]
    episodes: tuple[int, ...]
    rate: float
    interval: tuple[float, float]
    confidence: float
    between: float
    within: float

    @property
    def count(self) -> int:
        """Number of trainings."""
        return len(self.successes)

    def needed(self, difference: float) -> int | None:
        """Return how many trainings a side settle a difference of two settings like this one.

        That many trainings, with as many episodes each, give an interval of the difference that
        reaches no farther than `difference` to either side, if both settings have this noise.

        Args:
            difference: between two success rates, above 0 and below 1.

        Returns:
            At least 2; None where more than `MOST_TRAININGS` would be needed.
        """
        if not 0 < difference < 1:
            raise BadInput(f"a difference of rates is between 0 and 1, not {difference}")
        noise = self.between**2 + self.within**2
        for count in range(2, MOST_TRAININGS + 1):
            if _t(2 * count - 2, self.confidence) * math.sqrt(2 * noise / count) <= difference:
                return count
        return None


def over_trainings(
    successes: Sequence[int], episodes: Sequence[int], confidence: float = 0.95
) -> Trainings:
    """Return what several trainings of one setting show of it.

    The interval is Student's over the trainings' rates, so each training counts once, and is never
    narrower than the exact interval of all episodes together: equal rates by chance, such as three
    times 100 of 100, would give it no width. It ends at 0 and at 1. In simulated trainings it
    contains the setting's rate at least 92 times of 100, where the exact interval of all episodes
    together does so less than 75 times (`tests/evaluation/test_trainings.py`). `between` is
    estimated by the method of moments.

    Args:
        successes: of each training, in order; at least two.
        episodes: of each training.

    Raises:
        BadInput: fewer than two trainings, or impossible counts.
    """
    if len(successes) != len(episodes) or len(successes) < 2:
        raise BadInput(
            f"{counted(len(successes), 'training')} and {len(episodes)} numbers of episodes: the "
            "noise between trainings needs at least two trainings, with the episodes of each"
        )
    for k, n in zip(successes, episodes, strict=True):
        clopper_pearson(k, n, confidence)  # refuses impossible counts
    rates = [k / n for k, n in zip(successes, episodes, strict=True)]
    mean, spread = fmean(rates), variance(rates)
    reach = _t(len(rates) - 1, confidence) * math.sqrt(spread / len(rates))
    low, high = clopper_pearson(sum(successes), sum(episodes), confidence)
    # The rate that all trainings share is the better estimate of what episodes add: that of a
    # training with all successes would be 0.
    shared = sum(successes) / sum(episodes)
    within = fmean([shared * (1 - shared) / n for n in episodes])
    return Trainings(
        tuple(successes),
        tuple(episodes),
        mean,
        (max(0.0, min(low, mean - reach)), min(1.0, max(high, mean + reach))),
        confidence,
        math.sqrt(max(0.0, spread - within)),
        math.sqrt(within),
    )


@dataclass(frozen=True)
class TrainingsDifference:
    """Success rate of one setting minus that of another, over the trainings of each.

    Attributes:
        difference: between -1 and 1.
        interval: Welch's interval of it at `confidence`.
    """

    difference: float
    interval: tuple[float, float]
    confidence: float


def difference_of(a: Trainings, b: Trainings) -> TrainingsDifference:
    """Compare two settings by their trainings.

    The interval is Welch's, for unequal noise (Welch 1947, Biometrika 34:28). The variance of a
    side is that of its rates, and at least what its episodes alone give, so that equal rates by
    chance are not taken for certainty. That both ran the same seeds is not used.
    """
    shares = []
    for side in (a, b):
        noise = side.between**2 + side.within**2
        shares.append((noise / side.count, side.count - 1))
    total = sum(share for share, _ in shares)
    difference = a.rate - b.rate
    if total == 0:
        reach = 0.0
    else:
        freedom = total**2 / sum(share**2 / left for share, left in shares)
        reach = _t(freedom, a.confidence) * math.sqrt(total)
    ends = max(-1.0, difference - reach), min(1.0, difference + reach)
    return TrainingsDifference(difference, ends, a.confidence)


def _t(freedom: float, confidence: float) -> float:
    """Return the quantile of Student's distribution that leaves half of the rest above it."""
    from scipy.special import stdtrit  # here, because it takes 0.2 s to import

    return float(stdtrit(freedom, (1 + confidence) / 2))
