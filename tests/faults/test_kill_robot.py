"""A process of a robot session that is killed leaves the robot at rest; see `make robot-faults`."""

from __future__ import annotations

import numpy as np

from tests.faults.kill_robot import ArmWatch, Kill, emulated, run_kill


def test_a_killed_control_loop_is_named_and_leaves_parked_arms_and_whole_episodes(tmp_path):
    with emulated(is_patient=True) as (bench, config):
        rng = np.random.default_rng(0)
        kill = run_kill(bench, config, "conductor", rng, tmp_path / "data", is_patient=True)
    assert kill.failures == []
    assert "the control loop was killed by SIGKILL" in kill.words


def test_arms_that_move_on_after_the_kill_are_found():
    watch = ArmWatch(None)  # type: ignore[arg-type]
    watch.killed_s = 10.0
    for tick in range(-20, 50):
        at_s = 10 + tick / 100
        stays_s = min(at_s, 10.25)  # they come to rest 0.25 s after it
        watch.looks.append((at_s, np.array([stays_s, 0.0])))
    kill = Kill("host", 0.5)
    watch.judge(kill, 10.4, is_patient=False)
    assert 220 <= kill.rest_ms <= 250
    assert kill.speed == 1.0
    assert kill.failures == [f"the arms moved until {kill.rest_ms:.0f} ms after the kill"]
