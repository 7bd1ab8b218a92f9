"""Driver loop: one driver's periods, on a virtual clock."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from imitact.core.clock import VirtualClock
from imitact.core.errors import RobotError
from imitact.parallel.mailbox import Mailbox
from imitact.robots.driver_loop import DriverLoop, LoopConfig, Mode
from imitact.robots.hosted import DriverBoxes, HostedDriver, joined_sent
from tests.support.fake_arm import FakeArm, FakeServos

REST = np.array([0.1, 0.0])
PERIOD_S = 0.01


class Bench:
    """A loop of a fake arm, its period run by the test."""

    def __init__(
        self,
        *,
        enabled: bool = True,
        reopens: bool = True,
        leads: bool = False,
        read_s: float = 0.001,
        **settings: float,
    ) -> None:
        self.clock = VirtualClock(100.0)
        self.servos = FakeServos()
        hosted = HostedDriver(
            "arm",
            partial(FakeArm, self.servos, self.clock, read_s),
            self.servos.spec,
            REST,
            reopens,
        )
        self.boxes = DriverBoxes.create(self.servos.spec)
        self.command = Mailbox.create((2,))
        self.loop = DriverLoop(
            hosted,
            self.boxes,
            self.clock,
            LoopConfig(**settings),  # type: ignore[arg-type]
            None if leads else self.command,
        )
        self.loop.open()
        if enabled and not leads:
            self.loop.enable()

    def give(self, *action: float, tick: int = 0) -> None:
        self.command.post(np.array(action), float(tick), self.clock.now_s())

    def run(self, periods: int = 1) -> str:
        """Run periods and return the fault that the host posts."""
        for _ in range(periods):
            due_s = self.clock.now_s() + PERIOD_S
            self.loop.step()
            self.clock.wait_until(due_s)
        return self.boxes.fault.read()


def test_a_reading_has_the_times_of_its_read():
    bench = Bench(enabled=False)
    bench.run(3)
    mail = bench.boxes.state.read()
    assert mail is not None
    assert mail.sequence == 4  # the first of them by opening
    assert mail.times[1] - mail.times[0] == pytest.approx(0.001)


def test_a_slow_driver_is_honest_about_its_times_and_holds_commands_that_got_old():
    bench = Bench(read_s=0.15)
    bench.give(0.2, 0.3)
    fault = bench.run()  # the command is older than 0.1 s once the read has ended
    assert "no new command" in fault
    mail = bench.boxes.state.read()
    assert mail is not None
    assert mail.times[1] - mail.times[0] == pytest.approx(0.15)
    assert bench.servos.goal.tolist() == [0.5, 0.5]


def test_a_command_is_sent_in_the_next_period_and_its_tick_posted_once():
    bench = Bench()
    bench.give(0.2, 0.3, tick=5)
    assert bench.run() == ""
    assert bench.servos.goal.tolist() == [0.2, 0.3]
    bench.run(4)
    assert bench.boxes.sent.newest == 2  # the first is what the servos held
    sent = joined_sent([bench.boxes])
    assert sent is not None
    assert sent.tick == 5


def test_a_command_given_before_the_torque_is_not_followed():
    bench = Bench(enabled=False)
    bench.give(0.9, 0.9)
    assert bench.run() == "arm: no torque"
    bench.loop.enable()
    assert bench.run() == ""
    assert bench.servos.goal.tolist() == [0.5, 0.5]


def test_what_the_servos_hold_counts_as_sent_once_they_have_torque():
    bench = Bench()
    bench.give(0.9, 0.9, tick=5)
    bench.run(2)
    bench.loop.release()
    bench.servos.change(0, 0.2)  # a person moves the limp arm
    bench.run()
    bench.loop.enable()
    sent = joined_sent([bench.boxes])
    assert sent is not None
    assert (sent.tick, sent.action.tolist()) == (-1, [0.2, 0.2])


def test_an_arm_that_kept_its_torque_goes_on_from_its_last_command():
    bench = Bench()
    bench.give(0.5, 0.9, tick=5)
    bench.run(2)
    bench.servos.fail("unplugged")
    bench.run()
    bench.servos.change(0, [0.47, 0.7])  # under its load, and pushed away
    bench.servos.fail("none")
    bench.run(200)
    bench.loop.enable()
    sent = joined_sent([bench.boxes])
    assert sent is not None
    assert (sent.tick, sent.action.tolist()) == (-1, [0.5, 0.7])


def test_without_a_new_command_it_holds_the_last_one_and_follows_the_next():
    bench = Bench()
    bench.give(0.2, 0.3)
    assert bench.run(9) == ""
    assert "no new command since 0.1 s" in bench.run(3)
    bench.servos.change(0, 0.25)  # the measured joints sag
    bench.run(100)
    assert bench.servos.goal.tolist() == [0.2, 0.3]
    bench.give(0.4, 0.4)
    assert bench.run() == ""
    assert bench.servos.goal.tolist() == [0.4, 0.4]


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_command_that_is_not_finite_is_not_sent(wrong: float):
    bench = Bench()
    bench.give(0.2, 0.3)
    bench.run()
    bench.give(0.2, wrong)
    assert "not finite" in bench.run()
    assert bench.servos.goal.tolist() == [0.2, 0.3]


def test_some_missed_reads_are_tolerated_and_more_make_it_hold():
    bench = Bench(missed_reads=3)
    bench.servos.fail("no answer")
    for tick in range(3):
        bench.give(0.2 + tick / 10, 0.3)
        assert bench.run() == ""
    assert bench.servos.goal.tolist() == [0.4, 0.3]
    bench.give(0.9, 0.9)
    assert "4 periods failed, the last with: no answer from servo 2" in bench.run()
    assert bench.servos.goal.tolist() == [0.4, 0.3]
    bench.servos.fail("none")
    bench.give(0.5, 0.3)
    assert bench.run() == ""
    assert bench.servos.goal.tolist() == [0.5, 0.3]


def test_writes_that_fail_are_a_fault_too():
    bench = Bench(missed_reads=3)
    bench.servos.fail("writes fail")
    for _ in range(5):
        bench.give(0.2, 0.3)
        bench.run()
    assert "no answer to the command" in bench.loop.fault


def test_a_driver_that_stays_silent_is_replaced_and_waits_to_be_enabled():
    bench = Bench()
    bench.give(0.2, 0.3)
    bench.run()
    bench.servos.fail("no answer")
    assert "cannot be opened again: no answer" in bench.run(400)
    bench.servos.fail("none")
    assert "opened anew; enable the robot" in bench.run(200)
    assert bench.servos.connections > 2
    bench.give(0.9, 0.9)
    bench.run()
    assert bench.servos.goal.tolist() == [0.2, 0.3]
    bench.loop.enable()
    bench.give(0.9, 0.9)
    assert bench.run() == ""


@pytest.mark.parametrize("fault", ["unplugged", "no answer"])
def test_a_driver_that_must_not_be_opened_again_is_kept(fault: str):
    bench = Bench(reopens=False)
    bench.servos.fail(fault)
    assert "periods failed" in bench.run(300)
    bench.servos.fail("none")
    bench.give(0.3, 0.3)
    bench.run(1)
    bench.give(0.4, 0.4)
    assert bench.run(2) == ""
    assert bench.servos.connections == 1


def test_health_that_is_not_answered_gets_old_and_stops_nothing():
    bench = Bench()
    bench.servos.fail("no health")
    before = bench.boxes.health.read()
    bench.give(0.3, 0.3)
    assert bench.run(5) == ""
    assert bench.boxes.health.read() == before


def test_a_leader_reads_and_is_never_given_torque():
    bench = Bench(leads=True)
    assert bench.run(5) == ""
    assert bench.servos.torque == [False, False]
    bench.servos.fail("no answer")
    assert "periods failed" in bench.run(5)


def _park(bench: Bench) -> list[list[float]]:
    bench.loop.start_parking()
    goals = []
    while bench.loop.parking_failure is None:
        bench.run()
        goals.append(bench.servos.goal.tolist())
    return goals


def test_parking_is_slow_and_at_rest_at_both_ends():
    bench = Bench()
    bench.give(1.0, 0.6)
    bench.run(2)
    goals = np.array([[1.0, 0.6], *_park(bench)])
    assert bench.loop.parking_failure == ""
    assert goals[-1].tolist() == REST.tolist()
    velocity = np.diff(goals, axis=0) / PERIOD_S
    assert 0.25 < np.abs(velocity).max() < 0.31  # goals are rounded to 1e-4
    assert np.abs(velocity[[0, -1]]).max() <= 0.011
    assert "parked" in bench.run()


def test_a_stall_while_parking_makes_no_jump():
    bench = Bench()
    bench.loop.start_parking()
    bench.run(80)
    before = bench.servos.goal
    bench.clock.wait_until(bench.clock.now_s() + 5.0)
    bench.run()
    assert np.abs(bench.servos.goal - before).max() < 0.01


def test_parking_stops_where_a_joint_is_blocked_and_says_which():
    bench = Bench()
    bench.servos.fail("blocked")
    goals = _park(bench)
    assert "parking stopped: elbow is" in (bench.loop.parking_failure or "")
    assert bench.loop.mode is Mode.HOLDING
    assert goals[-1][1] > REST[1] + 0.05


def test_parking_stops_where_the_driver_fails():
    bench = Bench()
    bench.loop.start_parking()
    bench.run(5)
    bench.servos.fail("unplugged")
    bench.run(2)
    assert bench.loop.parking_failure


def test_parking_starts_at_the_last_command_where_the_arm_is_there():
    bench = Bench()
    bench.give(0.5, 0.52)
    bench.run()
    bench.servos.change(0, [0.49, 0.02])  # the waist sags a little, the elbow fell
    bench.run()
    bench.servos.fail("blocked")
    bench.servos.change(0, [0.49, 0.02])
    bench.loop.step()
    bench.loop.start_parking()
    bench.loop.step()
    assert bench.servos.goal == pytest.approx([0.5, 0.02], abs=1e-3)


def test_an_arm_that_fell_while_its_driver_failed_does_not_rise_by_itself():
    bench = Bench()
    bench.give(0.5, 0.5)
    bench.run()
    bench.servos.fail("unplugged")
    bench.run()
    bench.servos.change(2, 0.0)  # power off and on
    bench.servos.change(0, [0.5, -0.4])
    bench.servos.fail("none")
    assert "opened anew" in bench.run(200)
    with pytest.raises(RobotError, match="elbow is not where it was held"):
        bench.loop.start_parking()
    bench.run(5)
    assert bench.servos.torque == [False, False]
    bench.loop.enable()
    _park(bench)
    assert bench.servos.position.tolist() == REST.tolist()


def test_an_arm_without_torque_or_rest_pose_is_not_parked():
    with pytest.raises(RobotError, match="enable it first"):
        Bench(enabled=False).loop.start_parking()
    bench = Bench()
    bench.loop.rest = None
    with pytest.raises(RobotError, match="support the arm by hand"):
        bench.loop.start_parking()


def test_a_release_reports_the_joints_that_do_not_answer():
    bench = Bench()
    bench.servos.fail("deaf")
    assert bench.loop.release() == ("elbow",)
    assert bench.servos.torque == [False, True]
    assert "no answer to the release of elbow" in bench.run()
    bench.servos.fail("none")
    assert bench.loop.release() == ()


def test_a_release_opens_a_failed_driver_anew():
    bench = Bench()
    bench.servos.fail("unplugged")
    bench.run(3)
    bench.servos.fail("none")
    assert bench.loop.release() == ()
    assert bench.servos.torque == [False, False]


def test_a_release_turns_the_torque_off_where_the_checks_of_a_new_driver_fail():
    bench = Bench()
    bench.servos.fail("unplugged")
    bench.run()  # the driver is given up
    bench.servos.fail("cannot connect")
    assert bench.servos.torque == [True, True]
    assert bench.loop.release() == ()
    assert bench.servos.torque == [False, False]


def test_enabling_gives_a_servo_that_restarted_its_torque_again():
    bench = Bench()
    bench.run(2)
    bench.servos.change(2, [1.0, 0.0])  # it says so in its health
    bench.loop.hold()
    bench.loop.enable()
    assert bench.servos.torque == [True, True]
