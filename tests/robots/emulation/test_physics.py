"""Physics of the bench: gym-aloha's motion under servo goals, limp joints, limits of servos."""

from __future__ import annotations

import numpy as np
import pytest

from imitact.core.errors import NotFinite
from imitact.envs.aloha import AlohaEnv
from imitact.robots.aloha_gripper import LINKAGES
from imitact.robots.emulation.hand import expert_trajectory
from imitact.robots.emulation.physics import (
    SERVO_JOINT,
    SERVOS,
    AlohaPhysics,
    radians_of,
    ticks_of,
)
from imitact.robots.emulation.servos import TURN

ALL, NONE = np.ones(SERVOS), np.zeros(SERVOS)
STEP_S = 0.02


def servo_ticks(action: np.ndarray) -> np.ndarray:
    """Return the rounded goals of an arm's nine servos for one arm's action of gym-aloha."""
    finger_m = 0.01844 + action[6] * (0.058 - 0.01844)
    joints = [*action[:6], LINKAGES["vx300s"].angle_rad(float(finger_m))]
    return ticks_of(joints).round()[SERVO_JOINT]


def run(physics: AlohaPhysics, begin_s: float, end_s: float, torque: np.ndarray) -> None:
    goals = [np.array(arm.positions) for arm in physics.arms]
    for now_s in np.arange(begin_s, end_s, STEP_S):
        for arm, goal in zip(physics.arms, goals, strict=True):
            arm.advance(float(now_s), goal.tolist(), torque.tolist())


def test_a_stream_of_servo_goals_moves_the_arms_as_aloha_env_does() -> None:
    actions = expert_trajectory("cube", 4)
    env, physics = AlohaEnv("cube", ()), AlohaPhysics("cube", 4)
    env.reset(4)
    physics.advance(0.0)
    rewards, apart = [], []
    for tick, action in enumerate(actions):
        result = env.step(action)
        for side, arm in enumerate(physics.arms):
            goals = servo_ticks(action[7 * side : 7 * side + 7])
            arm.advance(STEP_S * tick, goals.tolist(), ALL.tolist())
        physics.advance(STEP_S * (tick + 1))
        apart.append(np.abs(physics.qpos - result.observation.privileged.qpos))
        rewards.append((result.reward, physics.scene.reward()))
    assert rewards[-1] == (4, 4)
    # Servos round to 1.5 mrad, or 0.05 mm of a finger.
    assert np.max(apart, axis=0)[[*range(6), *range(8, 14)]].max() < 0.01
    assert np.max(apart, axis=0)[[6, 14]].max() < 5e-4
    assert np.sqrt(np.square(apart).mean()) < 1e-3


def test_limp_arms_do_not_hold_and_arms_with_torque_do() -> None:
    limp, held = AlohaPhysics(), AlohaPhysics()
    start = limp.qpos[:16]
    run(limp, 0.0, 3.0, NONE)
    run(held, 0.0, 3.0, ALL)
    fallen = np.abs(limp.qpos[:16] - start).reshape(2, 8)
    assert (fallen[:, 1] > 0.3).all()
    assert (fallen[:, 4] > 0.5).all()
    assert np.abs(held.qpos[:16] - start).max() < 0.03


def test_a_fallen_arm_lies_still() -> None:
    physics = AlohaPhysics()
    run(physics, 0.0, 5.0, NONE)
    before = physics.qpos[:16]
    run(physics, 5.0, 6.0, NONE)
    assert np.abs(physics.qpos[:16] - before).max() < 0.05


@pytest.mark.parametrize("off", [1, 2], ids=["master", "shadow"])
def test_one_servo_of_a_pair_holds_the_joint_alone(off: int) -> None:
    torque = ALL.copy()
    torque[off] = 0.0
    physics = AlohaPhysics()
    start = physics.qpos[:16]
    run(physics, 0.0, 1.0, torque)
    assert np.abs(physics.qpos[:16] - start).max() < 0.05


def test_a_far_goal_is_reached_no_faster_than_the_servo_turns() -> None:
    physics = AlohaPhysics()
    physics.advance(0.0)
    arm = physics.arms[0]
    goals = np.array(arm.positions)
    goals[0] += TURN / 4
    times = np.arange(0.0, 0.7, 0.004)
    angles = []
    for now_s in times:
        arm.advance(float(now_s), goals.tolist(), ALL.tolist())
        angles.append(radians_of(arm.positions)[0])
    mean_speed = np.diff(np.interp([0.1, 0.4], times, angles)) / 0.3
    assert 3.0 < mean_speed < 3.3  # 30 rpm
    assert angles[-1] == pytest.approx(np.pi / 2, abs=0.02)


def test_a_gripper_closes_with_the_force_that_it_may_use() -> None:
    gaps = []
    for share in (1.0, 0.001):
        physics = AlohaPhysics()
        torque = ALL.copy()
        torque[-1] = share
        for now_s in np.arange(0.0, 2.0, STEP_S):
            for arm in physics.arms:
                goals = np.array(arm.positions)
                goals[-1] = ticks_of(1.4)
                arm.advance(float(now_s), goals.tolist(), torque.tolist())
        gaps.append(physics.qpos[6])
    assert gaps[0] > 0.05
    assert gaps[1] < 0.035  # from 0.022


def test_a_gripper_servo_reads_the_angle_of_its_linkage() -> None:
    physics = AlohaPhysics()
    physics.place_arm(0, np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.5]))
    assert radians_of(physics.arms[0].positions)[-1] == pytest.approx(0.5, abs=1e-6)
    assert physics.qpos[6] == pytest.approx(LINKAGES["vx300s"].finger_m(0.5))
    assert physics.qpos[7] == -physics.qpos[6]


def test_shadows_have_the_position_of_their_master() -> None:
    arm = AlohaPhysics().arms[1]
    arm.place(3, 1500.0)
    assert arm.positions[3] == arm.positions[4] == pytest.approx(1500.0)
    assert arm.positions[1] == arm.positions[2]


def test_objects_are_placed_without_the_arms() -> None:
    physics = AlohaPhysics("cube", 0)
    run(physics, 0.0, 1.0, NONE)
    before = physics.qpos
    physics.place_objects(5)
    assert np.array_equal(physics.qpos[:16], before[:16])
    assert np.array_equal(physics.qpos[16:], AlohaPhysics("cube", 5).qpos[16:])


def test_time_in_which_the_process_did_not_run_is_counted() -> None:
    physics = AlohaPhysics()
    physics.advance(0.0)
    physics.advance(10.0)
    assert physics.lost_s == pytest.approx(9.0)


def test_a_diverged_simulation_is_refused_until_a_reset() -> None:
    physics = AlohaPhysics()
    physics.advance(0.0)
    physics.scene.data.qvel[:] = 1e12
    with pytest.raises(NotFinite, match="the simulation diverged at the bench"):
        physics.advance(0.1)
    physics.reset(0)
    physics.advance(0.2)
