"""Robot host: a process that holds, parks and releases a robot, whatever its parent does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from imitact.core.errors import RobotError
from imitact.core.robot import Leader, Robot
from imitact.parallel.mailbox import Mailbox
from imitact.robots.host import RobotHost
from imitact.robots.host_process import HostConfig
from imitact.robots.hosted import HostedRobot
from tests.support.fake_arm import FakeServos
from tests.support.hosts import PATIENCE_S, QUICK, wait_for

REST = np.array([0.1, 0.0])


@contextmanager
def hosted(*arms: FakeServos, leaders=(), config: HostConfig = QUICK) -> Iterator[RobotHost]:
    """A host of these arms, called left and right."""
    names = ("left", "right")
    host = RobotHost(
        "bench",
        [arm.hosted(name, REST) for arm, name in zip(arms, names, strict=False)],
        [leader.hosted(f"{name} leader") for leader, name in zip(leaders, names, strict=False)],
        rate_hz=50,
        config=config,
        on_line=(lines := []).append,
    )
    host.lines = lines  # type: ignore[attr-defined]
    try:
        yield host
    finally:
        host._process.kill()


def test_two_drivers_are_one_robot_that_follows_and_ends_limp():
    left, right = FakeServos(("a", "b")), FakeServos(("c", "d"), start=0.3)
    leader = FakeServos(("a", "b"), start=0.9)
    with hosted(left, right, leaders=[leader]) as host:
        robot = host.robot
        assert isinstance(robot, Robot)
        assert "not started" in robot.fault()
        host.start(PATIENCE_S)
        assert robot.spec.state_names == ("a", "b", "c", "d")
        assert "no torque" in robot.fault()
        host.enable()
        assert robot.fault() == ""
        assert left.goal.tolist() == [0.5, 0.5]  # goal = present
        asked = np.array([0.41, 0.42, 0.43, 0.44])
        robot.command(asked, 7)
        wait_for(lambda: (sent := robot.sent()) is not None and sent.tick == 7)
        sent = robot.sent()
        assert sent is not None
        assert sent.action.tolist() == asked.tolist()
        wait_for(lambda: (r := robot.reading()) is not None and r.values.tolist() == list(asked))
        reading = robot.reading()
        assert reading is not None
        assert 0 <= reading.end_s - reading.begin_s < PATIENCE_S
        wait_for(lambda: set(robot.health()) == {"a", "b", "c", "d"})
        assert robot.health()["a"].errors == ("hot",)
        assert isinstance(host.leader, Leader)
        led = host.leader.reading()
        assert led is not None
        assert (led.values.tolist(), host.leader.fault()) == ([0.9, 0.9], "")
        host.park()
        assert left.goal.tolist() == right.goal.tolist() == REST.tolist()
        assert host.release() == ()
        assert [*left.torque, *right.torque] == [False] * 4
        host.close()
        assert host.death() == "the host of bench has ended"
        wait_for(lambda: "no sign of life" in robot.fault())


def test_an_arm_is_not_released_where_it_would_fall():
    arm = FakeServos()
    with hosted(arm) as host:
        host.start(PATIENCE_S)
        host.enable()
        with pytest.raises(RobotError, match="would fall"):
            host.release()
        assert arm.torque == [True, True]
        assert host.release(is_supported=True) == ()
        assert arm.torque == [False, False]


def test_a_failed_start_names_every_driver_and_changes_no_torque():
    left, right = FakeServos(("a", "b")), FakeServos(("c", "d"))
    left.fail("cannot connect")
    right.fail("asks")
    with hosted(left, right) as host:
        with pytest.raises(RobotError, match=r"servo 3 gives no answer.*right: EOFError"):
            host.start(PATIENCE_S)
        left.fail("none")
        right.fail("none")
        host.start(PATIENCE_S)


def test_a_start_that_hangs_ends_at_its_deadline():
    arm = FakeServos()
    arm.fail("hangs")
    with hosted(arm) as host, pytest.raises(RobotError, match="not ready within"):
        host.start(3.0)


def test_a_start_that_is_interrupted_ends_although_a_driver_hangs(monkeypatch):
    """Ctrl-C has no effect while a host is closed, so that must not take as long as parking."""
    arm = FakeServos()
    arm.fail("hangs")
    asked: list[float] = []

    def interrupted(timeout_s: float) -> None:
        raise KeyboardInterrupt

    def ask(order: str, *_: object, timeout_s: float) -> None:
        asked.append(timeout_s)
        raise RobotError(f"it did not {order}")

    with hosted(arm, config=replace(QUICK, hold_limit_s=float("inf"))) as host:
        monkeypatch.setattr(host._process, "wait_ready", interrupted)
        monkeypatch.setattr(host._process, "ask", ask)
        with pytest.raises(KeyboardInterrupt):
            host.start(PATIENCE_S)
        assert host.close() == ()  # no torque was given that could be left
        assert asked == [QUICK.order_timeout_s]
        assert not host._process.is_alive


def test_torque_that_one_arm_refuses_is_given_to_none():
    left, right = FakeServos(("a", "b")), FakeServos(("c", "d"))
    right.fail("refuses torque")
    with hosted(left, right) as host:
        host.start(PATIENCE_S)
        with pytest.raises(RobotError, match="d is overloaded"):
            host.enable()
        assert [*left.torque, *right.torque] == [False] * 4


def test_a_killed_host_is_named_and_its_successor_parks_and_releases():
    arm = FakeServos()
    with hosted(arm) as host:
        host.start(PATIENCE_S)
        host.enable()
        host.robot.command(np.array([0.7, 0.6]), 1)
        wait_for(lambda: arm.goal.tolist() == [0.7, 0.6])
        assert host.pid is not None
        os.kill(host.pid, signal.SIGKILL)
        wait_for(host.death)
        assert "killed by SIGKILL" in host.death()
        wait_for(lambda: "no sign of life" in host.robot.fault())
        assert (arm.torque, arm.goal.tolist()) == ([True, True], [0.7, 0.6])
        with pytest.raises(RobotError, match="SIGKILL"):
            host.enable()
        host.start(PATIENCE_S)
        assert "started anew" in host.robot.fault()
        assert arm.goal.tolist() == [0.7, 0.6]
        host.park()
        assert arm.goal.tolist() == REST.tolist()
        assert host.release() == ()
        assert arm.torque == [False, False]


def test_a_driver_that_ends_the_process_is_heard():
    arm = FakeServos()
    with hosted(arm) as host:
        host.start(PATIENCE_S)
        arm.fail("dies")
        wait_for(host.death)
        assert "exit code 7" in host.death()


@pytest.mark.parametrize("fault", ["unplugged", "stop iteration", "exits", "not a number"])
def test_nothing_that_a_driver_raises_ends_the_host(fault: str):
    arm = FakeServos()
    with hosted(arm) as host:
        host.start(PATIENCE_S)
        host.enable()
        arm.fail(fault)
        wait_for(lambda: "opened again" in host.robot.fault() or "failed" in host.robot.fault())
        arm.fail("none")
        wait_for(lambda: "opened anew; enable" in host.robot.fault(), host)
        assert arm.torque == [True, True]
        host.enable()
        host.robot.command(np.array([0.2, 0.2]), 1)
        wait_for(lambda: arm.goal.tolist() == [0.2, 0.2])
        assert host.death() == ""


def test_a_closed_host_parks_and_releases_an_arm_with_torque():
    arm = FakeServos()
    with hosted(arm) as host:
        host.start(PATIENCE_S)
        host.enable()
        assert host.close() == ()
        assert (arm.position.tolist(), arm.torque) == (REST.tolist(), [False, False])


def test_sigterm_parks_and_releases_and_ctrl_c_does_nothing():
    arm = FakeServos()
    with hosted(arm) as host:
        host.start(PATIENCE_S)
        host.enable()
        assert host.pid is not None
        os.kill(host.pid, signal.SIGINT)
        os.kill(host.pid, signal.SIGHUP)
        host.hold()
        assert arm.torque == [True, True]
        os.kill(host.pid, signal.SIGTERM)
        wait_for(host.death)
        assert (arm.position.tolist(), arm.torque) == (REST.tolist(), [False, False])


def test_a_robot_that_nobody_lets_follow_is_parked_and_released_after_a_while():
    arm = FakeServos()
    with hosted(arm, config=replace(QUICK, hold_limit_s=0.1)) as host:
        host.start(PATIENCE_S)
        host.enable()
        host.hold("coffee")
        wait_for(lambda: arm.torque == [False, False], host)
        assert arm.position.tolist() == REST.tolist()
        assert host.death() == ""
        host.enable()
        assert arm.torque == [True, True]


def test_parking_is_stopped_by_a_hold():
    arm = FakeServos()
    with hosted(arm, config=replace(QUICK, park_speed=0.05)) as host:
        host.start(PATIENCE_S)
        host.enable()
        parking = host._process.order("park")
        release = host._process.order("release", False)
        wait_for(lambda: "parking takes" in str(host.lines), host)  # type: ignore[attr-defined]
        host.hold("stop!")
        answers: list[tuple[bool, object]] = []
        for number in (parking, release):
            wait_for(lambda n=number: (a := host._process.answer(n)) and not answers.append(a))
        assert answers[0] == (False, "left: stop!")
        assert "would fall" in str(answers[1])
        assert arm.torque == [True, True]
        assert np.abs(arm.position - REST).max() > 0.1


def test_torque_does_not_come_on_late():
    left, right = FakeServos(("a", "b")), FakeServos(("c", "d"))
    with hosted(left, right, config=replace(QUICK, order_timeout_s=0.3)) as host:
        host.start(PATIENCE_S)
        left.fail("stalls")  # its driver comes back after a while
        wait_for(lambda: left.stalls)
        with pytest.raises(RobotError, match="left: its driver gives no answer"):
            host._process.ask("enable", timeout_s=PATIENCE_S)
        left.fail("none")
        before = host.robot.reading()
        assert before is not None
        wait_for(lambda: (r := host.robot.reading()) is not None and r.begin_s > before.end_s)
        host.hold()
        assert [*left.torque, *right.torque] == [False] * 4


def test_closing_a_host_that_dies_meanwhile_says_so():
    arm = FakeServos()
    with hosted(arm) as host:
        host.start(PATIENCE_S)
        host.enable()
        arm.fail("dies")
        assert "exit code 7" in str(host.close())


def test_an_arm_that_cannot_be_parked_is_not_dropped_while_somebody_is_there():
    left, right = FakeServos(("a", "b")), FakeServos(("c", "d"))
    left.fail("blocked")
    with hosted(left, right, config=replace(QUICK, hold_limit_s=0.1)) as host:
        host.start(PATIENCE_S)
        host.enable()
        host.hold()
        wait_for(lambda: "goes on holding. Support it" in str(host.lines), host)  # type: ignore[attr-defined]
        assert [*left.torque, *right.torque] == [True] * 4
        with pytest.raises(RobotError, match="left: parking stopped: b is"):
            host.park()
        assert right.position.tolist() == REST.tolist()  # the other arm is parked all the same


def test_an_arm_whose_driver_hangs_keeps_no_other_from_parking_and_release():
    left, right = FakeServos(("a", "b")), FakeServos(("c", "d"))
    config = replace(QUICK, hold_limit_s=0.1, order_timeout_s=0.5)
    with hosted(left, right, config=config) as host:
        host.start(PATIENCE_S)
        host._process.ask("enable", timeout_s=PATIENCE_S)
        left.fail("hangs")
        missing = host._process.ask("close", timeout_s=PATIENCE_S)
        assert "left: its driver gives no answer" in str(missing)
        assert (right.position.tolist(), right.torque) == (REST.tolist(), [False, False])
        assert host._process.join(PATIENCE_S)


def _command_until_killed(robot: HostedRobot) -> None:
    while True:
        robot.command(np.array([0.7, 0.7]), 1)
        time.sleep(0.01)


def test_a_robot_holds_after_the_process_that_commands_it_was_killed():
    arm = FakeServos()
    with hosted(arm, config=replace(QUICK, watchdog_s=0.5)) as host:
        host.start(PATIENCE_S)
        host.enable()
        context = multiprocessing.get_context("spawn")
        conductor = context.Process(target=_command_until_killed, args=(host.robot,))
        conductor.start()
        wait_for(lambda: arm.goal.tolist() == [0.7, 0.7])
        conductor.kill()
        conductor.join()
        wait_for(lambda: "no new command since 0.5 s" in host.robot.fault())
        assert (arm.goal.tolist(), arm.torque) == ([0.7, 0.7], [True, True])


def _brake_once_the_parent_has_gone(robot: Robot, parent: int) -> None:
    """Command as a control loop does whose parent dies in the middle of a motion."""
    goal, tick = 0.5, 0
    while goal < 0.8:
        goal = 0.7 if os.getppid() == parent else goal + 0.01
        robot.command(np.array([goal, goal]), tick := tick + 1)
        time.sleep(0.01)


def _start_and_wait(arm: FakeServos, started: Mailbox, exits: bool, moves: bool) -> None:
    config = replace(QUICK, hold_limit_s=0.3)
    host = RobotHost("bench", [arm.hosted("arm", REST)], rate_hz=50, config=config)
    host.start(PATIENCE_S)
    host.enable()
    if moves:
        context = multiprocessing.get_context("spawn")
        arguments = host.robot, os.getpid()
        context.Process(target=_brake_once_the_parent_has_gone, args=arguments).start()
        wait_for(lambda: arm.goal.tolist() == [0.7, 0.7])
    started.post(np.ones(1))
    while not exits:
        time.sleep(3600)


@pytest.mark.parametrize("end", ["killed in motion", "exits", "killed, and the arm is blocked"])
def test_an_arm_brakes_and_is_limp_after_its_parent_has_gone(end: str):
    arm, started = FakeServos(), Mailbox.create((1,))
    context = multiprocessing.get_context("spawn")
    arguments = arm, started, end == "exits", "motion" in end
    parent = context.Process(target=_start_and_wait, args=arguments)
    parent.start()
    try:
        wait_for(lambda: started.newest)
        is_blocked = "blocked" in end
        if is_blocked:
            arm.fail("blocked")
        if end != "exits":
            parent.kill()
        if "motion" in end:
            wait_for(lambda: arm.goal.max() >= 0.8)
        wait_for(lambda: arm.torque == [False, False])
        assert arm.position.tolist() == ([0.5, 0.5] if is_blocked else REST.tolist())
    finally:
        parent.kill()
        parent.join()
