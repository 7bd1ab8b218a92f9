"""Simulated robot: its world is the one that an evaluation runs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from imitact.control.control_loop import ControlLoop
from imitact.core.clock import VirtualClock
from imitact.core.errors import ImitactError
from imitact.core.hold import Hold
from imitact.core.robot import Robot, watchdog_s
from imitact.core.types import Spec
from imitact.parallel.mailbox import Mailbox
from imitact.recording.tick_record import TickRecord
from imitact.robots.host import RobotHost
from imitact.robots.hosted import HostedDriver
from imitact.robots.simulated import Outcome, SimulatedDriver, SimulatedRobot, WorldBoxes
from imitact.robots.timed_frames import frame_mailbox
from tests.support.control import Counting, LateClock, PassThrough
from tests.support.dot_env import RATE_HZ, DotEnv, dot_spec
from tests.support.hosts import PATIENCE_S, QUICK, wait_for


def commands(count: int) -> np.ndarray:
    return np.random.default_rng(5).uniform(0, 1, (count, 2))


def states_of_env(seed: int, actions: np.ndarray) -> list[list[float]]:
    env = DotEnv()
    states = [env.reset(seed).state.tolist()]
    return states + [env.step(action).observation.state.tolist() for action in actions]


@pytest.mark.parametrize("wait_s", [0.0, 0.013, 100 / 3])
def test_each_tick_sees_the_result_of_all_commands_before(wait_s: float):
    clock = VirtualClock(0.1)
    robot = SimulatedRobot(DotEnv(), clock, seed=3)
    assert isinstance(robot, Robot)
    clock.wait_until(clock.now_s() + wait_s)  # the world waits for the first command
    start_s = clock.now_s()
    seen = []
    actions = commands(50)
    for tick, action in enumerate(actions):
        clock.wait_until(start_s + tick / RATE_HZ)
        reading = robot.reading()
        assert reading is not None
        assert 0 <= clock.now_s() - reading.end_s < 1 / RATE_HZ
        seen.append(reading.values.tolist())
        robot.command(action, tick)
    assert seen == states_of_env(3, actions)[:50]
    assert robot.outcome.ticks == 49


def test_a_skipped_tick_lets_the_last_command_act_on():
    clock = VirtualClock()
    robot = SimulatedRobot(DotEnv(), clock, seed=3)
    robot.command(np.array([1.0, 1.0]), 0)
    clock.wait_until(4 / RATE_HZ)
    reading = robot.reading()
    assert reading is not None
    assert reading.values.tolist() == states_of_env(3, np.ones((4, 2)))[-1]
    assert "no new command" in robot.fault()
    robot.command(np.array([0.5, 0.5]), 4)
    assert robot.fault() == ""


class SlowDot(DotEnv):
    """The dot with few ticks per second."""

    def __init__(self, rate_hz: float) -> None:
        super().__init__()
        self._rate_hz = rate_hz

    @property
    def spec(self) -> Spec:
        return replace(dot_spec(), rate_hz=self._rate_hz)


@pytest.mark.parametrize("rate_hz", [1.0, 5.0, 10.0, 50.0])
def test_a_robot_of_any_rate_follows_and_holds_once_its_commands_stop(rate_hz: float):
    clock = VirtualClock()
    robot = SimulatedRobot(SlowDot(rate_hz), clock, seed=3)
    records: list[TickRecord] = []
    loop = ControlLoop(robot, Counting(2), PassThrough(), clock, rate_hz, records.append)
    loop.run(np.zeros(2), 20)
    assert [record.hold for record in records] == [Hold.NONE] * 20
    clock.wait_until(clock.now_s() + 1.1 * watchdog_s(rate_hz))
    assert "no new command" in robot.fault()
    late = LateClock({round(3 / rate_hz * 50): 2.2 / rate_hz})  # its keys are ticks of 50 Hz
    skipping = SimulatedRobot(SlowDot(rate_hz), late, seed=3)
    loop = ControlLoop(skipping, Counting(2), PassThrough(), late, rate_hz, records.append)
    loop.run(np.zeros(2), 5)
    assert {record.hold for record in records[20:]} == {Hold.NONE}
    spec = dot_spec()
    driver = HostedDriver("dot", partial(SlowDot, rate_hz), spec)  # type: ignore[arg-type]
    host = RobotHost("dot", [driver], rate_hz=rate_hz)
    assert host._plan.config.watchdog_s == watchdog_s(rate_hz)


def test_readings_and_frames_are_late_by_their_latency():
    clock = VirtualClock()
    robot = SimulatedRobot(DotEnv(), clock, seed=3, state_latency_s=0.06, frame_latency_s=0.1)
    assert robot.reading() is None
    period_s = 1 / RATE_HZ
    states, pictures = states_of_env(3, np.ones((10, 2))), []
    env = DotEnv()
    pictures.append(env.reset(3).frames["top"])
    pictures += [env.step(np.ones(2)).observation.frames["top"] for _ in range(10)]
    robot.command(np.ones(2), 0)
    for tick in range(1, 10):
        clock.wait_until(tick * period_s)
        robot.command(np.ones(2), tick)
        reading, frame = robot.reading(), robot.frame("top")
        if tick >= 2:
            assert reading is not None
            assert reading.values.tolist() == states[tick - 2]
            assert frame is not None
            assert np.array_equal(frame.frame, pictures[tick - 2])
            assert clock.now_s() - frame.captured_s == pytest.approx(0.1, abs=1e-5)
    assert robot.sent() is not None


def test_a_frame_is_rendered_where_it_is_looked_at_and_not_after_its_tick():
    clock = VirtualClock()
    robot = SimulatedRobot(DotEnv(), clock)
    robot.command(np.ones(2), 0)
    late = robot.frame("top")
    assert late is not None
    clock.wait_until(1 / RATE_HZ)
    early = robot.frame("top")
    assert early is not None
    assert early.frame.shape == (24, 32, 3)
    with pytest.raises(ImitactError, match="after its tick"):
        _ = late.frame


def test_commands_that_make_no_sense_are_refused_and_the_last_one_acts_on():
    clock = VirtualClock()
    robot = SimulatedRobot(DotEnv(), clock, seed=3)
    robot.command(np.array([1.0, 1.0]), 0)
    for wrong in (np.array([np.nan, 0.0]), np.zeros(3)):
        robot.command(wrong, 1)
        assert "not finite or of another size" in robot.fault()
    clock.wait_until(2 / RATE_HZ)
    reading = robot.reading()
    assert reading is not None
    assert reading.values.tolist() == states_of_env(3, np.ones((2, 2)))[-1]


class Failing(DotEnv):
    """An env that fails at its third step."""

    count = 0

    def step(self, action):
        self.count += 1
        if self.count == 3:
            raise ZeroDivisionError("no mass")
        return super().step(action)


def test_an_env_that_fails_is_a_fault_and_raises_in_no_wait():
    clock = VirtualClock()
    robot = SimulatedRobot(Failing(), clock)
    robot.command(np.ones(2), 0)
    clock.wait_until(1.0)
    assert "ZeroDivisionError: no mass" in robot.fault()
    assert robot.outcome.ticks == 2
    robot.reset(4)
    assert robot.fault() == ""
    assert robot.outcome == Outcome(4)


def test_a_reset_ends_the_steps_of_the_episode_before():
    clock = VirtualClock()
    robot = SimulatedRobot(DotEnv(), clock, seed=1)
    robot.command(np.ones(2), 0)
    clock.wait_until(0.5)
    robot.reset(2)
    clock.wait_until(0.7)
    assert robot.outcome == Outcome(2)
    robot.command(np.ones(2), 0)
    clock.wait_until(0.7 + 3.5 / RATE_HZ)
    assert robot.outcome.ticks == 3


def test_success_and_rewards_are_those_of_the_env():
    clock = VirtualClock()
    robot = SimulatedRobot(DotEnv(), clock, seed=3)
    env = DotEnv()
    mark = np.asarray(env.reset(3).privileged)
    for tick in range(20):
        clock.wait_until(tick / RATE_HZ)
        robot.command(mark, tick)
    assert robot.outcome.success
    assert robot.outcome.highest_reward == 2.0


def test_a_world_in_real_time_makes_up_for_late_writes_and_stands_still_in_between():
    boxes = WorldBoxes({"top": frame_mailbox(24, 32)}, Mailbox.create((6,)), Mailbox.create((1,)))
    clock = VirtualClock(50.0)
    driver = SimulatedDriver(DotEnv, boxes, 3, clock=clock)
    driver.connect()
    clock.wait_until(60.0)  # before its first command a world stands still
    ticks = []
    for at in (0.0, 1.02, 1.9, 3.1, 6.0, 6.9, 6.9, 500.0, 501.0):
        clock.wait_until(60.0 + at / RATE_HZ)
        driver.write(np.ones(2))
        ticks.append(driver.outcome.ticks)
    assert ticks == [1, 2, 3, 4, 7, 8, 8, 9, 10]
    assert boxes.read_outcome() == driver.outcome
    assert driver.read().tolist() == states_of_env(3, np.ones((10, 2)))[-1]


def test_a_world_in_a_host_process_steps_with_commands_and_begins_anew():
    spec = dot_spec()
    boxes = WorldBoxes({"top": frame_mailbox(24, 32)}, Mailbox.create((6,)), Mailbox.create((1,)))
    driver = HostedDriver("the dot", partial(SimulatedDriver, DotEnv, boxes, 3), spec)
    with RobotHost(
        "dot",
        [driver],
        rate_hz=RATE_HZ,
        config=replace(QUICK, falls=False),
        cameras=[(spec.cameras[0], boxes.frames["top"])],
    ) as host:
        host.start(PATIENCE_S)
        assert boxes.read_outcome() == Outcome(3)
        host.enable()
        host.robot.command(np.ones(2), 0)
        wait_for(lambda: (outcome := boxes.read_outcome()) is not None and outcome.ticks >= 3)
        wait_for(lambda: (frame := host.robot.frame("top")) is not None and frame.sequence >= 2)
        frame = host.robot.frame("top")
        assert frame is not None
        assert frame.frame.shape == (24, 32, 3)
        again = host.robot.frame_at("top", 1)
        assert again is not None
        assert again.sequence == 1
        host.release(is_supported=True)
        boxes.reset.post(np.array([7.0]))
        wait_for(lambda: boxes.read_outcome() == Outcome(7))
        start = DotEnv().reset(7).state.tolist()
        wait_for(lambda: (r := host.robot.reading()) is not None and r.values.tolist() == start)
        host.enable()
        assert boxes.read_outcome() == Outcome(7)
