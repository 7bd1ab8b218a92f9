"""Robot types: a robot and a leader as the control loop sees them, and the driver behind them.

Legend for shapes: A action dimensions, S state dimensions. All times are in s on one `Clock`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from imitact.core.types import FloatArray, Frame, Spec


@dataclass(frozen=True)
class Reading:
    """Measured values of one read of all joints.

    Attributes:
        values: (S,) in the units of the Spec; of a leader (A,), in the units of the action.
        begin_s: when the read began.
        end_s: when the read ended.
        sequence: number of the read, from 1; equal numbers are the same read.
        engaged: of a leader, whether the person holds the deadman; None where it has none.
    """

    values: NDArray[np.float64]
    begin_s: float
    end_s: float
    sequence: int
    engaged: bool | None = None


@dataclass(frozen=True)
class TimedFrame:
    """A camera image with the time at which it was captured.

    Attributes:
        frame: (H, W, 3), RGB.
        captured_s: when the camera captured it.
        sequence: number of the frame, from 1.
    """

    frame: Frame
    captured_s: float
    sequence: int


@dataclass(frozen=True)
class ServoHealth:
    """What one servo says about itself; None where it does not measure it.

    Attributes:
        checked_s: when it was asked.
        temperature_c: in degrees Celsius.
        voltage_v: supply voltage.
        load: share of the largest torque, from -1 to 1.
        errors: names of the errors that it reports ("overload", "overheating", ...).
    """

    checked_s: float
    temperature_c: float | None = None
    voltage_v: float | None = None
    load: float | None = None
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class SentCommand:
    """A command that reached the hardware.

    Attributes:
        tick: of the control loop that gave it.
        action: (A,) as the driver sent it, after the rounding of its registers.
        sent_s: when it was sent.
    """

    tick: int
    action: NDArray[np.float64]
    sent_s: float


@runtime_checkable
class Robot(Protocol):
    """A robot as its control loop sees it: newest values with their times. No call waits.

    The robot follows the newest command. Without a new one for `watchdog_s` it stops following,
    keeps holding the last one, and says so in `fault`.
    """

    @property
    def spec(self) -> Spec: ...

    def reading(self) -> Reading | None:
        """Return the newest reading; None before the first."""
        ...

    def frame(self, camera: str) -> TimedFrame | None:
        """Return the newest frame of a camera; None before the first."""
        ...

    def health(self) -> Mapping[str, ServoHealth]:
        """Return the newest health of every servo, by joint name; empty where none is known."""
        ...

    def command(self, action: FloatArray, tick: int) -> None:
        """Give the action, (A,), to follow from now on."""
        ...

    def sent(self) -> SentCommand | None:
        """Return the newest command that reached the hardware; None before the first."""
        ...

    def fault(self) -> str:
        """Return why the robot does not follow, in words; empty while it does."""
        ...


WATCHDOG_S = 0.1
"""Shortest time without a new command after which a robot stops following and holds, s."""

WATCHDOG_TICKS = 3
"""The same in ticks, for robots that are commanded less than 30 times a second."""


def watchdog_s(rate_hz: float) -> float:
    """Return the time without a new command after which a robot stops following and holds, s.

    Args:
        rate_hz: ticks of its control per second.
    """
    return max(WATCHDOG_S, WATCHDOG_TICKS / rate_hz)


@runtime_checkable
class Leader(Protocol):
    """What a person moves: joint targets with their times. No call waits."""

    @property
    def action_names(self) -> tuple[str, ...]: ...

    @property
    def action_units(self) -> tuple[str, ...]: ...

    def reading(self) -> Reading | None:
        """Return the newest reading, with (A,) values; None before the first."""
        ...

    def fault(self) -> str:
        """Return why there are no readings, in words; empty while there are."""
        ...


class SpecLeader:
    """Base of leaders whose values have the names and units of a Spec's actions."""

    def __init__(self, spec: Spec) -> None:
        """Lead a robot of this Spec."""
        self._spec = spec

    @property
    def action_names(self) -> tuple[str, ...]:
        return self._spec.action_names

    @property
    def action_units(self) -> tuple[str, ...]:
        return self._spec.action_units


@runtime_checkable
class Driver(Protocol):
    """A robot's or a leader's hardware. Its calls wait for the hardware and may raise RobotError.

    Used by one thread of the process that hosts it; a failed call leaves it usable, or `close`
    and a new object replace it. `Spec` of a leader: the states are what it measures.
    """

    @property
    def spec(self) -> Spec: ...

    def connect(self) -> None:
        """Open the ports and check every servo against what is expected. Nothing moves, and no
        torque changes."""
        ...

    def enable(self) -> None:
        """Turn the torque on with goal = present position, so that nothing moves."""
        ...

    def read(self) -> FloatArray:
        """Return the measured values, (S,)."""
        ...

    def write(self, action: FloatArray) -> FloatArray:
        """Send joint targets, (A,); return what was sent, after rounding."""
        ...

    def check_next(self) -> tuple[str, ServoHealth]:
        """Ask one servo, the next in turn, for its health; return its joint and the health."""
        ...

    def release(self) -> tuple[str, ...]:
        """Turn the torque off, servo by servo; return the joints that did not answer."""
        ...

    def close(self) -> None:
        """Close the ports. Never raises, and changes no torque."""
        ...
