"""ALOHA grippers: servo angle, finger position and the normalized value 0 to 1, with end stops.

A gripper's servo turns a horn that pushes both fingers, so that the fingers' position is no linear
function of its angle. ALOHA's software normalizes both, and uses one for each purpose:

| | action (what is commanded) | state (what is measured) |
|---|---|---|
| real ALOHA (tonyzhaozh/aloha, real_env.py:57-64, 86, 142-151) | angle of the leader | fingers |
| gym-aloha (tasks/sim.py:44-48, 67-69) | fingers | fingers |
| this driver, `command="angle"` (the default) | angle | fingers |
| this driver, `command="fingers"` | fingers | fingers |

So with "angle" a dataset is of the kind of the real ALOHA, and with "fingers" of gym-aloha's. The
two agree at 0 and 1 and differ by up to 0.1 between, for the original grippers; a policy must be
run with the one that it was trained with. The state is 0 and 1 at the end stops of this very
gripper; ALOHA has constants there, with which an open one of the original ALOHA is at 0.997. In
ALOHA's datasets an action may leave 0 to 1, because the leader's stops give way; here it is 0 or 1
then. It lies below the state while the gripper squeezes something.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from imitact.core.errors import BadInput

Command = Literal["angle", "fingers"]


@dataclass(frozen=True)
class Linkage:
    """What joins a gripper's servo to its fingers.

    Attributes:
        horn_m: radius of the servo's horn, m.
        rod_m: length of the rod from the horn to a finger, m.
    """

    horn_m: float
    rod_m: float

    def finger_m(self, angle_rad: float) -> float:
        """Return the distance of a finger from the centre, m (xs_sdk_obj.cpp:446-467)."""
        across = self.horn_m * math.cos(angle_rad)
        return self.horn_m * math.sin(angle_rad) + math.sqrt(self.rod_m**2 - across**2)

    def angle_rad(self, finger_m: float) -> float:
        """Return the servo angle at which a finger is so far from the centre, rad.

        A distance that the linkage cannot reach gives the nearest angle, so that a command beyond
        the end stop stays one.
        """
        horn, rod = self.horn_m, self.rod_m
        if finger_m <= 0:
            return -math.pi / 2
        cosine = (horn**2 - rod**2 + finger_m**2) / (2 * horn * finger_m)
        return math.asin(min(1.0, max(-1.0, cosine)))


LINKAGES = {
    "vx300s": Linkage(0.022, 0.036),
    "wx250s": Linkage(0.014, 0.024),
    "aloha_vx300s": Linkage(0.0275, 0.035),
    "aloha_wx250s": Linkage(0.020, 0.020),
}
"""By Interbotix' model name (interbotix_xsarm_control/config/MODEL.yaml, lines 14 to 17). The last
two are the kit's. The kit's own software names them and still converts with the first two's
metres (Interbotix/aloha, constants.py:35-49), which this driver does not copy."""


@dataclass(frozen=True)
class GripperScale:
    """The measured end stops of one gripper, and its normalized value.

    Attributes:
        closed_rad: servo angle where it is closed.
        open_rad: servo angle where it is open; larger.
        linkage: for the position of the fingers.
        command: what the action is normalized by.

    Raises:
        BadInput: the stops are not finite, exchanged or nearly equal.
    """

    closed_rad: float
    open_rad: float
    linkage: Linkage
    command: Command = "angle"

    def __post_init__(self) -> None:
        width = self.open_rad - self.closed_rad
        if not math.isfinite(width) or width < LEAST_TRAVEL_RAD:
            raise BadInput(
                f"gripper: it is closed at {self.closed_rad:g} rad and open at "
                f"{self.open_rad:g} rad; open must be larger by at least {LEAST_TRAVEL_RAD:g} rad. "
                "Are the two exchanged? `imitact robot measure` measures them"
            )

    def command_from_angle(self, angle_rad: float) -> float:
        """Return the action that an angle is."""
        if self.command == "fingers":
            return self.state_from_angle(angle_rad)
        return (angle_rad - self.closed_rad) / (self.open_rad - self.closed_rad)

    def angle_from_command(self, value: float) -> float:
        """Return the angle that an action asks for, rad; not clipped to the end stops."""
        if self.command == "fingers":
            closed, opened = self._fingers_m()
            return self.linkage.angle_rad(closed + value * (opened - closed))
        return self.closed_rad + value * (self.open_rad - self.closed_rad)

    def state_from_angle(self, angle_rad: float) -> float:
        """Return the normalized position of the fingers at an angle."""
        closed, opened = self._fingers_m()
        return (self.linkage.finger_m(angle_rad) - closed) / (opened - closed)

    def _fingers_m(self) -> tuple[float, float]:
        return self.linkage.finger_m(self.closed_rad), self.linkage.finger_m(self.open_rad)


LEAST_TRAVEL_RAD = 0.3
"""Smallest travel that is taken for a gripper's; the smallest published one is 0.82 rad."""


@dataclass(frozen=True)
class GripperVariant:
    """Published end stops of one kind of ALOHA: a place to begin, no substitute for measuring.

    Attributes:
        follower_rad, leader_rad: closed and open; None where the source has none.
        pressed_rad: leader angle below which the person has closed it, for the opening move.
        source: repository, file and lines.
    """

    follower_rad: tuple[float, float]
    leader_rad: tuple[float, float] | None
    pressed_rad: float | None
    source: str


VARIANTS = {
    "aloha": GripperVariant(
        (-0.6213, 1.4910), (-0.6842, 0.3083), -0.3, "tonyzhaozh/aloha constants.py:19-28"
    ),
    "mobile-aloha": GripperVariant(
        (-0.6213, 1.4910), (-1.65, -0.80), -1.4, "MarkFzp/mobile-aloha constants.py:243-252"
    ),
    "interbotix-kit": GripperVariant(
        (0.6197, 1.6214), (-0.0552, 0.8298), 0.0, "Interbotix/aloha constants.py:35-49"
    ),
    "aloha-2": GripperVariant(
        (-0.06135, 1.5155),
        (-0.04, 0.78),
        None,
        "google-deepmind/aloha_sim tasks/base/aloha2_task.py:58-70",
    ),
    "pi0": GripperVariant(
        (0.5476, 1.6296), None, None, "Physical-Intelligence/openpi aloha_policy.py:134-137"
    ),
    "lerobot": GripperVariant(
        (0.6918, 1.6812),
        (-0.1227, 0.7793),
        None,
        "huggingface/lerobot .cache/calibration/aloha_default (ticks 2499..3144, 1968..2556)",
    ),
}
"""Six kinds of one arm in the wild: why end stops are measured for each gripper."""
