"""Virtual ALOHA: the real driver on emulated servos, on a virtual clock."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from imitact.core.errors import BadInput, RobotError
from imitact.core.robot import Leader, Robot
from imitact.robots.driver_loop import LoopConfig
from imitact.robots.emulation.faults import Fault, FaultPlan
from imitact.robots.emulation.hand import expert_trajectory
from imitact.robots.emulation.physics import AlohaPhysics
from imitact.robots.emulation.virtual_aloha import VirtualAloha
from imitact.robots.emulation.world import start_pose
from imitact.robots.registry import SimOptions, make_robot
from imitact.robots.setup import VirtualSetup

FOLLOWERS = ("follower_left", "follower_right")


@pytest.fixture
def aloha() -> Iterator[VirtualAloha]:
    made = VirtualAloha("cube", cameras=("top",), height=24, width=32, loop=LoopConfig(50.0))
    yield made
    made.release(is_supported=True)
    made.close()


def drive(aloha: VirtualAloha, seconds: float, action: np.ndarray | None = None) -> list[str]:
    """Run ticks of 20 ms that command an action, or what the leader reads; return faults."""
    leader, begin_s, faults = aloha.leaders[0], aloha.clock.now_s(), []
    for tick in range(1, round(seconds * 50) + 1):
        aloha.clock.wait_until(begin_s + 0.02 * tick)
        if action is None:
            reading = leader.reading()
            assert reading is not None
            aloha.robot.command(reading.values, tick)
        else:
            aloha.robot.command(action, tick)
        if aloha.robot.fault():
            faults.append(aloha.robot.fault())
    return faults


def ready(aloha: VirtualAloha, seed: int) -> None:
    """Let a hand bring the leaders, and the followers' torque come on, at the start pose."""
    aloha.start()
    aloha.lead(start_pose())
    aloha.clock.wait_until(aloha.clock.now_s() + 1.6)
    aloha.enable()
    aloha.reset(seed)


def test_the_real_driver_teleoperates_the_cube_to_success(aloha: VirtualAloha) -> None:
    ready(aloha, 3)
    aloha.lead(expert_trajectory("cube", 3))
    assert drive(aloha, 7.6) == []
    assert aloha.outcome.success
    assert aloha.outcome.seed == 3
    sent, reading = aloha.robot.sent(), aloha.robot.reading()
    assert sent is not None
    assert reading is not None
    assert sent.tick == 379  # of 380; the newest goes out in the next period
    assert aloha.clock.now_s() - reading.end_s < 1e-5


def test_two_runs_of_the_same_seeds_are_equal_to_the_bit() -> None:
    ends = []
    for _ in range(2):
        plan = FaultPlan((Fault("drop", 1.7, 0.2, parameters={"chance": 0.3}),), seed=4)
        aloha = VirtualAloha(seed=1, cameras=(), faults=plan, loop=LoopConfig(50.0))
        ready(aloha, 1)
        aloha.lead(start_pose() + 0.1)
        drive(aloha, 0.5)
        truth = aloha.world.truth()
        ends.append((truth.qpos.tobytes(), truth.buses["leader_left"].counts))
        aloha.release(is_supported=True)
        aloha.close()
    assert ends[0] == ends[1]
    assert ends[0][1]["dropped"] > 0


def test_frames_are_of_their_capture(aloha: VirtualAloha) -> None:
    aloha.start()
    aloha.clock.wait_until(0.1)
    early = aloha.robot.frame("top")
    aloha.reset(5)
    late = aloha.robot.frame("top")
    assert early is not None
    assert late is not None
    assert late.sequence == early.sequence + 1
    assert late.captured_s == aloha.clock.now_s()
    assert early.captured_s <= 0.1
    assert early.frame.shape == (24, 32, 3)
    assert (early.frame != late.frame).any()
    assert np.array_equal(early.frame, early.frame)


def test_a_reset_leaves_arms_with_torque_at_the_start_pose(aloha: VirtualAloha) -> None:
    ready(aloha, 2)
    drive(aloha, 0.5, start_pose() + 0.1)
    aloha.reset(2)
    aloha.clock.wait_until(aloha.clock.now_s() + 0.5)
    reading = aloha.robot.reading()
    assert reading is not None
    assert np.abs(reading.values - start_pose()).max() < 0.03
    assert not aloha.world.truth().buses["follower_left"].is_limp


def test_the_end_parks_and_releases_the_arms(aloha: VirtualAloha) -> None:
    ready(aloha, 2)
    drive(aloha, 0.1, start_pose())
    assert aloha.close() == ()
    truth = aloha.world.truth()
    for name in FOLLOWERS:
        assert truth.buses[name].is_limp
        assert truth.joints_rad(name)[1] < -1.5


def test_arms_that_are_not_parked_are_not_released(aloha: VirtualAloha) -> None:
    ready(aloha, 2)
    with pytest.raises(RobotError, match="neither parked nor supported"):
        aloha.release()
    assert aloha.release(is_supported=True) == ()


def test_a_fault_of_the_line_holds_the_robot_with_its_reason(aloha: VirtualAloha) -> None:
    ready(aloha, 2)
    assert drive(aloha, 0.2, start_pose()) == []
    aloha.world.set_fault("follower_right", "silent", duration_s=0.5)
    faults = drive(aloha, 0.3, start_pose())
    assert faults
    assert "right follower" in faults[-1]
    aloha.world.clear_faults()


def test_it_is_a_robot_with_a_leader(aloha: VirtualAloha) -> None:
    assert isinstance(aloha.robot, Robot)
    assert isinstance(aloha.leaders[0], Leader)
    assert aloha.limits is not None
    assert aloha.robot.spec.action_names == aloha.limits.names
    assert aloha.robot.frame("top") is None  # before the start


def test_the_registry_makes_it_by_its_task() -> None:
    with make_robot("virtual:insertion", SimOptions(seed=3, height=24, width=32)) as setup:
        assert isinstance(setup, VirtualAloha)
        assert isinstance(setup, VirtualSetup)
        setup.start()
        assert setup.task == "insertion"
        assert np.array_equal(setup.world.pose[16:18], AlohaPhysics("insertion", 3).qpos[16:18])
        frame = setup.robot.frame("top")
        assert frame is not None
        assert frame.frame.shape == (24, 32, 3)
    with pytest.raises(BadInput, match="Did you mean cube"):
        make_robot("virtual:cubes")
    with pytest.raises(BadInput, match="no real time"):
        make_robot("virtual:cube", SimOptions(real_time=True))


def test_an_arm_that_cannot_be_parked_does_not_keep_the_other_from_it() -> None:
    aloha = VirtualAloha(cameras=(), loop=LoopConfig(50.0, park_speed=8.0))
    aloha.start()
    aloha.enable()
    drive(aloha, 0.3, start_pose())
    assert aloha.world.truth().joints_rad("follower_right")[1] > -1.3
    aloha.world.set_fault("follower_left", "silent")
    drive(aloha, 0.3, start_pose())
    with pytest.raises(RobotError, match="left follower"):
        aloha.park()
    assert aloha.world.truth().joints_rad("follower_right")[1] < -1.5
    aloha.world.clear_faults()
    aloha.close()


def test_a_bus_that_loses_answers_is_released_though_its_checks_fail() -> None:
    aloha = VirtualAloha(cameras=(), loop=LoopConfig(50.0))
    aloha.start()
    aloha.enable()
    aloha.world.set_fault("follower_left", "drop")
    drive(aloha, 1.5, start_pose())  # the driver is given up
    missing = aloha.release(is_supported=True)
    assert "left" in missing[0]  # nobody confirmed it
    assert aloha.world.truth().buses["follower_left"].is_limp
    aloha.close()
