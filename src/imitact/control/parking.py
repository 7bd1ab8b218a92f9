"""Soft start and parking: slow ways to a pose, and what a robot's pose at the start must be.

A robot starts where it is: its first command is where it was told to be, or where it measures
itself, and a slow ramp leads to the first pose of a run. The pose in which it was parked is kept,
because servos that count turns come back a turn off (huggingface/lerobot#2519).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imitact.control.contract import Asked, Hold, Moment
from imitact.control.engagement import SLOW_RATES, TOLERANCES, by_unit, shown
from imitact.core.errors import BadInput, DamagedFile, RobotError
from imitact.core.robot import Robot
from imitact.core.types import FloatArray, same_unit
from imitact.storage.atomic import write_json
from imitact.storage.json_file import read_json_object

_PEAK = 1.875
"""Largest speed of a quintic ramp, as a factor of its mean speed."""

STILL_S = 1.0
"""Time without progress at the end of a ramp after which it is given up, s."""

_TURNS = {"rad": math.pi / 2, "deg": 90.0}
"""A quarter turn: servos come back off by multiples of it."""


def first_command(robot: Robot) -> NDArray[np.float64]:
    """Return the pose, (A,), with which a run begins without motion.

    It is the last command that was sent, because a robot that holds something is not quite where it
    was told to be (huggingface/lerobot#4610); else the measured joints.

    Raises:
        RobotError: nothing was sent, and the joints are not measured.
    """
    spec = robot.spec
    sent = robot.sent()
    if sent is not None and np.all(np.isfinite(sent.action)):
        return np.array(sent.action, np.float64)
    reading = robot.reading()
    if reading is None:
        raise RobotError("the robot has given no state yet; is it connected and enabled?")
    units = dict(zip(spec.state_names, spec.state_units, strict=True))
    for name, unit in zip(spec.action_names, spec.action_units, strict=True):
        if name not in units or not same_unit(units[name], unit):
            raise RobotError(
                f'{name} is commanded in "{unit}" and not measured in it, so no command is known '
                "at which it stays where it is"
            )
    rows = [spec.state_names.index(name) for name in spec.action_names]
    command = np.array(reading.values[rows], np.float64)
    if not np.all(np.isfinite(command)):
        raise RobotError(f"the robot measures {command}, which is not finite")
    return command


class RampSource:
    """Brings the robot to a pose, from rest to rest, at a slow speed; then it ends.

    All joints arrive together on quintic ramps. The ramp waits while the robot is held, and at its
    end for a robot whose limits are slower; it gives up where the robot gets no further.
    """

    def __init__(
        self, goal: FloatArray, names: Sequence[str], units: Sequence[str], rate_hz: float
    ) -> None:
        """Prepare a ramp.

        Args:
            goal: (A,), the pose to go to.
            names: of the A joints.
            units: of the A joints; each has its slow speed (0.3 rad/s).
            rate_hz: ticks per second.

        Raises:
            BadInput: the goal is of another size or not finite, or a unit has no slow speed.
        """
        self._goal = np.array(goal, np.float64)
        if self._goal.shape != (len(names),) or not np.all(np.isfinite(self._goal)):
            raise BadInput(f"the pose {goal} is not {len(names)} finite values, one a joint")
        self._speed, self._rate_hz = by_unit(SLOW_RATES, names, units), rate_hz
        self._start, self._ticks, self._first = self._goal, 0, 0
        self._names, self._units = tuple(names), tuple(units)
        self._near = by_unit(TOLERANCES, names, units) / 50  # 0.1 degrees
        self._gave = False
        self._still: tuple[int, NDArray[np.float64]] | None = None

    @property
    def cameras(self) -> tuple[str, ...]:
        return ()

    def begin(self, moment: Moment) -> None:
        self._start, self._first, self._gave = moment.command.copy(), moment.tick, False
        self._still = None
        longest_s = float(np.max(np.abs(self._goal - self._start) / self._speed))
        self._ticks = math.ceil(_PEAK * longest_s * self._rate_hz)

    def action(self, moment: Moment) -> Asked:
        if moment.held and self._gave:
            self._first += 1  # the safety filter held the tick before
        self._gave = True
        done = moment.tick + 1 - self._first
        if done >= self._ticks:
            return self._arriving(moment)
        t = done / self._ticks
        share = t**3 * (10 - 15 * t + 6 * t**2)
        return Asked(self._start + share * (self._goal - self._start))

    def hold(self, moment: Moment, hold: Hold, words: str) -> Asked:
        self._first, self._gave, self._still = self._first + 1, False, None
        return Asked(None, hold, words)

    def _arriving(self, moment: Moment) -> Asked:
        """Return the goal; the ramp has ended once it, or nothing more, is commanded."""
        goal = self._goal.copy()
        left = goal - moment.command
        if np.all(np.abs(left) <= np.maximum(self._near, self._speed / self._rate_hz)):
            return Asked(goal, words="the pose is reached", ended=True)
        if self._still is None or np.any(np.abs(moment.command - self._still[1]) > self._near):
            self._still = moment.tick, moment.command.copy()
        if moment.held or moment.tick - self._still[0] < STILL_S * self._rate_hz:
            return Asked(goal)
        worst = int(np.argmax(np.abs(left) / self._near))
        words = f"{self._names[worst]} {shown(float(left[worst]), self._units[worst])} from it"
        return Asked(goal, words=f"the pose is not reached: {words}", ended=True)


@dataclass(frozen=True)
class ParkedPose:
    """The pose in which a robot was parked.

    Attributes:
        names: of its joints.
        units: of its joints.
        pose: what they measured.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    pose: tuple[float, ...]

    def write(self, file: Path) -> None:
        """Keep the pose in a file."""
        write_json(file, {"names": self.names, "units": self.units, "pose": self.pose})

    @classmethod
    def read(cls, file: Path) -> ParkedPose | None:
        """Return the pose that was kept; None where there is no file.

        Raises:
            DamagedFile: the file is not what `write` wrote.
        """
        if not file.exists():
            return None
        values = read_json_object(file)
        try:
            names, units = tuple(map(str, values["names"])), tuple(map(str, values["units"]))
            pose = tuple(map(float, values["pose"]))
            if len(names) == len(units) == len(pose):
                return cls(names, units, pose)
        except (KeyError, TypeError, ValueError):
            pass
        raise DamagedFile(
            f"{file} is no pose of a parked robot; delete it, and compare the robot's pose with "
            "what it measures yourself"
        )

    def differences(self, present: FloatArray) -> tuple[list[str], list[str]]:
        """Compare with the present pose, before the torque goes on.

        Args:
            present: (S,), what the joints measure now.

        Returns:
            Joints that are off by quarter turns, which a hand seldom does and a servo that lost its
            turns does; and other joints that were moved.
        """
        turned, moved = [], []
        for name, unit, was, now in zip(self.names, self.units, self.pose, present, strict=True):
            off = float(now) - was
            quarter, near = _TURNS.get(unit), TOLERANCES.get(unit, math.inf)
            if not abs(off) > near:
                continue
            words = f"{name} {shown(off, unit)}"
            is_turn = quarter is not None and abs(off - round(off / quarter) * quarter) <= 2 * near
            (turned if is_turn and abs(off) > 0.5 * (quarter or 0) else moved).append(words)
        return turned, moved
