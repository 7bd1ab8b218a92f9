"""Grippers: which values of a robot open and close a gripper or a hand."""

from __future__ import annotations

_WORDS = ("grip", "hand", "finger", "thumb", "claw", "jaw")


def is_gripper(name: str, unit: str = "") -> bool:
    """Whether a value with that name and unit is of a gripper or a hand.

    Its state need not follow its action, since it may hold something.
    """
    return unit == "1" or any(word in name.lower() for word in _WORDS)
