"""Ages: how old state, pictures and leader may be, and which of them is too old."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from imitact.control.contract import Ages, old_words
from imitact.core.hold import Hold
from imitact.core.ranges import Range


@dataclass(frozen=True)
class AgeBounds:
    """How old values may be before the robot is held.

    The control loop judges by them before it asks a source, and the safety filter what it is given.
    """

    state_ticks: Annotated[float, Range(0.1, 3000)] = 3.0
    """Since the read of the state began, ticks."""

    picture_s: Annotated[float, Range(0.001, 60)] = 0.1
    """Since the capture of the newest picture of a camera that is used, s."""

    leader_s: Annotated[float, Range(0.001, 60)] = 0.1
    """Since the read of the leader began, s."""

    def too_old(self, ages: Ages, rate_hz: float) -> tuple[Hold, str]:
        """Return the first value that is too old or not there, as the reason to hold, and words;
        `Hold.NONE` and no words where all are fresh.

        Args:
            ages: of the newest values.
            rate_hz: ticks per second.
        """
        if ages.state_s is None:
            return Hold.NO_STATE, "the robot has given no state yet"
        if words := old_words("the state", ages.state_s, self.state_ticks / rate_hz):
            return Hold.STATE_OLD, words
        for camera, age_s in ages.pictures_s.items():
            if age_s == math.inf:
                return Hold.PICTURE_OLD, f"camera {camera} has given no picture yet"
            if words := old_words(f"the picture of camera {camera}", age_s, self.picture_s):
                return Hold.PICTURE_OLD, words
        if ages.leader_s is not None and (
            words := old_words("the leader's reading", ages.leader_s, self.leader_s)
        ):
            return Hold.LEADER_OLD, words
        return Hold.NONE, ""
