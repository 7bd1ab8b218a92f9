"""Recovery: the jerk-limited way of one joint back to a goal that it could not step to.

ruckig (github.com/pantor/ruckig) computes the time-optimal motion to the goal at each tick. It is
used only here: on every tick it would change legal streams by 43 to 49 mrad at worst, because it
plans a stop at each goal.

Units are seconds here, as ruckig's tolerances expect; those of `Knots` are ticks.
"""

from __future__ import annotations

from typing import Any

from imitact.control.motion_limits import MotionLimits
from imitact.core.errors import missing_package

_FRAME = 0.95
"""Share of its largest velocity up to which a goal's is met."""


class Recovery:
    """Proposes the next command of joints that catch up; it keeps no state of the motion."""

    def __init__(self, law: MotionLimits) -> None:
        """Prepare for these limits.

        Raises:
            BadInput: ruckig is not installed.
        """
        try:
            from ruckig import InputParameter, OutputParameter, Ruckig, RuckigError
        except ImportError:
            raise missing_package("ruckig", "robot") from None
        self._error: Any = RuckigError
        rate_hz = law.rate_hz
        self._rate_hz = rate_hz
        self._ruckig: Any = Ruckig(1, 1 / rate_hz)
        self._output: Any = OutputParameter(1)
        self._inputs: list[Any] = []
        self._velocity = law.limits.velocity.tolist()
        limits = law.limits
        for acceleration, jerk in zip(limits.acceleration, limits.jerk, strict=True):
            parameters = InputParameter(1)
            parameters.target_position, parameters.target_velocity = [0.0], [0.0]
            parameters.max_acceleration = [float(acceleration)]
            parameters.max_jerk = [float(jerk)]
            parameters.target_acceleration = [0.0]
            self._inputs.append(parameters)
        self._law = law

    def __reduce__(self) -> tuple[Any, ...]:
        """Be made anew in the process of the control loop: ruckig's objects cannot be sent."""
        return Recovery, (self._law,)

    def propose(
        self,
        joint: int,
        position: float,
        velocity: float,
        acceleration: float,
        goal: float,
        goal_step: float = 0.0,
    ) -> tuple[float, float, float] | None:
        """Return position, velocity and acceleration a tick later on the way to a goal.

        A goal that moves is met on its way: the motion is planned in the frame of the goal, in
        which it rests.

        Args:
            joint: its index.
            position: of the joint now.
            velocity: now, unit a tick.
            acceleration: now, unit a tick².
            goal: where to be, a tick from now.
            goal_step: how the goal moves, unit a tick.

        Returns:
            The three, in ticks; None where ruckig finds no way.
        """
        rate_hz, parameters, top = self._rate_hz, self._inputs[joint], self._velocity[joint]
        frame = min(max(goal_step * rate_hz, -_FRAME * top), _FRAME * top)
        parameters.current_position = [position - goal + frame / rate_hz]
        parameters.current_velocity = [velocity * rate_hz - frame]
        parameters.current_acceleration = [acceleration * rate_hz**2]
        parameters.max_velocity = [top - frame]
        parameters.min_velocity = [-top - frame]
        output = self._output
        try:
            if int(self._ruckig.update(parameters, output)) < 0:
                return None
        except self._error:  # it refuses its input
            return None
        return (
            output.new_position[0] + goal,
            (output.new_velocity[0] + frame) / rate_hz,
            output.new_acceleration[0] / rate_hz**2,
        )
