"""Contract of the control loop: what it gives to and takes from sources, safety filter, controls.

Legend for shapes: A action dimensions, S state dimensions. Times are in s on one `Clock`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from imitact.core.hold import Hold
from imitact.core.robot import Reading, ServoHealth, TimedFrame
from imitact.core.types import FloatArray


@dataclass(frozen=True)
class Controls:
    """What a person or the command wants.

    Attributes:
        stop: hold until it is false again.
        end: end the run; the robot holds.
        deadman: whether a key or pedal that engages the leader is held; None where there is none.
        given_s: when this was posted; None where it never gets old.
    """

    stop: bool = False
    end: bool = False
    deadman: bool | None = None
    given_s: float | None = None


@dataclass(frozen=True)
class Moment:
    """One tick, as a source sees it.

    Attributes:
        tick: of the control loop, from 0; ticks that were skipped are missing.
        now_s: when the tick began.
        reading: the newest state of the robot; None where there is none.
        frames: the newest frame of each camera that has one.
        command: (A,), the last command.
        held: the number of ticks in a row before this one in which the robot was held.
        controls: what a person wants.
    """

    tick: int
    now_s: float
    reading: Reading | None
    frames: Mapping[str, TimedFrame]
    command: NDArray[np.float64]
    held: int = 0
    controls: Controls = field(default_factory=Controls)


@dataclass(frozen=True)
class Asked:
    """What a source asks for at one tick.

    Attributes:
        action: (A,), in the units of the Spec; None holds, for the reason `hold`.
        hold: why there is no action.
        words: the same for people, with its numbers.
        ended: whether the source has ended; it is asked no more.
        engaged: whether a person has the command; None where no leader is there.
        leader_s: when the leader's reading began; None where none was used.
        query: whether a policy was queried at this tick.
        answered_tick: tick of the query whose chunk arrived at this tick; None where none did.
        answer_s: how long that answer took.
        seam: largest jump of a joint from the last command to a new chunk's row, in steps that its
            velocity limit allows (or in its unit, where no limit is known).
        phase: number of the phase of a conductor, from 1; 0 outside of one.
    """

    action: FloatArray | None
    hold: Hold = Hold.NONE
    words: str = ""
    ended: bool = False
    engaged: bool | None = None
    leader_s: float | None = None
    query: bool = False
    answered_tick: int | None = None
    answer_s: float | None = None
    seam: float | None = None
    phase: int = 0


class Source(Protocol):
    """Gives an action for each tick: a policy, a leader, a recorded episode. No call waits."""

    @property
    def cameras(self) -> tuple[str, ...]:
        """Cameras whose newest pictures must be fresh."""
        ...

    def begin(self, moment: Moment) -> None:
        """Begin anew at this tick; `action` or `hold` follows for the same tick."""
        ...

    def action(self, moment: Moment) -> Asked:
        """Return what is asked for at this tick."""
        ...

    def hold(self, moment: Moment, hold: Hold, words: str) -> Asked:
        """Take note that the loop itself holds at this tick, and return that as what is asked."""
        ...


@dataclass(frozen=True)
class Ages:
    """How old the newest values are, in s.

    Attributes:
        state_s: since the read of the state began; None before the first.
        pictures_s: since the capture, by camera that the source uses; infinite before its first.
        leader_s: since the read of the leader began; None where none is asked.
    """

    state_s: float | None
    pictures_s: Mapping[str, float]
    leader_s: float | None = None


class Verdict(Protocol):
    """What the safety filter makes of an asked action."""

    @property
    def action(self) -> NDArray[np.float64]:
        """(A,), to be commanded; of a hold, the braking or last command."""
        ...

    @property
    def stage(self) -> int:
        """The stage that acted (`safety_filter.Stage`); 0 where the asked action passed."""
        ...

    @property
    def joint(self) -> str:
        """The joint at which it acted; empty where it is no single one."""
        ...

    @property
    def words(self) -> str:
        """What it did and why, for people; empty where the asked action passed."""
        ...

    @property
    def held(self) -> bool:
        """Whether the robot is held: the action does not follow what was asked."""
        ...

    @property
    def should_park(self) -> bool:
        """Whether the robot is held for so long that it should be parked."""
        ...


class Safety(Protocol):
    """The safety filter, as the loop uses it: one check a tick, in their order."""

    def begin(self, command: FloatArray) -> None:
        """Begin at rest, with the robot commanded to this pose, (A,)."""
        ...

    @property
    def rests(self) -> bool:
        """Whether the commanded joints are at rest."""
        ...

    def resume(self) -> None:
        """Go on after a stop of the filter's own: a person took a stop back."""
        ...

    def check(
        self,
        asked: FloatArray | None,
        reading: Reading | None,
        ages: Ages,
        health: Mapping[str, ServoHealth],
        why: str = "",
    ) -> Verdict:
        """Return what is commanded at this tick.

        Args:
            asked: (A,); None brakes and holds.
            reading: the newest state; None where there is none.
            ages: of the newest values, for the words and for stages of its own; the loop has
                judged them and asks for nothing where one is too old.
            health: of every servo that said something.
            why: why nothing is asked, in words.
        """
        ...


def old_words(what: str, age_s: float, limit_s: float) -> str:
    """Return that a value is too old, in words; empty where it is not.

    A time in the future is refused as well: it comes from another clock, and would never get old.
    """
    if -limit_s <= age_s <= limit_s:
        return ""
    if age_s < 0:
        return f"{what} has a time {-age_s * 1000:.0f} ms in the future; is it of another clock?"
    return f"{what} is {age_s * 1000:.0f} ms old; at most {limit_s * 1000:.0f} ms are allowed"
