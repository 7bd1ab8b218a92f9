"""Tuning selection: which of several executions to choose, from episodes on the same seeds.

The best execution is the one with the most successes. Others count as equal to it if their success
is not significantly lower (the 95 % interval of the paired difference includes 0) and at most
`MAX_LOSS` lower in these episodes. Of the best and its equals the one with the lowest jerk is
chosen; jerks up to `JERK_TOLERANCE` times the lowest count as the lowest, and of those executions
the one with the fewest queries is chosen.

`MAX_LOSS` is needed because on a hundred seeds even differences of several points are not
significant, and smoothness is not worth them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from imitact.core.errors import BadInput
from imitact.evaluation.confidence_intervals import Paired
from imitact.evaluation.results import Evaluation, compare

MAX_LOSS = 0.02
"""Largest difference in observed success rate that lower jerk may cost."""

JERK_TOLERANCE = 1.1
"""Multiple of the lowest jerk that still counts as the lowest."""


def _jerk(evaluation: Evaluation) -> float:
    """Return the mean jerk; 0 where no joint is in rad, so that jerk decides nothing."""
    return evaluation.mean_jerk_rad_s3 or 0.0


def ranked(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Sort from best to worst: by successes, then jerk, then queries per second."""
    return sorted(evaluations, key=lambda e: (-e.successes, _jerk(e), e.queries_per_s))


@dataclass(frozen=True)
class Choice:
    """Result of the selection rule.

    Attributes:
        best: evaluation with the most successes.
        candidates: all evaluations, each with its difference to the best (best minus it) and
            whether it counts as equal to it; the best is among them.
    """

    best: Evaluation
    chosen: Evaluation
    candidates: tuple[tuple[Evaluation, Paired, bool], ...]

    @property
    def equals(self) -> list[Evaluation]:
        """Evaluations that count as equal to the best, the best included."""
        return [evaluation for evaluation, _, equal in self.candidates if equal]


def choose(evaluations: Sequence[Evaluation]) -> Choice:
    """Choose one evaluation by the rule; refuse an empty sequence and different seeds."""
    if not evaluations:
        raise BadInput("there is no evaluation to choose from")
    order = ranked(evaluations)
    best = order[0]
    candidates = []
    for other in order:
        difference = compare(best, other)
        low, high = difference.interval
        close = difference.difference <= MAX_LOSS + 1e-12 and low <= 0 <= high
        candidates.append((other, difference, other is best or close))
    equals = [evaluation for evaluation, _, equal in candidates if equal]
    limit = JERK_TOLERANCE * min(_jerk(e) for e in equals)
    smooth = [e for e in equals if _jerk(e) <= limit or math.isclose(_jerk(e), limit)]
    chosen = min(smooth, key=lambda e: (e.queries_per_s, _jerk(e), -e.successes))
    return Choice(best, chosen, tuple(candidates))
