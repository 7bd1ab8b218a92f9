"""Insertion expert: scripted insertion of a peg into a socket, corrected by measured poses.

It plans three times. At the first tick, from the poses of peg and socket on the table: grasp, lift
and align them. When the arms have settled, from the poses in the hands, where the objects slip and
turn: both hands move until peg and socket are collinear. In front of the socket, once more:
straight in along the socket's axis.

A policy sees the scene from above, without height. Therefore the grasps and the approach hardly
vary in height, corrections are small, and the hands pause before and after the grasp.
"""

from __future__ import annotations

import math

import numpy as np

from imitact.envs.aloha import AlohaTruth
from imitact.envs.experts.kinematics import FORWARD, HandPose, Transform, Vector
from imitact.envs.experts.scripted import Phase, ScriptedExpert
from imitact.envs.experts.trajectories import ArmTrajectory

# The finger gap is 69 mm at 1; the socket is 44 mm wide, the peg 20 mm.
_OPEN, _CLOSED = 1.0, 0.0

# Heights of the centers of peg and socket on the table; gym-aloha drops them from 5 cm.
_HEIGHT_M = {"right": 0.010, "left": 0.022}
# Height above the table at which each hand grasps. An image from above does not show the height of
# a grasp, so a few millimeters must not matter: the left fingertips touch the table, the peg slides
# to the same place between the right fingers for heights from 10 to 16 mm, and neither object is
# turned by its weight.
_GRASP_HEIGHT_M = {"right": 0.015, "left": 0.008}

# Distance between the centers of socket and peg when the peg's end touches the pin: both are 12 cm
# long, and the pin ends 4 cm from the center. The mouth of the socket is 36 mm wide, so that the
# peg may be 8 mm off its axis.
_INSERTED_M = 0.06 + 0.04
_DEPTH_M = 0.06 - 0.04  # from the mouth to the pin

# Point where peg and socket meet, between the hands and above the middle of the table.
_MEET = np.array([0.0, 0.5, 0.15])
# Steep, so that the wrist never aligns with the forearm; the hands lean away from each other.
_PITCH_RAD = math.radians(85.0)
# Distance from the object at which each hand starts its straight approach with open fingers.
_STANDOFF_M = 0.08
# Distances between the tip of the peg and the mouth of the socket: at the alignment, and at the
# last measurement.
_ALIGN_GAP_M = 0.03
_INSERT_GAP_M = 0.008
# Target depth beyond the contact with the pin, where the peg is pressed until the end: a policy
# estimates the depth from an image to about a centimeter, and a peg that ends a few millimeters
# before the pin has failed.
_PRESS_M = 0.016

_REACH_BOW = np.array([0.0, 0.0, 0.02])
_CARRY_BOW = np.array([0.0, 0.0, 0.02])

# Largest deviations at spread 1; those of durations are in ScriptedExpert. Along the object (x) as
# much as a policy's error, so that it has seen such grasps continue; across (y) only as far as the
# open fingers clear the socket at spread 2; hardly in height (z), which images from above do not
# show.
_GRASP_M = {"x": 0.012, "y": 0.004, "z": 0.001}
_GRASP_RAD = math.radians(5.0)
_VIA_M = 0.02
# People vary the meeting point more, but each hand of a policy must know it to a few millimeters,
# and no image shows it.
_MEET_M = 0.002

_PHASES = {
    "reach": Phase(80.0),
    "descend": Phase(42.0, overlap=10.0),
    # The hands pause before and after the grasp for as long as a policy may be early or late: it
    # predicts an average over possible ticks, joint by joint, and the average of a hand that moves
    # down and up again is no pose on its path.
    "still": Phase(14.0),
    "grasp": Phase(20.0),
    "hold": Phase(10.0),
    "carry": Phase(66.0, overlap=5.0),
    "settle": Phase(3.0),
    "align": Phase(24.0),
    "approach": Phase(40.0, overlap=16.0),
    "insert": Phase(50.0, overlap=8.0),
}

# With a bent elbow, and the wrist bent downward.
_INITIAL_JOINTS = {
    "left": (0.0, -0.3, 0.8, 0.0, 0.6, 0.0),
    "right": (0.0, -0.3, 0.8, 0.0, 0.6, 0.0),
}

_HOLDS = {"right": 0, "left": 1}
"""Index of the object that each hand holds: the peg, the socket."""


class InsertionExpert(ScriptedExpert):
    """Grasps the peg with the right arm and the socket with the left arm, and inserts the peg.

    Needs `Observation.privileged` of the insertion task at three ticks (`planning_ticks`).

    Args:
        spread: 1 varies the duration of every phase by +-15 %, both grasps by +-12 mm along the
            object, +-4 mm across it and +-5 degrees about the vertical axis, and waypoints by
            +-2 cm, all uniformly; 0 is the mean trajectory, 2 varies twice as much.
        styles: with 2, peg and socket meet 5 cm to the left or to the right of the middle.
    """

    TASK = "insertion"
    REVISION = 3
    _PHASES = _PHASES
    _INITIAL_JOINTS = _INITIAL_JOINTS
    _NEEDS = "the true poses of peg and socket"
    _SIDE_M = 0.05

    def __init__(self, spread: float = 1.0, styles: int = 1) -> None:
        super().__init__(spread, styles)
        self._arm_trajectories: dict[str, ArmTrajectory] = {}

    @property
    def planning_ticks(self) -> tuple[int, int, int]:
        """The first tick, the start of the alignment, and the start of the insertion."""
        start, _, _ = self._schedule()
        return (0, int(start["align"]), int(start["insert"]))

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

    def _trajectory(self, tick: int, truth: AlohaTruth, state: Vector) -> Vector:
        if tick == 0:
            self._plan_grasps(truth, state)
        elif tick == self.planning_ticks[1]:
            self._plan_alignment(tick, truth)
        else:
            self._plan_insertion(tick, truth)
        arms = self._arm_trajectories
        return np.concatenate([arms["left"].joints, arms["right"].joints], axis=1)

    def _plan_grasps(self, truth: AlohaTruth, state: Vector) -> None:
        """Both arms: above the object with open fingers, down, grasp, lift, and align."""
        start, ticks, end = self._schedule()
        for side, name, of_state in (("left", "socket", state[:7]), ("right", "peg", state[7:])):
            arm = ArmTrajectory(side, of_state, math.ceil(end), self._arms)
            self._arm_trajectories[side] = arm

            place = truth.pose(_HOLDS[side])[:3].copy()
            place[2] = _HEIGHT_M[side]
            up = np.array([0.0, 0.0, _GRASP_HEIGHT_M[side] - _HEIGHT_M[side]])
            grasp, held = self._grasp(place, name, up, _PITCH_RAD)
            above = grasp.before(_STANDOFF_M, FORWARD[side])
            ready = HandPose(self._ready(side) + held, 0.0, _PITCH_RAD)

            arm.grip(0.0, 0.7 * ticks["reach"], _OPEN)
            bow = _REACH_BOW + self._offset(f"{side}_reach_via")
            arm.move(start["reach"], ticks["reach"], above, bow)
            arm.move(start["descend"], ticks["descend"], grasp)
            arm.grip(start["grasp"], ticks["grasp"], _CLOSED)
            bow = _CARRY_BOW + self._offset(f"{side}_carry_via")
            arm.move(start["carry"], ticks["carry"], ready, bow)

    def _plan_alignment(self, tick: int, truth: AlohaTruth) -> None:
        """Align peg and socket along the x axis, then move the peg close to the mouth."""
        start, ticks, _ = self._schedule()
        for side, arm in self._arm_trajectories.items():
            found = _transform(truth.pose(_HOLDS[side]))
            wanted = _aligned(found, np.array([1.0, 0.0, 0.0]), self._ready(side))
            hand = self._hand_for(side, tick, found, wanted)
            to = self._arms.joints_of_transform(side, hand)
            arm.move_straight(start["align"], ticks["align"], to)
            if side == "right":
                hand[0, 3] -= _ALIGN_GAP_M - _INSERT_GAP_M
                near = self._arms.joints_of_transform(side, hand)
                arm.move_straight(start["approach"], ticks["approach"], near)

    def _plan_insertion(self, tick: int, truth: AlohaTruth) -> None:
        """Move the peg along the current axis of the socket, against the pin."""
        start, ticks, _ = self._schedule()
        peg = _transform(truth.pose(_HOLDS["right"]))
        socket = _transform(truth.pose(_HOLDS["left"]))
        axis = socket[:3, 0]
        wanted = _aligned(peg, axis, socket[:3, 3] + (_INSERTED_M - _PRESS_M) * axis)
        hand = self._hand_for("right", tick, peg, wanted)
        to = self._arms.joints_of_transform("right", hand)
        self._arm_trajectories["right"].move_straight(start["insert"], ticks["insert"], to)

    def _ready(self, side: str) -> Vector:
        """Return the center of the object at the alignment, (3,), m."""
        gap = 0.0 if side == "left" else _DEPTH_M + _ALIGN_GAP_M
        x = -FORWARD[side] * _INSERTED_M / 2 + gap
        return _MEET + self._side + self._offset("meet") + np.array([x, 0.0, 0.0])

    def _hand_for(self, side: str, tick: int, found: Transform, wanted: Transform) -> Transform:
        """Return the hand's transform that moves its object from `found` to `wanted`.

        The hand is taken to be where its trajectory is: this corrects errors of the servos as well
        as of the grip.
        """
        planned = self._arm_trajectories[side].joints[tick - 1, :6]
        return wanted @ np.linalg.inv(found) @ self._arms.hand(side, planned)


def _transform(pose: Vector) -> Transform:
    """Return the transform of a pose: x, y, z in m and a unit quaternion w, x, y, z."""
    w, x, y, z = pose[3:]
    transform = np.eye(4)
    transform[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    transform[:3, 3] = pose[:3]
    return transform


def _aligned(found: Transform, axis: Vector, position: Vector) -> Transform:
    """Move a transform to a position (3,) with the smallest rotation of its x axis onto `axis`.

    The rotation about that axis is kept: the peg fits into the socket at any angle.
    """
    own = found[:3, 0]
    cross = np.cross(own, axis)
    skew = np.cross(np.eye(3), cross)  # skew @ v is cross x v
    turn = np.eye(3) + skew + skew @ skew / (1.0 + own @ axis)
    wanted = np.eye(4)
    wanted[:3, :3] = turn @ found[:3, :3]
    wanted[:3, 3] = position
    return wanted
