"""Run log and statistics: every tick is there, missing values are null, a cut line is left out."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from imitact.control.contract import Hold
from imitact.control.run_log import RUN, TICKS, RunLog, read_about, read_ticks
from imitact.control.run_statistics import Percentiles, RunStatistics
from imitact.control.shadow import ShadowRobot
from imitact.core.clock import VirtualClock
from imitact.core.errors import DamagedFile
from imitact.recording.tick_record import TickRecord
from tests.support.control import ObedientRobot
from tests.support.tick_stream import SPEC, record_of


@pytest.fixture
def records() -> list[TickRecord]:
    return [record_of(tick) for tick in range(5)]


def test_every_tick_is_a_line_with_what_was_set(tmp_path: Path, records: list[TickRecord]):
    log = RunLog(tmp_path / "log", SPEC, {"robot": "x"})
    for record in records:
        log.add(record)
    log.end({"ticks": 5})
    about = read_about(tmp_path / "log")
    assert about["settings"] == {"robot": "x"}
    assert about["summary"] == {"ticks": 5}
    rows = list(read_ticks(tmp_path / "log", 100))
    assert [row["tick"] for row in rows] == [record.tick for record in records]
    assert rows[0]["t"] == 0.0
    assert rows[1]["state"] == pytest.approx(records[1].state, abs=1e-5)


def test_a_log_of_a_killed_run_is_read_up_to_its_last_whole_line(
    tmp_path: Path, records: list[TickRecord]
):
    with RunLog(tmp_path / "log", SPEC, {}) as log:
        for record in records:
            log.add(record)
    file = tmp_path / "log" / TICKS
    file.write_bytes(file.read_bytes()[:-20])
    assert len(list(read_ticks(tmp_path / "log", 100))) == 4
    assert read_about(tmp_path / "log")["summary"] is None


def test_a_damaged_line_is_named(tmp_path: Path, records: list[TickRecord]):
    with RunLog(tmp_path / "log", SPEC, {}) as log:
        log.add(records[0])
    file = tmp_path / "log" / TICKS
    file.write_text("{no\n" + file.read_text())
    with pytest.raises(DamagedFile, match="line 1"):
        list(read_ticks(tmp_path / "log", 100))
    (tmp_path / "log" / RUN).write_text("{}")
    with pytest.raises(DamagedFile, match="no run log"):
        read_about(tmp_path / "log")


def test_what_is_missing_is_null_and_the_line_is_json(tmp_path: Path, records: list[TickRecord]):
    nothing = replace(
        records[0], state=np.full(3, np.nan), asked=np.full(3, np.nan), state_s=(math.nan, math.nan)
    )
    with RunLog(tmp_path / "log", SPEC, {}) as log:
        log.add(nothing)
    (line,) = (tmp_path / "log" / TICKS).read_text().splitlines()
    row = json.loads(line, parse_constant=lambda text: pytest.fail(text))
    assert row["state"] == row["asked"] == [None] * 3
    assert row["state_age"] is None


def test_statistics_count_ticks_holds_and_acts(records: list[TickRecord]):
    statistics = RunStatistics(tuple(camera.name for camera in SPEC.cameras))
    late = [0.001, 0.002, 0.003, 0.004, 0.1]
    for record, late_s in zip(records, late, strict=True):
        statistics.add(replace(record, start_s=record.due_s + late_s))
    statistics.add(
        replace(records[0], hold=Hold.STOPPED, skipped=3, stage=6, words="too fast", joint="elbow")
    )
    assert (statistics.ticks, statistics.skipped) == (6, 3)
    assert statistics.holds == {Hold.STOPPED: 1}
    acts = statistics.acts[6]
    assert (acts.ticks, acts.words, acts.joint) == (1, "too fast", "elbow")
    assert statistics.lateness.max_s == pytest.approx(0.1)
    found = statistics.to_json({6: "motion"})
    assert found["safety"] == {"motion": 1}
    json.dumps(found, allow_nan=False)


def test_percentiles_leave_missing_times_out():
    assert Percentiles.of([math.nan, 1.0, 3.0, 2.0]) == Percentiles(2.0, 3.0, 3.0)
    assert Percentiles.of([]).to_json() == {"p50_s": None, "p99_s": None, "max_s": None}


def test_a_shadow_robot_is_read_and_never_commanded():
    robot = ObedientRobot(VirtualClock())
    robot.silent = "no torque"
    shadow = ShadowRobot(robot)
    shadow.command(np.ones(2), 1)
    assert robot.commands == []
    assert shadow.sent() is None
    assert shadow.fault() == ""
    assert shadow.reading() is not None
