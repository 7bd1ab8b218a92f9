"""Which of several settings to take, from episodes on the same seeds.

The rule: the best is the one with the most successes. Those are its equals whose success is not
shown to be lower (the 95 % interval of the paired difference includes 0) and not more than
`CLOSE` lower in these episodes. Of the best and its equals the one with the lowest jerk is taken;
jerks within a tenth of the lowest count as low, and of these the one that asks least often is
taken.

Why `CLOSE`: on a hundred seeds differences of several points are not shown either, and smoothness
is not worth them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from imitact.core.errors import BadInput
from imitact.evaluation.results import Evaluation, compare
from imitact.evaluation.statistics import Paired

CLOSE = 0.02
"""Lower success that jerk may cost, as it was counted."""

AS_LOW = 1.1
"""Jerk that counts as low, as a multiple of the lowest."""


def _jerk(evaluation: Evaluation) -> float:
    """Where no joint is in rad there is no jerk, so all are alike in it."""
    return evaluation.mean_jerk_rad_s3 or 0.0


def ranked(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """From best to worst: by successes, then jerk, then queries a second."""
    return sorted(evaluations, key=lambda e: (-e.successes, _jerk(e), e.queries_per_s))


@dataclass(frozen=True)
class Choice:
    """What the rule gave.

    best:   the one with the most successes.
    chosen: the one that is taken.
    others: each with its difference to the best (best minus it) and whether it is its equal; the
            best is among them, equal to itself.
    """

    best: Evaluation
    chosen: Evaluation
    others: tuple[tuple[Evaluation, Paired, bool], ...]

    @property
    def equals(self) -> list[Evaluation]:
        """Those that jerk and queries were decided among."""
        return [evaluation for evaluation, _, equal in self.others if equal]


def choose(evaluations: Sequence[Evaluation]) -> Choice:
    """Take one by the rule. Refuses none at all, and evaluations of different seeds."""
    if not evaluations:
        raise BadInput("there is nothing to choose from")
    order = ranked(evaluations)
    best = order[0]
    others = []
    for other in order:
        difference = compare(best, other)
        close = difference.difference <= CLOSE + 1e-12
        others.append((other, difference, other is best or (close and _undecided(difference))))
    equals = [evaluation for evaluation, _, equal in others if equal]
    low = AS_LOW * min(_jerk(e) for e in equals)
    smooth = [e for e in equals if _jerk(e) <= low or math.isclose(_jerk(e), low)]
    chosen = min(smooth, key=lambda e: (e.queries_per_s, _jerk(e), -e.successes))
    return Choice(best, chosen, tuple(others))


def _undecided(difference: Paired) -> bool:
    low, high = difference.interval
    return low <= 0 <= high
