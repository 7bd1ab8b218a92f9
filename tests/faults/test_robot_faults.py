"""Fault trials of robots: one of each kind of end; `make robot-faults` runs hundreds."""

from __future__ import annotations

import pytest

from imitact.robots.dynamixel_bus import DynamixelBus
from imitact.robots.emulation.faults import FAULT_KINDS
from tests.faults.fault_trial import Trial
from tests.faults.robot_faults import ALOHA_DEVICES, draw, report, run_trial


def test_eighteen_seeds_in_a_row_have_every_kind_of_fault_and_the_same_each_time():
    for device in ALOHA_DEVICES:
        drawn = [draw(seed, device) for seed in range(len(FAULT_KINDS))]
        assert {fault.kind for _, fault in drawn} == set(FAULT_KINDS)
        assert {bus for bus, _ in drawn} == {f"{device}_left", f"{device}_right"}
        assert drawn == [draw(seed, device) for seed in range(len(FAULT_KINDS))]


def test_a_follower_with_late_answers_is_held_in_words_then_follows_and_is_limp_at_the_end():
    trial = run_trial(("follower", 3))
    assert trial.failures == []
    assert trial.kind == "late_once"
    assert trial.reasons == ["hold robot_fault"]
    assert trial.first_words
    assert trial.ticks is not None
    assert trial.ticks <= 5
    assert trial.parked
    assert trial.after == "follows"


def test_a_driver_that_takes_late_answers_for_new_ones_is_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(DynamixelBus, "_miss", lambda self, servo: None)  # nobody owes an answer
    trial = run_trial(("follower", 4))  # each answer waits at random
    assert trial.kind == "jitter"
    assert any("ticks from where it was" in failure for failure in trial.failures)


def test_a_report_has_each_kind_and_the_trials_that_failed():
    good = Trial("follower", 0, "drop", "drop", ended="held", ticks=2, evidence="read")
    bad = Trial("follower", 1, "late", "late", ended="held", ticks=6, evidence="lag")
    bad.failures.append("the hold came after 6 ticks")
    found = report([good, bad], 1.0)
    assert (found["trials"], found["failed"]) == (2, 1)
    assert found["most ticks from what could be known to the hold"] == {"read": 2, "lag": 6}
    assert found["devices"]["follower"]["drop"]["held"] == 1
    assert found["failures"][0]["seed"] == 1
