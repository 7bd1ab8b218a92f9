"""Keyboard leader: keys of a terminal move a hand or a joint by a step each.

A terminal tells no release of a key, so that a key must repeat to keep the robot following: the
leader is engaged for 100 ms from the newest key. The pause before a held key repeats holds the
robot, and after each pause the motions count from where the robot is.
"""

from __future__ import annotations

import math

import numpy as np

from imitact.control.parking import first_command
from imitact.core.clock import Clock, WallClock
from imitact.core.errors import ImitactError, library_words
from imitact.core.joint_limits import JointLimits
from imitact.core.robot import Reading, Robot, SpecLeader
from imitact.core.types import Spec, with_unit
from imitact.parallel.mailbox import Mailbox
from imitact.teleoperation.goals import Goal, joint_ranges, known_hands, load_kinematics

HELD_S = 0.1
"""Time from a key in which the leader is engaged, s; terminals repeat keys 11 to 30 times
a second."""

HAND_STEP_M = 0.005
JOINT_STEPS = {"rad": 0.02, "deg": 1.0, "1": 0.05, "%": 2.0, "m": 0.002}
"""Step of a joint by a key, by unit; about 0.5 rad/s at 25 keys per second."""

RAW = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1b[C": "right",
    "\x1b[D": "left",
    "\x1b[5~": "pageup",
    "\x1b[6~": "pagedown",
    "\t": "tab",
}
"""Names of keys by what a terminal sends for them (xterm)."""

_HAND_MOTIONS = {
    "left": (0, -1),
    "right": (0, 1),
    "down": (1, -1),
    "up": (1, 1),
    "pagedown": (2, -1),
    "pageup": (2, 1),
}  # axis of the world's frame, direction

_NUMBERS = "1234567890"


class KeyboardLeader(SpecLeader):
    """What the keys lead to, as a `Leader`; it may be given to another process."""

    def __init__(self, spec: Spec, box: Mailbox, clock: Clock) -> None:
        """Read the goals, (A,), in a mailbox; times are when the newest key was pressed."""
        super().__init__(spec)
        self._box, self._clock = box, clock

    def reading(self) -> Reading | None:
        mail = self._box.read()
        if mail is None:
            return None
        now_s, pressed_s = self._clock.now_s(), float(mail.times[0])
        engaged = now_s - pressed_s <= HELD_S
        begin_s = pressed_s if engaged else now_s
        return Reading(mail.values, begin_s, begin_s, mail.sequence, engaged)

    def fault(self) -> str:
        return "" if self._box.newest else "no key of the keyboard leader has been pressed yet"


class Keyboard:
    """Takes the keys, in the process that reads the terminal.

    With hands that can be moved: arrows and page keys move the chosen hand, Tab chooses the other,
    [ and ] close and open its gripper. With any arm: a number chooses a joint, < and > the one
    before and after, - and = move it; without hands the arrows do the same.
    """

    def __init__(
        self, robot: Robot, limits: JointLimits | None = None, clock: Clock | None = None
    ) -> None:
        """Prepare; the robot is read, and never commanded here.

        Args:
            robot: to be led.
            limits: of its joints; None takes a range by unit.
            clock: of the robot.

        Raises:
            BadInput: the range of a joint is not known.
        """
        self._robot, self._clock = robot, clock or WallClock()
        spec = robot.spec
        self._names, self._units = spec.action_names, spec.action_units
        self._low, self._high = joint_ranges(self._names, self._units, limits)
        hands = known_hands(self._names, self._units)
        self._goal = Goal(hands, load_kinematics(hands))
        self._hand = self._joint = 0
        self._pressed_s = -math.inf
        self._box = Mailbox.create((spec.action_size,))
        self.leader = KeyboardLeader(spec, self._box, self._clock)
        self.words = self._help()

    def _help(self) -> str:
        """Return what the keys do, which is shown until the first is pressed."""
        joints = "1 to 0, < and > choose a joint, - and = move it"
        if not self._goal.hands:
            return f"{joints}; so do the arrows"
        return (
            f"arrows, PgUp and PgDn move the {self._goal.hands[0].side} hand, Tab takes the other, "
            f"[ and ] close and open its gripper; {joints}"
        )

    def press(self, key: str) -> bool:
        """Take a key: a character, a name such as "up", or what a terminal sends for it.

        Returns:
            Whether it is a key of this leader. `words` says what it did.
        """
        name = RAW.get(key, key)
        hands = self._goal.hands
        if not hands:
            name = {"left": "<", "right": ">", "down": "-", "up": "="}.get(name, name)
        if name == "tab" and hands:
            self._hand = (self._hand + 1) % len(hands)
            self.words = f"{hands[self._hand].side} hand"
        elif hands and name in _HAND_MOTIONS:
            axis, sign = _HAND_MOTIONS[name]
            if self._close_clutch():
                self._offsets[self._hand, axis] += sign * HAND_STEP_M
                self._lead(f"{hands[self._hand].side} hand {name}")
        elif hands and name in ("[", "]"):
            self._move_joint(hands[self._hand].gripper, 1 if name == "]" else -1)
        elif name in ("-", "="):
            self._move_joint(self._joint, 1 if name == "=" else -1)
        elif name in ("<", ">"):
            self._choose((self._joint + (1 if name == ">" else -1)) % len(self._names))
        elif name in _NUMBERS and len(name) == 1 and _NUMBERS.index(name) < len(self._names):
            self._choose(_NUMBERS.index(name))
        else:
            return False
        return True

    def _choose(self, joint: int) -> None:
        self._joint, self.words = joint, self._names[joint]

    def _move_joint(self, joint: int, sign: int) -> None:
        if not self._close_clutch():
            return
        step = sign * JOINT_STEPS.get(self._units[joint], 0.0)
        now = self._goal.pose[joint] if np.isnan(self._joints[joint]) else self._joints[joint]
        self._joints[joint] = np.clip(now + step, self._low[joint], self._high[joint])
        goal = with_unit(f"{self._joints[joint]:.3g}", self._units[joint])
        self._lead(f"{self._names[joint]} to {goal}")

    def _close_clutch(self) -> bool:
        """Begin where the robot is, unless a key repeats; return whether it has a pose."""
        now_s = self._clock.now_s()
        if now_s - self._pressed_s > HELD_S:
            try:
                self._goal.begin(first_command(self._robot))
            except ImitactError as error:
                self.words = library_words(error)
                return False
            self._offsets = np.zeros((len(self._goal.hands), 6))
            self._joints = np.full(len(self._names), np.nan)
        self._pressed_s = now_s
        return True

    def _lead(self, words: str) -> None:
        pose = self._goal.move(self._offsets, self._joints)
        out = self._goal.out_of_reach
        self.words = f"{words}, out of reach" if out and out[self._hand] else words
        self._joints[:] = np.nan  # done; motions of a hand go on from there
        self._box.post(pose, self._pressed_s)
