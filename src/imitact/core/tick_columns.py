"""Tick columns: names of what a recording of a robot has at each tick beside state and action.

LeRobot 0.6.1 takes none of these names for an input of a policy; `action.*` and `observation.*`
would be one. It reads float64 back as float32, so times are in s since the first tick of the
episode. NaN stands for what was not there.
"""

from __future__ import annotations

ASKED = "asked.action"
"""(A,), what the source asked for; `action` is what was sent. NaN where nothing was asked."""

DUE = "clock.due_s"
"""When the tick was due, s."""

STATE_READ = "clock.state_s"
"""Begin and end of the read of the state, s."""

SENT = "clock.sent_s"
"""When the action was sent, s; NaN where that is not known."""

STAGE = "safety.stage"
"""Stage of the safety filter that acted; 0 where the asked action passed."""

HELD = "control.held"
"""1 where the robot was held."""

HOLD = "control.hold"
"""Why nothing was asked, a number of `Hold`."""

SKIPPED = "control.skipped"
"""Ticks that have no row, right before this one."""

ENGAGED = "leader.engaged"
"""1 where a person had the command."""


def captured(camera: str) -> str:
    """Return the name of the column of when a camera captured the frame of the tick, s."""
    return f"clock.{camera}_s"


def is_tick_column(name: str) -> bool:
    """Return whether a column has one of these names."""
    is_clock = name.startswith("clock.") and name.endswith("_s")
    return is_clock or name in (ASKED, STAGE, HELD, HOLD, SKIPPED, ENGAGED)
