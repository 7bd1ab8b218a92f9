"""World of the bench, on a virtual clock: teleoperation, limp leaders, resets, faults."""

from __future__ import annotations

import numpy as np
import pytest

from imitact.core.errors import BadInput
from imitact.robots.aloha_hardware import JOINT_SERVOS
from imitact.robots.emulation.faults import Fault, FaultPlan
from imitact.robots.emulation.hand import expert_trajectory
from imitact.robots.emulation.physics import radians_of
from imitact.robots.emulation.world import BenchWorld, leader_gripper, start_pose

TICK_RAD = 2 * np.pi / 4096
FOLLOWERS, LEADERS = ("follower_left", "follower_right"), ("leader_left", "leader_right")


def leader_action(world: BenchWorld) -> np.ndarray:
    """Return what the leaders' registers say, as an action (14,)."""
    values = []
    for name in LEADERS:
        bus = world.bus(name)
        ticks = [bus.get_register(servo, "present_position") for servo in JOINT_SERVOS]
        angles = radians_of(ticks)
        gripper = leader_gripper("fingers").command_from_angle(float(angles[6]))
        values += [*angles[:6], gripper]
    return np.array(values)


def set_torque(world: BenchWorld, buses: tuple[str, ...], value: int, *ids: int) -> None:
    for name in buses:
        for servo in ids or range(1, 10):
            world.bus(name).set_register(servo, "torque_enable", value)


def advance(world: BenchWorld, begin_s: float, end_s: float, step_s: float = 0.02) -> float:
    for now_s in np.arange(begin_s, end_s, step_s):
        world.advance(float(now_s))
    return end_s


def test_a_leader_that_the_hand_moves_reads_the_trajectory_within_a_servo_tick() -> None:
    world, actions = BenchWorld("aloha"), expert_trajectory("cube", 1)[:60]
    world.advance(0.0)
    world.hand(actions[0], 50.0)
    now_s = advance(world, 0.0, 5.0)
    assert world.truth().hand == "holding"
    world.hand(actions, 50.0)
    world.advance(now_s)
    for row in range(1, len(actions)):
        world.advance(now_s + 0.02 * row)
        apart = np.abs(leader_action(world) - actions[row])
        assert np.delete(apart, [6, 13]).max() <= TICK_RAD / 2 + 1e-9
        assert apart[[6, 13]].max() < 3e-3  # a tick of the gripper's servo


def test_the_hand_waits_for_torque_and_squeezes_the_grippers_meanwhile() -> None:
    world = BenchWorld("aloha")
    world.advance(0.0)
    set_torque(world, LEADERS, 1, 1, 2, 3, 4, 5, 6, 7, 8)
    before = leader_action(world)
    world.hand(np.array([start_pose(0.5)]), 50.0)
    now_s = advance(world, 0.0, 3.0)
    after = leader_action(world)
    assert world.truth().hand == "waiting"
    assert np.abs(np.delete(after - before, [6, 13])).max() < 2 * TICK_RAD
    assert np.abs(after[[6, 13]]).max() < 0.01
    set_torque(world, LEADERS, 0)
    advance(world, now_s, now_s + 4.0)
    assert np.abs(leader_action(world) - start_pose(0.5)).max() < 0.01


def test_grippers_of_the_hand_are_linear_in_what_the_bench_was_told() -> None:
    rows, angles = np.array([start_pose(0.5)]), []
    for command in ("angle", "fingers"):
        world = BenchWorld("aloha", gripper=command)  # type: ignore[arg-type]
        world.advance(0.0)
        world.hand(rows, 50.0)
        advance(world, 0.0, 2.0, 0.1)
        angles.append(world.truth().joints_rad("leader_left")[-1])
    assert angles[0] == pytest.approx((-0.6842 + 0.3083) / 2)  # of the original ALOHA's leader
    assert angles[1] != pytest.approx(angles[0], abs=0.02)


def test_the_hand_keeps_grippers_between_their_end_stops() -> None:
    for gripper, expected in ((-0.5, 0.0), (0.0, 0.0), (1.0, 1.0), (1.5, 1.0)):
        world = BenchWorld("aloha")
        world.advance(0.0)
        world.hand(np.array([start_pose(gripper)]), 50.0)
        advance(world, 0.0, 2.0, 0.1)
        values = leader_action(world)[[6, 13]]
        assert np.abs(values - expected).max() < 3e-3
        assert ((values >= 0) & (values <= 1)).all()


def test_limp_leaders_sink_unless_a_hand_holds_them() -> None:
    world = BenchWorld("aloha")
    world.advance(0.0)
    world.hand(np.array([start_pose()]), 50.0)
    now_s = advance(world, 0.0, 5.0)
    held = leader_action(world)
    now_s = advance(world, now_s, now_s + 1.0)
    assert np.abs(leader_action(world) - held).max() < TICK_RAD
    world.let_go()
    advance(world, now_s, now_s + 2.0)
    sunk = leader_action(world)
    assert sunk[1] < -1.7
    assert sunk[8] < -1.7


def test_a_reset_puts_arms_and_objects_to_gym_alohas_start_and_touches_no_register() -> None:
    world = BenchWorld("aloha")
    world.advance(0.0)
    set_torque(world, FOLLOWERS, 1)
    names = ("torque_enable", "goal_position", "operating_mode", "goal_current")
    before = [world.bus("follower_left").get_register(9, name) for name in names]
    world.reset(7)
    assert [world.bus("follower_left").get_register(9, name) for name in names] == before
    joints = world.truth().joints_rad("follower_right")
    assert np.abs(joints[[0, 1, 3, 5, 6, 7]] - start_pose()[:6]).max() < 1e-6
    advance(world, 0.0, 1.0)  # back to the goals
    assert abs(world.truth().joints_rad("follower_right")[1] + 1.85) < 0.1


def test_a_reset_with_goals_leaves_the_arms_at_the_start_pose() -> None:
    world = BenchWorld("aloha")
    world.advance(0.0)
    set_torque(world, FOLLOWERS, 1)
    world.reset(7, goals=True)
    advance(world, 0.0, 1.0)
    for name in FOLLOWERS:
        joints = world.truth().joints_rad(name)[[0, 1, 3, 5, 6, 7]]
        assert np.abs(joints - start_pose()[:6]).max() < 0.02


def test_a_reset_of_the_objects_leaves_the_arms() -> None:
    world = BenchWorld("aloha")
    advance(world, 0.0, 0.5)
    before = world.pose
    world.reset(9, arms=False)
    assert np.array_equal(world.pose[:16], before[:16])
    assert not np.array_equal(world.pose[16:18], before[16:18])


def test_followers_rest_where_a_limp_arm_lies() -> None:
    world = BenchWorld("aloha")
    world.advance(0.0)
    before = world.pose[:16]
    advance(world, 0.0, 2.0)
    assert np.abs(world.pose[:16] - before).max() < 0.05
    assert world.truth().buses["follower_left"].is_limp


def test_a_simulation_that_diverges_begins_anew() -> None:
    world = BenchWorld("aloha")
    world.advance(0.0)
    assert world.physics is not None
    world.physics.scene.data.qvel[:] = 1e12
    advance(world, 0.01, 0.1)
    assert world.truth().divergences == 1
    assert np.isfinite(world.pose).all()


def test_faults_concern_the_bus_that_they_name() -> None:
    plan = FaultPlan((Fault("overload", 0.5, ids=(4,), bus="follower_right"),))
    world = BenchWorld("aloha", faults=plan)
    advance(world, 0.0, 1.0)
    errors = {name: bus.servos[4].errors for name, bus in world.truth().buses.items()}
    assert errors == {**dict.fromkeys(errors, ()), "follower_right": ("overload",)}
    world.set_fault("leader_left", "dead", ids=(1,))
    world.set_fault("", "voltage_sag", volts=5.0)
    advance(world, 1.0, 1.1)
    assert "voltage" in world.truth().buses["leader_right"].servos[1].errors
    with pytest.raises(BadInput, match="follower_middle"):
        world.set_fault("follower_middle", "dead", ids=(1,))
    with pytest.raises(BadInput, match="arm_left"):
        BenchWorld("aloha", faults=FaultPlan((Fault("drop", bus="arm_left"),)))


@pytest.mark.parametrize(
    ("kind", "buses"),
    [
        ("so101", ["follower", "leader"]),
        ("koch", ["follower", "leader"]),
        ("bi_so", ["follower_left", "follower_right", "leader_left", "leader_right"]),
    ],
)
def test_a_hand_leads_the_leaders_of_other_arms(kind: str, buses: list[str]) -> None:
    world = BenchWorld(kind)
    world.advance(0.0)
    assert list(world.buses) == buses
    count = 6 * len(buses) // 2
    assert world.pose.shape == (count,)
    goal = np.linspace(-0.5, 0.5, count)
    world.hand(goal, 30.0)
    advance(world, 0.0, 3.0)
    leaders = [world.truth().joints_rad(name) for name in buses if name.startswith("leader")]
    assert np.abs(np.concatenate(leaders) - goal).max() < 1e-9
    with pytest.raises(BadInput, match="no scene to reset"):
        world.reset(0)


def test_what_a_bench_does_not_have_is_refused() -> None:
    with pytest.raises(BadInput, match="Did you mean aloha"):
        BenchWorld("alohaa")
    world = BenchWorld("so101")
    with pytest.raises(BadInput, match=r"shape \(1, 14\); expected \(T, 6\)"):
        world.hand(np.zeros(14), 50.0)
    pose = start_pose()
    pose[6] = np.nan
    with pytest.raises(BadInput, match="finite numbers"):
        BenchWorld("aloha").hand(pose, 50.0)
