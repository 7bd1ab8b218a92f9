"""Recording session: what was sent, what was asked and when, row for row; never half an episode."""

from __future__ import annotations

import numpy as np
import pytest

from imitact.control.control_loop import ControlLoop
from imitact.control.parking import first_command
from imitact.control.sources import EpisodeSource
from imitact.core import tick_columns as columns
from imitact.core.clock import VirtualClock
from imitact.datasets.open import open_dataset
from imitact.recording.session import RecordingSession
from imitact.robots.simulated import SimulatedRobot
from tests.support.control import PassThrough
from tests.support.tiny_arm import SPEC, TinyArm

TASK = "reach the goal"


@pytest.fixture
def robot():
    clock = VirtualClock()
    return SimulatedRobot(TinyArm(), clock, seed=3, watchdog_s=1.0), clock


def record_episode(session, robot, clock, source, ticks=12, safety=None, controls=None):
    session.begin()
    loop = ControlLoop(
        robot,
        source,
        safety or PassThrough(),
        clock,
        SPEC.rate_hz,
        lambda record: session.add(record, lambda camera, number: robot.frame(camera)),
        **({"controls": controls} if controls else {}),
    )
    outcome = loop.run(first_command(robot), ticks)
    assert not outcome.faults


def targets(ticks=12):
    return np.linspace(0.0, 0.5, ticks)[:, None] * np.ones(5)


def test_an_episode_has_what_was_sent_with_its_times(tmp_path, robot):
    robot, clock = robot
    with RecordingSession(tmp_path / "data", SPEC, TASK) as session:
        record_episode(session, robot, clock, EpisodeSource(targets()))
        about = session.keep()
        assert session.episodes == 1
    assert about.to_json() == {"ticks": 12}
    dataset = open_dataset(tmp_path / "data")
    assert dataset.spec == SPEC
    episode = dataset.episode(0)
    np.testing.assert_array_equal(episode.action, targets().astype(np.float32))
    values = episode.extra_values([*dataset.extra_columns])
    np.testing.assert_array_equal(values[columns.ASKED], episode.action)
    due_s = np.arange(12) / SPEC.rate_hz
    np.testing.assert_allclose(values[columns.DUE], due_s, atol=1e-5)
    np.testing.assert_allclose(values[columns.SENT], due_s, atol=1e-5)
