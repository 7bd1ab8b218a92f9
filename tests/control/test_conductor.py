"""Conductor: phases on one schedule, orders and controls from another process."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

from imitact.control.ages import AgeBounds
from imitact.control.conductor import Conductor, ConductorPlan, PhasedSource
from imitact.control.contract import Hold
from imitact.control.control_loop import ControlLoop
from imitact.control.parking import RampSource
from imitact.control.sources import EpisodeSource
from imitact.core.clock import VirtualClock, WallClock
from imitact.core.errors import RobotError
from imitact.recording.tick_record import RecordReader, TickFormat
from tests.support.control import ARM, RATE_HZ, Counting, ObedientRobot, PassThrough

PATIENCE_S = 120.0
PATIENT = AgeBounds(state_ticks=1e9)


def phases():
    return {
        "ramp": RampSource(np.array([0.1, 0.0]), ARM.action_names, ARM.action_units, RATE_HZ),
        "run": EpisodeSource(np.full((10, 2), 0.1) + np.arange(10)[:, None] * 0.001),
    }


def test_phases_run_one_after_the_other_on_one_schedule_and_number_their_ticks():
    source, records = PhasedSource(phases()), []
    clock = VirtualClock()
    robot = ObedientRobot(clock)
    clock.call_at(0.09, lambda: source.select("ramp", None))
    clock.call_at(1.01, lambda: source.select("run", 5))
    loop = ControlLoop(robot, source, PassThrough(), clock, RATE_HZ, records.append)
    outcome = loop.run(np.zeros(2), 80)
    assert outcome.ended == "time"
    numbers = [record.phase for record in records]
    assert numbers[:6] == [0, 0, 0, 0, 0, 1]
    assert numbers[51:56] == [2] * 5
    assert numbers[56:] == [0] * 24
    assert {records[n].hold for n in (0, 56, 79)} == {Hold.WAITING}
    np.testing.assert_allclose(records[60].action, 0.104)
    assert source.ended == "phase 2 has ended: the time is over"


def test_a_hold_within_a_phase_has_its_number_and_a_phase_that_is_finished_holds():
    source, records = PhasedSource({"run": Counting()}), []
    clock = VirtualClock()
    robot = ObedientRobot(clock)
    source.select("run", None)
    clock.call_at(0.09, lambda: setattr(robot, "silent", "hot"))
    clock.call_at(0.19, source.finish)
    loop = ControlLoop(robot, source, PassThrough(), clock, RATE_HZ, records.append)
    loop.run(np.zeros(2), 15)
    assert [record.phase for record in records] == [1] * 10 + [0] * 5
    assert records[9].hold is Hold.ROBOT_FAULT
    assert records[14].hold is Hold.ROBOT_FAULT


def test_a_phase_that_does_not_begin_ends_and_says_why():
    class Unready(Counting):
        def begin(self, moment):
            raise ValueError("no pose")

    source, records, clock = PhasedSource({"run": Unready()}), [], VirtualClock()
    source.select("run", None)
    loop = ControlLoop(ObedientRobot(clock), source, PassThrough(), clock, RATE_HZ, records.append)
    loop.run(np.zeros(2), 3)
    assert [r.hold for r in records] == [Hold.FAILURE, Hold.WAITING, Hold.WAITING]
    assert source.ended == "phase 1 has ended: it did not begin: ValueError: no pose"


def test_a_phase_that_there_is_not_is_refused():
    with pytest.raises(RobotError, match="there is no phase walk; there are ramp, run"):
        PhasedSource(phases()).select("walk", None)


def test_a_reader_gives_every_record_once_and_counts_those_it_missed():
    form, records = TickFormat.of(ARM), []
    box, clock = form.mailbox(8), VirtualClock()
    reader = RecordReader(box, form)
    loop = ControlLoop(
        ObedientRobot(clock), Counting(), PassThrough(), clock, RATE_HZ, records.append
    )
    loop.run(np.zeros(2), 30)
    for record in records[:5]:
        box.post(form.pack(record))
    assert [record.tick for record in reader.new()] == [0, 1, 2, 3, 4]
    assert reader.new() == []
    for record in records[5:]:
        box.post(form.pack(record))
    assert [record.tick for record in reader.new()] == list(range(22, 30))
    assert reader.lost == 17


def wait_for(conductor, reader, wanted):
    """Read records, saying that all is well, until one is wanted; return all."""
    records, deadline_s = [], time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        conductor.say()
        new = reader.new()
        records += new
        if any(map(wanted, new)):
            return records
        assert conductor.death() == ""
        time.sleep(0.005)
    raise AssertionError(f"not seen within {PATIENCE_S:g} s; {len(records)} records")


def test_a_conductor_in_its_process_runs_phases_by_order_stops_and_is_told_of_its_death():
    lines = []
    plan = ConductorPlan(
        ObedientRobot(WallClock()), PassThrough(), phases(), RATE_HZ, PATIENT, PATIENCE_S
    )
    with Conductor(plan, lines.append) as conductor:
        conductor.start(PATIENCE_S)
        reader = conductor.reader()
        with pytest.raises(RobotError, match="engage it first"):
            conductor.begin("ramp")
        conductor.engage()
        wait_for(conductor, reader, lambda record: record.hold is Hold.WAITING)
        assert conductor.begin("ramp") == 1
        with pytest.raises(RobotError, match="there is no phase walk"):
            conductor.begin("walk")
        records = wait_for(conductor, reader, lambda r: r.phase == 0 and r.action[0] == 0.1)
        assert {record.phase for record in records} >= {0, 1}
        assert conductor.begin("run") == 2
        records = wait_for(conductor, reader, lambda r: r.phase == 0 and r.action[0] > 0.1)
        ticks = [record.tick for record in records]
        assert ticks == sorted(set(ticks))
        conductor.say(stop=True)
        deadline_s = time.monotonic() + PATIENCE_S
        while not any(r.hold is Hold.STOPPED for r in reader.new()):
            assert time.monotonic() < deadline_s
            time.sleep(0.005)
        conductor.disengage()
        conductor.engage()
        wait_for(conductor, reader, lambda record: record.tick == 2)
        assert any("phase 2 has ended" in line for line in lines)
        assert any("skipped; held at:" in line for line in lines)
        os.kill(conductor.pid, signal.SIGKILL)
        while not conductor.death() and time.monotonic() < deadline_s:
            time.sleep(0.005)
        assert "the control loop was killed by SIGKILL" in conductor.death()
