"""A scripted demonstrator of the cube transfer, whose episodes differ as people's do.

The plan is made once, at the first tick, from the cube's true pose: waypoints of the point
between the fingertips, joint angles for them from mink's inverse kinematics, and between them a
sum of overlapping minimum-jerk movements (the way human reaches compose: Flash and Henis 1991,
doi:10.1162/jocn.1991.3.3.220). Nothing is corrected afterwards: what a policy is to imitate is a
function of what it can see.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.contract import BadInput, FloatArray, Observation, Policy, Spec
from imitact.sim.aloha import JOINTS, RATE_HZ, UNITS, Truth, assets, load_mujoco

REVISION = 4
"""Of the demonstrators in this file. Raise it with every change after which one of them acts
differently at some seed: a dataset stores it, so that none mixes the demonstrations of two."""

Vector = NDArray[np.float64]

SPEED_LIMIT = math.pi
"""rad/s, of every arm joint of the vx300s (Interbotix' specification)."""

# Where the gripper link's x axis passes between the fingertips, in m from the link. The finger
# meshes end at 0.1537: 1 cm of them reaches past the middle of what is held.
_TIP_M = 0.1437

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

# Deviations at spread 1, either way.
_DURATION_RATIO = 0.15
_GRASP_M = 0.008
# About the vertical. A hand's pitch would be as much a person's own, but nothing in the picture
# tells it, and what an imitator makes of several pitches, joint by joint, is a fingertip that is
# off by a centimetre along its arm: the wrist is 20 cm away.
_GRASP_RAD = math.radians(10.0)
_VIA_M = 0.02
# Haste is a person's: this share of a duration's variance is common to all phases of an episode.
_HASTE = 0.75


# How far a joint trails behind its target: this many seconds of its speed, at most so many rad
# (joint friction, which MuJoCo softens to a drag until it saturates). Measured in the scene over
# 30 episodes; the gripper, which only opens and closes, is left as it is.
_TRAIL_S = np.array([0.142, 0.082, 0.023, 0.010, 0.029, -0.002, 0.0] * 2)
_TRAIL_RAD = np.array([0.054, 0.030, 0.075, 1.0, 1.0, 1.0, 1.0] * 2)

# No target moves faster, in rad/s, so that the joint that follows it stays within SPEED_LIMIT.
_TARGET_SPEED = 0.9 * SPEED_LIMIT


@dataclass(frozen=True)
class _Phase:
    """ticks: its mean duration. overlap: how many ticks it begins before the last one ends."""

    ticks: float
    overlap: float = 0.0


# One after another these take 280 ticks, so that the slowest episode (15 % more) ends before
# tick 330 of 400. Overlaps keep the hands moving: a policy without memory that finds itself in a
# standstill cannot tell how much of it is left.
_PHASES = {
    "reach": _Phase(80.0),
    "descend": _Phase(42.0, overlap=10.0),
    "grasp": _Phase(20.0, overlap=6.0),
    "carry": _Phase(66.0, overlap=5.0),
    "approach": _Phase(40.0, overlap=12.0),
    "take": _Phase(20.0, overlap=6.0),
    "release": _Phase(18.0, overlap=3.0),
    "retreat": _Phase(42.0, overlap=8.0),
}


@dataclass(frozen=True)
class _Pose:
    """Of one hand. position: (3,) of the point between the fingertips, m, world frame.

    yaw turns it about the vertical, away from its arm's forward direction; a positive pitch
    points the fingers down; roll turns it about its fingers. All in rad.
    """

    position: Vector
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0

    def before(self, distance_m: float, forward: float) -> _Pose:
        """The same pose, moved back along the fingers; forward is the arm's x direction, +-1."""
        flat = math.cos(self.pitch)
        along = np.array(
            [
                forward * math.cos(self.yaw) * flat,
                forward * math.sin(self.yaw) * flat,
                -math.sin(self.pitch),
            ]
        )
        return _Pose(self.position - distance_m * along, self.yaw, self.pitch, self.roll)


# A bent elbow, and the wrist on the side of straight on which the arm works: inverse kinematics
# starts here, so that nearby poses never get distant angles. rad, waist to wrist rotation.
_NEAR = {
    "left": (0.0, -0.5, 1.1, 0.0, -0.6, math.pi / 2),
    "right": (0.0, -0.3, 0.8, 0.0, 0.6, 0.0),
}
_QPOS = {"left": slice(0, 6), "right": slice(8, 14)}  # of the arm's joints in the scene
_HEADING = {"left": 0.0, "right": math.pi}  # of the arm's base in the world, rad


class _Kinematics:
    """Joint angles of an arm from the pose of its hand: mink in the joint-space scene."""

    _ITERATIONS = 50  # 2 to 6 are enough where a pose can be reached
    _ERROR = 1e-6  # m and rad

    def __init__(self) -> None:
        mj = load_mujoco()
        import mink

        self._mj = mj
        self._mink = mink
        scene = mj.MjSpec.from_file(str(assets() / "bimanual_viperx_transfer_cube.xml"))
        for key in list(scene.keys):
            scene.delete(key)
        scene.delete(scene.body("box"))
        for side in _NEAR:
            link = scene.body(f"vx300s_{side}/gripper_link")
            link.add_site(name=f"{side}_tip", pos=[_TIP_M, 0.0, 0.0])
        self._model: Any = scene.compile()
        self._limits = [mink.ConfigurationLimit(self._model)]

    def tip(self, side: str, qpos: Vector) -> Vector:
        """(3,) the point between the fingertips, in m, where the arms are at qpos (16,)."""
        configuration = self._mink.Configuration(self._model, qpos)
        return configuration.get_transform_frame_to_world(f"{side}_tip", "site").translation()

    def joints(self, side: str, pose: _Pose) -> Vector:
        """(6,) joint angles in rad; of the nearest pose where this one cannot be reached."""
        mink = self._mink
        rotation = (
            mink.SO3.from_z_radians(_HEADING[side] + pose.yaw)
            @ mink.SO3.from_y_radians(pose.pitch)
            @ mink.SO3.from_x_radians(pose.roll)
        )
        target = mink.SE3.from_rotation_and_translation(rotation, pose.position)
        return self._solve(side, target, self.qpos(_NEAR), orientation_cost=0.3)

    def shifted(self, side: str, joints: Vector, offset_m: Vector) -> Vector:
        """(6,) the nearest joint angles that hold the hand elsewhere, however it is then turned."""
        qpos = self.qpos({**_NEAR, side: joints})
        target = self._mink.SE3.from_translation(self.tip(side, qpos) + offset_m)
        return self._solve(side, target, qpos, orientation_cost=0.0)

    def _solve(self, side: str, target: Any, qpos: Vector, orientation_cost: float) -> Vector:
        mink = self._mink
        task = mink.FrameTask(f"{side}_tip", "site", 1.0, orientation_cost)
        task.set_target(target)
        configuration = mink.Configuration(self._model, qpos)
        for _ in range(self._ITERATIONS):
            velocity = mink.solve_ik(
                configuration, [task], 1.0, solver="daqp", damping=1e-6, limits=self._limits
            )
            configuration.integrate_inplace(velocity, 1.0)
            error = np.abs(task.compute_error(configuration))
            if error[: 6 if orientation_cost else 3].max() < self._ERROR:
                break
        return configuration.q[_QPOS[side]].copy()

    def commands(self, path: Vector) -> Vector:
        """(T, 14) targets that make the arms follow a (T, 14) path of joints and grippers.

        The position servos give way to gravity and trail behind a moving target, the waist by
        0.14 s, the wrist by nothing: uncorrected, that bends a straight approach by a centimetre.
        """
        targets = path.copy()
        speed = np.gradient(path, axis=0) * RATE_HZ
        trail = np.clip(speed * _TRAIL_S, -_TRAIL_RAD, _TRAIL_RAD)
        data = self._mj.MjData(self._model)
        gain = self._model.actuator_gainprm[:, 0]
        for tick, joints in enumerate(path):
            data.qpos[:] = self.qpos({"left": joints[0:6], "right": joints[7:13]})
            self._mj.mj_forward(self._model, data)
            sag = data.qfrc_bias / gain
            targets[tick, 0:6] += sag[0:6] + trail[tick, 0:6]
            targets[tick, 7:13] += sag[8:14] + trail[tick, 7:13]
        # Never at work at spread 1: a short movement near a straight wrist can ask for more.
        arms = np.r_[0:6, 7:13]
        stride = _TARGET_SPEED / RATE_HZ
        for before, after in itertools.pairwise(targets):
            after[arms] = np.clip(after[arms], before[arms] - stride, before[arms] + stride)
        return targets

    def qpos(self, arms: Mapping[str, Sequence[float] | Vector]) -> Vector:
        """(16,) the scene's coordinates with the arms' joints at these angles."""
        qpos = np.zeros(16)
        qpos[[6, 14]], qpos[[7, 15]] = 0.04, -0.04  # the fingers, anywhere within their range
        for side, joints in arms.items():
            qpos[_QPOS[side]] = joints
        return qpos


def minimum_jerk(s: FloatArray) -> Vector:
    """0 to 1 with neither speed nor acceleration at the ends (Flash and Hogan 1985)."""
    s = np.clip(np.asarray(s, np.float64), 0.0, 1.0)
    return s**3 * (10.0 - 15.0 * s + 6.0 * s**2)


class _Path:
    """Joints and gripper (T, 7) of one arm: its start plus a sum of minimum-jerk movements."""

    def __init__(self, side: str, start: Vector, ticks: int, kinematics: _Kinematics) -> None:
        self.joints = np.tile(start, (ticks, 1))
        self._side = side
        self._goal = start.copy()
        self._kinematics = kinematics

    def move(self, begin: float, ticks: float, pose: _Pose, bow_m: Vector | None = None) -> None:
        """Add a movement to a pose, bowed by `bow_m` half way.

        One that begins before the last has ended blends into it.
        """
        s = self._progress(begin, ticks)
        to = self._kinematics.joints(self._side, pose)
        self.joints[:, :6] += np.outer(s, to - self._goal[:6])
        if bow_m is not None:
            middle = 0.5 * (to + self._goal[:6])
            bow = self._kinematics.shifted(self._side, middle, bow_m) - middle
            self.joints[:, :6] += np.outer(4.0 * s * (1.0 - s), bow)
        self._goal[:6] = to

    def grip(self, begin: float, ticks: float, to: float) -> None:
        """Add a movement of the gripper to an opening between 0 and 1."""
        self.joints[:, 6] += self._progress(begin, ticks) * (to - self._goal[6])
        self._goal[6] = to

    def _progress(self, begin: float, ticks: float) -> Vector:
        return minimum_jerk((np.arange(len(self.joints)) + 1.0 - begin) / ticks)


class CubeExpert:
    """Scripted cube transfer: grasp with the right arm, hand over to the left, let go, stand back.

    spread: 1 varies the duration of every phase by +-15 %, both grasps by +-8 mm and +-10
            degrees about the vertical and the points on the way by +-2 cm, uniformly and from the
            episode's seed alone; 0 is the mean trajectory, 2 deviates twice as far.

    Needs Observation.privileged of the cube task at the first chunk() of an episode and nothing
    afterwards. K = 1: each chunk() is the next tick; reset(seed) begins an episode. `variation`
    holds the deviations of the episode by name, with the unit in the name.
    """

    def __init__(self, spread: float = 1.0) -> None:
        if not (math.isfinite(spread) and 0.0 <= spread <= 2.0):
            raise BadInput(f"spread is {spread}; expected 0 (no variation) to 2 (twice the usual)")
        self.spread = spread
        self.variation: dict[str, float] = {}
        self._spec = Spec(JOINTS, JOINTS, UNITS, UNITS, (), RATE_HZ)
        self._kinematics: _Kinematics | None = None
        self._plan: Vector | None = None  # of targets, (T, 14)
        self._tick = 0

    @property
    def spec(self) -> Spec:
        """14 joints in, 14 joint targets out, no camera."""
        return self._spec

    def reset(self, seed: int) -> None:
        """Draw the episode's deviations from `seed`."""
        self.variation = self._draw(np.random.default_rng(seed))
        self._plan = None
        self._tick = 0

    def chunk(self, observation: Observation) -> FloatArray:
        """(1, 14) joint targets of the next tick; after the plan's end, its last ones."""
        if self._plan is None:
            if not self.variation:
                raise BadInput("chunk() before reset(); call reset(seed) first")
            truth = observation.privileged
            if not isinstance(truth, Truth) or truth.task != "cube":
                raise BadInput(
                    "the cube expert plans from the true pose of the cube, but the observation's "
                    f"privileged is {truth!r}; run it on AlohaEnv('cube')"
                )
            self._spec.check_state(observation.state)
            self._plan = self._arms().commands(self._make_path(truth, observation.state))
        action = self._plan[min(self._tick, len(self._plan) - 1)]
        self._tick += 1
        return action[None].copy()

    def _draw(self, rng: np.random.Generator) -> dict[str, float]:
        def uniform(limit: float) -> float:
            return self.spread * float(rng.uniform(-limit, limit))

        drawn: dict[str, float] = {}
        # A Gaussian copula: each duration is uniform, and all lean the same way.
        haste = rng.normal()
        for phase in _PHASES:
            z = math.sqrt(_HASTE) * haste + math.sqrt(1.0 - _HASTE) * rng.normal()
            rank = math.erf(z / math.sqrt(2.0))  # uniform in -1 to 1
            drawn[f"{phase}_duration_ratio"] = self.spread * _DURATION_RATIO * rank
        for grasp in ("grasp", "take"):
            for axis in "xyz":
                drawn[f"{grasp}_d{axis}_m"] = uniform(_GRASP_M)
            drawn[f"{grasp}_yaw_rad"] = uniform(_GRASP_RAD)
        for via in ("reach", "carry", "meet", "wait", "retreat"):
            for axis in "xyz":
                drawn[f"{via}_via_d{axis}_m"] = uniform(_VIA_M)
        return drawn

    def _offset(self, name: str) -> Vector:
        return np.array([self.variation[f"{name}_d{axis}_m"] for axis in "xyz"])

    def _schedule(self) -> tuple[dict[str, float], dict[str, float], float]:
        """Begin and duration of every phase, and the end of the last, in ticks."""
        begins, durations, end = {}, {}, 0.0
        for name, phase in _PHASES.items():
            durations[name] = phase.ticks * (1.0 + self.variation[f"{name}_duration_ratio"])
            begins[name] = end - phase.overlap
            end = begins[name] + durations[name]
        return begins, durations, end

    def _arms(self) -> _Kinematics:
        if self._kinematics is None:
            self._kinematics = _Kinematics()
        return self._kinematics

    def _make_path(self, truth: Truth, state: FloatArray) -> Vector:
        """(T, 14) joints and grippers of the whole episode."""
        kinematics, v = self._arms(), self.variation
        begin, ticks, end = self._schedule()
        length = math.ceil(end)
        left = _Path("left", np.asarray(state[:7], np.float64), length, kinematics)
        right = _Path("right", np.asarray(state[7:], np.float64), length, kinematics)

        # Where the cube is grasped, and where it is therefore held once the fingers have turned
        # and centred it: only the offsets along the fingers and upwards stay.
        cube = truth.pose()[:3].copy()
        cube[2] = _CUBE_HEIGHT_M
        aside = _GRASP + self._offset("grasp")
        yaw, pitch = v["grasp_yaw_rad"], _GRASP_PITCH_RAD
        forward = aside[0] * math.cos(yaw) + aside[1] * math.sin(yaw)
        held = np.array([forward, 0.0, aside[2]])
        meet = _MEET + self._offset("meet_via")

        grasp = _Pose(cube + aside, yaw, pitch)
        above = grasp.before(_RIGHT_STANDOFF_M, forward=-1.0)
        give = _Pose(meet + held, 0.0, pitch)
        away = _Pose(give.position + _RETREAT + self._offset("retreat_via"), 0.0, pitch)
        yaw, pitch = v["take_yaw_rad"], _TAKE_PITCH_RAD
        take = _Pose(meet + _TAKE + self._offset("take"), yaw, pitch, math.pi / 2)
        ready = take.before(_LEFT_STANDOFF_M, forward=1.0)
        wait = _Pose(_MEET + _WAIT + self._offset("wait_via"), roll=math.pi / 2)

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


EXPERTS: dict[str, type[CubeExpert]] = {"cube": CubeExpert}
"""The tasks that have an expert."""


def make_expert(task: str = "cube", spread: float = 1.0) -> Policy:
    """The expert of a task, for functools.partial across processes."""
    if task not in EXPERTS:
        raise BadInput(f"no expert for task {task!r}; there is one for {list(EXPERTS)}")
    return EXPERTS[task](spread)
