"""Hold: why a control loop had no action for a tick, as a number in records and columns."""

from __future__ import annotations

from enum import IntEnum


class Hold(IntEnum):
    """Why the control loop has no action for a tick; the robot brakes and holds."""

    NONE = 0
    STOPPED = 1
    """A person or the command asked for a stop."""
    CONTROLS_SILENT = 2
    """The command that a person stops the run with gives no sign of life."""
    ROBOT_FAULT = 3
    NO_STATE = 4
    STATE_OLD = 5
    PICTURE_OLD = 6
    """Also where a camera gave no picture yet."""
    LOOP_LATE = 7
    """So many ticks were skipped that the robot stopped following."""
    LEADER_OLD = 8
    """Also where a leader gave no reading yet, or has a fault."""
    NOT_ENGAGED = 9
    ANSWER_LATE = 10
    """Also before the first answer of a policy."""
    POLICY_FAILED = 11
    """Its process has ended, or it refused an observation."""
    WAITING = 12
    """Nothing runs, or the source has ended."""
    FAILURE = 13
    """An error in imitact or in code of the user; the words have it."""
