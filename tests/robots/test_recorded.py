"""Recorded robot and leader: they give the rows of an episode at their times."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import numpy as np
import pytest
from numpy.typing import NDArray

from imitact.core.clock import VirtualClock
from imitact.core.robot import Leader, Robot
from imitact.core.types import Episode, Frame
from imitact.robots.recorded import RecordedLeader, RecordedRobot
from tests.support.dot_env import dot_spec

SPEC = dot_spec()
PERIOD_S = 1 / SPEC.rate_hz


@dataclass(frozen=True)
class TenTicks(Episode):
    """Ten rows; the gray of a frame is its row. `decoded` has the frames that were decoded."""

    index: int = 0
    decoded: list[int] = field(default_factory=list)

    @property
    def state(self) -> NDArray[np.float32]:
        return np.arange(20, dtype=np.float32).reshape(10, 2)

    @property
    def action(self) -> NDArray[np.float32]:
        return self.state + 100

    def frames(self, camera: str, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        for row in range(start, 10 if stop is None else stop):
            self.decoded.append(row)
            yield np.full((24, 32, 3), row, np.uint8)


@pytest.mark.parametrize("latency", [0, 2])
def test_each_row_is_measured_at_its_time_and_seen_after_the_latency(latency: int):
    clock, episode = VirtualClock(0.3), TenTicks()
    robot = RecordedRobot(
        episode,
        SPEC,
        clock,
        state_latency_s=latency * PERIOD_S,
        frame_latency_s=latency * PERIOD_S,
    )
    assert isinstance(robot, Robot)
    sequences = []
    for tick in range(10):
        clock.wait_until(0.3 + tick * PERIOD_S)
        row = max(0, tick - latency)
        reading, frame = robot.reading(), robot.frame("top")
        assert reading is not None
        assert frame is not None
        assert reading.values.tolist() == [2 * row, 2 * row + 1]
        assert frame.frame[0, 0, 0] == row
        assert clock.now_s() - reading.end_s == pytest.approx(latency * PERIOD_S, abs=1e-5)
        sequences.append(reading.sequence)
    assert sequences == list(range(1, 11))
    assert robot.fault() == ""
    clock.wait_until(0.3 + (10 + latency) * PERIOD_S)
    assert "has ended" in robot.fault()
    reading = robot.reading()
    assert reading is not None
    assert reading.values.tolist() == [18, 19]
    assert len(episode.decoded) <= 12  # the video is decoded once, whatever is looked at


def test_before_its_beginning_the_first_row_stands_and_stays_new():
    clock = VirtualClock()
    robot = RecordedRobot(TenTicks(), SPEC, clock)
    robot.begin(1.0)
    sequences = []
    for tick in range(22):
        clock.wait_until(tick * PERIOD_S)
        reading = robot.reading()
        assert reading is not None
        assert reading.values.tolist() == ([2, 3] if tick == 21 else [0, 1])
        assert 0 <= clock.now_s() + 1e-5 - reading.end_s < PERIOD_S
        sequences.append(reading.sequence)
    assert sequences == list(range(1, 23))


def test_frames_may_be_looked_at_in_any_order():
    clock = VirtualClock()
    robot = RecordedRobot(TenTicks(), SPEC, clock)
    clock.wait_until(5 * PERIOD_S)
    first = robot.frame("top")
    clock.wait_until(8 * PERIOD_S)
    second = robot.frame("top")
    assert first is not None
    assert second is not None
    assert second.frame[0, 0, 0] == 8
    assert first.frame[0, 0, 0] == 5
    assert second.frame[0, 0, 0] == 8


def test_commands_move_nothing_and_are_noted():
    clock = VirtualClock()
    robot = RecordedRobot(TenTicks(), SPEC, clock)
    robot.command(np.ones(2), 4)
    sent, reading = robot.sent(), robot.reading()
    assert sent is not None
    assert reading is not None
    assert (sent.tick, reading.values.tolist()) == (4, [0, 1])


def test_a_recorded_leader_is_engaged_from_its_first_row_to_its_last():
    clock = VirtualClock()
    leader = RecordedLeader(TenTicks(), SPEC, clock)
    leader.begin(2 * PERIOD_S)
    assert isinstance(leader, Leader)
    assert leader.action_names == SPEC.action_names
    engaged, rows = [], []
    for tick in range(14):
        clock.wait_until(tick * PERIOD_S)
        reading = leader.reading()
        assert reading is not None
        engaged.append(reading.engaged)
        rows.append(reading.values[0] - 100)
    assert engaged == [False] * 2 + [True] * 10 + [False] * 2
    assert rows == [0, 0, *range(0, 20, 2), 18, 18]
    assert "has ended" in leader.fault()


def first_values_read(leader: RecordedLeader, answers: Connection) -> None:
    """Send the leader's reading and its age before and after the other process begins it."""
    for _ in range(2):
        reading = leader.reading()
        assert reading is not None
        answers.send((reading.values[0] - 100, reading.engaged))
        answers.recv()


def test_a_leader_that_another_process_reads_begins_when_it_is_begun_here():
    clock = VirtualClock()
    clock.wait_until(100 * PERIOD_S)  # long after the end of an episode that began at 0
    leader = RecordedLeader(TenTicks(), SPEC, clock)
    leader.begin(0.0)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=first_values_read, args=(leader, there), daemon=True)
    process.start()
    try:
        assert here.poll(120)
        assert here.recv() == (18, False)
        leader.begin(97 * PERIOD_S)
        here.send("begun")
        assert here.poll(120)
        assert here.recv() == (6, True)
        here.send("end")
    finally:
        process.kill()
        process.join(10)
