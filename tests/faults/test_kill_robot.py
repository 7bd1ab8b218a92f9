"""A process of a robot session that is killed leaves the robot at rest; see `make robot-faults`."""

from __future__ import annotations

import numpy as np
import pytest

from tests.faults.kill_robot import ArmWatch, Kill, emulated, run_kill


def test_a_killed_control_loop_is_named_and_leaves_parked_arms_and_whole_episodes(tmp_path):
    with emulated(is_patient=True) as (bench, config):
        rng = np.random.default_rng(0)
        kill = run_kill(bench, config, "conductor", rng, tmp_path / "data", is_patient=True)
    assert kill.failures == []
    assert "the control loop was killed by SIGKILL" in kill.words


@pytest.mark.parametrize(
    ("joints_s", "goals_s", "says"),
    [
        (0.25, 0.1, []),
        (0.55, 0.1, ["the arms moved until"]),
        (0.35, 0.25, ["goals changed until"]),
        (0.6, 0.3, ["goals changed until", "the arms moved until"]),
    ],
)
def test_goals_and_arms_that_move_on_after_the_kill_are_found(joints_s, goals_s, says):
    watch = ArmWatch(None)  # type: ignore[arg-type]
    watch.killed_s = 10.0
    for tick in range(-20, 80):
        at_s = 10 + tick / 100
        joints, goals = min(at_s, 10 + joints_s), min(at_s, 10 + goals_s)
        watch.looks.append((at_s, np.array([joints, 0.0]), np.array([goals, 0.0])))
    kill = Kill("host", 0.5)
    watch.judge(kill, 10.75, is_patient=False)
    assert 1000 * joints_s - 30 <= kill.rest_ms <= 1000 * joints_s
    assert 1000 * goals_s - 30 <= kill.goal_ms <= 1000 * goals_s
    assert kill.speed == 1.0
    assert [words.rpartition(" until ")[0] + " until" for words in kill.failures] == says
