"""Kills of the recorder cost no finished episode; `make robot-faults` tries many more."""

from __future__ import annotations

from tests.faults import kill_session


def test_kills_of_the_recorder_leave_finished_episodes_whole_and_the_next_one_goes_on(tmp_path):
    found = kill_session.run(4, 1, tmp_path / "data")
    assert sum(found.values()) - found["episodes at the end"] == 4
