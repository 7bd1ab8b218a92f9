"""A scripted demonstrator of the insertion: peg into socket, corrected by what it measures.

It plans three times. At the first tick from where peg and socket lie: grasp both, lift both, line
them up. When the arms have settled there, from where the two really are: they slip and turn in
the fingers, so both hands move until the two lie on one line. In front of the socket once more,
from where its mouth and the tip of the peg are by then: straight in along the socket's axis.

Whoever imitates this sees the scene from above, and no height in it. So both are held and brought
together always in the same way, what is corrected is small, and the hands rest around the grasp.
"""

from __future__ import annotations

import math

import numpy as np

from imitact.envs.aloha import Truth
from imitact.envs.experts.kinematics import FORWARD, Placement, Pose, Vector
from imitact.envs.experts.scripted import Phase, Script
from imitact.envs.experts.trajectories import ArmPath

# The finger gap is 69 mm at 1; the socket is 44 mm wide, the peg 20 mm.
_OPEN, _CLOSED = 1.0, 0.0

# Heights of the centres of peg and socket on the table; gym-aloha drops them from 5 cm.
_HEIGHT_M = {"right": 0.010, "left": 0.022}
# The height above the table at which each hand grasps. Nothing seen from above tells an imitator
# how high it holds a thing, so a few millimetres must not matter: the left fingertips stand on the
# table, the right fingers close where the peg slides to the same place in them from 10 to 16 mm,
# and neither peg nor socket is turned by its weight.
_GRASP_HEIGHT_M = {"right": 0.015, "left": 0.008}

# From the socket's centre to the peg's where the peg's end touches the pin: both are 12 cm long,
# and the pin ends 4 cm from the centre. The socket's mouth is 36 mm wide, so that the peg may be
# 8 mm beside its axis.
_INSERTED_M = 0.06 + 0.04
_DEPTH_M = 0.06 - 0.04  # from the mouth to the pin

# The middle between the two hands at the end, above the middle of the table.
_MEET = np.array([0.0, 0.5, 0.15])
# Steep, so that the wrist never lines up with the forearm; the hands lean away from each other.
_PITCH_RAD = math.radians(85.0)
# How far before the object each hand stands, fingers open and in line, before it goes straight in.
_STANDOFF_M = 0.08
# Between the tip of the peg and the mouth of the socket: where both are lined up, and where the
# last measurement is made.
_APART_M = 0.03
_NEAR_M = 0.008
# The peg is asked to go this much deeper than where it touches the pin, and pressed there to the
# end: an imitator tells how deep it has to go from where it sees the tip, to a centimetre, and a
# peg that ends a few millimetres before the pin has failed.
_PRESS_M = 0.016

_REACH_BOW = np.array([0.0, 0.0, 0.02])
_CARRY_BOW = np.array([0.0, 0.0, 0.02])

# Deviations at spread 1, either way; of durations see Script. Along the object, across it, and of
# height: along it as far as an imitator misses, so that it has seen how such a grasp goes on;
# across only as far as the open fingers clear the socket at spread 2, and hardly in height, which
# no picture from above shows afterwards.
_GRASP_M = {"x": 0.012, "y": 0.004, "z": 0.001}
_GRASP_RAD = math.radians(5.0)
_VIA_M = 0.02
# Where the two meet would be as much a person's own. But each hand of an imitator must know it to
# a few millimetres, and nothing that it sees tells.
_MEET_M = 0.002

_PHASES = {
    "reach": Phase(80.0),
    "descend": Phase(42.0, overlap=10.0),
    # Hands stand still around the grasp for as long as an imitator may be early or late: it
    # predicts for a tick the middle of all that might be then, joint by joint, and that of a hand
    # on its way down and up again is too high for one joint and too low for another.
    "still": Phase(14.0),
    "grasp": Phase(20.0),
    "hold": Phase(10.0),
    "carry": Phase(66.0, overlap=5.0),
    "settle": Phase(3.0),
    "align": Phase(24.0),
    "approach": Phase(40.0, overlap=16.0),
    "insert": Phase(50.0, overlap=8.0),
}

# A bent elbow, and a wrist that is bent downwards.
_NEAR = {"left": (0.0, -0.3, 0.8, 0.0, 0.6, 0.0), "right": (0.0, -0.3, 0.8, 0.0, 0.6, 0.0)}

_HOLDS = {"right": 0, "left": 1}
"""Which object of the scene each hand holds: the peg, the socket."""


class InsertionExpert(Script):
    """Scripted insertion: the right arm grasps the peg, the left one the socket, and they meet.

    spread: 1 varies the duration of every phase by +-15 %, both grasps by +-12 mm along the
            object, +-4 mm across and +-5 degrees about the vertical, and the points on the way by
            +-2 cm, uniformly and from the episode's seed alone; 0 is the mean trajectory, 2
            deviates twice as far.

    Needs Observation.privileged of the insertion task at three ticks, see `looks`.
    """

    TASK = "insertion"
    REVISION = 3
    _PHASES = _PHASES
    _NEAR = _NEAR
    _TRUTH = "the true poses of peg and socket"

    def __init__(self, spread: float = 1.0) -> None:
        super().__init__(spread)
        self._arm: dict[str, ArmPath] = {}

    @property
    def looks(self) -> tuple[int, int, int]:
        """The first tick, the end of settling, and the begin of the insertion."""
        begin, _, _ = self._schedule()
        return (0, int(begin["align"]), int(begin["insert"]))

    def _draw(self, rng: np.random.Generator) -> dict[str, float]:
        drawn = self._draw_durations(rng)
        for name in ("peg", "socket"):
            for axis, limit in _GRASP_M.items():
                drawn[f"{name}_d{axis}_m"] = self._uniform(rng, limit)
            drawn[f"{name}_yaw_rad"] = self._uniform(rng, _GRASP_RAD)
        for arm in ("left", "right"):
            for via in ("reach", "carry"):
                for axis in "xyz":
                    drawn[f"{arm}_{via}_via_d{axis}_m"] = self._uniform(rng, _VIA_M)
        for axis in "xyz":
            drawn[f"meet_d{axis}_m"] = self._uniform(rng, _MEET_M)
        return drawn

    def _path(self, tick: int, truth: Truth, state: Vector) -> Vector:
        if tick == 0:
            self._set_out(truth, state)
        elif tick == self.looks[1]:
            self._line_up(tick, truth)
        else:
            self._insert(tick, truth)
        return np.concatenate([self._arm["left"].joints, self._arm["right"].joints], axis=1)

    def _set_out(self, truth: Truth, state: Vector) -> None:
        """Both arms: over the object with open fingers, down along them, close, lift, line up."""
        begin, ticks, end = self._schedule()
        for side, name, of_state in (("left", "socket", state[:7]), ("right", "peg", state[7:])):
            arm = ArmPath(side, of_state, math.ceil(end), self._arms())
            self._arm[side] = arm

            # Where the object is grasped, and where it is therefore held once the fingers have
            # turned and centred it: only the offsets along the fingers and upwards stay.
            place = truth.pose(_HOLDS[side])[:3].copy()
            place[2] = _HEIGHT_M[side]
            up = np.array([0.0, 0.0, _GRASP_HEIGHT_M[side] - _HEIGHT_M[side]])
            aside = up + self._offset(name)
            yaw = self.variation[f"{name}_yaw_rad"]
            along = aside[0] * math.cos(yaw) + aside[1] * math.sin(yaw)
            held = np.array([along, 0.0, aside[2]])

            grasp = Pose(place + aside, yaw, _PITCH_RAD)
            above = grasp.before(_STANDOFF_M, FORWARD[side])
            ready = Pose(self._ready(side) + held, 0.0, _PITCH_RAD)

            arm.grip(0.0, 0.7 * ticks["reach"], _OPEN)
            bow = _REACH_BOW + self._offset(f"{side}_reach_via")
            arm.move(begin["reach"], ticks["reach"], above, bow)
            arm.move(begin["descend"], ticks["descend"], grasp)
            arm.grip(begin["grasp"], ticks["grasp"], _CLOSED)
            bow = _CARRY_BOW + self._offset(f"{side}_carry_via")
            arm.move(begin["carry"], ticks["carry"], ready, bow)

    def _line_up(self, tick: int, truth: Truth) -> None:
        """Peg and socket onto one line along the world's x axis, then the peg near the mouth."""
        begin, ticks, _ = self._schedule()
        for side, arm in self._arm.items():
            found = _placement(truth.pose(_HOLDS[side]))
            wanted = _turned(found, np.array([1.0, 0.0, 0.0]), self._ready(side))
            hand = self._brought(side, tick, found, wanted)
            arm.move_straight(begin["align"], ticks["align"], self._arms().placed(side, hand))
            if side == "right":
                hand[0, 3] -= _APART_M - _NEAR_M
                near = self._arms().placed(side, hand)
                arm.move_straight(begin["approach"], ticks["approach"], near)

    def _insert(self, tick: int, truth: Truth) -> None:
        """The peg along the socket's axis as that is now, against the pin."""
        begin, ticks, _ = self._schedule()
        peg = _placement(truth.pose(_HOLDS["right"]))
        socket = _placement(truth.pose(_HOLDS["left"]))
        axis = socket[:3, 0]
        wanted = _turned(peg, axis, socket[:3, 3] + (_INSERTED_M - _PRESS_M) * axis)
        hand = self._brought("right", tick, peg, wanted)
        to = self._arms().placed("right", hand)
        self._arm["right"].move_straight(begin["insert"], ticks["insert"], to)

    def _ready(self, side: str) -> Vector:
        """(3,) centre of the object where it is lined up, m."""
        apart = 0.0 if side == "left" else _DEPTH_M + _APART_M
        x = -FORWARD[side] * _INSERTED_M / 2 + apart
        return _MEET + self._offset("meet") + np.array([x, 0.0, 0.0])

    def _brought(self, side: str, tick: int, found: Placement, wanted: Placement) -> Placement:
        """Of the hand, so that what it holds is brought from where it was found to where it is
        wanted. The hand counts as being where its path says: an error of its servos is corrected
        like one of its grip.
        """
        planned = self._arm[side].joints[tick - 1, :6]
        return wanted @ np.linalg.inv(found) @ self._arms().hand(side, planned)


def _placement(pose: Vector) -> Placement:
    """Of a pose as the simulator has it: x, y, z in m and a unit quaternion w, x, y, z."""
    w, x, y, z = pose[3:]
    placement = np.eye(4)
    placement[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    placement[:3, 3] = pose[:3]
    return placement


def _turned(found: Placement, axis: Vector, position: Vector) -> Placement:
    """Moved to a position (3,) and turned as little as brings its own x axis onto `axis`.

    How it is turned about that axis stays: the peg fits into the socket at any such angle.
    """
    own = found[:3, 0]
    cross = np.cross(own, axis)
    skew = np.cross(np.eye(3), cross)  # skew @ v is cross x v
    turn = np.eye(3) + skew + skew @ skew / (1.0 + own @ axis)
    wanted = np.eye(4)
    wanted[:3, :3] = turn @ found[:3, :3]
    wanted[:3, 3] = position
    return wanted
