"""Joints of first order, and what all servos share."""

from __future__ import annotations

import math

import pytest

from imitact.core.errors import BadInput, NotFinite
from imitact.robots.emulation.servo_bus import ServoBus
from imitact.robots.emulation.servos import FirstOrderJoints, ServoModel


def test_joints_approach_their_goal_below_their_top_speed_and_stop_there() -> None:
    joints = FirstOrderJoints([0.0], [1000.0])
    joints.advance(0.0, [0.0], [1.0])
    fastest = 0.0
    for step in range(1, 301):
        joints.advance(step * 0.01, [1500.0], [1.0])
        fastest = max(fastest, joints.velocities[0])
        assert joints.positions[0] <= 1500.5
    assert 990 < fastest <= 1000
    assert joints.positions[0] == pytest.approx(1500, abs=0.01)


def test_the_steps_of_a_loop_hardly_matter() -> None:
    ends = []
    for step_s in (0.001, 0.02, 0.1):
        joints = FirstOrderJoints([0.0], [5000.0])
        joints.advance(0.0, [0.0], [1.0])
        for step in range(1, round(0.3 / step_s) + 1):
            joints.advance(step * step_s, [100.0], [1.0])
        ends.append(joints.positions[0])
    assert max(ends) - min(ends) < 0.5


def test_servos_on_one_shaft_move_together_and_average_their_goals() -> None:
    joints = FirstOrderJoints([0.0, 0.0, 7.0], [5000.0] * 3, [0, 0, 2])
    joints.advance(0.0, [0.0] * 3, [1.0] * 3)
    joints.advance(1.0, [100.0, 200.0, 7.0], [1.0, 1.0, 1.0])
    assert joints.positions[0] == joints.positions[1] == pytest.approx(150, abs=0.1)
    joints.advance(2.0, [100.0, 200.0, 7.0], [0.0, 1.0, 1.0])
    assert joints.positions[0] == pytest.approx(200, abs=0.1)
    joints.place(1, 50.0)
    assert joints.positions[0] == 50.0
    assert joints.positions[2] == 7.0


def test_a_bus_that_cannot_be_is_refused() -> None:
    with pytest.raises(BadInput, match="at least one servo"):
        ServoBus("dynamixel", [])
    with pytest.raises(BadInput, match="id 1 is given twice"):
        ServoBus("dynamixel", [ServoModel(1, 1020, "a"), ServoModel(1, 1020, "b")])
    with pytest.raises(BadInput, match='no servo protocol "dynamixl"'):
        ServoBus("dynamixl", [ServoModel(1, 1020, "a")])  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="id is 253"):
        ServoBus("dynamixel", [ServoModel(253, 1020, "a")])
    with pytest.raises(BadInput, match="shaft of servo 7"):
        ServoBus("dynamixel", [ServoModel(1, 1020, "a", same_shaft_as=7)])
    with pytest.raises(BadInput, match="1 servos but 2 joints"):
        ServoBus(
            "dynamixel",
            [ServoModel(1, 1020, "a")],
            joints=FirstOrderJoints([0.0, 0.0], [1.0, 1.0]),
        )


def test_a_joint_that_is_nowhere_is_named() -> None:
    joints = FirstOrderJoints([0.0], [1.0])
    bus = ServoBus("dynamixel", [ServoModel(1, 1020, "waist")], joints=joints)
    joints.positions[0] = math.nan
    with pytest.raises(NotFinite, match="joint waist is at nan"):
        bus.advance(0.0)
    with pytest.raises(BadInput, match="cannot be moved to nan"):
        bus.move({1: math.nan})
    with pytest.raises(BadInput, match="position is inf"):
        ServoBus("dynamixel", [ServoModel(1, 1020, "waist", position=math.inf)])


def test_a_hand_moves_limp_joints_only() -> None:
    bus = ServoBus("feetech", [ServoModel(1, 777, "a"), ServoModel(2, 777, "b")])
    bus.advance(0.0)
    bus.set_register(2, "torque_enable", 1)
    assert bus.move({1: 1000.0, 2: 1000.0}) == (2,)
    bus.advance(1.0)
    truth = bus.truth()
    assert (truth.servos[1].position, truth.servos[2].position) == (1000.0, 2048.0)
    assert not truth.is_limp
    with pytest.raises(BadInput, match="no servo 3 on the bus; expected one of 1, 2"):
        bus.move({3: 0.0})
    with pytest.raises(BadInput, match=r"torque_enabel.*Did you mean torque_enable"):
        bus.get_register(1, "torque_enabel")


def test_held_servos_warm_up_and_cool_down() -> None:
    bus = ServoBus("dynamixel", [ServoModel(1, 1020, "a", {"shutdown": 0})])
    bus.advance(0.0)
    bus.set_register(1, "torque_enable", 1)
    bus.set_register(1, "goal_position", 3000)
    bus.set_fault("stuck", ids=(1,))
    for step in range(600):
        bus.advance(step * 1.0)
    hot = bus.truth().servos[1].temperature_c
    assert hot > 80
    bus.set_register(1, "torque_enable", 0)
    for step in range(600, 1200):
        bus.advance(step * 1.0)
    assert bus.truth().servos[1].temperature_c < 33
