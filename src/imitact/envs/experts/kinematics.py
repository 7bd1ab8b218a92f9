"""Hands and joints: where a hand is, which angles put it there, which targets make servos obey.

Joint angles come from mink's inverse kinematics in gym-aloha's scene without its objects.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.aloha_joints import ALOHA_RATE_HZ
from imitact.envs.aloha import assets, load_mujoco

Vector = NDArray[np.float64]

Placement = NDArray[np.float64]
"""(4, 4) homogeneous: how a thing is turned and, in m, where it is, in the world's frame."""

SPEED_LIMIT = math.pi
"""rad/s, of every arm joint of the vx300s (Interbotix' specification)."""

# Where the gripper link's x axis passes between the fingertips, in m from the link. The finger
# meshes end at 0.1537: 1 cm of them reaches past the middle of what is held.
_TIP_M = 0.1437

FORWARD = {"left": 1.0, "right": -1.0}
"""An arm's forward direction along the world's x axis."""

# How far a joint trails behind its target: this many seconds of its speed, at most so many rad
# (joint friction, which MuJoCo softens to a drag until it saturates). Measured in the scene over
# 30 episodes; the gripper, which only opens and closes, is left as it is.
_TRAIL_S = np.array([0.142, 0.082, 0.023, 0.010, 0.029, -0.002, 0.0] * 2)
_TRAIL_RAD = np.array([0.054, 0.030, 0.075, 1.0, 1.0, 1.0, 1.0] * 2)

# No target moves faster, in rad/s, so that the joint that follows it stays within SPEED_LIMIT.
_TARGET_SPEED = 0.9 * SPEED_LIMIT

_QPOS = {"left": slice(0, 6), "right": slice(8, 14)}  # of the arm's joints in the scene
_HEADING = {"left": 0.0, "right": math.pi}  # of the arm's base in the world, rad


@dataclass(frozen=True)
class Pose:
    """Of one hand. position: (3,) of the point between the fingertips, m, world frame.

    yaw turns it about the vertical, away from its arm's forward direction; a positive pitch
    points the fingers down; roll turns it about its fingers. All in rad.
    """

    position: Vector
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0

    def before(self, distance_m: float, forward: float) -> Pose:
        """The same pose, moved back along the fingers; forward is the arm's x direction, +-1."""
        flat = math.cos(self.pitch)
        along = np.array(
            [
                forward * math.cos(self.yaw) * flat,
                forward * math.sin(self.yaw) * flat,
                -math.sin(self.pitch),
            ]
        )
        return Pose(self.position - distance_m * along, self.yaw, self.pitch, self.roll)


class Kinematics:
    """Joint angles of an arm from the pose of its hand, and targets from a path of joints.

    near: by side, six joint angles in rad from which inverse kinematics starts, so that nearby
          poses never get distant angles: a bent elbow, and the wrist on the side of straight on
          which the arm works.
    """

    _ITERATIONS = 50  # 2 to 6 are enough where a pose can be reached
    _ERROR = 1e-6  # m and rad

    def __init__(self, near: Mapping[str, Sequence[float]]) -> None:
        mj = load_mujoco()
        import mink

        self._near = near
        self._mj = mj
        self._mink = mink
        scene = mj.MjSpec.from_file(str(assets() / "bimanual_viperx_transfer_cube.xml"))
        for key in list(scene.keys):
            scene.delete(key)
        scene.delete(scene.body("box"))
        for side in near:
            link = scene.body(f"vx300s_{side}/gripper_link")
            link.add_site(name=f"{side}_tip", pos=[_TIP_M, 0.0, 0.0])
        self._model: Any = scene.compile()
        self._limits = [mink.ConfigurationLimit(self._model)]

    def tip(self, side: str, qpos: Vector) -> Vector:
        """(3,) the point between the fingertips, in m, where the arms are at qpos (16,)."""
        return self._tip_frame(side, qpos).translation()

    def hand(self, side: str, joints: Vector) -> Placement:
        """Of the hand at these six joint angles; its origin is the point between the fingertips."""
        return self._tip_frame(side, self.qpos({side: joints})).as_matrix()

    def joints(self, side: str, pose: Pose) -> Vector:
        """(6,) joint angles in rad; of the nearest pose where this one cannot be reached."""
        mink = self._mink
        rotation = (
            mink.SO3.from_z_radians(_HEADING[side] + pose.yaw)
            @ mink.SO3.from_y_radians(pose.pitch)
            @ mink.SO3.from_x_radians(pose.roll)
        )
        target = mink.SE3.from_rotation_and_translation(rotation, pose.position)
        return self._solve(side, target, self.qpos(self._near), orientation_cost=0.3)

    def placed(self, side: str, hand: Placement) -> Vector:
        """(6,) like `joints`, of a hand that is turned in any way."""
        target = self._mink.SE3.from_matrix(hand)
        return self._solve(side, target, self.qpos(self._near), orientation_cost=0.3)

    def shifted(self, side: str, joints: Vector, offset_m: Vector) -> Vector:
        """(6,) the nearest joint angles that hold the hand elsewhere, however it is then turned."""
        qpos = self.qpos({**self._near, side: joints})
        target = self._mink.SE3.from_translation(self.tip(side, qpos) + offset_m)
        return self._solve(side, target, qpos, orientation_cost=0.0)

    def commands(self, path: Vector) -> Vector:
        """(T, 14) targets that make the arms follow a (T, 14) path of joints and grippers.

        The position servos give way to gravity and trail behind a moving target, the waist by
        0.14 s, the wrist by nothing: uncorrected, that bends a straight approach by a centimetre.
        """
        targets = path.copy()
        speed = np.gradient(path, axis=0) * ALOHA_RATE_HZ
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
        stride = _TARGET_SPEED / ALOHA_RATE_HZ
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

    def _tip_frame(self, side: str, qpos: Vector) -> Any:
        configuration = self._mink.Configuration(self._model, qpos)
        return configuration.get_transform_frame_to_world(f"{side}_tip", "site")

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
