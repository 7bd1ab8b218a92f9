"""Tick record: its packed form loses nothing, and its columns are no inputs of LeRobot."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from imitact.control.contract import Hold
from imitact.control.control_loop import ControlLoop
from imitact.core.clock import VirtualClock
from imitact.recording.tick_record import TickFormat, TickRecord
from tests.support.control import RATE_HZ, SPEC, Counting, ObedientRobot, PassThrough


@pytest.fixture(scope="module")
def records() -> list[TickRecord]:
    clock, found = VirtualClock(), []
    robot = ObedientRobot(clock, SPEC)
    clock.call_at(0.05, lambda: setattr(robot, "silent", "überlastet: " + "x" * 400))
    ControlLoop(robot, Counting(14), PassThrough(), clock, RATE_HZ, found.append).run(
        np.zeros(14), 6
    )
    return found


def same(one: TickRecord, other: TickRecord) -> None:
    for field in fields(TickRecord):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, str):
            assert a.encode()[:199].startswith(b.encode()[:198]), field.name
        else:
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b), field.name)


def test_a_record_comes_back_from_its_mailbox_as_it_was(records):
    form = TickFormat.of(SPEC)
    box = form.mailbox(8)
    for number, record in enumerate(records, 1):
        assert box.post(form.pack(record)) == number
    for number, record in enumerate(records, 1):
        same(record, form.unpack(box.read(number).values))
    back = form.unpack(box.read(6).values)
    assert back.hold is Hold.ROBOT_FAULT
    assert back.words.startswith("überlastet: xxx")


def test_a_text_that_is_cut_within_a_letter_can_still_be_read(records):
    form = TickFormat.of(SPEC)
    record = form.unpack(form.pack(records[-1]))
    record.words = "ü" * 400 + "x"
    record.joint = "ä" * 40
    assert form.unpack(form.pack(record)).words.startswith("ü" * 90)


def test_a_row_has_every_column_in_s_since_the_first_tick(records):
    form = TickFormat.of(SPEC)
    row = form.row(records[3], records[0].due_s, 0.065)
    columns = form.columns()
    assert set(row) == set(columns)
    for name, column in columns.items():
        assert np.shape(row[name]) == (() if column.width is None else (column.width,)), name
    assert row["clock.due_s"] == pytest.approx(0.06)
    assert row["clock.state_s"] == pytest.approx([0.06, 0.06])
    assert row["clock.top_s"] == pytest.approx(0.06)
    assert row["clock.sent_s"] == pytest.approx(0.065)
    assert row["leader.engaged"] == 0


def test_no_column_is_named_like_an_input_or_output_of_a_policy():
    for name in TickFormat.of(SPEC).columns():
        assert not name.startswith(("action", "observation", "next.", "timestamp", "task")), name


def test_a_robot_without_cameras_has_records_too():
    form = TickFormat(("x",), ("x",), ())
    assert form.dtype["frames_s"].shape == (0,)
    assert "clock.due_s" in form.columns()
