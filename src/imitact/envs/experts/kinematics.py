"""Arm kinematics: forward and inverse kinematics, and servo targets that follow a trajectory.

Inverse kinematics is mink's, in gym-aloha's scene without its objects.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imitact.core.aloha_joints import ALOHA_RATE_HZ
from imitact.envs.aloha import scene_folder
from imitact.envs.aloha_renderer import load_mujoco

Vector = NDArray[np.float64]

Transform = NDArray[np.float64]
"""Homogeneous transform (4, 4) of a body in the world frame; translation in m."""

SPEED_LIMIT = math.pi
"""Speed limit of all arm joints of the vx300s, rad/s (Interbotix' specification)."""

# Distance from the gripper link to the point between the fingertips, along its x axis. The finger
# meshes end at 0.1537: 1 cm of them extends beyond the center of the held object.
_TIP_M = 0.1437

FORWARD = {"left": 1.0, "right": -1.0}
"""Forward direction of each arm along the x axis of the world frame."""

# Lag of each joint behind its target: seconds times its speed, limited to a number of rad (joint
# friction, which MuJoCo approximates by damping until it saturates). Measured in the scene over 30
# episodes. The gripper, which only opens and closes, is not compensated.
_LAG_S = np.array([0.142, 0.082, 0.023, 0.010, 0.029, -0.002, 0.0] * 2)
_MAX_LAG_RAD = np.array([0.054, 0.030, 0.075, 1.0, 1.0, 1.0, 1.0] * 2)

# Largest speed of a target in rad/s, so that the joint that follows it stays within SPEED_LIMIT.
_TARGET_SPEED = 0.9 * SPEED_LIMIT

_QPOS = {"left": slice(0, 6), "right": slice(8, 14)}  # joints of the arm in the scene
_HEADING = {"left": 0.0, "right": math.pi}  # of the arm's base in the world frame, rad


@dataclass(frozen=True)
class HandPose:
    """Pose of one hand.

    Attributes:
        position: of the point between the fingertips, (3,), m, world frame.
        yaw: rotation about the vertical axis, from the arm's forward direction, rad.
        pitch: rotation of the fingers downward, rad.
        roll: rotation about the fingers' axis, rad.
    """

    position: Vector
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0

    def before(self, distance_m: float, forward: float) -> HandPose:
        """Return the pose moved back along the fingers; `forward` is the arm's entry in FORWARD."""
        flat = forward * math.cos(self.pitch)
        along = np.array(
            [flat * math.cos(self.yaw), flat * math.sin(self.yaw), -math.sin(self.pitch)]
        )
        return replace(self, position=self.position - distance_m * along)


class Kinematics:
    """Kinematics of both arms.

    Args:
        initial_joints: by side, six joint angles in rad from which inverse kinematics starts, so
            that similar poses have similar angles: with a bent elbow, and the wrist bent to the
            side on which the arm works.
    """

    _ITERATIONS = 50  # a pose within reach needs 2 to 6
    _ERROR = 1e-6  # m and rad

    def __init__(self, initial_joints: Mapping[str, Sequence[float]]) -> None:
        mj = load_mujoco()
        import mink

        self._initial_joints = initial_joints
        self._mj = mj
        self._mink = mink
        scene = mj.MjSpec.from_file(str(scene_folder() / "bimanual_viperx_transfer_cube.xml"))
        for key in list(scene.keys):
            scene.delete(key)
        scene.delete(scene.body("box"))
        for side in initial_joints:
            link = scene.body(f"vx300s_{side}/gripper_link")
            link.add_site(name=f"{side}_tip", pos=[_TIP_M, 0.0, 0.0])
        self._model: Any = scene.compile()
        self._limits = [mink.ConfigurationLimit(self._model)]

    def tip(self, side: str, qpos: Vector) -> Vector:
        """Return the point between the fingertips, (3,), m, with the arms at qpos (16,)."""
        return self._tip_frame(side, qpos).translation()

    def hand(self, side: str, joints: Vector) -> Transform:
        """Return the transform of the point between the fingertips at six joint angles."""
        return self._tip_frame(side, self.qpos({side: joints})).as_matrix()

    def joints(self, side: str, pose: HandPose) -> Vector:
        """Return the joint angles, (6,), rad, of a pose, or of the nearest one within reach."""
        mink = self._mink
        rotation = (
            mink.SO3.from_z_radians(_HEADING[side] + pose.yaw)
            @ mink.SO3.from_y_radians(pose.pitch)
            @ mink.SO3.from_x_radians(pose.roll)
        )
        target = mink.SE3.from_rotation_and_translation(rotation, pose.position)
        return self._solve(side, target, self.qpos(self._initial_joints))

    def joints_of_transform(self, side: str, hand: Transform) -> Vector:
        """Return the joint angles, (6,), rad, of a hand in any orientation."""
        target = self._mink.SE3.from_matrix(hand)
        return self._solve(side, target, self.qpos(self._initial_joints))

    def joints_near(self, side: str, joints: Vector, hand: Transform) -> Vector:
        """Return the joint angles, (6,), of a hand, or of the nearest one, that are near given
        ones: a hand that moves a little moves its joints a little."""
        target = self._mink.SE3.from_matrix(hand)
        return self._solve(side, target, self.qpos({**self._initial_joints, side: joints}))

    def shifted(self, side: str, joints: Vector, offset_m: Vector) -> Vector:
        """Return the nearest joint angles, (6,), that shift the hand; its orientation is free."""
        qpos = self.qpos({**self._initial_joints, side: joints})
        target = self._mink.SE3.from_translation(self.tip(side, qpos) + offset_m)
        return self._solve(side, target, qpos, orientation_cost=0.0)

    def servo_targets(self, trajectory: Vector) -> Vector:
        """Return targets (T, 14) with which the arms follow a trajectory (T, 14).

        The position servos sag under gravity and lag behind a moving target, the waist by 0.14 s,
        the wrist not at all: without compensation a straight approach deviates by a centimeter.
        """
        targets = trajectory.copy()
        speed = np.gradient(trajectory, axis=0) * ALOHA_RATE_HZ
        lag = np.clip(speed * _LAG_S, -_MAX_LAG_RAD, _MAX_LAG_RAD)
        data = self._mj.MjData(self._model)
        gain = self._model.actuator_gainprm[:, 0]
        for tick, joints in enumerate(trajectory):
            data.qpos[:] = self.qpos({"left": joints[0:6], "right": joints[7:13]})
            self._mj.mj_forward(self._model, data)
            sag = data.qfrc_bias / gain
            targets[tick, 0:6] += sag[0:6] + lag[tick, 0:6]
            targets[tick, 7:13] += sag[8:14] + lag[tick, 7:13]
        # Has no effect at spread 1; a short movement near a straight wrist can exceed the limit.
        arms = np.r_[0:6, 7:13]
        stride = _TARGET_SPEED / ALOHA_RATE_HZ
        for before, after in itertools.pairwise(targets):
            after[arms] = np.clip(after[arms], before[arms] - stride, before[arms] + stride)
        return targets

    def qpos(self, arms: Mapping[str, Sequence[float] | Vector]) -> Vector:
        """Return the coordinates of the scene, (16,), with the arms' joints at these angles."""
        qpos = np.zeros(16)
        qpos[[6, 14]], qpos[[7, 15]] = 0.04, -0.04  # the fingers, anywhere within their range
        for side, joints in arms.items():
            qpos[_QPOS[side]] = joints
        return qpos

    def _tip_frame(self, side: str, qpos: Vector) -> Any:
        configuration = self._mink.Configuration(self._model, qpos)
        return configuration.get_transform_frame_to_world(f"{side}_tip", "site")

    def _solve(self, side: str, target: Any, qpos: Vector, orientation_cost: float = 0.3) -> Vector:
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
