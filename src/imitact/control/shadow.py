"""Shadow robot: a robot that is read and never commanded, so that a run shows what it would do."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from imitact.core.robot import Reading, Robot, SentCommand, ServoHealth, TimedFrame
from imitact.core.types import FloatArray, Spec


class ShadowRobot:
    """Reads another robot, and keeps what it is commanded to itself.

    It has no faults but those of reading: a robot without torque is expected here.
    """

    def __init__(self, robot: Robot) -> None:
        """Read this robot."""
        self._robot = robot

    @property
    def spec(self) -> Spec:
        return self._robot.spec

    def reading(self) -> Reading | None:
        return self._robot.reading()

    def frame(self, camera: str) -> TimedFrame | None:
        return self._robot.frame(camera)

    def health(self) -> Mapping[str, ServoHealth]:
        return self._robot.health()

    def command(self, action: FloatArray, tick: int) -> None:
        """Take a command, which goes nowhere."""
        self._robot.spec.check_action(np.asarray(action, np.float64), "command")

    def sent(self) -> SentCommand | None:
        return None

    def fault(self) -> str:
        """Nothing: what cannot be read shows in the age of the readings."""
        return ""
