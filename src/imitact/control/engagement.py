"""Engagement: when a follower follows its leader, so that taking hold never makes it jump.

Where the person holds the deadman, the follower first goes to the leader at a slow rate, or waits
until every joint is within a tolerance. Then it follows; what difference is left fades away at the
same slow rate. Where the leader is only a pointer, the difference is kept instead, and taken anew
each time that the person takes hold (NVIDIA/IsaacTeleop#790).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from imitact.core.errors import BadInput
from imitact.core.types import FloatArray

TOLERANCES = {"rad": math.radians(5.0), "deg": 5.0, "1": 0.1, "%": 10.0, "m": 0.02}
"""Difference up to which a joint counts as where its leader is, by unit."""

SLOW_RATES = {"rad": 0.3, "deg": math.degrees(0.3), "1": 0.5, "%": 50.0, "m": 0.05}
"""Speed at which a follower goes to its leader, or to a pose, by unit per s."""


def by_unit(table: dict[str, float], names: Sequence[str], units: Sequence[str]) -> FloatArray:
    """Return the value of a table for each joint, (A,).

    Raises:
        BadInput: a unit is not in the table.
    """
    for name, unit in zip(names, units, strict=True):
        if unit not in table:
            raise BadInput(
                f'{name} is in "{unit}", for which no slow speed is known; expected one of '
                + ", ".join(table)
            )
    return np.array([table[unit] for unit in units])


class Clutch(Enum):
    """What has been engaged so far."""

    OPEN = "open"
    APPROACHING = "approaching"
    CLOSED = "closed"


@dataclass(frozen=True)
class Engaged:
    """What the engagement makes of a leader's pose.

    Attributes:
        action: (A,) for the follower; None where it does not follow.
        clutch: open without the deadman, and while the poses differ too much.
        words: why it does not follow, with the joints that differ.
        difference: (A,) leader minus command.
    """

    action: NDArray[np.float64] | None
    clutch: Clutch
    words: str
    difference: NDArray[np.float64]


class Engagement:
    """Decides at each tick whether the follower follows, and where it goes."""

    def __init__(
        self,
        names: Sequence[str],
        units: Sequence[str],
        rate_hz: float,
        *,
        approach: Literal["ramp", "wait", "offset"] = "ramp",
    ) -> None:
        """Begin with an open clutch.

        Args:
            names: of the A joints.
            units: of the A joints.
            rate_hz: ticks per second.
            approach: where the poses differ, "ramp" brings the follower to the leader slowly,
                "wait" waits until the person has brought the leader there, and "offset" keeps the
                difference.
        """
        self._names, self._units = tuple(names), tuple(units)
        self._tolerance = by_unit(TOLERANCES, names, units)
        self._step = by_unit(SLOW_RATES, names, units) / rate_hz
        self._approach = approach
        self.release()

    @property
    def clutch(self) -> Clutch:
        return self._clutch

    def release(self) -> None:
        """Open the clutch; the next update begins anew."""
        self._clutch = Clutch.OPEN
        self._offset = np.zeros(len(self._names))

    def update(self, leader: FloatArray, command: FloatArray, deadman: bool) -> Engaged:
        """Take the leader's pose at a tick, (A,), and return where the follower goes.

        Args:
            leader: (A,), finite.
            command: (A,), the last command of the follower.
            deadman: whether the person holds it.
        """
        difference = np.asarray(leader, np.float64) - command
        if not deadman:
            self.release()
            return Engaged(None, self._clutch, "the deadman is not held", difference)
        if self._clutch is not Clutch.CLOSED:
            is_near = bool(np.all(np.abs(difference) <= self._tolerance))
            if is_near or self._approach == "offset":
                self._clutch, self._offset = Clutch.CLOSED, -difference
            elif self._approach == "wait":
                self._clutch = Clutch.OPEN
                return Engaged(None, self._clutch, self._differing(difference), difference)
            else:
                self._clutch = Clutch.APPROACHING
                action = command + np.clip(difference, -self._step, self._step)
                return Engaged(action, self._clutch, "", difference)
        if self._approach != "offset":
            self._offset -= np.clip(self._offset, -self._step, self._step)
        return Engaged(leader + self._offset, self._clutch, "", difference)

    def _differing(self, difference: NDArray[np.float64]) -> str:
        """Return which joints differ too much, the worst three first."""
        share = np.abs(difference) / self._tolerance
        worst = [i for i in np.argsort(-share) if share[i] > 1][:3]
        more = int((share > 1).sum()) - len(worst)
        return (
            "the leader is not where the follower is: "
            + ", ".join(
                f"{self._names[i]} {shown(float(difference[i]), self._units[i])}" for i in worst
            )
            + (f" and {more} more" if more else "")
        )


def shown(value: float, unit: str) -> str:
    """Return a difference for people: angles in degrees."""
    if unit == "rad":
        return f"{math.degrees(value):+.0f} degrees"
    return f"{value:+.2f}" if unit == "1" else f"{value:+.3g} {unit}"
