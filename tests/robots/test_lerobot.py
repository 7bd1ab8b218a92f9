"""LeRobot's devices through the program of its environment, with a stand-in for LeRobot.

The program is the real one (integrations/imitact_lerobot_host); tests/support/fake_lerobot has the
parts of LeRobot that it uses, over servos in memory with LeRobot's defects.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from imitact.core.errors import BadInput, RobotError
from imitact.core.types import Spec
from imitact.parallel.mailbox import Mailbox
from imitact.robots.config import LeRobotConfig, LimitConfig, RobotConfig
from imitact.robots.lerobot import LeRobotDevice, LeRobotDriver, LeRobotMaker, describe
from imitact.robots.lerobot_process import LeRobotProcess, check_python
from imitact.robots.lerobot_setup import device_limits, lerobot_setup
from tests.support.hosts import wait_for
from tests.support.lerobot_arm import FAKE, HOST, JOINTS, PATIENCE, Arm, use_stand_in


@pytest.fixture
def arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Arm:
    use_stand_in(monkeypatch)
    return Arm(tmp_path / "follower")


@pytest.fixture
def process() -> Iterator[LeRobotProcess]:
    one = LeRobotProcess(sys.executable)
    yield one
    one.stop()


def driver(process: LeRobotProcess, arm: Arm, kind: Any = "robot", **changes: Any) -> LeRobotDriver:
    config = LeRobotConfig(**{**vars(arm.config), **changes})
    return LeRobotDriver(process, kind, config, 30.0, patience=PATIENCE)


def test_names_and_units_are_those_of_lerobots_driver(arm: Arm, process: LeRobotProcess) -> None:
    one = driver(process, arm)
    one.connect()
    assert one.spec == Spec(JOINTS, JOINTS, ("deg", "deg", "%"), ("deg", "deg", "%"), (), 30.0)
    assert one.read().tolist() == [0.0, 0.0, 50.0]
    one.close()


def test_what_was_sent_is_what_the_goal_registers_hold(arm: Arm, process: LeRobotProcess) -> None:
    one = driver(process, arm)
    one.connect()
    sent = one.write(np.array([10.0, 720.0, 400.0]))
    assert sent[0] == pytest.approx(113 * 360 / 4095), "rounded down to a tick"
    assert sent[1] == pytest.approx(1000 * 360 / 4095), "the servo cuts it to its range"
    assert sent[2] == 100.0
    with pytest.raises(RobotError, match="finite"):
        one.write(np.array([np.nan, 0.0, 0.0]))
    with pytest.raises(RobotError, match="2 values"):
        one.write(np.zeros(2))
    one.close()


def test_connecting_and_closing_change_no_torque(arm: Arm, process: LeRobotProcess) -> None:
    arm.set_registers(Torque_Enable=1)
    one = driver(process, arm)
    one.connect()
    one.read()
    one.enable()
    one.close()
    process.stop()
    assert arm.registers("Torque_Enable") == [1, 1, 1]
    assert arm.registers("Goal_Position") == [0, 0, 0], "goals of a held arm stay"


def test_torque_comes_with_the_goal_at_the_present_position(
    arm: Arm, process: LeRobotProcess
) -> None:
    arm.set_registers(Goal_Position=123, Present_Position=1777)
    one = driver(process, arm)
    one.connect()
    one.enable()
    state = json.loads((arm.folder / "state").read_text())
    for servo in state.values():
        names = [entry[0] for entry in servo["log"]]
        assert servo["Torque_Enable"] == 1
        assert servo["Goal_Position"] == 1777
        assert names.index("Goal_Position") < names.index("Torque_Enable")
    one.close()


def test_release_names_a_dead_servo_and_leaves_all_others_limp(
    arm: Arm, process: LeRobotProcess
) -> None:
    one = driver(process, arm)
    one.connect()
    one.enable()
    arm.fail(dead=[2], errors={"1": 32})
    with pytest.raises(RobotError, match="no status packet"):
        one.read()
    assert one.release() == ("lift",)
    assert arm.registers("Torque_Enable") == [0, 1, 0]
    arm.fail()
    assert one.release() == ()
    one.close()


@pytest.mark.parametrize("how", ["late", "later", "retried"])
def test_a_late_reply_is_never_taken_for_a_later_one(
    arm: Arm, process: LeRobotProcess, how: str
) -> None:
    one = driver(process, arm)
    one.connect()
    arm.fail(read=how)
    if how == "retried":
        one.read()
    else:
        with pytest.raises(RobotError):
            one.read()
    arm.fail()
    for position in (1500, 1600, 1700):
        arm.set_registers(Present_Position=position)
        assert one.read()[0] == pytest.approx((position - 2000) * 360 / 4095)
    one.close()


@pytest.mark.parametrize("name", ["StopIteration", "KeyError", "OverflowError", "OSError"])
def test_whatever_lerobot_raises_is_one_failed_read(
    arm: Arm, process: LeRobotProcess, name: str
) -> None:
    one = driver(process, arm)
    one.connect()
    arm.fail(read=name)
    with pytest.raises(RobotError, match=name):
        one.read()
    arm.fail()
    assert one.read().shape == (3,), "the port is free again"
    one.close()


def test_health_is_asked_in_turn_and_sees_an_overload(arm: Arm, process: LeRobotProcess) -> None:
    one = driver(process, arm)
    one.connect()
    arm.set_registers(Present_Load=0x400 | 250)
    arm.fail(errors={"2": 32})
    found = [one.check_next() for _ in range(4)]
    assert [joint for joint, _ in found] == [*JOINTS, JOINTS[0]]
    assert [health.errors for _, health in found[:3]] == [(), ("overload",), ()]
    assert (found[0][1].temperature_c, found[0][1].voltage_v) == (31, 12.1)
    assert found[0][1].load == -0.25
    one.close()


def test_a_missing_calibration_is_refused_with_the_remedy(
    arm: Arm, process: LeRobotProcess
) -> None:
    (arm.folder / "arm.json").unlink()
    with pytest.raises(RobotError, match=r"no calibration file .*arm.json.*lerobot-calibrate"):
        driver(process, arm).connect()


def test_a_driver_that_asks_on_stdin_gets_no_answer(arm: Arm, process: LeRobotProcess) -> None:
    """Its standard input is closed, so that `input` fails rather than waits."""
    process.start()
    assert process.pid is not None
    assert os.readlink(f"/proc/{process.pid}/fd/0") == os.devnull


def test_lerobots_own_clip_is_refused(arm: Arm, process: LeRobotProcess) -> None:
    settings = {**arm.config.settings, "max_relative_target": 5.0}
    with pytest.raises(RobotError, match=r"max_relative_target is set; take it out"):
        driver(process, arm, settings=settings).connect()


def test_an_unknown_type_or_setting_is_named(arm: Arm) -> None:
    wrong = LeRobotConfig(**{**vars(arm.config), "type": "fake_leg"})
    with pytest.raises(BadInput, match=r'\[lerobot\]: LeRobot has no robot "fake_leg".*fake_arm'):
        describe(sys.executable, [("robot", wrong)], 30.0)
    settings = {**arm.config.settings, "colour": "red"}
    wrong = LeRobotConfig(**{**vars(arm.config), "settings": settings})
    with pytest.raises(BadInput, match="colour"):
        describe(sys.executable, [("robot", wrong)], 30.0)


def test_a_device_without_motor_buses_is_connected_and_let_go_as_a_whole(
    arm: Arm, process: LeRobotProcess
) -> None:
    config = LeRobotConfig(**{**vars(arm.config), "type": "fake_plain_base"})
    (described,) = describe(sys.executable, [("robot", config)], 30.0)
    assert not described.keeps_torque, "connecting it may turn the torque off, or on"
    assert described.spec.action_units == ("unknown", "unknown")
    one = driver(process, arm, type="fake_plain_base")
    one.connect()
    one.enable()
    assert one.write(np.array([0.5, 2.0])).tolist() == [0.5, 2.0]
    assert one.read().tolist() == [0.5, 2.0]
    with pytest.raises(RobotError, match="no motors that tell their health"):
        one.check_next()
    assert one.release() == ()
    assert arm.registers("Torque_Enable") == [0]
    one.enable()
    assert arm.registers("Torque_Enable") == [1]
    one.close()
    assert arm.registers("Torque_Enable") == [0], "its own disconnect lets it go"


def test_a_camera_of_unknown_size_is_refused(arm: Arm) -> None:
    config = LeRobotConfig(**{**vars(arm.config), "type": "fake_plain"})
    with pytest.raises(BadInput, match="camera front has no size; set its width and height"):
        describe(sys.executable, [("robot", config)], 30.0)


def test_a_second_program_on_a_port_is_refused(arm: Arm, process: LeRobotProcess) -> None:
    one, second = driver(process, arm), LeRobotProcess(sys.executable)
    one.connect()
    try:
        with pytest.raises(RobotError, match="another process uses"):
            driver(second, arm).connect()
        assert one.read().shape == (3,)
    finally:
        second.stop()
    one.close()


def test_a_killed_program_is_named_and_the_arm_holds(arm: Arm, process: LeRobotProcess) -> None:
    one = driver(process, arm)
    one.connect()
    one.enable()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(RobotError, match="killed by SIGKILL"):
        one.read()
    one.close()
    again = driver(process, arm)
    again.connect()
    assert arm.registers("Torque_Enable") == [1, 1, 1]
    assert again.release() == ()
    again.close()


def test_the_program_ends_with_imitact_and_leaves_the_torque(
    arm: Arm, process: LeRobotProcess
) -> None:
    one = driver(process, arm)
    one.connect()
    one.enable()
    process.stop()
    assert not process.is_alive
    assert arm.registers("Torque_Enable") == [1, 1, 1]


def test_a_leader_is_limp_when_it_is_closed(arm: Arm, tmp_path: Path) -> None:
    leader = Arm(tmp_path / "leader", "fake_leader")
    leader.set_registers(Torque_Enable=1)
    process = LeRobotProcess(sys.executable)
    one = driver(process, leader, "leader")
    one.connect()
    assert one.read().tolist() == [0.0, 0.0, 50.0]
    leader.set_registers(Torque_Enable=1)
    process.stop()
    assert leader.registers("Torque_Enable") == [0, 0, 0]


def test_an_answer_after_its_deadline_is_dropped(arm: Arm, process: LeRobotProcess) -> None:
    one = driver(process, arm)
    one.connect()
    arm.fail(read="hang")
    with pytest.raises(RobotError, match="gives no answer"):
        process.ask("read", timeout_s=0.05)
    arm.fail()
    arm.set_registers(Present_Position=1500)
    assert one.read()[0] == pytest.approx(-500 * 360 / 4095)
    one.close()


def test_a_python_without_the_program_says_so(arm: Arm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    with pytest.raises(RobotError, match="No module named imitact_lerobot_host"):
        LeRobotProcess(sys.executable).start()
    with pytest.raises(RobotError, match="there is no Python"):
        check_python(str(arm.folder / "nothing"))
    monkeypatch.setenv("IMITACT_LEROBOT_PYTHON", sys.executable)
    assert check_python("") == str(Path(sys.executable).absolute())


@pytest.mark.parametrize("data", [b"\xff" * 8, b"\x04\0\0\0\0\0\0\0null", b"\x02\0\0\0\0\0\0\0{x"])
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    process = LeRobotProcess(sys.executable)
    ours, theirs = socket.socketpair()
    process._socket = ours
    theirs.sendall(data)
    with pytest.raises(RobotError, match="no message"):
        process.ask("read", timeout_s=5.0)
    theirs.close()
    process.stop()


def test_values_of_another_number_are_refused(process: LeRobotProcess, arm: Arm) -> None:
    one = driver(process, arm)
    one.connect()
    one._device = LeRobotDevice(Spec(("a",), ("a",), ("deg",), ("deg",), (), 30.0), (None,), True)
    with pytest.raises(RobotError, match="3 values, expected 1"):
        one.read()
    one.close()


def test_frames_reach_imitacts_mailbox_with_the_time_of_capture() -> None:
    box = Mailbox.create((6, 8, 3), "|u1", slots=3)
    frames = _program_module("frame_box").FrameBox(box.fileno(), (6, 8, 3), 3)
    for number in range(1, 6):
        frame = np.full((6, 8, 3), number, np.uint8)
        frames.post(frame, 10.0 + number)
        mail = box.read()
        assert mail is not None
        assert (mail.sequence, mail.times[0]) == (number, 10.0 + number)
        np.testing.assert_array_equal(mail.values, frame)
    with pytest.raises(ValueError, match="expected uint8"):
        frames.post(np.zeros((6, 8, 4), np.uint8), 0.0)
    large = Mailbox.create((200, 80, 3), "|u1", slots=2)
    _program_module("frame_box").FrameBox(large.fileno(), (200, 80, 3), 2).post(
        np.ones((200, 80, 3), np.uint8), 1.0
    )
    assert large.read() is not None


def test_limits_are_calibrated_ranges_cut_by_the_user(arm: Arm) -> None:
    (device,) = describe(sys.executable, [("robot", arm.config)], 30.0)
    end = 1000 * 360 / 4095
    limits = device_limits(device, {"lift.pos": LimitConfig(lower=-20.0, upper=500.0)})
    assert limits is not None
    np.testing.assert_allclose(limits.lower, [3 - end, -20.0, 0.0])
    np.testing.assert_allclose(limits.upper, [end - 3, end - 3, 100.0])
    assert limits.units == ("deg", "deg", "%")
    (arm.folder / "arm.json").unlink()
    (device,) = describe(sys.executable, [("robot", arm.config)], 30.0)
    assert device_limits(device, {}) is None


def test_a_follower_and_its_leader_run_in_a_host(arm: Arm, tmp_path: Path) -> None:
    leader = Arm(tmp_path / "leader", "fake_leader")
    config = RobotConfig(kind="lerobot", lerobot=arm.config, lerobot_leader=leader.config)
    lines: list[str] = []
    with lerobot_setup(config, on_line=lines.append, patience=PATIENCE) as setup:
        setup.start()
        assert setup.robot.spec.action_names == setup.leaders[0].action_names == JOINTS
        setup.enable()
        goal = np.array([10.0, -10.0, 20.0])

        def has_arrived() -> bool:
            setup.robot.command(goal, 1)
            reading = setup.robot.reading()
            return reading is not None and bool(np.all(np.abs(reading.values - goal) < 0.2))

        wait_for(has_arrived)
        wait_for(lambda: len(setup.robot.health()) == 3)
        sent = setup.robot.sent()
        assert sent is not None
        assert np.all(np.abs(sent.action - goal) < 0.2)
        assert not np.array_equal(sent.action, goal), "rounded to the registers"
        assert setup.release(is_supported=True) == ()
    assert arm.registers("Torque_Enable") == [0, 0, 0]
    assert any("starting LeRobot" in line for line in lines)


def test_a_driver_that_is_made_again_uses_the_same_program(arm: Arm) -> None:
    make = LeRobotMaker(sys.executable, "robot", arm.config, 30.0, {}, PATIENCE)
    first = make()
    first.connect()
    first.close()
    begin = time.monotonic()
    second = make()
    second.connect()
    assert first._process is second._process, f"{time.monotonic() - begin:.1f} s"
    second.close()
    second._process.stop()


def test_motors_that_were_calibrated_as_another_arm_are_named_by_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(str(HOST))
    calibrated_as = importlib.import_module("imitact_lerobot_host.serial_arm").calibrated_as
    left, right = (
        {"pan": {"homing_offset": offset, "range_min": 9, "range_max": 90}} for offset in (5, -7)
    )
    for name, table in (("a_left", left), ("a_right", right)):
        (tmp_path / f"{name}.json").write_text(json.dumps(table))
    (tmp_path / "notes.json").write_text("[1]")
    motors = {name: SimpleNamespace(**one) for name, one in right.items()}
    assert calibrated_as(tmp_path / "a_left.json", motors) == "a_right"
    assert calibrated_as(tmp_path / "a_right.json", motors) == ""
    motors["pan"].range_max += 1
    assert calibrated_as(tmp_path / "a_left.json", motors) == ""


def _program_module(name: str) -> ModuleType:
    """Import a module of the program that needs no LeRobot."""
    path = HOST / "imitact_lerobot_host" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"lerobot_host_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
