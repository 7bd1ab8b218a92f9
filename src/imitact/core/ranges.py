"""Ranges: the smallest and the largest value of a numeric setting, beside the setting, and a check.

A setting has its range as a mark of its type: `episodes: Annotated[int, Range(1, 1_000_000)]`. NaN
and infinite values are in no range. The largest values are far beyond any use; they keep a slip of
the hand, such as 10^9 frames per second, from filling memory or a disk.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from imitact.core.errors import BadInput


@dataclass(frozen=True)
class Range:
    """Smallest and largest value of a number.

    Attributes:
        low: smallest value.
        high: largest value.
        below: whether `high` itself is out of the range.
    """

    low: float
    high: float
    below: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low <= value < self.high or (value == self.high and not self.below)

    def __str__(self) -> str:
        """As in "from 1 to 1000" or "at least 0 and below 1"."""
        low, high = (f"{end:g}" if isinstance(end, float) else f"{end}" for end in self._ends)
        return f"at least {low} and below {high}" if self.below else f"from {low} to {high}"

    @property
    def _ends(self) -> tuple[float, float]:
        return self.low, self.high

    def check(self, name: str, value: Any) -> None:
        """Refuse a number, or one of several, that is out of the range; None is in any.

        Args:
            name: of the setting, for the message.
            value: a number, a tuple of numbers or None.

        Raises:
            BadInput: it is out of the range.
        """
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None and number not in self:
                raise BadInput(f"{name} is {number}; it must be {self}")


Seed = Annotated[int, Range(0, 2**31 - 1)]
"""Seed of an episode; numpy's older generators take 32 bits, and further episodes count up."""

Count = Annotated[int, Range(1, 1_000_000)]
"""How many, at least one."""

CountOrNone = Annotated[int, Range(0, 1_000_000)]
"""How many; 0 is none, or what the help says."""

Workers = Annotated[int, Range(0, 1024)]
"""Processes or threads; 0 is one per core."""

Pixels = Annotated[int, Range(1, 16_384)]
"""Height or width of a frame, pixels."""

RateOrStored = Annotated[float, Range(0, 10_000)]
"""Ticks or frames per second; 0 is what the help says."""

Seconds = Annotated[float, Range(0, 1_000_000)]
"""A time, s."""

Share = Annotated[float, Range(0, 1)]
"""A fraction of a whole, or a correlation."""

Length = Annotated[float, Range(0, 1_000_000)]
"""A distance, in the unit that the help says, or a multiple of something."""


class Ranged:
    """Base of dataclasses whose numbers are checked against their ranges when one is made."""

    def __post_init__(self) -> None:
        check_ranges(self)


def check_ranges(settings: object, prefix: str = "") -> None:
    """Refuse settings of which a number is out of its range.

    Args:
        settings: a dataclass.
        prefix: of the options on the command line, for the message: "--train.".

    Raises:
        BadInput: a number is out of its range.
    """
    for name, known in ranges(type(settings)).items():
        shown = f"{prefix}{name.replace('_', '-')}" if prefix else name
        known.check(shown, getattr(settings, name))


@functools.cache
def ranges(kind: type) -> Mapping[str, Range]:
    """Return the range of each numeric field of a dataclass that has one, by field."""
    found: dict[str, Range] = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        if typing.get_origin(hint) is Annotated:
            for mark in typing.get_args(hint)[1:]:
                if isinstance(mark, Range):
                    found[name] = mark
    return found
