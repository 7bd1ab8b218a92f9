"""Physics of the bench: gym-aloha's scene, in which emulated servos move the follower arms.

Time steps, forces and contacts are gym-aloha's, so that a stream of goals at 50 Hz moves the arms
as `AlohaEnv` does. What servos add: a joint without torque is limp, a joint of which one of two
servos is off is half as stiff, no joint gets more force than its servos may use, and none moves
much faster than its servos without load.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imitact.core.types import FloatArray
from imitact.envs.aloha import AlohaScene
from imitact.robots.aloha_gripper import LINKAGES
from imitact.robots.emulation.servos import TURN

SERVO_JOINT = np.array([0, 1, 1, 2, 2, 3, 4, 5, 6])
"""Joint of each servo, ids 1 to 9: shoulder and elbow have a second servo, the shadow."""
SERVOS = len(SERVO_JOINT)

_LINKAGE = LINKAGES["vx300s"]
_PER_JOINT = np.bincount(SERVO_JOINT)  # servos

# No-load speed of the servos at 12 V, rad/s: XM540-W270 30 rpm, XM430-W350 46 rpm (ROBOTIS-GIT/
# emanual _data/dxl_x_info.yml). The fingers of the scene are slower than theirs.
_TOP_SPEED = np.array([3.14, 3.14, 3.14, 3.14, 3.14, 4.82])
# A goal moves a joint at that speed at most; one that is no further ahead than this time of it acts
# at once, as every step of a stream at 50 Hz that a joint can follow.
_AHEAD_S = 0.025
# Force of each finger at the stall torque of the gripper's XM430-W350, 4.1 N m (same source), at
# the shortest lever of the linkage.
_FINGER_STALL_N = 4.1 / 0.022 / 2

_UNLIMITED_N_M = 1e6  # of the scene's wrist, whose actuators have no limit

# A limp joint turns against its gears and cables. Chosen so that an arm at the start pose sinks to
# the table within about three seconds; the friction of gym-aloha's joints (50 N m) would hold it.
_LIMP_FRICTION = np.array([0.3, 0.5, 0.5, 0.2, 0.2, 0.1, 1.0, 1.0])  # N m; fingers N
_LIMP_DAMPING = np.array([2.0, 4.0, 2.0, 0.3, 0.3, 0.1, 20.0, 20.0])  # N m s; fingers N s / m

_MOST_SUBSTEPS = 500
"""Substeps made up at once, 1 s; a process that was stopped for longer loses the rest."""


def ticks_of(angle_rad: ArrayLike) -> NDArray[np.float64]:
    """Return joint positions in ticks of angles in rad; 2048 is 0 rad."""
    return TURN / 2 + np.asarray(angle_rad, np.float64) * (TURN / math.tau)


def radians_of(ticks: ArrayLike) -> NDArray[np.float64]:
    """Return angles in rad of joint positions in ticks."""
    return (np.asarray(ticks, np.float64) - TURN / 2) * (math.tau / TURN)


class AlohaPhysics:
    """The scene: both follower arms, with cube, or peg and socket.

    Args:
        task: "cube" or "insertion".
        seed: of the objects' start.

    Attributes:
        scene: model, state and reward.
        arms: the servos of the left and the right arm.
        lost_s: time that was not simulated because the process did not run, s.
    """

    def __init__(self, task: str = "cube", seed: int = 0) -> None:
        self.scene = AlohaScene(task)
        model = self.scene.model
        self._substep_s: float = model.opt.timestep
        self._friction = model.dof_frictionloss[:16].copy()
        self._damping = model.dof_damping[:16].copy()
        self._stiffness = model.actuator_gainprm[:, 0].reshape(2, 8).copy()
        force = np.where(
            model.actuator_forcelimited, model.actuator_forcerange[:, 1], _UNLIMITED_N_M
        )
        self._force = force.reshape(2, 8).copy()
        self._force[:, 6:] = _FINGER_STALL_N
        self._goal = np.zeros((2, 8))  # of the actuators
        self._share = np.ones((2, 8))  # of a joint's servos that have torque
        self._force_cap = np.zeros((2, 8))
        self._paced = np.zeros((2, 6))  # goals of the joints, moving at their top speed
        self._is_plain = False  # every joint has all of its servos and their whole torque
        self._now_s: float | None = None
        self.lost_s = 0.0
        self.arms = ArmJoints(self, 0), ArmJoints(self, 1)
        self.reset(seed)
        for side in range(len(self.arms)):
            self.drive(side, np.zeros(SERVOS), np.zeros(SERVOS))

    def reset(self, seed: int) -> None:
        """Put arms and objects to gym-aloha's start of a seed; goals and torque stay."""
        self.scene.reset(seed)
        self._rest()

    def place_objects(self, seed: int) -> None:
        """Put the objects to gym-aloha's start of a seed; the arms stay as they are."""
        data = self.scene.data
        arms = data.qpos[:16].copy(), data.qvel[:16].copy()
        self.scene.reset(seed)
        data.qpos[:16], data.qvel[:16] = arms
        self.scene.mj.mj_step1(self.scene.model, data)

    def place_arm(self, side: int, angles_rad: FloatArray) -> None:
        """Put an arm at rest at joint angles, the last of the gripper's servo, (7,) rad."""
        data, of_arm = self.scene.data, slice(8 * side, 8 * side + 8)
        finger = _LINKAGE.finger_m(float(angles_rad[6]))
        low, high = self.scene.model.jnt_range[of_arm].T
        data.qpos[of_arm] = np.clip([*angles_rad[:6], finger, -finger], low, high)
        data.qvel[of_arm] = 0.0
        self.scene.mj.mj_step1(self.scene.model, data)
        self._rest()

    @property
    def qpos(self) -> NDArray[np.float64]:
        """Coordinates of arms and objects, as in `AlohaTruth`, copied."""
        return self.scene.data.qpos.copy()

    def drive(self, side: int, goals: FloatArray, torque: FloatArray) -> None:
        """Take what an arm's servos do from now on.

        Args:
            goals: (9,) ticks.
            torque: share of the stall torque that each may use, (9,); 0 is limp.
        """
        has_torque = np.asarray(torque) > 0
        count = np.bincount(SERVO_JOINT, has_torque, 7)
        goal = np.bincount(SERVO_JOINT, has_torque * radians_of(goals), 7) / np.maximum(count, 1)
        finger = _LINKAGE.finger_m(float(goal[6]))
        self._goal[side] = *goal[:6], finger, -finger
        share = _with_finger(count / _PER_JOINT)
        if not np.array_equal(share > 0, self._share[side] > 0):
            model, of_arm = self.scene.model, slice(8 * side, 8 * side + 8)
            limp = share == 0
            model.dof_frictionloss[of_arm] = np.where(limp, _LIMP_FRICTION, self._friction[of_arm])
            model.dof_damping[of_arm] = np.where(limp, _LIMP_DAMPING, self._damping[of_arm])
        self._share[side] = share
        used = _with_finger(np.bincount(SERVO_JOINT, torque, 7) / _PER_JOINT)
        self._force_cap[side] = used * self._force[side]
        self._is_plain = bool((self._share == 1.0).all())

    def advance(self, now_s: float) -> None:
        """Simulate up to a time; the first call starts the time.

        Raises:
            NotFinite: the simulation diverged; only `reset` helps.
        """
        if self._now_s is None:
            self._now_s = now_s
        count = int((now_s - self._now_s) / self._substep_s + 1e-6)
        if count > _MOST_SUBSTEPS:
            lost_s = (count - _MOST_SUBSTEPS) * self._substep_s
            self.lost_s += lost_s
            self._now_s += lost_s
            count = _MOST_SUBSTEPS
        if count <= 0:
            return
        self._now_s += count * self._substep_s
        for _ in range(count):
            self._substep()
        self.scene.check_finite("the bench")
        self._measure()

    def _substep(self) -> None:
        model, data = self.scene.model, self.scene.data
        goal, q = self._pace(), data.qpos[:16].reshape(2, 8)
        error = goal - q
        force = np.abs(self._stiffness * error)
        if not self._is_plain or (force > self._force_cap).any():
            scale = self._share * np.minimum(1.0, self._force_cap / np.maximum(force, 1e-9))
            goal = np.where(scale == 1.0, goal, q + scale * error)
        data.ctrl[:] = goal.ravel()
        # This order leaves contacts that belong to the state, as AlohaEnv.step does.
        self.scene.mj.mj_step2(model, data)
        self.scene.mj.mj_step1(model, data)

    def _pace(self) -> NDArray[np.float64]:
        """Return the goals as far as the servos' top speeds let them move joints, (2, 8)."""
        if not self._is_plain:
            q = self.scene.data.qpos[:16].reshape(2, 8)[:, :6]
            self._paced = np.where(self._share[:, :6] > 0, self._paced, q)
        left = self._goal[:, :6] - self._paced
        ahead = _AHEAD_S * _TOP_SPEED
        goal = self._goal
        if (np.abs(left) > ahead).any():
            goal = goal.copy()
            goal[:, :6] = self._paced + np.clip(left, -ahead, ahead)
        stride = self._substep_s * _TOP_SPEED
        self._paced += np.clip(left, -stride, stride)
        return goal

    def _rest(self) -> None:
        """Take where the arms are after they were put there."""
        self._paced = self.scene.data.qpos[:16].reshape(2, 8)[:, :6].copy()
        self._measure()

    def _measure(self) -> None:
        data = self.scene.data
        for side, arm in enumerate(self.arms):
            q = data.qpos[8 * side : 8 * side + 8]
            v = data.qvel[8 * side : 8 * side + 8]
            half_gap = float(q[6] - q[7]) / 2
            gripper = _LINKAGE.angle_rad(half_gap)
            across = _LINKAGE.horn_m * math.cos(gripper)
            lever = across * half_gap / math.sqrt(_LINKAGE.rod_m**2 - across**2)  # dx / dangle
            angles = np.append(q[:6], gripper)
            speeds = np.append(v[:6], (v[6] - v[7]) / 2 / max(lever, 1e-3))
            arm.positions = ticks_of(angles)[SERVO_JOINT].tolist()
            arm.velocities = (speeds * (TURN / math.tau))[SERVO_JOINT].tolist()


class ArmJoints:
    """The joints of one follower arm as its bus sees them (`Joints`); shadows have their master's.

    Attributes:
        positions: ticks.
        velocities: ticks/s.
    """

    def __init__(self, physics: AlohaPhysics, side: int) -> None:
        self._physics, self._side = physics, side
        self._driven: tuple[list[float], list[float]] | None = None
        self.positions: Sequence[float] = [0.0] * SERVOS
        self.velocities: Sequence[float] = [0.0] * SERVOS

    def advance(self, now_s: float, goals: Sequence[float], torque: Sequence[float]) -> None:
        driven = (list(goals), list(torque))
        if driven != self._driven:
            self._driven = driven
            self._physics.drive(self._side, np.array(goals), np.array(torque))
        self._physics.advance(now_s)

    def place(self, index: int, position: float) -> None:
        """Put a joint somewhere at once; both arms are at rest afterwards."""
        angles = radians_of(self.positions)[np.searchsorted(SERVO_JOINT, np.arange(7))]
        angles[SERVO_JOINT[index]] = radians_of(position)
        self._physics.place_arm(self._side, angles)


def _with_finger(joints: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values of an arm's actuators, (8,), of its joints', (7,): two fingers move as one."""
    return np.append(joints, joints[6])
