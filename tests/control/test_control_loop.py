"""Control loop: an absolute schedule that skips, holds by name, and never raises."""

from __future__ import annotations

import numpy as np
import pytest

from imitact.control.contract import Asked, Controls, Hold
from imitact.control.control_loop import ControlLoop
from imitact.core.clock import VirtualClock
from tests.support.control import (
    ARM,
    RATE_HZ,
    SPEC,
    Counting,
    LateClock,
    ObedientRobot,
    PassThrough,
)


def run(ticks=10, late_s=None, source=None, spec=ARM, at_tick=None, controls=Controls, start=None):
    """Run a loop; `at_tick(tick, robot, safety)` is called before each tick is read."""
    clock = LateClock(late_s or {})
    robot = ObedientRobot(clock, spec)
    safety, records = PassThrough(), []
    source = source or Counting(spec.action_size)
    loop = ControlLoop(robot, source, safety, clock, RATE_HZ, records.append, controls)
    if at_tick is not None:
        for tick in range(ticks):
            clock.call_at(tick / RATE_HZ - 1e-9, lambda tick=tick: at_tick(tick, robot, safety))
    outcome = loop.run(np.zeros(spec.action_size) if start is None else start, ticks)
    return outcome, records, robot, safety, source


def test_ticks_are_due_at_multiples_of_the_period_whatever_each_one_takes():
    late = dict.fromkeys(range(1, 100), 0.015)
    outcome, records, robot, _, _ = run(100, late)
    assert [record.tick for record in records] == list(range(100))
    np.testing.assert_allclose([r.due_s for r in records], np.arange(100) / RATE_HZ, atol=1e-12)
    assert outcome.skipped == 0
    assert [tick for tick, _ in robot.commands] == list(range(100))


def test_a_loop_that_is_late_by_periods_skips_those_ticks_and_says_how_many():
    outcome, records, _, _, source = run(10, {3: 0.05})
    assert [record.tick for record in records] == [0, 1, 2, 5, 6, 7, 8, 9]
    assert [record.skipped for record in records] == [0, 0, 0, 2, 0, 0, 0, 0]
    assert outcome.skipped == 2
    assert records[3].start_s - records[3].due_s == pytest.approx(0.01)
    assert records[3].asked[0] == 5.0  # the row of its own time
    assert not source.held


def test_skipping_longer_than_the_robots_watchdog_holds_for_a_tick():
    _, records, _, _, source = run(20, {3: 0.15})
    (hold,) = [record for record in records if record.hold]
    assert hold.hold is Hold.LOOP_LATE
    assert "7 ticks were skipped" in hold.words
    assert source.held == [(10, Hold.LOOP_LATE)]


def test_ticks_that_are_skipped_past_the_end_do_not_count_as_lost():
    outcome, records, _, _, _ = run(10, {8: 0.2})
    assert records[-1].tick == 7
    assert outcome.skipped == 2


@pytest.mark.parametrize(
    ("change", "hold", "words"),
    [
        ({"age_s": 0.061}, Hold.STATE_OLD, "the state is 61 ms old; at most 60 ms"),
        ({"age_s": np.inf}, Hold.NO_STATE, "no state yet"),
        ({"age_s": np.nan}, Hold.STATE_OLD, "the state is nan ms old"),
        (
            {"age_s": -5.0},
            Hold.STATE_OLD,
            "has a time 5000 ms in the future; is it of another clock",
        ),
        ({"picture_age_s": -5.0}, Hold.PICTURE_OLD, "has a time 5000 ms in the future"),
        ({"picture_age_s": 0.101}, Hold.PICTURE_OLD, "camera top is 101 ms old; at most 100 ms"),
        ({"pictures": False}, Hold.PICTURE_OLD, "camera top has given no picture"),
        ({"silent": "servo 3 does not answer"}, Hold.ROBOT_FAULT, "servo 3 does not answer"),
        ({"broken": {"reading"}}, Hold.FAILURE, "reading is broken"),
        ({"broken": {"frame"}}, Hold.FAILURE, "frame is broken"),
        ({"broken": {"fault"}}, Hold.FAILURE, "fault is broken"),
    ],
)
def test_what_is_old_or_missing_holds_the_last_command_by_name_at_the_tick_it_is_seen(
    change, hold, words
):
    def at_tick(tick, robot, safety):
        before = ObedientRobot(robot.clock)
        for name, value in change.items():
            setattr(robot, name, value if 5 <= tick < 8 else getattr(before, name))

    source = Counting(SPEC.action_size, cameras=("top",))
    outcome, records, robot, safety, _ = run(12, source=source, spec=SPEC, at_tick=at_tick)
    assert [r.hold for r in records] == [Hold.NONE] * 5 + [hold] * 3 + [Hold.NONE] * 4
    assert words in records[5].words
    assert words in safety.whys[6]
    assert [action[0] for _, action in robot.commands] == [0, 1, 2, 3, 4, 4, 4, 4, 8, 9, 10, 11]
    assert outcome.holds == {hold: 3}
    assert [tick for tick, _ in source.held] == [5, 6, 7]
    assert [m.held for m in source.seen] == [0, 0, 0, 0, 0, 3, 0, 0, 0]


def test_what_is_just_fresh_enough_goes_on():
    def at_tick(tick, robot, safety):
        robot.age_s, robot.picture_age_s = 0.0599, 0.0999

    source = Counting(SPEC.action_size, cameras=("top",))
    _, records, _, _, _ = run(5, source=source, spec=SPEC, at_tick=at_tick)
    assert not any(record.hold for record in records[1:])


def test_a_camera_that_the_source_does_not_use_may_be_old():
    def at_tick(tick, robot, safety):
        robot.pictures = False

    outcome, records, _, _, _ = run(5, spec=SPEC, at_tick=at_tick)
    assert not outcome.holds
    assert np.isnan(records[-1].frames_s[0])


@pytest.mark.parametrize("method", ["health", "command", "sent"])
def test_no_error_of_a_robot_ends_the_loop(method):
    def at_tick(tick, robot, safety):
        robot.broken = {method} if 3 <= tick < 6 else set()

    outcome, records, robot, _, _ = run(8, at_tick=at_tick)
    assert len(records) == 8
    assert sum(outcome.faults.values()) == 3
    assert f"{method} is broken" in next(iter(outcome.faults))
    assert robot.commands[-1][1][0] == 7.0


def test_an_error_of_the_source_holds_with_its_words():
    outcome, records, robot, _, _ = run(8, source=Counting(fails_at=(3, 4)))
    assert [r.tick for r in records if r.hold is Hold.FAILURE] == [3, 4]
    assert "ZeroDivisionError: one by zero" in records[3].words
    assert robot.commands[4][1][0] == 2.0
    assert outcome.ticks == 8


@pytest.mark.parametrize("answer", [None, Asked([[1.0], [1.0, 2.0]]), Asked("a pose"), Asked({})])
def test_what_no_action_is_holds_and_reaches_neither_filter_nor_record(answer):
    class Wrong(Counting):
        def action(self, moment):
            asked = super().action(moment)
            return answer if moment.tick == 3 else asked

    _, records, robot, _, _ = run(6, source=Wrong())
    assert [r.tick for r in records if r.hold is Hold.FAILURE] == [3]
    assert "the source failed" in records[3].words
    assert np.all(np.isnan(records[3].asked))
    assert robot.commands[3][1][0] == 2.0


@pytest.mark.parametrize("wrong", [np.array([np.nan, 0.0]), np.zeros(3), "not an array"])
def test_a_safety_filter_that_fails_leaves_the_last_command(wrong):
    class Broken(PassThrough):
        def check(self, *args, **kwargs):
            verdict = super().check(*args, **kwargs)
            return verdict if len(self.whys) != 4 else type(verdict)(wrong)

    clock = VirtualClock()
    robot, records = ObedientRobot(clock), []
    ControlLoop(robot, Counting(), Broken(), clock, RATE_HZ, records.append).run(np.zeros(2), 6)
    assert [action[0] for _, action in robot.commands] == [0, 1, 2, 2, 4, 5]
    assert records[3].stage == -1
    assert "the safety filter failed" in records[3].words


def test_an_error_of_the_recorder_neither_ends_the_loop_nor_is_lost():
    clock = VirtualClock()
    robot = ObedientRobot(clock)

    def full(record):
        raise OSError("no space")

    outcome = ControlLoop(robot, Counting(), PassThrough(), clock, RATE_HZ, full).run(
        np.zeros(2), 5
    )
    assert outcome.faults == {"on_tick failed: OSError: no space": 5}
    assert len(robot.commands) == 5


def test_a_run_ends_by_its_source_with_its_words():
    outcome, records, _, _, _ = run(100, source=Counting(ends_at=6))
    assert (outcome.ended, outcome.words, outcome.ticks) == ("source", "all is done", 7)
    assert records[-1].tick == 6


def test_a_stop_holds_until_it_is_taken_back_and_an_end_ends():
    asked = iter([Controls()] * 3 + [Controls(stop=True)] * 3 + [Controls()] * 2)
    outcome, records, robot, _, _ = run(
        100, controls=lambda: next(asked, Controls(stop=True, end=True))
    )
    assert [r.hold is Hold.STOPPED for r in records] == [False] * 3 + [True] * 3 + [False] * 2 + [
        True
    ]
    assert outcome.ended == "controls"
    assert robot.commands[-1][1][0] == 7.0


def test_a_stop_that_is_taken_back_lets_the_safety_filter_go_on_once():
    asked = iter([Controls()] * 3 + [Controls(stop=True)] * 3)
    _, _, _, safety, _ = run(20, controls=lambda: next(asked, Controls()))
    assert safety.resumed == 1


def test_a_command_that_is_silent_holds():
    outcome, records, _, _, _ = run(100, controls=lambda: Controls(given_s=0.0))
    assert records[50].hold is Hold.NONE
    assert records[51].hold is Hold.CONTROLS_SILENT
    assert outcome.holds == {Hold.CONTROLS_SILENT: 49}


def test_a_hold_of_the_safety_filter_counts_as_held_and_stands_in_the_record():
    def at_tick(tick, robot, safety):
        safety.holds = 3 <= tick < 5

    _, records, _, _, source = run(8, at_tick=at_tick)
    assert [r.stage for r in records] == [0, 0, 0, 7, 7, 0, 0, 0]
    assert records[3].words == "it holds"
    assert [m.held for m in source.seen] == [0, 0, 0, 0, 1, 2, 0, 0]


def test_a_record_has_the_newest_command_that_was_sent_with_its_tick():
    _, records, _, safety, _ = run(5, spec=SPEC)
    assert [r.sent_tick for r in records] == [0, 1, 2, 3, 4]  # this robot sends at once
    np.testing.assert_array_equal(records[4].sent, np.full(14, 4.0))
    assert records[4].state[0] == 3.0
    assert safety.ages[0].state_s == 0.0
    assert safety.ages[0].pictures_s == {}  # the source looks at none


def test_the_source_begins_once_even_where_the_first_ticks_hold():
    def at_tick(tick, robot, safety):
        robot.age_s = np.inf if tick < 3 else 0.0

    _, records, _, _, source = run(6, at_tick=at_tick)
    assert source.begun in (0, 1)
    assert not records[-1].hold
