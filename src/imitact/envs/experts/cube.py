"""Cube expert: scripted cube transfer with variations like those between human demonstrations.

It plans once, at the first tick, from the cube's true pose: waypoints of the point between the
fingertips, joint angles for them, and overlapping movements between them. There is no correction
afterwards, so that the actions are a function of what a policy can see.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from imitact.envs.aloha import AlohaTruth
from imitact.envs.experts.kinematics import HandPose, Vector
from imitact.envs.experts.scripted import Phase, ScriptedExpert
from imitact.envs.experts.trajectories import ArmTrajectory

# The finger gap is 69 mm at 1, the cube's edge is 40 mm: the fingers touch it at 0.6.
_OPEN, _CLOSED = 1.0, 0.0

_CUBE_HEIGHT_M = 0.02  # of its center on the table; gym-aloha drops it from 5 cm

# Point of the hand-over: above the middle of the table, which both arms reach with bent elbows.
_HANDOVER = np.array([0.0, 0.5, 0.2])
# The right hand approaches from above: steep enough that its wrist never aligns with the forearm
# (a singularity of forearm roll and wrist rotation), and that with an imitation error of 1 cm the
# cube is still between the fingers.
_GRASP_PITCH_RAD = math.radians(80.0)
# Center of each grasp relative to the cube's center. Each hand holds its own side of the cube, so
# that the fingers do not collide (the finger hulls are 1 cm wide at the tip and 6 cm at the root).
# The right one is higher, so that the fingertips clear the table at -8 mm; the left one is lower,
# because fingers that close vertically sag.
_GRASP = np.array([0.007, 0.0, 0.003])
_TAKE = np.array([-0.011, 0.0, -0.002])
# The left hand points slightly upward, away from below the right one.
_TAKE_PITCH_RAD = math.radians(-4.0)
# Distance from the cube at which each hand starts its straight approach with open fingers.
_RIGHT_STANDOFF_M = 0.09
_LEFT_STANDOFF_M = 0.07
# Where the left hand waits during the grasp of the right one, relative to the hand-over.
_WAIT = np.array([-0.13, 0.0, 0.0])
# The path of the right hand bows upward, over obstacles.
_REACH_BOW = np.array([0.0, 0.0, 0.02])
_CARRY_BOW = np.array([0.0, 0.0, 0.03])
# Where the right hand goes after the release, relative to the hand-over.
_RETREAT = np.array([0.13, 0.0, 0.07])

# Largest deviations at spread 1; those of durations are in ScriptedExpert.
_GRASP_M = 0.008
# About the vertical axis. People also vary the pitch of a hand, but no image from above shows it,
# and the average of several pitches, joint by joint, misplaces the fingertips by a centimeter
# along the arm: the wrist is 20 cm away.
_GRASP_RAD = math.radians(10.0)
_VIA_M = 0.02

# Their sum is 280 ticks, so that the slowest episode (15 % more) ends before tick 330 of 400.
# Overlaps keep the hands moving: a policy without memory cannot know how much of a pause is left.
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

# With a bent elbow, and the wrist bent to the side on which the arm works.
_INITIAL_JOINTS = {
    "left": (0.0, -0.5, 1.1, 0.0, -0.6, math.pi / 2),
    "right": (0.0, -0.3, 0.8, 0.0, 0.6, 0.0),
}


class CubeExpert(ScriptedExpert):
    """Grasps the cube with the right arm, hands it over to the left arm, releases it and retreats.

    Needs `Observation.privileged` of the cube task at the first tick of an episode.

    Args:
        spread: 1 varies the duration of every phase by +-15 %, both grasps by +-8 mm and +-10
            degrees about the vertical axis, and waypoints by +-2 cm, all uniformly; 0 is the mean
            trajectory, 2 varies twice as much.
        styles: with 2, the cube is handed over 6 cm to the left or to the right of the middle.
    """

    TASK = "cube"
    REVISION = 4
    _PHASES = _PHASES
    _INITIAL_JOINTS = _INITIAL_JOINTS
    _NEEDS = "the true pose of the cube"
    _SIDE_M = 0.06

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

    def _trajectory(self, tick: int, truth: AlohaTruth, state: Vector) -> Vector:
        start, ticks, end = self._schedule()
        length = math.ceil(end)
        left = ArmTrajectory("left", state[:7], length, self._arms)
        right = ArmTrajectory("right", state[7:], length, self._arms)

        cube = truth.pose()[:3].copy()
        cube[2] = _CUBE_HEIGHT_M
        grasp, held = self._grasp(cube, "grasp", _GRASP, _GRASP_PITCH_RAD)
        handover = _HANDOVER + self._side + self._offset("meet_via")
        above = grasp.before(_RIGHT_STANDOFF_M, forward=-1.0)
        give = replace(grasp, position=handover + held, yaw=0.0)
        away = replace(give, position=give.position + _RETREAT + self._offset("retreat_via"))
        yaw = self.variation["take_yaw_rad"]
        take = HandPose(handover + _TAKE + self._offset("take"), yaw, _TAKE_PITCH_RAD, math.pi / 2)
        ready = take.before(_LEFT_STANDOFF_M, forward=1.0)
        wait = HandPose(_HANDOVER + _WAIT + self._offset("wait_via"), roll=math.pi / 2)

        # Right arm: above the cube with open fingers, straight down, grasp, and carry.
        right.grip(0.0, 0.7 * ticks["reach"], _OPEN)
        bow = _REACH_BOW + self._offset("reach_via")
        right.move(start["reach"], ticks["reach"], above, bow)
        right.move(start["descend"], ticks["descend"], grasp)
        right.grip(start["grasp"], ticks["grasp"], _CLOSED)
        bow = _CARRY_BOW + self._offset("carry_via")
        right.move(start["carry"], ticks["carry"], give, bow)
        right.grip(start["release"], ticks["release"], _OPEN)
        right.move(start["retreat"], ticks["retreat"], away)

        # Left arm: to its waiting pose, rolled so that its fingers close from above and below while
        # the right ones hold the sides; into line while the cube is carried; then straight in.
        waiting = start["descend"] + ticks["descend"]
        left.grip(0.0, waiting, _OPEN)
        left.move(0.0, waiting, wait)
        aligned = start["approach"] + _PHASES["approach"].overlap
        left.move(aligned - ticks["carry"], ticks["carry"], ready)
        left.move(start["approach"], ticks["approach"], take)
        left.grip(start["take"], ticks["take"], _CLOSED)

        return np.concatenate([left.joints, right.joints], axis=1)
