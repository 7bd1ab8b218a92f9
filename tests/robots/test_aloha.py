"""ALOHA driver: what is refused, the torque, motion, health and the release of one arm."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest

from imitact.core.errors import BadInput, RobotError
from imitact.core.robot import Driver
from imitact.robots.config import ArmConfig, GripperConfig
from imitact.robots.emulation.arms import aloha_follower_servos, aloha_leader_servos
from tests.support.bus_thread import BusThread

pytest.importorskip("dynamixel_sdk")

from imitact.robots.aloha import AlohaArm
from imitact.robots.aloha_torque import TorqueOn

PATIENCE = 100.0
FOLLOWER = ArmConfig("", "vx300s", GripperConfig("aloha"), watchdog_s=0)
LEADER = ArmConfig("", "wx250s", GripperConfig("aloha"), watchdog_s=0)
POSE = np.array([0.1, -1.2, 1.1, -0.3, 0.2, 0.4, 0.5])

Setup = Callable[..., tuple[AlohaArm, BusThread]]


@pytest.fixture
def setup() -> Iterator[Setup]:
    """A driver and its emulated arm, by what differs from a well set up one."""
    with ExitStack() as stack:

        def make(
            arm: ArmConfig = FOLLOWER,
            changes: Mapping[int, Mapping[str, int]] | None = None,
            positions: Mapping[int, float] | None = None,
            patience: float = PATIENCE,
        ) -> tuple[AlohaArm, BusThread]:
            make_servos = aloha_leader_servos if arm.is_leader_model else aloha_follower_servos
            servos = stack.enter_context(BusThread(make_servos(positions, changes)))
            driver = AlohaArm(replace(arm, port=servos.port), "left", patience=patience)
            stack.callback(driver.close)
            return driver, servos

        yield make


def wait_for(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def test_an_arm_is_a_driver(setup: Setup) -> None:
    driver, _ = setup()
    assert isinstance(driver, Driver)
    assert driver.spec.action_names[:2] == ("left_arm_waist", "left_arm_shoulder")
    assert driver.spec.action_units[-1] == "1"


# ---------------------------------------------------------------------------------- refusals

MISMATCHES = {
    "model": (1, {"model_number": 1020}, r"waist \(servo 1\): it is XM430.*XM540.*\[model\]"),
    "firmware": (6, {"firmware_version": 30}, r"forearm_roll.*firmware is 30.*38.*\[firmware\]"),
    "sign": (7, {"drive_mode": 0}, r"wrist_angle.*not reversed, expected reversed.*\[drive-mode\]"),
    "sign of a shadow": (3, {"drive_mode": 1}, r"shoulder_shadow.*pair fights.*\[drive-mode\]"),
    "torque by goal": (1, {"drive_mode": 8}, r"turns the torque on.*\[torque-by-goal\]"),
    "shadow that obeys nobody": (5, {"secondary_id": 255}, r"elbow_shadow.*servo 4.*secondary-id"),
    "servo that obeys another": (6, {"secondary_id": 1}, r"Secondary_ID is 1.*no other"),
    "range": (2, {"min_position_limit": 0}, r"shoulder .*0 to 2867 ticks, expected 841 to 2867"),
    "silent writes": (1, {"status_return_level": 1}, r"Status_Return_Level is 1.*\[status-level\]"),
    "wrap": (4, {"homing_offset": -1020}, r"elbow.*wraps at 3075 ticks, inside.*\[wrap\]"),
    "current limit": (9, {"current_limit": 100}, r"gripper.*Current_Limit is 100.*538 mA"),
}  # fmt: skip


@pytest.mark.parametrize("what", MISMATCHES)
def test_a_mismatch_is_refused_by_name_before_torque(setup: Setup, what: str) -> None:
    servo, registers, message = MISMATCHES[what]
    driver, servos = setup(changes={servo: registers})
    if "model_number" in registers:  # the emulation takes the model from elsewhere
        servos.set_register(servo, "model_number", registers["model_number"])
    with pytest.raises(RobotError, match=message):
        driver.connect()
    assert servos.truth().is_limp
    assert not servos.truth().is_exclusive, "the port was left open"


def test_a_missing_servo_is_named_and_the_others_are_not(setup: Setup) -> None:
    driver, servos = setup(patience=20)
    servos.set_fault("dead", ids=(5,))
    with pytest.raises(RobotError, match=r"elbow_shadow \(servo 5\) did not answer") as refused:
        driver.connect()
    assert "waist" not in str(refused.value)


def test_servos_at_another_rate_are_told_with_their_rate(setup: Setup) -> None:
    driver, servos = setup(patience=20)
    servos.set_fault("wrong_baud", baud=57600)
    with pytest.raises(RobotError, match="answer at 57,600 bits per second, expected 1,000,000"):
        driver.connect()


def test_what_only_slows_an_arm_is_tolerated(setup: Setup) -> None:
    driver, _ = setup(changes={1: {"return_delay_time": 250}, 2: {"min_position_limit": 900}})
    driver.connect()


def test_an_exchanged_servo_is_accepted_where_it_is_configured(setup: Setup) -> None:
    driver, servos = setup(replace(FOLLOWER, other_models={"wrist_rotate": 1030}))
    servos.set_register(8, "model_number", 1030)
    driver.connect()


def test_an_arm_whose_gripper_was_not_measured_is_refused() -> None:
    with pytest.raises(BadInput, match=r"left follower: .*not known.*\[arms.left.gripper\]"):
        AlohaArm(replace(FOLLOWER, gripper=GripperConfig()), "left")


# ---------------------------------------------------------------------------------- torque

REST = {1: 2048, 2: 940, 4: 3050, 6: 2050, 7: 2470, 8: 2048, 9: 1700}


def test_connecting_changes_no_torque_and_no_register(setup: Setup) -> None:
    driver, servos = setup(positions=REST, changes={9: {"operating_mode": 3}})
    driver.connect()
    assert servos.truth().is_limp
    assert servos.get_register(9, "operating_mode") == 3


def test_nothing_moves_when_the_torque_is_turned_on(setup: Setup) -> None:
    driver, servos = setup(positions=REST)
    for servo in range(1, 10):  # goals of an earlier session
        servos.set_register(servo, "goal_position", 2500)
    driver.connect()
    before = driver.read()
    driver.enable()
    truth = servos.truth()
    assert all(servo.has_torque for servo in truth.servos.values())
    time.sleep(0.05)
    np.testing.assert_allclose(driver.read(), before, atol=0.002)
    assert truth.servos[3].goal == truth.servos[2].goal == 940


def test_modes_profiles_and_the_grippers_current_are_set(setup: Setup) -> None:
    driver, servos = setup(changes={1: {"operating_mode": 4}, 5: {"operating_mode": 4}})
    servos.set_register(6, "profile_velocity", 30)
    driver.connect()
    driver.enable()
    modes = [servos.get_register(servo, "operating_mode") for servo in range(1, 10)]
    assert modes == [3] * 8 + [5]
    assert servos.get_register(6, "profile_velocity") == 0
    assert servos.get_register(9, "goal_current") == 200  # 538 mA


@pytest.mark.parametrize("offset", [-300, 4, 250])
def test_a_shadow_is_made_to_read_as_its_servo(setup: Setup, offset: int) -> None:
    driver, servos = setup(positions=REST, changes={3: {"homing_offset": offset}})
    driver.connect()
    driver.enable()
    readings = [servos.get_register(servo, "present_position") for servo in (2, 3)]
    assert abs(readings[0] - readings[1]) <= 3


def test_a_shadow_that_reads_right_is_not_written(setup: Setup) -> None:
    driver, servos = setup(changes={3: {"homing_offset": 2}})
    driver.connect()
    driver.enable()
    assert servos.get_register(3, "homing_offset") == 2


def test_a_pair_that_no_offset_matches_is_refused_before_torque(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, servos = setup(changes={3: {"homing_offset": 30}})
    driver.connect()

    def apart(self: TorqueOn, shadow: int, master: int) -> int:
        return 1500 if shadow == 3 else 0  # its horn is mounted that far off

    monkeypatch.setattr(TorqueOn, "_apart", apart)
    with pytest.raises(RobotError, match=r"shoulder_shadow.*\+1500 ticks.*mount it"):
        driver.enable()
    assert servos.truth().is_limp
    assert servos.get_register(3, "homing_offset") == 30, "what was there was lost"


@pytest.mark.parametrize("rule", [1, -1])
def test_either_sign_of_the_shadow_offset_is_found(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, rule: int
) -> None:
    """Three sources have three rules for the sign, so firmware may do the one or the other."""
    driver, servos = setup()
    driver.connect()

    def apart(self: TorqueOn, shadow: int, master: int) -> int:
        return 200 + rule * servos.get_register(3, "homing_offset") if shadow == 3 else 0

    monkeypatch.setattr(TorqueOn, "_apart", apart)
    driver.enable()
    assert servos.get_register(3, "homing_offset") == -200 * rule


def test_an_overloaded_servo_is_refused_and_a_gripper_is_restarted(setup: Setup) -> None:
    driver, servos = setup()
    servos.set_fault("overload", ids=(9,))
    driver.connect()
    driver.enable()
    assert not servos.truth().servos[9].errors
    driver.release()
    servos.set_fault("overload", ids=(2,))
    with pytest.raises(RobotError, match=r"shoulder \(servo 2\): it reports overload"):
        driver.enable()
    assert servos.truth().is_limp


def test_a_failed_start_leaves_no_torque(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    driver, servos = setup()
    driver.connect()
    turn_on = TorqueOn._turn_on

    def fail_at_wrist(self: TorqueOn, servo: int) -> None:
        if servo == 7:
            raise RobotError("the cable broke")
        turn_on(self, servo)

    monkeypatch.setattr(TorqueOn, "_turn_on", fail_at_wrist)
    with pytest.raises(RobotError, match="the cable broke"):
        driver.enable()
    assert servos.truth().is_limp


def test_an_arm_that_has_torque_keeps_torque_and_goal(setup: Setup) -> None:
    """A loaded joint hangs below its goal; with the goal set there it would sink at each start."""
    driver, servos = setup(positions=REST)
    driver.connect()
    driver.enable()
    servos.set_fault("stuck", ids=(1, 2, 3, 6))
    driver.write(np.array([0.05, -1.66, *driver.goals()[2:5], 0.05, 0.5]))
    driver.read()
    goals = {servo: truth.goal for servo, truth in servos.truth().servos.items()}
    driver.close()
    driver.connect()
    driver.enable()
    truth = servos.truth()
    assert all(servo.has_torque for servo in truth.servos.values())
    assert {servo: one.goal for servo, one in truth.servos.items()} == goals
    assert driver.goals()[0] == pytest.approx(0.05, abs=0.001)


def test_a_joint_far_outside_its_range_is_refused(setup: Setup) -> None:
    driver, servos = setup(positions={2: 700})
    with pytest.raises(RobotError, match=r"shoulder.*at 700 ticks, expected 841 to 2867"):
        driver.connect()
    servos.move({2: 830})  # on its stop, within 3 degrees
    driver.connect()
    driver.enable()
    assert servos.truth().servos[2].goal == 841


# ---------------------------------------------------------------------------------- motion


def test_the_arm_goes_where_it_was_told_to_within_a_tick(setup: Setup) -> None:
    driver, servos = setup(positions=REST)
    driver.connect()
    driver.enable()
    sent = driver.write(POSE)
    np.testing.assert_allclose(sent, POSE, atol=0.0008)
    driver.read()  # nobody answers a sync write, but what is asked after it comes after it
    goals = servos.truth().servos
    assert goals[1].goal == round(2048 + 0.1 * 4096 / (2 * np.pi))
    assert goals[3].goal == goals[2].goal
    wait_for(lambda: bool(np.allclose(driver.read()[:6], sent[:6], atol=0.004)))


def test_the_gripper_is_commanded_by_angle_and_measured_by_fingers(setup: Setup) -> None:
    driver, _ = setup(positions={9: 2331.5})  # half the angle
    driver.connect()
    driver.enable()
    sent = driver.write(np.array([*POSE[:6], 0.5]))
    assert sent[6] == pytest.approx(0.5, abs=0.001)
    assert driver.read()[6] == pytest.approx(0.527, abs=0.002)


def test_a_goal_that_a_servo_would_ignore_is_reported_as_not_sent(setup: Setup) -> None:
    driver, servos = setup(positions=REST)
    driver.connect()
    driver.enable()
    first = driver.write(POSE)
    sent = driver.write(np.array([0.2, -2.5, *POSE[2:]]))
    assert driver.unsent == ("left_arm_shoulder",)
    assert sent[1] == first[1], "the servo goes on to its last goal"
    assert sent[0] == pytest.approx(0.2, abs=0.001)
    driver.read()
    assert servos.truth().servos[2].goal == round(2048 - 1.2 * 4096 / (2 * np.pi))


def test_a_gripper_goal_beyond_a_turn_is_not_sent(setup: Setup) -> None:
    driver, _ = setup()
    driver.connect()
    driver.enable()
    first = driver.write(POSE)
    for value in (1e9, -1e300):
        np.testing.assert_array_equal(driver.write(np.array([*POSE[:6], value])), first)
        assert driver.unsent == ("left_arm_gripper",)


def test_the_end_of_the_range_is_reached_by_rounding(setup: Setup) -> None:
    driver, _ = setup()
    driver.connect()
    driver.enable()
    driver.write(np.array([3.14158, 1.25664, 1.60570, 0, 2.23402, -3.14158, 1.0]))
    assert driver.unsent == ()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_command_that_is_not_finite_is_refused(setup: Setup, bad: float) -> None:
    driver, servos = setup()
    driver.connect()
    driver.enable()
    with pytest.raises(RobotError, match="not seven finite numbers"):
        driver.write(np.array([bad, *POSE[1:]]))
    assert servos.truth().servos[1].goal == 2048


def test_a_command_without_torque_is_refused(setup: Setup) -> None:
    driver, _ = setup()
    driver.connect()
    with pytest.raises(RobotError, match="torque is off"):
        driver.write(POSE)


def test_a_servo_that_stops_answering_is_named(setup: Setup) -> None:
    driver, servos = setup(patience=20)
    driver.connect()
    servos.set_fault("dead", ids=(5,))
    with pytest.raises(RobotError, match=r"elbow_shadow \(servo 5\) did not answer"):
        driver.read()
    servos.set_fault("silent")
    with pytest.raises(RobotError, match="no servo answers"):
        driver.read()
    servos.clear_faults()

    def answers() -> bool:
        try:
            return len(driver.read()) == 7
        except RobotError:
            return False

    wait_for(answers)


def test_the_bus_watchdog_stops_an_arm_whose_driver_is_gone(setup: Setup) -> None:
    driver, servos = setup(replace(FOLLOWER, watchdog_s=1.0), positions=REST)
    driver.connect()
    driver.enable()
    wait_for(lambda: servos.get_register(2, "bus_watchdog") == -1)
    with pytest.raises(RobotError, match=r"watchdog stopped .*shoulder.*enable the arm again"):
        driver.write(POSE)
    before = driver.read()
    driver.enable()
    np.testing.assert_allclose(driver.read(), before, atol=0.01)
    driver.write(before)


def test_a_reading_more_than_a_turn_away_is_an_error_and_no_value(setup: Setup) -> None:
    driver, servos = setup()
    driver.connect()
    servos.set_fault("wrap", ids=(6,), turns=1)
    with pytest.raises(RobotError, match=r"forearm_roll.*6144 ticks.*lost count"):
        driver.read()


# ---------------------------------------------------------------------------------- health


def test_every_servo_is_asked_in_turn_shadows_included(setup: Setup) -> None:
    driver, _ = setup()
    driver.connect()
    checked = dict(driver.check_next() for _ in range(9))
    assert set(checked) == {driver.joint(servo) for servo in range(1, 10)}
    health = checked["left_arm_elbow_shadow"]
    assert health.voltage_v == pytest.approx(12.1)
    assert health.temperature_c == pytest.approx(31)
    assert health.errors == ()


def test_a_servo_that_reports_an_error_is_asked_before_its_turn(setup: Setup) -> None:
    driver, servos = setup()
    driver.connect()
    servos.set_fault("overload", ids=(5,))
    driver.read()
    checked = dict(driver.check_next() for _ in range(2))
    assert checked["left_arm_elbow_shadow"].errors == ("overload",)


def test_a_lasting_error_does_not_keep_the_others_from_their_turn(setup: Setup) -> None:
    driver, servos = setup()
    servos.set_fault("error", ids=(5,), bits=0x80)
    driver.connect()
    assert len(dict(driver.check_next() for _ in range(18))) == 9


def test_a_servo_that_restarted_is_told_from_its_missing_torque(setup: Setup) -> None:
    driver, servos = setup()
    driver.connect()
    driver.enable()
    servos.set_register(6, "torque_enable", 0)
    checked = dict(driver.check_next() for _ in range(9))
    assert {name: health.errors for name, health in checked.items() if health.errors} == {
        "left_arm_forearm_roll": ("no torque",)
    }


def test_a_supply_that_sagged_is_tolerated(setup: Setup) -> None:
    driver, servos = setup()
    servos.set_register(2, "hardware_error_status", 1)
    driver.connect()
    driver.enable()
    assert servos.truth().servos[2].has_torque


def test_a_dead_servo_does_not_keep_the_others_from_their_turn(setup: Setup) -> None:
    driver, servos = setup(patience=20)
    driver.connect()
    servos.set_fault("dead", ids=(3,))
    names = set()
    for _ in range(30):  # nine on an idle machine
        with contextlib.suppress(RobotError):
            names.add(driver.check_next()[0])
        if len(names) == 8:
            break
    assert names == {driver.joint(servo) for servo in range(1, 10) if servo != 3}


# ---------------------------------------------------------------------------------- release


def test_the_others_are_released_where_a_servo_is_unplugged(setup: Setup) -> None:
    driver, servos = setup(patience=20)
    driver.connect()
    driver.enable()
    servos.set_fault("silent", duration_s=0.0)
    servos.set_fault("dead", ids=(4,))
    assert driver.release() == ("left_arm_elbow",)
    assert servos.truth().is_limp


def test_a_released_arm_is_limp(setup: Setup) -> None:
    driver, servos = setup()
    driver.connect()
    driver.enable()
    assert driver.release() == ()
    assert servos.truth().is_limp
    with pytest.raises(RobotError, match="torque is off"):
        driver.write(POSE)


def test_release_and_close_never_raise_without_a_port(setup: Setup) -> None:
    driver, servos = setup()
    driver.connect()
    driver.enable()
    servos.set_fault("hang_up")
    assert len(driver.release()) == 9
    driver.close()
    driver.close()


# ---------------------------------------------------------------------------------- leader


def test_a_leader_stays_limp_and_reads_in_units_of_the_action(setup: Setup) -> None:
    driver, servos = setup(LEADER, positions={9: 1925.5})  # half way of -0.6842..0.3083
    driver.connect()
    assert servos.truth().is_limp
    assert driver.read()[6] == pytest.approx(0.5, abs=0.001)


@pytest.mark.parametrize(("tick", "value"), [(1550, 0.0), (2300, 1.0)])
def test_a_leaders_gripper_beyond_its_stop_is_at_its_stop(
    setup: Setup, tick: int, value: float
) -> None:
    driver, _ = setup(LEADER, positions={9: tick})  # about 0.08 rad beyond
    driver.connect()
    assert driver.read()[6] == value


def test_a_leaders_gripper_is_limp_during_the_opening_move(setup: Setup) -> None:
    driver, servos = setup(LEADER)
    driver.connect()
    driver.enable()
    truth = servos.truth()
    assert [truth.servos[i].has_torque for i in range(1, 10)] == [True] * 8 + [False]
    driver.write(np.array([0.1, -0.96, 1.16, 0, -0.3, 0, 0.5]))
    driver.read()
    assert servos.truth().servos[9].goal == 2048
    assert driver.release() == ()
    assert servos.truth().is_limp
