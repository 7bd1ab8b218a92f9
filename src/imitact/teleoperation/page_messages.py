"""Page messages: what the page of virtual leaders says, read without trust, and what it leads to.

A message is JSON of at most 4 KiB with a rising number. One that is not as expected is ignored and
counted, so that it does not renew the age of the newest one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from imitact.core.types import FloatArray
from imitact.teleoperation.goals import Goal

MAX_BYTES = 4096
"""Size of the longest message; 200 joints fit."""

MAX_OFFSET = np.array([2.0] * 3 + [2 * math.pi] * 3)
"""Largest motion of a hand since the clutch closed, m and rad; the arms reach less."""

DRIFT = 0.001
"""How much the clocks of browser and computer may drift apart, s/s."""

_LARGEST = 2**53  # integer of JavaScript


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    """A message.

    Attributes:
        n: its number, rising.
        t: when the page sent it, ms on the page's own clock.
        clutch: 0 while the person does not hold the deadman, else how often it was closed so far.
        hands: (H, 6), motions since the clutch closed, as `Goal.move` has them.
        joints: (A,), joints that were set since then; None elsewhere.
        seen: number of pictures that the page has shown.
        stop: whether the person pressed "Stop".
    """

    n: int
    t: float
    clutch: int
    hands: list[list[float]]
    joints: list[float | None]
    seen: int = 0
    stop: bool = False


@dataclass(frozen=True, eq=False)
class PageInput:
    """A message that was accepted; attributes as of `_Message`, arrays with NaN for None.

    Attributes:
        sent_s: when the page sent it, s on this computer's clock.
    """

    sent_s: float
    clutch: int
    hands: NDArray[np.float64]
    joints: NDArray[np.float64]
    seen: int
    stop: bool


class PageMessages:
    """Reads the messages of one connection.

    A message's age counts from when the page sent it: the two clocks are compared by the fastest
    message, so that what waited in a queue is as old as it is. The clutch begins open:
    a page that begins with a closed one leads only once it was open.
    """

    def __init__(self, hands: int, lower: FloatArray, upper: FloatArray) -> None:
        """Expect the motions of so many hands, and joints, (A,), within this range."""
        self._hands = hands
        self._lower, self._upper = np.asarray(lower), np.asarray(upper)
        self._decoder = msgspec.json.Decoder(_Message)
        self._number = 0
        self._was_open = False
        self._offset_s = math.inf  # of this computer's clock from the page's
        self._arrived_s = -math.inf
        self.refused: Counter[str] = Counter()

    def take(self, data: bytes | str, arrived_s: float) -> PageInput | None:
        """Return what a message says; None where it is ignored, which `refused` counts."""
        text = data.encode(errors="replace") if isinstance(data, str) else data
        if len(text) > MAX_BYTES:
            return self._refuse("too large")
        try:
            message = self._decoder.decode(text)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return self._refuse("garbage")
        if not self._number < message.n <= _LARGEST:
            return self._refuse("replayed" if message.n <= self._number else "out of range")
        found = self._checked(message, arrived_s)
        if found is not None:
            self._number = message.n
        return found

    def _checked(self, message: _Message, arrived_s: float) -> PageInput | None:
        size = len(self._lower)
        shapes = [len(message.joints), len(message.hands), *(len(hand) for hand in message.hands)]
        if shapes != [size, self._hands, *(6,) * self._hands]:
            return self._refuse("garbage")
        hands = np.array(message.hands, np.float64).reshape(self._hands, 6)
        joints = np.array([np.nan if j is None else j for j in message.joints], np.float64)
        given = np.array([joint is not None for joint in message.joints], bool)
        if not (
            np.all(np.isfinite(hands))
            and np.all(np.isfinite(joints[given]))
            and math.isfinite(message.t)
        ):
            return self._refuse("not finite")
        inside = (joints >= self._lower) & (joints <= self._upper)
        if (
            np.any(np.abs(hands) > MAX_OFFSET)
            or not np.all(inside[given])
            or not 0 <= message.clutch <= _LARGEST
            or not 0 <= message.seen <= _LARGEST
        ):
            return self._refuse("out of range")
        sent_s = self._sent_s(message.t / 1000, arrived_s)
        self._was_open = self._was_open or message.clutch == 0
        clutch = message.clutch if self._was_open else 0
        return PageInput(sent_s, clutch, hands, joints, message.seen, message.stop)

    def _sent_s(self, page_s: float, arrived_s: float) -> float:
        if math.isfinite(self._arrived_s):
            self._offset_s += DRIFT * max(0.0, arrived_s - self._arrived_s)
        self._arrived_s = arrived_s
        self._offset_s = min(self._offset_s, arrived_s - page_s)
        return page_s + self._offset_s

    def _refuse(self, why: str) -> None:
        self.refused[why] += 1


class PageLead:
    """What the messages of one connection lead to: a pose, and whether the leader is engaged.

    Where the clutch closes, motions count from the robot's own pose. Messages may be left out.
    """

    def __init__(self, goal: Goal, pose: Callable[[], FloatArray | None]) -> None:
        """Begin a connection.

        Args:
            goal: of the robot.
            pose: returns the pose, (A,), to which the robot is commanded; None where it has none.
        """
        self._goal, self._pose = goal, pose
        self._clutch = 0  # of the newest message

    def update(self, message: PageInput) -> tuple[NDArray[np.float64] | None, bool]:
        """Return the pose of the leader, (A,), and whether it is engaged; no pose where the robot
        has none."""
        if message.clutch == 0:
            self._clutch = 0
            own = self._pose()
            return None if own is None else np.array(own, np.float64), False
        if message.clutch != self._clutch:
            own = self._pose()
            if own is None:
                return None, False
            self._clutch = message.clutch
            self._goal.begin(own)
        return self._goal.move(message.hands, message.joints), True
