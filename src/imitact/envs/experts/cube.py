"""A scripted demonstrator of the cube transfer, whose episodes differ as people's do.

The plan is made once, at the first tick, from the cube's true pose: waypoints of the point
between the fingertips, joint angles for them, and between them a sum of overlapping movements.
Nothing is corrected afterwards: what a policy is to imitate is a function of what it can see.
"""

from __future__ import annotations

import math

import numpy as np

from imitact.envs.aloha import Truth
from imitact.envs.experts.kinematics import Pose, Vector
from imitact.envs.experts.scripted import Phase, Script
from imitact.envs.experts.trajectories import ArmPath

# The finger gap is 69 mm at 1, the cube's edge is 40 mm: the fingers touch it at 0.6.
_OPEN, _CLOSED = 1.0, 0.0

_CUBE_HEIGHT_M = 0.02  # of its centre on the table; gym-aloha drops it from 5 cm

# The hand-over: above the middle of the table, where both arms reach with bent elbows.
_MEET = np.array([0.0, 0.5, 0.2])
# The right hand comes from above, steep enough that its wrist never lines up with the forearm
# (where forearm roll and wrist rotation would trade places) and that an imitator's error of a
# centimetre still ends with the cube between the fingers.
_GRASP_PITCH_RAD = math.radians(80.0)
# Each hand holds its own side of the cube, so that the left fingers stay out of the right ones'
# way (the finger hulls are 1 cm wide at the tip and 6 cm at the root): the middle of each grasp,
# from the cube's centre. Up, so that the right fingertips clear the table at -8 mm; down, because
# the fingers that lie one over the other sag.
_GRASP = np.array([0.007, 0.0, 0.003])
_TAKE = np.array([-0.011, 0.0, -0.002])
# The left hand points a little upward, away from under the right one.
_TAKE_PITCH_RAD = math.radians(-4.0)
# How far before the cube each hand stands, fingers open and in line, before it goes straight in.
_RIGHT_STANDOFF_M = 0.09
_LEFT_STANDOFF_M = 0.07
# Where the left hand waits while the right one is busy, from the hand-over.
_WAIT = np.array([-0.13, 0.0, 0.0])
# The right hand's way bows upward, over what lies between.
_REACH_BOW = np.array([0.0, 0.0, 0.02])
_CARRY_BOW = np.array([0.0, 0.0, 0.03])
# Where the right hand goes after it has let go, from the hand-over.
_RETREAT = np.array([0.13, 0.0, 0.07])

# Deviations at spread 1, either way; of durations see Script.
_GRASP_M = 0.008
# About the vertical. A hand's pitch would be as much a person's own, but nothing in the picture
# tells it, and what an imitator makes of several pitches, joint by joint, is a fingertip that is
# off by a centimetre along its arm: the wrist is 20 cm away.
_GRASP_RAD = math.radians(10.0)
_VIA_M = 0.02

# One after another these take 280 ticks, so that the slowest episode (15 % more) ends before
# tick 330 of 400. Overlaps keep the hands moving: a policy without memory that finds itself in a
# standstill cannot tell how much of it is left.
_PHASES = {
    "reach": Phase(80.0),
    "descend": Phase(42.0, overlap=10.0),
    "grasp": Phase(20.0, overlap=6.0),
    "carry": Phase(66.0, overlap=5.0),
    "approach": Phase(40.0, overlap=12.0),
    "take": Phase(20.0, overlap=6.0),
    "release": Phase(18.0, overlap=3.0),
    "retreat": Phase(42.0, overlap=8.0),
}

# A bent elbow, and the wrist on the side of straight on which the arm works.
_NEAR = {
    "left": (0.0, -0.5, 1.1, 0.0, -0.6, math.pi / 2),
    "right": (0.0, -0.3, 0.8, 0.0, 0.6, 0.0),
}


class CubeExpert(Script):
    """Scripted cube transfer: grasp with the right arm, hand over to the left, let go, stand back.

    spread: 1 varies the duration of every phase by +-15 %, both grasps by +-8 mm and +-10
            degrees about the vertical and the points on the way by +-2 cm, uniformly and from the
            episode's seed alone; 0 is the mean trajectory, 2 deviates twice as far.

    Needs Observation.privileged of the cube task at the first chunk() of an episode and nothing
    afterwards.
    """

    TASK = "cube"
    REVISION = 4
    _PHASES = _PHASES
    _NEAR = _NEAR
    _TRUTH = "the true pose of the cube"

    def _draw(self, rng: np.random.Generator) -> dict[str, float]:
        drawn = self._draw_durations(rng)
        for grasp in ("grasp", "take"):
            for axis in "xyz":
                drawn[f"{grasp}_d{axis}_m"] = self._uniform(rng, _GRASP_M)
            drawn[f"{grasp}_yaw_rad"] = self._uniform(rng, _GRASP_RAD)
        for via in ("reach", "carry", "meet", "wait", "retreat"):
            for axis in "xyz":
                drawn[f"{via}_via_d{axis}_m"] = self._uniform(rng, _VIA_M)
        return drawn

    def _path(self, tick: int, truth: Truth, state: Vector) -> Vector:
        kinematics, v = self._arms(), self.variation
        begin, ticks, end = self._schedule()
        length = math.ceil(end)
        left = ArmPath("left", state[:7], length, kinematics)
        right = ArmPath("right", state[7:], length, kinematics)

        # Where the cube is grasped, and where it is therefore held once the fingers have turned
        # and centred it: only the offsets along the fingers and upwards stay.
        cube = truth.pose()[:3].copy()
        cube[2] = _CUBE_HEIGHT_M
        aside = _GRASP + self._offset("grasp")
        yaw, pitch = v["grasp_yaw_rad"], _GRASP_PITCH_RAD
        forward = aside[0] * math.cos(yaw) + aside[1] * math.sin(yaw)
        held = np.array([forward, 0.0, aside[2]])
        meet = _MEET + self._offset("meet_via")

        grasp = Pose(cube + aside, yaw, pitch)
        above = grasp.before(_RIGHT_STANDOFF_M, forward=-1.0)
        give = Pose(meet + held, 0.0, pitch)
        away = Pose(give.position + _RETREAT + self._offset("retreat_via"), 0.0, pitch)
        yaw, pitch = v["take_yaw_rad"], _TAKE_PITCH_RAD
        take = Pose(meet + _TAKE + self._offset("take"), yaw, pitch, math.pi / 2)
        ready = take.before(_LEFT_STANDOFF_M, forward=1.0)
        wait = Pose(_MEET + _WAIT + self._offset("wait_via"), roll=math.pi / 2)

        # Right arm: over the cube with open fingers, straight down along them, close, and carry.
        right.grip(0.0, 0.7 * ticks["reach"], _OPEN)
        bow = _REACH_BOW + self._offset("reach_via")
        right.move(begin["reach"], ticks["reach"], above, bow)
        right.move(begin["descend"], ticks["descend"], grasp)
        right.grip(begin["grasp"], ticks["grasp"], _CLOSED)
        bow = _CARRY_BOW + self._offset("carry_via")
        right.move(begin["carry"], ticks["carry"], give, bow)
        right.grip(begin["release"], ticks["release"], _OPEN)
        right.move(begin["retreat"], ticks["retreat"], away)

        # Left arm: to its waiting place while the right one is busy, rolled so that its fingers
        # close from above and below where the right ones hold the sides; into line while the cube
        # comes; then straight in.
        waiting = begin["descend"] + ticks["descend"]
        left.grip(0.0, waiting, _OPEN)
        left.move(0.0, waiting, wait)
        aligned = begin["approach"] + _PHASES["approach"].overlap
        left.move(aligned - ticks["carry"], ticks["carry"], ready)
        left.move(begin["approach"], ticks["approach"], take)
        left.grip(begin["take"], ticks["take"], _CLOSED)

        return np.concatenate([left.joints, right.joints], axis=1)
