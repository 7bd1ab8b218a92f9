"""Servo watch: whether joints follow their commands, and what their servos say about themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from imitact.core.grippers import is_gripper
from imitact.core.joint_limits import JointLimits
from imitact.core.robot import Reading, ServoHealth
from imitact.core.types import Spec, same_unit, with_unit

LAGS = {"rad": 0.35, "deg": 20.0, "%": 20.0, "m": 0.05}
"""Distance of a joint from its commands, by unit, that is too large: 20 degrees. ALOHA's experts
stay within 0.14 rad of the last command in gym-aloha (benchmarks/safety_episodes.py)."""

STALLS = {"rad": 0.5, "deg": 30.0, "%": 30.0, "m": 0.02, "1": 1.0}
"""Distance of a gripper's goal from where it stands still, by unit, where demonstrations do not
say it. ALOHA's normalized grippers are free: their driver caps the current, and people grip with
the goal fully closed."""

_STILL = 0.1
"""Share of that distance within which a gripper counts as standing still."""


@dataclass(frozen=True)
class FollowingBounds:
    """How far joints may be from their commands."""

    lags: Mapping[str, float] = field(default_factory=lambda: dict(LAGS))
    """Largest distance of a joint from all of its commands of the last `lag_s`, by unit."""

    lag_s: float = 0.3
    """How long a joint may be further away than that, s."""

    stalls: Mapping[str, float] = field(default_factory=lambda: dict(STALLS))
    """Largest distance of a gripper's goal from where it stands still, by unit."""

    stall_s: float = 0.3
    """How long a gripper stands before it counts as stalled, s."""


@dataclass(frozen=True)
class HealthBounds:
    """What servos may report."""

    temperature_c: float = 70.0
    """From here on the robot is held, degrees Celsius; XM430, XM540 and STS3215 cut their torque at
    70 to 80 (their Temperature Limit)."""

    cooled_c: float = 5.0
    """By how much a servo must have cooled before it goes on, degrees Celsius."""

    load: float = 0.95
    """Share of the largest torque; grippers are exempt, which are meant to press."""

    load_s: float = 2.0
    """How long a servo may give that, s; Feetech's overload protection acts after 2 s."""

    lower_voltage_v: float | None = None
    """Least supply voltage, V; None leaves it to the servo's own error bit."""

    upper_voltage_v: float | None = None
    """Largest supply voltage, V."""


class FollowingWatch:
    """Compares what is measured with what was commanded."""

    def __init__(
        self,
        limits: JointLimits,
        rate_hz: float,
        bounds: FollowingBounds,
        spec: Spec | None = None,
    ) -> None:
        """Find the measured joints among the states.

        Args:
            limits: of the commanded joints; their gap, if known, is that of stalled grippers.
            rate_hz: ticks per second.
            bounds: what is tolerated.
            spec: of the robot; None where its states are the joints of the limits.
        """
        self._names, self._units = limits.names, limits.units
        states = limits.names if spec is None else spec.state_names
        state_units = limits.units if spec is None else spec.state_units
        self._state_size = len(states)
        where = {name: at for at, name in enumerate(states)}
        pairs = [
            (joint, where[name])
            for joint, (name, unit) in enumerate(zip(limits.names, limits.units, strict=True))
            if name in where and same_unit(unit, state_units[where[name]])
        ]
        self._joints, self._states = np.array(pairs, np.intp).reshape(-1, 2).T
        grips = np.array(list(map(is_gripper, limits.names, limits.units)))
        self._lag = np.array([bounds.lags.get(unit, np.inf) for unit in limits.units])
        self._lag[grips] = np.inf
        stall = np.array([bounds.stalls.get(unit, np.inf) for unit in limits.units])
        if limits.gap is not None:
            stall = limits.gap
        self._stall = np.where(grips, stall, np.inf)
        self._commands = np.zeros((max(1, round(bounds.lag_s * rate_hz)), len(limits.names)))
        self._measured = np.zeros((max(2, round(bounds.stall_s * rate_hz)), len(limits.names)))
        self._lags = False

    def begin(self, command: NDArray[np.float64]) -> None:
        """Begin at a commanded pose, (A,)."""
        self._commands[:] = command
        self._measured[:] = np.nan
        self._tick = 0
        self._lags = False

    def commanded(self, command: NDArray[np.float64]) -> None:
        """Take note of the command of a tick, (A,)."""
        self._tick += 1
        self._commands[self._tick % len(self._commands)] = command

    def measured(self, reading: Reading | None) -> NDArray[np.float64] | None:
        """Return the measured joints, (A,); None without a reading.

        NaN stands for joints that are not measured, and for all of a reading of another size.
        """
        values = None
        if reading is not None:
            values = np.full(len(self._names), np.nan)
            if np.shape(reading.values) == (self._state_size,):
                values[self._joints] = reading.values[self._states]
        self._measured[self._tick % len(self._measured)] = np.nan if values is None else values
        return values

    def lag(self, measured: NDArray[np.float64] | None) -> tuple[str, str] | None:
        """Return the joint that does not follow and words; None where all do.

        A servo follows with a delay. So the distance is from all commands of the last `lag_s`,
        which a joint that only comes later does not leave.
        """
        if measured is None:
            return None
        last = self._commands[self._tick % len(self._commands)]
        if not self._lags and (np.abs(last - measured) <= self._lag).all():
            return None
        low, high = self._commands.min(0), self._commands.max(0)
        away = np.maximum(low - measured, measured - high)
        bound = self._lag / 2 if self._lags else self._lag
        far = away > bound
        self._lags = bool(far.any())
        if self._lags:
            worst = int(np.argmax(np.where(far, away / bound, -np.inf)))
            name, unit = self._names[worst], self._units[worst]
            return name, (
                f"{name} is {with_unit(f'{away[worst]:.3g}', unit)} from where it was commanded; "
                f"at most {bound[worst]:.3g} are allowed. Is it blocked, or without torque?"
            )
        missing = np.isnan(measured[self._joints])
        if missing.any():
            name = self._names[int(self._joints[int(np.argmax(missing))])]
            return name, f"{name} was not measured as a number"
        return None

    def unstalled(
        self, goal: NDArray[np.float64], command: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], tuple[str, str] | None]:
        """Return the goal with those of stalled grippers near to where they stand, and which.

        Args:
            goal: (A,) that is asked for.
            command: (A,), the last command.
        """
        measured = self._measured[self._tick % len(self._measured)]
        far = np.abs(goal - measured) > self._stall
        if not far.any():
            return goal, None
        # No NaN passes these: where a reading is missing, nothing is known to stand still.
        far &= np.abs(command - measured) >= 0.9 * self._stall
        far &= self._measured.max(0) - self._measured.min(0) <= _STILL * self._stall
        if not far.any():
            return goal, None
        near = np.clip(goal, measured - self._stall, measured + self._stall)
        joint = int(np.argmax(far))
        name, unit = self._names[joint], self._units[joint]
        return np.where(far, near, goal), (
            name,
            f"{name} stands at {with_unit(f'{measured[joint]:.3g}', unit)} and does not follow; "
            "its goal stays "
            f"within {self._stall[joint]:.3g} of that",
        )


class HealthWatch:
    """Judges what servos say about themselves."""

    def __init__(self, rate_hz: float, bounds: HealthBounds) -> None:
        """Take the bounds; `rate_hz` is that of `update`."""
        self._rate_hz, self._bounds = rate_hz, bounds
        self.begin()

    def begin(self) -> None:
        """Forget what was."""
        self._hot: set[str] = set()
        self._loaded: Counter[str] = Counter()

    def update(self, health: Mapping[str, ServoHealth]) -> tuple[str, str] | None:
        """Take the newest health of all servos at a tick; return the first joint that is not well,
        and words; None where all are."""
        found = None
        for joint, servo in health.items():
            words = self._judge(joint, servo)
            if words and found is None:
                found = joint, f"{joint}: {words}"
        return found

    def _judge(self, joint: str, servo: ServoHealth) -> str:
        bounds = self._bounds
        if servo.errors:
            return f"the servo reports {', '.join(servo.errors)}"
        if (degrees := servo.temperature_c) is not None:
            limit = bounds.temperature_c - (bounds.cooled_c if joint in self._hot else 0.0)
            if not degrees < limit:
                self._hot.add(joint)
                return f"{degrees:.0f} degrees Celsius; below {limit:.0f} it goes on"
            self._hot.discard(joint)
        if servo.load is not None and not is_gripper(joint):
            self._loaded[joint] = self._loaded[joint] + 1 if abs(servo.load) >= bounds.load else 0
            if self._loaded[joint] > bounds.load_s * self._rate_hz:
                return f"{abs(servo.load):.0%} load for more than {bounds.load_s:g} s"
        if (volts := servo.voltage_v) is not None:
            if bounds.lower_voltage_v is not None and not volts >= bounds.lower_voltage_v:
                return f"{volts:.1f} V; at least {bounds.lower_voltage_v:g} are needed"
            if bounds.upper_voltage_v is not None and not volts <= bounds.upper_voltage_v:
                return f"{volts:.1f} V; at most {bounds.upper_voltage_v:g} are allowed"
        return ""
